"""PCM that is said to be µ-law is noticed within a second or two of speech, and nothing else is taken for it."""

from __future__ import annotations

import base64
import math
import random
import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest

from phoneagent.protocol.audio import decode_ulaw, encode_ulaw, silence, tone
from phoneagent.protocol.pcm_check import MAX_BYTES, WINDOW, PcmCheck

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

DATA = Path(__file__).parents[1] / "data"
VOICES = sorted(DATA.glob("*.wav"))
RATES = (8_000, 16_000, 24_000)


def voice(file: Path, gain: float = 1.0) -> bytes:
    """PCM of a recording at 8 kHz."""
    data = file.read_bytes()
    return audioop.mul(decode_ulaw(data[data.index(b"data") + 8 :]), 2, gain)


def at_rate(pcm: bytes, rate: int) -> bytes:
    return audioop.ratecv(pcm, 2, 1, 8_000, rate, None)[0]


def hear(audio: bytes, piece: int = 1600) -> tuple[bool, int, bool]:
    """Whether it is told that this is PCM, after how many bytes it is known or given up, and whether it is at all."""
    check = PcmCheck()
    for start in range(0, len(audio), piece):
        found = check.hear(base64.b64encode(audio[start : start + piece]).decode())
        if found or check.over:
            return found, start + piece, check.over
    return False, len(audio), False


def pcm(samples: Iterable[float]) -> bytes:
    return b"".join(max(-32768, min(32767, round(each))).to_bytes(2, "little", signed=True) for each in samples)


@pytest.mark.parametrize("gain", [0.1, 0.3, 1, 2, 4, 10])
@pytest.mark.parametrize("file", VOICES, ids=lambda file: file.stem)
def test_speech(file: Path, gain: float) -> None:
    spoken = voice(file, gain)
    found, _, over = hear(encode_ulaw(spoken))
    assert (found, over) == (False, True)
    for rate in RATES:
        found, after, over = hear(at_rate(spoken, rate))
        assert (found, over) == (True, True), rate
        assert after <= 2 * rate * 2.5, rate


@pytest.mark.parametrize("piece", [2, 7, 160, 4801, 1_000_000])
def test_pieces_of_any_length(piece: int) -> None:
    spoken = voice(VOICES[0])[:30_000]
    assert hear(at_rate(spoken, 24_000), piece)[0]
    assert not hear(encode_ulaw(spoken), piece)[0]


@pytest.mark.parametrize("quiet", [silence(30_000), bytes(2 * MAX_BYTES), b"\xff\x00\x00\xff\x01\x00" * MAX_BYTES])
def test_silence_tells_nothing_and_is_given_up(quiet: bytes) -> None:
    found, after, over = hear(quiet)
    assert not found
    assert over == (after >= MAX_BYTES)


def test_silence_before_speech_is_passed_over() -> None:
    assert hear(bytes(48_000) + at_rate(voice(VOICES[0]), 24_000))[0]


@pytest.mark.parametrize("level", [0.01, 0.1, 0.3, 0.99])
@pytest.mark.parametrize("hz", [50, 100, 440, 440.7, 1000, 2000, 3000, 3999, 4000])
def test_tones_of_a_telephone_are_no_pcm(hz: float, level: float) -> None:
    assert not hear(tone(hz, 3_000, level=level))[0]


@pytest.mark.parametrize("level", [30, 1000, 8000, 32767])
def test_music_and_noise_are_no_pcm(level: int) -> None:
    chance = random.Random(level)
    chord = pcm(
        sum(level / 3 * math.sin(2 * math.pi * hz * n / 8000 + hz) for hz in (262, 330, 392)) for n in range(24_000)
    )
    beat = pcm(level * (n % 2000 < 400) * math.sin(n * 0.4) for n in range(24_000))
    noise = pcm(chance.uniform(-level, level) for _ in range(24_000))
    for music in (chord, beat, noise):
        assert not hear(encode_ulaw(music))[0]


def test_it_is_told_once_and_stops_early() -> None:
    check = PcmCheck()
    spoken = at_rate(voice(VOICES[0]), 24_000)
    told = [check.hear(base64.b64encode(spoken[:96_000]).decode())]
    assert told == [check.over] == [True]
    assert hear(encode_ulaw(voice(VOICES[0])))[1] <= 12 * 2 * WINDOW
