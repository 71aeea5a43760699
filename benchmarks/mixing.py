"""Sounds of a telephone line, made from recordings and a seed: noise at a given level, echoes, other voices.

Audio is 16-bit PCM at 8 kHz, mono, in the machine's byte order, as `audioop` takes it. Levels are the root mean square
of the loud parts in dB of full scale, so a pause does not make a voice quieter: speech on a telephone has about -20 dB.
"""

from __future__ import annotations

import math
import random
import warnings
from array import array
from collections.abc import Iterable, Sequence

with warnings.catch_warnings():
    # Up to 3.12 the standard library has audioop and warns at import; from 3.13 on, audioop-lts has the same module.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

RATE = 8000
BYTES_PER_MS = 16
BLOCK_MS = 20
PAUSE_DB = 25.0
"""A block that is this much quieter than the loudest one is a pause."""

FULL_SCALE = 32768
ROOM_MS = (0.0, 3.1, 7.4, 12.6)
ROOM_DB = (0.0, -5.0, -9.0, -14.0)
"""The levels of a room's reflections, for a telephone on the table."""


def blocks_db(pcm: bytes) -> list[float]:
    """Return the level of each 20 ms."""
    size = BLOCK_MS * BYTES_PER_MS
    return [decibels(audioop.rms(pcm[at : at + size], 2)) for at in range(0, len(pcm) - size + 1, size)]


def decibels(rms: float) -> float:
    """Return a root mean square (0 to 32768) in dB of full scale."""
    return 20 * math.log10(max(rms, 0.5) / FULL_SCALE)


def level_db(pcm: bytes) -> float:
    """Return the level of the loud parts."""
    blocks = blocks_db(pcm)
    loud = [10 ** (each / 10) for each in blocks if each > max(blocks) - PAUSE_DB]
    return 10 * math.log10(sum(loud) / len(loud))


def gained(pcm: bytes, db: float) -> bytes:
    """Return the audio amplified by `db`, clipped where necessary."""
    return audioop.mul(pcm, 2, 10 ** (db / 20))


def at_level(pcm: bytes, db: float) -> bytes:
    """Return the audio at the level `db`."""
    return gained(pcm, db - level_db(pcm))


def silent(ms: float) -> bytes:
    """Return silence."""
    return bytes(round(ms * RATE / 1000) * 2)


def delayed(pcm: bytes, ms: float) -> bytes:
    """Return the audio with silence before it."""
    return silent(ms) + pcm


def mixed(*tracks: bytes) -> bytes:
    """Return the sum of the tracks, as long as the longest one, clipped where necessary."""
    length = max(map(len, tracks))
    total = bytes(length)
    for track in tracks:
        total = audioop.add(total, track + bytes(length - len(track)), 2)
    return total


def in_a_room(pcm: bytes) -> bytes:
    """Return the audio with the reflections of a room, as a telephone on the table picks it up."""
    paths = zip(ROOM_MS, ROOM_DB, strict=True)
    return mixed(*(delayed(gained(pcm, db), ms) for ms, db in paths))[: len(pcm)]


def pitched(pcm: bytes, factor: float) -> bytes:
    """Return the audio played faster and higher by `factor`: another person's voice."""
    return audioop.ratecv(pcm, 2, 1, round(RATE * factor), RATE, None)[0]


