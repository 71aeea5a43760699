"""The playback queue of a real loudspeaker: the sound card says what was played, and when.

Pure but for one lock: the card takes audio in a thread of its own, and everything else runs in the event loop.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from phoneagent.protocol.audio import BYTES_PER_MS
from phoneagent.sim.twilio.playout import BYTES_PER_SECOND, MAX_CALL_MS, MAX_MARKS, Clear, MarkEcho, Playout, Span

JUMP_SECONDS = 0.06
"""If a card's clock moves by more than this between two blocks, the sound was interrupted. Less is jitter."""

MAX_LATE_SECONDS = 1.0
"""How far in the future a card may say that it will play a block; a later moment is an error of its driver."""


@dataclass(slots=True)
class _Run:
    """Bytes `first` to `end`, played without a gap from the moment `at` on. Silence follows a run that is not open."""

    at: float
    first: int
    end: int
    open: bool = True

    def moment(self, position: int) -> float:
        """Return when the byte before `position` has been played."""
        return self.at + (position - self.first) / BYTES_PER_SECOND


@dataclass(slots=True)
class CardPlayout(Playout):
    """A `Playout` whose clock is a sound card: a byte counts as heard at the moment when the card plays it.

    While the card gets silence because nothing is queued, nothing advances. Bytes that the card has taken are played in
    any case, so a `clear` drops those that it has not taken.
    """

    underruns: int = 0
    """How many times the card had to play silence within a run, because of its own delays."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _runs: list[_Run] = field(default_factory=list)
    _taken: int = 0
    # For each pending mark, the seconds that it is delayed by; None if a clear sends it back at once.
    _waiting: deque[tuple[float | None, MarkEcho]] = field(default_factory=deque)

    def take(self, count: int, moment: float) -> bytes:
        """Return at most `count` bytes for the card, which plays them from `moment` on. Called in the card's thread."""
        with self._lock:
            audio = bytes(self.received[self._taken : self._taken + count])
            run = self._runs[-1] if self._runs else None
            if audio:
                if run is None or not run.open or run.end != self._taken or self._jumped(run, moment):
                    after = moment if run is None else max(moment, run.moment(run.end))
                    run = _Run(after, self._taken, self._taken)
                    self._runs.append(run)
                run.end += len(audio)
                self._taken += len(audio)
            if run is not None and len(audio) < count:
                run.open = False
        return audio

    def _jumped(self, run: _Run, moment: float) -> bool:
        jumped = abs(run.moment(run.end) - moment) > JUMP_SECONDS
        self.underruns += jumped
        return jumped

    def media(self, audio: bytes, now: float) -> None:
        """Queue `audio`. The card takes it with its next block if nothing else is queued."""
        with self._lock:
            room = MAX_CALL_MS * BYTES_PER_MS - len(self.received)
            if audio and room > 0:
                self.received += audio[:room]
                self.received_log.append((now, len(self.received)))

    def mark(self, name: str, now: float, *, delay_ms: float = 0.0) -> None:
        """Take a mark. It is due `delay_ms` after everything received before it has been played."""
        if len(self.marks) < MAX_MARKS:
            mark = MarkEcho(name, now, len(self.received))
            self.marks.append(mark)
            self._waiting.append((delay_ms / 1000, mark))

    def clear(self, now: float) -> Clear:
        """Drop the audio that the card has not taken. All pending marks are due at once, in order."""
        heard_to = self._drop()
        for _, mark in self._waiting:
            mark.cleared = mark.position > heard_to
        self._waiting = deque((None, mark) for _, mark in self._waiting)
        cleared = Clear(now, (now - self.started_at) * 1000, heard_to, len(self.received))
        self.clears.append(cleared)
        return cleared

    def stop(self, now: float) -> None:
        """End the stream: queued audio is never heard, and pending marks are never sent back."""
        self._drop()
        self._waiting.clear()

    def due(self, now: float) -> list[MarkEcho]:
        """Return the marks that are due by `now`, in order, each once. The receiver sets `echoed_at`."""
        marks = []
        while self._waiting and (moment := self._due_at(*self._waiting[0])) is not None and moment <= now:
            marks.append(self._waiting.popleft()[1])
        return marks

    def next_due(self) -> float | None:
        """The moment at which the next mark is due; None if that depends on what the card takes next."""
        return self._due_at(*self._waiting[0]) if self._waiting else None

    def position(self, now: float) -> float:
        """Return how many of the bytes received have been played (or dropped) by `now`."""
        position: float = self._taken
        for run in reversed(self._runs):
            if run.at <= now:
                played = run.first + (now - run.at) * BYTES_PER_SECOND
                return played if played < run.end else position
            position = run.first
        return position

    def queued_ms(self, now: float) -> float:
        """Return the milliseconds of audio that are still to be heard."""
        playing = max(self._runs[-1].moment(self._runs[-1].end) - now, 0) * 1000 if self._runs else 0.0
        return playing + (len(self.received) - self._taken) / BYTES_PER_MS

    def audible(self, now: float, echo_ms: float) -> bool:
        """Tell whether the agent is heard at `now`, or was within the last `echo_ms`."""
        return any(run.at <= now <= run.moment(run.end) + echo_ms / 1000 for run in self._runs[-2:])

    def spans(self, now: float) -> list[Span]:
        """Return the spans heard until `now`, in order. The last one may still be playing."""
        spans = []
        for run in self._runs:
            end = min(run.end, run.first + int((now - run.at) * BYTES_PER_SECOND))
            if end > run.first:
                start_ms = (run.at - self.started_at) * 1000
                spans.append(Span(start_ms, start_ms + (end - run.first) / BYTES_PER_MS, run.first, end))
        return spans

    def _drop(self) -> int:
        """Drop the audio that the card has not taken; return the byte up to which it has taken audio."""
        with self._lock:
            taken, self._taken = self._taken, len(self.received)
            if self._runs:
                self._runs[-1].open = False
        return taken

    def _due_at(self, delay_seconds: float | None, mark: MarkEcho) -> float | None:
        """Return the moment at which a mark is due, None if the card has not taken everything before it."""
        if delay_seconds is None:
            return 0.0
        if mark.position > self._taken:
            return None
        run = next((run for run in reversed(self._runs) if run.first < mark.position <= run.end), None)
        if run is None:  # nothing came before it, or a clear dropped it
            return max((run.moment(run.end) for run in self._runs[-1:]), default=0.0)
        return run.moment(mark.position) + delay_seconds
