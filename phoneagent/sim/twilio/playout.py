"""Twilio's playback queue: it plays 8 bytes of audio per millisecond, and knows which of them were heard.

Pure: every call gets the time (`now`, in seconds of the monotonic clock). The position is computed from the start of
the run that is playing, not counted in ticks, so a `clear` cuts at the exact byte.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from phoneagent.protocol.audio import BYTES_PER_MS, SILENCE

BYTES_PER_SECOND = BYTES_PER_MS * 1000

MAX_CALL_MS = 3_600_000
"""How much audio of a call is kept, in milliseconds: an hour. Later audio is dropped."""

MAX_MARKS = 200_000
"""How many marks of one call are sent back: more than 50 per second for an hour."""


@dataclass(frozen=True, slots=True)
class Span:
    """A span of the agent's audio as it was heard.

    `start_ms` and `end_ms` count from the start of the stream, `stream_start` and `stream_end` are the positions in
    the bytes received.
    """

    start_ms: float
    end_ms: float
    stream_start: int
    stream_end: int


@dataclass(slots=True)
class MarkEcho:
    """One mark: when it was received and when it was sent back, both in seconds of the monotonic clock.

    `position` is the byte before the mark. `cleared` means that a `clear` sent it back before that byte was heard.
    `echoed_at` is None until the mark is sent back (and stays None if the line loses marks).
    """

    name: str
    received_at: float
    position: int
    echoed_at: float | None = None
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class Clear:
    """One `clear`: `at` in seconds of the monotonic clock, `at_ms` from the start of the stream.

    Of the bytes received, those before `heard_to` had been played or dropped by then; the clear dropped the rest, up to
    `received_to`.
    """

    at: float
    at_ms: float
    heard_to: int
    received_to: int


@dataclass(slots=True)
class Playout:
    """The queue of the agent's audio. `started_at` is the origin of all milliseconds."""

    started_at: float
    received: bytearray = field(default_factory=bytearray, repr=False)
    received_log: list[tuple[float, int]] = field(default_factory=list, repr=False)
    clears: list[Clear] = field(default_factory=list)
    marks: list[MarkEcho] = field(default_factory=list, repr=False)
    _spans: list[Span] = field(default_factory=list)
    _pending: deque[tuple[float, MarkEcho]] = field(default_factory=deque)
    # The run that is playing: its first byte, and when that began. A run ends where the bytes received end.
    _run_from: int = 0
    _run_at: float | None = None

    def media(self, audio: bytes, now: float) -> None:
        """Queue `audio`. It plays at once if nothing else is queued."""
        self._settle(now)
        room = MAX_CALL_MS * BYTES_PER_MS - len(self.received)
        if audio and room > 0:
            if self._run_at is None:
                self._run_from, self._run_at = len(self.received), now
            self.received += audio[:room]
            self.received_log.append((now, len(self.received)))

    def mark(self, name: str, now: float, *, delay_ms: float = 0.0) -> None:
        """Take a mark. It is due `delay_ms` after everything received before it has been played."""
        if len(self.marks) >= MAX_MARKS:
            return
        self._settle(now)
        mark = MarkEcho(name, now, len(self.received))
        self.marks.append(mark)
        # Later audio does not delay the queue, so the moment is known now; only a `clear` changes it.
        self._pending.append((now + (self.queued_ms(now) + delay_ms) / 1000, mark))

    def clear(self, now: float) -> Clear:
        """Drop the queued audio. All pending marks are due at once, in order."""
        heard_to = self._cut(now)
        for _, mark in self._pending:
            mark.cleared = mark.position > heard_to
        self._pending = deque((now, mark) for _, mark in self._pending)
        cleared = Clear(now, (now - self.started_at) * 1000, heard_to, len(self.received))
        self.clears.append(cleared)
        return cleared

    def stop(self, now: float) -> None:
        """End the stream: queued audio is never heard, and pending marks are never sent back."""
        self._cut(now)
        self._pending.clear()

    def due(self, now: float) -> list[MarkEcho]:
        """Return the marks that are due by `now`, in order, each once. The receiver sets `echoed_at`."""
        marks = []
        while self._pending and self._pending[0][0] <= now:
            marks.append(self._pending.popleft()[1])
        return marks

    def next_due(self) -> float | None:
        """The moment at which the next mark is due; None while none is pending."""
        return self._pending[0][0] if self._pending else None

    def position(self, now: float) -> float:
        """Return how many of the bytes received have been played (or dropped) by `now`."""
        if self._run_at is None:
            return len(self.received)
        return min(self._run_from + (now - self._run_at) * BYTES_PER_SECOND, len(self.received))

    def queued_ms(self, now: float) -> float:
        """Return the milliseconds of audio that are still queued."""
        return (len(self.received) - self.position(now)) / BYTES_PER_MS

    def spans(self, now: float) -> list[Span]:
        """Return the spans heard until `now`, in order. The last one may still be playing."""
        self._settle(now)
        current = self._current(int(self.position(now)))
        return [*self._spans, current] if current else list(self._spans)

    def heard(self, since_ms: float, now: float) -> tuple[float, float | None]:
        """Return how many milliseconds were heard since `since_ms`, and when the last of them ended (in ms)."""
        total, ended_ms = 0.0, None
        for span in reversed(self.spans(now)):
            if span.end_ms <= since_ms:
                break
            total += span.end_ms - max(span.start_ms, since_ms)
            ended_ms = ended_ms or span.end_ms
        return total, ended_ms

    def audio(self, length: int, now: float) -> bytes:
        """Return the heard audio as µ-law from the start of the stream: `length` bytes, with silence in the gaps."""
        track = bytearray(SILENCE * length)
        for span in self.spans(now):
            start = round(span.start_ms * BYTES_PER_MS)
            piece = self.received[span.stream_start : span.stream_end][: max(length - start, 0)]
            track[start : start + len(piece)] = piece
        return bytes(track)

    def _settle(self, now: float) -> None:
        """Close the run once it has played to its end."""
        if self._run_at is not None and self.position(now) >= len(self.received):
            self._close(len(self.received))

    def _cut(self, now: float) -> int:
        """End the run that is playing at `now`; return the byte it reached."""
        reached = int(self.position(now))
        self._close(reached)
        return reached

    def _close(self, reached: int) -> None:
        span = self._current(reached)
        if span:
            self._spans.append(span)
        self._run_at = None

    def _current(self, reached: int) -> Span | None:
        """Return the run that is playing, up to the byte `reached`."""
        if self._run_at is None or reached <= self._run_from:
            return None
        start_ms = (self._run_at - self.started_at) * 1000
        return Span(start_ms, start_ms + (reached - self._run_from) / BYTES_PER_MS, self._run_from, reached)
