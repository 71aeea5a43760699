"""Echo: whether sound from the caller is the agent's own voice coming back.

A loudspeaker, a room or a bad line returns what the caller hears, later and softer. So the sound from the caller is
compared with what was played, at each possible delay: a search at 2 kHz finds the delay, and fits at 4 kHz find each
path on which the voice came back. What is left after subtracting these decides: for an echo it is quiet line noise; if
a person speaks too, it is a voice.
"""

from __future__ import annotations

import math
import warnings
from array import array
from dataclasses import dataclass

from phoneagent.protocol.audio import BYTES_PER_MS, SILENCE, decode_ulaw

with warnings.catch_warnings():
    # Up to 3.12 the standard library has audioop and warns at import; from 3.13 on audioop-lts brings the same module.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

MIN_DELAY_MS, MAX_DELAY_MS = 60, 660
"""The delays of an echo: 100 to 600 ms, plus the error in estimating when something was played."""

MIN_LOSS_DB, MAX_LOSS_DB = 12.0, 42.0
"""How much softer an echo is: 15 to 40 dB. Noise and several paths shift the figure a little."""

MIN_SEGMENT_MS = 100
"""A shorter sound would fit anything."""

MAX_SEGMENT_MS = 500
"""For a longer segment, only the loudest part of this length is fitted; what is left is measured in all of it."""

MAX_PATHS = 8
BEFORE_MS, AFTER_MS = 4, 20
"""The paths of one echo lie this near the strongest one."""

EXPLAINED = 0.4
"""The least share of the energy that the paths of an echo explain. One voice explains less of another."""

VOICE_DB = -37.0
"""The level of a person's voice, in dB of full scale: a quieter residue is noise."""

_BLOCK_MS = 60
_BYTES_PER_MS = 8
"""Of 16-bit PCM at 4 kHz."""

_FULL_SCALE = 32768


@dataclass(frozen=True, slots=True)
class Echo:
    """The best fit of what was played to what came back."""

    delay_ms: float
    loss_db: float
    """How much softer the strongest path is than what was played."""
    explained: float
    """The share of the energy that the fit explains, 0 to 1."""
    left_db: float
    """The loudest 60 ms of what the fit does not explain, in dB of full scale."""

    @property
    def alone(self) -> bool:
        """Whether the segment is an echo and nothing louder: no person speaks over it."""
        softer = MIN_LOSS_DB <= self.loss_db <= MAX_LOSS_DB
        return softer and self.explained >= EXPLAINED and self.left_db < VOICE_DB


def find_echo(played: bytes, segment: bytes, *, lead_ms: float) -> Echo | None:
    """Return the best fit of what was played to a segment of the caller's sound; None if the segment is too short.

    Both are µ-law at 8 kHz. `played` is what the caller heard, with silence where they heard nothing. It begins
    `lead_ms` before the segment, and may end before it: `MAX_DELAY_MS` of lead are enough.
    """
    if len(segment) < MIN_SEGMENT_MS * BYTES_PER_MS:
        return None
    span_ms = MAX_DELAY_MS - MIN_DELAY_MS
    # From here on, `voice` begins MAX_DELAY_MS before `sound`: a later place in `voice` is a shorter path.
    begin = round((lead_ms - MAX_DELAY_MS) * BYTES_PER_MS)
    length = len(segment) + span_ms * BYTES_PER_MS
    voice = _halved(decode_ulaw((SILENCE * -begin + played[max(begin, 0) :])[:length].ljust(length, SILENCE)))
    sound = _halved(decode_ulaw(segment))
    at, end = _loudest(sound)
    part, reach = sound[at:end], voice[at : end + span_ms * _BYTES_PER_MS]
    near, _ = audioop.findfit(_sharpened(_halved(reach)), _sharpened(_halved(part)))
    paths = _paths(_sharpened(reach), _sharpened(part), near * 2)
    left = sound
    for place, factor in paths:
        left = _without(left, voice[place * 2 :], factor)
    place, factor = paths[0]
    return Echo(
        delay_ms=MAX_DELAY_MS - place * 2 / _BYTES_PER_MS,
        loss_db=-20 * math.log10(max(abs(factor), 1e-6)),
        explained=1 - _energy(left) / max(_energy(sound), 1),
        left_db=max(map(_level_db, _blocks(left))),
    )


def _paths(reach: bytes, part: bytes, near: int) -> list[tuple[int, float]]:
    """Return the place and factor of each path near a place, strongest first, subtracting one after another."""
    first = max(near - AFTER_MS * _BYTES_PER_MS // 2, 0)
    window = reach[first * 2 : near * 2 + BEFORE_MS * _BYTES_PER_MS + len(part)]
    found = []
    for _ in range(MAX_PATHS):
        place, _ = audioop.findfit(window, part)
        factor = audioop.findfactor(part, window[place * 2 :][: len(part)])
        found.append((first + place, factor))
        part = _without(part, window[place * 2 :], factor)
    return found


def _without(sound: bytes, path: bytes, factor: float) -> bytes:
    """Return a sound minus one path of the voice."""
    return audioop.add(sound, audioop.mul(path[: len(sound)], 2, -factor), 2)


def _halved(pcm: bytes) -> bytes:
    """Return PCM at half its rate: the mean of every two samples, which attenuates what is too high for the rate."""
    samples = array("h", pcm[: len(pcm) // 4 * 4])
    even, odd = samples[::2].tobytes(), samples[1::2].tobytes()
    return audioop.add(audioop.mul(even, 2, 0.5), audioop.mul(odd, 2, 0.5), 2)


def _sharpened(pcm: bytes) -> bytes:
    """Return the differences of samples: this reduces rumble and the pitch of a voice, which fit anything.

    One is added to each, because `findfit` finds nothing behind silence.
    """
    return audioop.bias(audioop.add(pcm[2:], audioop.mul(pcm[:-2], 2, -1), 2), 2, 1)


def _loudest(pcm: bytes) -> tuple[int, int]:
    """Return where the loudest `MAX_SEGMENT_MS` begin and end, in bytes."""
    length = min(len(pcm), MAX_SEGMENT_MS * _BYTES_PER_MS)
    starts = range(0, len(pcm) - length + 1, _BLOCK_MS * _BYTES_PER_MS)
    start = max(starts, key=lambda at: audioop.rms(pcm[at : at + length], 2))
    return start, start + length


def _blocks(pcm: bytes) -> list[bytes]:
    size = _BLOCK_MS * _BYTES_PER_MS
    return [pcm[at : at + size] for at in range(0, max(len(pcm) - size, 0) + 1, size)]


def _energy(pcm: bytes) -> float:
    return float(audioop.rms(pcm, 2)) ** 2 * len(pcm)


def _level_db(pcm: bytes) -> float:
    return 20 * math.log10(max(audioop.rms(pcm, 2), 0.5) / _FULL_SCALE)
