"""The two sides of a media stream as the caller heard them: the caller's frames, and the agent's audio that was played.

The tape follows the carrier's playback queue: audio is played when it is written, or after what is still queued, and a
`clear` drops the rest at that moment. So what a barge-in cut is not on it, and what was paused is where it was resumed.
Positions are samples. The caller's own clock counts them, from the first frame on; moments of `now` are converted to
that clock by the frame that took the least time to arrive.
"""

from __future__ import annotations

import math
from binascii import a2b_base64
from typing import NamedTuple, TypeAlias

from phoneagent.protocol.audio import BYTES_PER_MS, FRAME_BYTES, SILENCE

SAMPLES_PER_SECOND = BYTES_PER_MS * 1000

STALL_SAMPLES = 15 * SAMPLES_PER_SECOND
"""How long to wait for the caller's side. A line that delivers nothing for this long is lost."""

JUMP_SAMPLES = 5 * SAMPLES_PER_SECOND
"""A timestamp this far from its frame's arrival does not show when the frame was spoken."""

WINDOW_SECONDS = 10.0
"""The clocks of two machines drift apart, so only frames of this latest time are considered."""


class CallerFrame(NamedTuple):
    """A frame from the caller: base64 of µ-law, and its time on the stream's clock. Without a payload, it is secret."""

    now: float
    payload: str | None
    size: int
    at_ms: int


class AgentAudio(NamedTuple):
    """Audio that was written to the caller's socket, as base64 of µ-law."""

    now: float
    payload: str


class Cleared(NamedTuple):
    """A `clear`: what is queued is never heard."""

    now: float


class Silenced(NamedTuple):
    """From now on, both sides are silence because the recording is paused; or (`on` false) no longer."""

    now: float
    on: bool


Entry: TypeAlias = CallerFrame | AgentAudio | Cleared | Silenced
"""A fact of a call, in the order of `now`."""


class Tape:
    """The tape of one media stream, which begins at `now` in seconds. `add` the facts, and `take` the audio."""

    def __init__(self, now: float) -> None:
        self._started_at = now
        self.origin: float | None = None
        """When the tape begins, in seconds of `now`; None before the first frame."""
        self._early: list[Entry] = []
        self._first_ms = 0
        self._shift = 0
        self._least: tuple[float, float] = (math.inf, math.inf)
        self._window_ends = -math.inf
        self._left = bytearray()  # from `_taken` on, like `_right`
        self._right = bytearray()
        self._taken = 0
        self._silenced: list[list[float]] = []

    @property
    def seconds(self) -> float:
        """How many seconds of it were taken."""
        return self._taken / SAMPLES_PER_SECOND

    def add(self, entry: Entry) -> None:
        """Handle a fact."""
        if self.origin is None:
            if not isinstance(entry, CallerFrame):
                self._early.append(entry)
                return
            self._begin(entry.now - entry.size / SAMPLES_PER_SECOND, entry.at_ms)
        match entry:
            case CallerFrame():
                self._hear_caller(entry)
            case AgentAudio(now=now, payload=payload):
                self._play(a2b_base64(payload), self._position(now))
            case Cleared(now=now):
                kept = max(0, _floor(self._position(now)) - self._taken)
                del self._right[kept:]
            case Silenced(now=now, on=True):
                self._silenced.append([self._position(now), math.inf])
            case Silenced(now=now):
                for each in self._silenced:
                    each[1] = min(each[1], self._position(now))

    def _begin(self, origin: float, first_ms: int) -> None:
        self.origin, self._first_ms = origin, first_ms
        self._least = (origin, origin)
        early, self._early = self._early, []
        for entry in early:
            self.add(entry)

    def _position(self, now: float) -> float:
        return (now - min(self._least)) * SAMPLES_PER_SECOND

    def _hear_caller(self, frame: CallerFrame) -> None:
        spoken_at = frame.now - frame.size / SAMPLES_PER_SECOND  # or before
        position = (frame.at_ms - self._first_ms) * BYTES_PER_MS + self._shift
        by_clock = round(self._position(spoken_at))
        if abs(position - by_clock) > JUMP_SAMPLES:
            self._shift += by_clock - position
            position = by_clock
        end = self._taken + len(self._left)
        if position >= end + FRAME_BYTES:  # less is jitter in the carrier's clock
            self._left += SILENCE * (position - end)
            end = position
        elif position <= end - FRAME_BYTES:
            if by_clock <= end - FRAME_BYTES:  # it came before, or too late
                return
            self._shift += end - position  # the carrier's clock was set back
        self._look_at_clock(spoken_at - end / SAMPLES_PER_SECOND, frame.now)
        self._left += SILENCE * frame.size if frame.payload is None else a2b_base64(frame.payload)

    def _look_at_clock(self, origin: float, now: float) -> None:
        before, latest = self._least
        if now >= self._window_ends:
            before, latest = (origin if self._window_ends == -math.inf else latest), origin
            self._window_ends = now + WINDOW_SECONDS
        self._least = before, min(latest, origin)

    def _play(self, audio: bytes, position: float) -> None:
        hole = round(position) - (self._taken + len(self._right))
        if hole > 0:
            self._right += SILENCE * hole
        elif position < 0:  # it was heard before the tape began
            audio = audio[round(-position) :] if not self._right else audio
        self._right += audio

    def take(self, now: float, *, final: bool = False) -> bytes:
        """Return what is certain by `now`, or (`final`) all of it: µ-law of both sides, interleaved, caller first."""
        if self.origin is None:
            if not final:
                return b""
            self._begin(self._started_at, 0)
        upto = _floor(self._position(now)) - self._taken
        if not final and upto - len(self._left) < STALL_SAMPLES:
            upto = min(upto, len(self._left))
        if upto <= 0:
            return b""
        both = bytearray(SILENCE * (2 * upto))
        left, right = self._left[:upto], self._right[:upto]
        both[0 : 2 * len(left) : 2], both[1 : 2 * len(right) : 2] = left, right
        del self._left[:upto], self._right[:upto]
        begin, self._taken = self._taken, self._taken + upto
        for since, until in self._silenced:
            first = max(0, _floor(since) - begin)
            last = upto if until == math.inf else min(upto, -_floor(-until) - begin)
            if first < last:
                both[2 * first : 2 * last] = SILENCE * (2 * (last - first))
        self._silenced = [each for each in self._silenced if each[1] > self._taken]
        return bytes(both)


def _floor(position: float) -> int:
    """Return the sample that a position is in, tolerating a rounding error just before the next one."""
    return math.floor(position + 0.001)
