"""The caller's sound: how long it goes on, and since when it is over, measured in the audio itself.

A server reports the end of speech half a second late, because it waits for silence. A cough is long over by then.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from phoneagent.bridge.caller import CallerAudio
from phoneagent.protocol.audio import BYTES_PER_MS, FRAME_BYTES, piece_levels
from phoneagent.protocol.echo import VOICE_DB, find_echo

FRAME_MS = 20

MIN_RMS = 150
"""Softer frames are silence on any line: quiet speech on a telephone is louder, of 32,767."""

ABOVE_FLOOR = 2.5
"""How many times as loud as the line's noise a frame of speech is (8 dB)."""

LOUDEST_NOISE = 1_200
"""Whatever is louder is speech: speech that a server reports late would otherwise pass for the noise before it."""

OTHERS = 0.15
"""A voice this much softer than the caller's is somebody else's (-16 dB)."""

MAX_GAP_MS = 200
"""Speech has gaps of this length, between words and before plosives."""

MIN_SHARE = 0.5
"""Speech fills at least this share of its frames; key clicks do not."""


ONSET_MS = 400
"""How long after its beginning a server reports speech, at most."""

WINDOW_MS = 3_000
"""The most audio that is looked at."""

BEFORE_MS = 1_500
"""The audio before a speech that tells how loud the line's noise is, without speech."""

VOICES = 3
"""The turns whose softest one tells how loud the caller speaks: a loud noise may have been among them."""

ECHO_MS = 500
"""The latest part of a sound that tells whether it is an echo: what came before it was judged before."""


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
    """Return the loudness of each whole frame of 20 ms, counted from the end, oldest first."""
    return piece_levels(ulaw, FRAME_BYTES)


def threshold(noise: Sequence[int], voice: float = 0.0) -> float:
    """Return how loud a frame of speech is at least, on a line whose noise had these levels.

    `voice` is how loud the caller has spoken before: what is much softer are others in the room. 0 if it is not known.
    """
    floor = sorted(noise)[len(noise) // 2] if noise else 0
    return max(MIN_RMS, min(ABOVE_FLOOR * floor, LOUDEST_NOISE), OTHERS * voice)


def voice_level(frames: Sequence[int]) -> float:
    """Return how loud a voice is: the level that a fifth of its frames exceed; 0 if there is none."""
    loud = sorted(each for each in frames if each >= MIN_RMS)
    return loud[len(loud) * 4 // 5] if loud else 0.0


def latest_sound(frames: Sequence[int], loud: float) -> Sound:
    """Return the latest stretch of sound in these frames; one of no length if all are softer than `loud`."""
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
    """What is known of one line: how loud its noise is, and the caller's voice, and whether it has an echo."""

    def __init__(self, caller_audio: CallerAudio) -> None:
        self._caller_audio = caller_audio
        self._loud = 0.0  # how loud a frame of speech is at least
        self._voices: deque[float] = deque(maxlen=VOICES)
        self._spoke_until = -math.inf
        self.echoes = False
        """Whether the line has brought back what the caller heard."""

    @property
    def knows_caller(self) -> bool:
        """Whether it is known how loud the caller speaks."""
        return any(self._voices)

    def speech_started(self, now: float) -> None:
        """The server reports speech: what was heard until shortly before it was noise."""
        if now >= self._spoke_until + BEFORE_MS / 1000:
            noise = self._caller_audio.latest(BEFORE_MS)[: -ONSET_MS * BYTES_PER_MS]
            self._loud = threshold(levels(noise), min(self._voices, default=0.0))

    def speech_stopped(self, now: float, *, counts: bool) -> None:
        """The speech is over; if it `counts`, it was the caller's."""
        self._spoke_until = now
        if counts and (voice := voice_level(levels(self._caller_audio.latest(BEFORE_MS)))):
            self._voices.append(voice)

    def latest_sound(self, ms: int) -> Sound:
        """Return the latest stretch of sound within so many milliseconds."""
        return latest_sound(levels(self._caller_audio.latest(min(WINDOW_MS, ms))), self._loud)

    def is_echo(self, sound: Sound, played: bytes, *, ended_ms_ago: float) -> bool:
        """Tell whether a sound is what the caller heard (`played`, as µ-law), which ended so long ago."""
        if not played:
            return False
        length_ms = min(sound.length_ms, ECHO_MS)
        age_ms = length_ms + sound.over_ms
        segment = self._caller_audio.latest(age_ms)[: length_ms * BYTES_PER_MS]
        lead_ms = len(played) / BYTES_PER_MS - age_ms + ended_ms_ago
        echo = find_echo(played, segment, lead_ms=lead_ms)
        # Where the line has an echo, the soft end of one may fit badly, and is no voice.
        found = echo is not None and (echo.alone or (self.echoes and echo.left_db < VOICE_DB))
        self.echoes = self.echoes or found
        return found