def faded(pcm: bytes, ms: float = 30) -> bytes:
    """Return the audio with a fade-in and a fade-out."""
    samples = array("h", pcm)
    count = min(round(ms * RATE / 1000), len(samples) // 2)
    for n in range(count):
        samples[n] = round(samples[n] * n / count)
        samples[-1 - n] = round(samples[-1 - n] * n / count)
    return samples.tobytes()


def band(samples: Iterable[float], low_hz: float, high_hz: float) -> list[float]:
    """Return samples limited to a band: 6 dB per octave at each end."""
    rise = math.exp(-2 * math.pi * low_hz / RATE)
    fall = 1 - math.exp(-2 * math.pi * high_hz / RATE)
    high = low = before = 0.0
    kept = []
    for each in samples:
        high = rise * (high + each - before)
        before = each
        low += fall * (high - low)
        kept.append(low)
    return kept


def _pcm(samples: Sequence[float]) -> bytes:
    """Return samples of any size as PCM, scaled to the loudest."""
    peak = max(1e-9, max(map(abs, samples)))
    return array("h", (round(each / peak * 28000) for each in samples)).tobytes()


def _white(count: int, dice: random.Random) -> list[float]:
    return [dice.gauss(0, 1) for _ in range(count)]


def hiss(ms: int, seed: int) -> bytes:
    """Return the even noise of a line."""
    return _pcm(band(_white(ms * RATE // 1000, random.Random(seed)), 300, 3000))


def road(ms: int, seed: int) -> bytes:
    """Return the noise of a car on a road: a low rumble that swells and fades slowly."""
    dice = random.Random(seed)
    count = ms * RATE // 1000
    rumble = band(band(_white(count, dice), 60, 260), 60, 400)
    hiss = band(_white(count, dice), 500, 2500)
    swell_hz, phase = dice.uniform(0.15, 0.4), dice.uniform(0, 6)
    wave = (1 + 0.3 * math.sin(2 * math.pi * swell_hz * n / RATE + phase) for n in range(count))
    return _pcm([each * (low + 0.05 * high) for each, low, high in zip(wave, rumble, hiss, strict=True)])


def keyboard(ms: int, seed: int) -> bytes:
    """Return typing: five to nine keys per second, each with a click going down and a softer one coming up."""
    dice = random.Random(seed)
    total = [0.0] * (ms * RATE // 1000)
    at_ms = dice.uniform(0, 80)
    while at_ms < ms:
        press = dice.uniform(0.5, 1.0)
        _click(total, at_ms, press, dice)
        _click(total, at_ms + dice.uniform(50, 90), press * 0.4, dice)
        at_ms += dice.uniform(110, 210) if dice.random() < 0.88 else dice.uniform(350, 700)
    return _pcm(total)


def _click(total: list[float], at_ms: float, size: float, dice: random.Random) -> None:
    start, ring_hz = round(at_ms * RATE / 1000), dice.uniform(900, 2600)
    for n in range(min(round(0.018 * RATE), len(total) - start)):
        fade = math.exp(-n / (0.004 * RATE))
        ring = 0.5 * math.sin(2 * math.pi * ring_hz * n / RATE)
        total[start + n] += size * fade * (dice.gauss(0, 0.7) + ring)


def cough(seed: int, *, bursts: int = 2) -> bytes:
    """Return a cough: bursts of noise through a throat, with a hoarse voice at the end of each."""
    dice = random.Random(seed)
    total: list[float] = []
    for _ in range(bursts):
        count = round(dice.uniform(0.14, 0.2) * RATE)
        formant, pitch = dice.uniform(550, 800), dice.uniform(110, 170)
        noise = band(_white(count, dice), formant * 0.6, formant * 2.4)
        for n, each in enumerate(noise):
            rise, fade = min(1.0, n / (0.008 * RATE)), math.exp(-n / (0.055 * RATE))
            voice = 0.25 * min(1.0, n / (0.05 * RATE)) * ((n * pitch / RATE) % 1 - 0.5)
            total.append(rise * fade * (each + voice))
        total += [0.0] * round(dice.uniform(0.06, 0.13) * RATE)
    return _pcm(total)


def breath(seed: int, ms: int = 700) -> bytes:
    """Return a breath into the microphone: a soft rush that swells and fades."""
    dice = random.Random(seed)
    count = ms * RATE // 1000
    rush = band(band(_white(count, dice), 300, 1800), 150, 1800)
    return _pcm([each * math.sin(math.pi * n / count) ** 2 for n, each in enumerate(rush)])


def babble(voices: Sequence[bytes], ms: int, seed: int, *, people: int = 6) -> bytes:
    """Return people talking in the background: the recordings at once, each shifted, pitched and muffled."""
    dice = random.Random(seed)
    total = silent(ms)
    for number in range(people):
        voice = at_level(pitched(voices[number % len(voices)], dice.uniform(0.85, 1.2)), -30 + dice.uniform(-3, 3))
        start = dice.randrange(len(voice) // 2) * 2
        turned = voice[start:] + voice[:start]
        total = mixed(total, (turned * (len(total) // len(turned) + 1))[: len(total)])
    return _pcm(band(array("h", total), 200, 1700))
