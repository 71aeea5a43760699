"""The caller's sound: how long it lasts, and when it ended, measured in the audio itself.

A server reports the end of speech half a second late, because it waits for silence. By then, a cough is long over.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from phoneagent.bridge.caller import CallerAudio
from phoneagent.protocol.audio import BYTES_PER_MS, FRAME_BYTES, FRAME_MS, piece_levels
from phoneagent.protocol.echo import VOICE_DB, find_echo

MIN_RMS = 150
"""Softer frames are silence on any line: even quiet speech on a telephone is louder; out of 32,767."""

ABOVE_FLOOR = 2.5
"""How many times as loud as the line's noise a frame of speech is (8 dB)."""

LOUDEST_NOISE = 1_200
"""Anything louder is speech: speech that a server reports late would otherwise count as the noise before it."""

OTHERS = 0.15
"""A voice this much softer than the caller's is another person's (-16 dB)."""

MAX_GAP_MS = 200
"""Speech has gaps of this length, between words and before plosives."""

MIN_SHARE = 0.5
"""Speech fills at least this share of its frames; key clicks do not."""


ONSET_MS = 400
"""The longest delay between the beginning of speech and the server's report."""

WINDOW_MS = 3_000
"""The most audio that is examined."""

BEFORE_MS = 1_500
"""The audio before a speech that shows how loud the line's noise is."""

VOICES = 3
"""How many turns are compared: the softest shows how loud the caller speaks, as one may have been a loud noise."""

ECHO_MS = 500
"""The latest part of a sound that shows whether it is an echo: earlier parts were already judged."""


class Sound(NamedTuple):
    """The latest stretch of sound: its length, how much of that is loud, and how long ago it ended; all in ms."""

    length_ms: int
    loud_ms: int
    over_ms: int

    @property
    def dense(self) -> bool:
        """Whether it is as continuous as speech."""
        return self.loud_ms >= MIN_SHARE * self.length_ms


def levels(ulaw: bytes) -> list[int]:
    """Return the loudness of each whole frame of 20 ms, counting from the end, oldest first."""
    return piece_levels(ulaw, FRAME_BYTES)


def threshold(noise: Sequence[int], voice: float = 0.0) -> float:
    """Return the least loudness of a frame of speech, on a line whose noise had these levels.

    `voice` is how loud the caller has spoken before, or 0 if unknown: anything much softer is other people in the room.
    """
    floor = sorted(noise)[len(noise) // 2] if noise else 0
    return max(MIN_RMS, min(ABOVE_FLOOR * floor, LOUDEST_NOISE), OTHERS * voice)


def voice_level(frames: Sequence[int]) -> float:
    """Return how loud a voice is: the level that a fifth of its frames exceed; 0 if there is none."""
    loud = sorted(each for each in frames if each >= MIN_RMS)
    return loud[len(loud) * 4 // 5] if loud else 0.0


def latest_sound(frames: Sequence[int], loud: float) -> Sound:
    """Return the latest stretch of sound in these frames; its length is 0 if all are softer than `loud`."""
    newest = oldest = None
    loud_frames = 0
    for index in range(len(frames) - 1, -1, -1):
        if frames[index] < loud:
            continue
        if oldest is not None and (oldest - index - 1) * FRAME_MS > MAX_GAP_MS:
            break
        newest = index if newest is None else newest
        oldest = index
        loud_frames += 1
    if newest is None or oldest is None:
        return Sound(0, 0, len(frames) * FRAME_MS)
    return Sound((newest - oldest + 1) * FRAME_MS, loud_frames * FRAME_MS, (len(frames) - 1 - newest) * FRAME_MS)


class Ear:
    """What is known about one line: how loud its noise and the caller's voice are, and whether it has an echo."""

    def __init__(self, caller_audio: CallerAudio) -> None:
        self._caller_audio = caller_audio
        self._loud = 0.0  # the least loudness of a frame of speech
        self._voices: deque[float] = deque(maxlen=VOICES)
        self._spoke_until = -math.inf
        self.echoes = False
        """Whether the line has returned what the caller heard."""

    @property
    def knows_caller(self) -> bool:
        """Whether it is known how loud the caller speaks."""
        return any(self._voices)

    def speech_started(self, now: float) -> None:
        """Handle the server's report of speech: what was heard until shortly before it was noise."""
        if now >= self._spoke_until + BEFORE_MS / 1000:
            noise = self._caller_audio.latest(BEFORE_MS)[: -ONSET_MS * BYTES_PER_MS]
            self._loud = threshold(levels(noise), min(self._voices, default=0.0))

    def speech_stopped(self, now: float, *, counts: bool) -> None:
        """Note that the speech is over; if it `counts`, it was the caller's."""
        self._spoke_until = now
        if counts and (voice := voice_level(levels(self._caller_audio.latest(BEFORE_MS)))):
            self._voices.append(voice)

    def latest_sound(self, ms: int) -> Sound:
        """Return the latest stretch of sound within that many milliseconds."""
        return latest_sound(levels(self._caller_audio.latest(min(WINDOW_MS, ms))), self._loud)

    def is_echo(self, sound: Sound, played: bytes, *, ended_ms_ago: float) -> bool:
        """Return whether a sound is what the caller heard: `played`, as µ-law, which ended `ended_ms_ago`."""
        if not played:
            return False
        length_ms = min(sound.length_ms, ECHO_MS)
        age_ms = length_ms + sound.over_ms
        segment = self._caller_audio.latest(age_ms)[: length_ms * BYTES_PER_MS]
        lead_ms = len(played) / BYTES_PER_MS - age_ms + ended_ms_ago
        echo = find_echo(played, segment, lead_ms=lead_ms)
        # On a line with an echo, the soft end of an echo may fit badly, but is not a voice.
        found = echo is not None and (echo.alone or (self.echoes and echo.left_db < VOICE_DB))
        self.echoes = self.echoes or found
        return found
