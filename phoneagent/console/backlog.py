"""The latest events of one call, or of all, kept for any number of readers, and the alarm that wakes the readers.

A reader has no queue. It has the number of the last event it was sent, and reads on from there in a backlog that all
readers share. So a thousand readers cost no memory for events, and a new event writes to no socket: it is appended, and
the readers are woken later, a few in each pass of the event loop, so that audio goes out in between.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from functools import cached_property
from operator import attrgetter

from phoneagent.console.encoding import Encoded

MAX_AT_ONCE = 100
MAX_BYTES_AT_ONCE = 64 * 1024
"""How many events, and about how many bytes, are written to a reader in one piece. A reader that takes nothing holds
one piece in memory, until it is dropped."""

KEEP_ALIVE_SECONDS = 15.0
"""How long a reader gets nothing before a comment is sent: proxies end silent connections."""

WOKEN_AT_ONCE = 4
"""How many readers write in one pass of the event loop: each takes about 0.1 ms, and a frame of audio waits for it."""

REST_SECONDS = 0.02
REST_SHARE = 29
"""After writing, the readers rest for this many times as long: they take at most a thirtieth of the processor."""


class Piece(list[Encoded]):
    """Events that are written to a reader at once. Readers that continue from the same place share them."""

    def text(self, *, full: bool) -> bytes:
        """Return the text to write; with `full`, phone numbers are whole."""
        return self._full if full else self._masked

    @cached_property
    def _full(self) -> bytes:
        return b"".join([each.full for each in self])

    @cached_property
    def _masked(self) -> bytes:
        return b"".join([each.masked for each in self])


class Backlog:
    """The latest events of one call, or of all, and the readers that wait for the next."""

    def __init__(self, max_events: int, max_bytes: int, *, dropped: int = 0) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: deque[Encoded] = deque()
        self.bytes = 0
        self.dropped = dropped
        """The number of the newest event that is no longer here."""
        self.ended = False
        """Whether no more events will come."""
        self.waiting: set[asyncio.Future[None]] = set()
        self._latest: tuple[tuple[int, int], Piece] | None = None

    def add(self, event: Encoded) -> None:
        """Append an event, and drop the oldest ones beyond the limits."""
        self._events.append(event)
        self.bytes += len(event.full)
        while len(self._events) > self._max_events or self.bytes > self._max_bytes:
            self._drop_oldest()

    def drop(self, number: int) -> None:
        """Drop the events up to and including that number."""
        while self._events and self._events[0].number <= number:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest = self._events.popleft()
        self.bytes -= len(oldest.full)
        self.dropped = oldest.number
        self._latest = None

    def after(self, number: int) -> Piece:
        """Return the next events after that number, oldest first; only the first ones if there are many."""
        events = self._events
        place = number, events[-1].number if events else self.dropped
        if self._latest is None or self._latest[0] != place:  # most readers are at the same place
            start = bisect_right(events, number, key=attrgetter("number"))
            self._latest = place, piece(events[index] for index in range(start, len(events)))
        return self._latest[1]

    async def wait(self, seconds: float) -> bool:
        """Wait to be woken; return whether that happened within `seconds`."""
        woken = asyncio.get_running_loop().create_future()
        self.waiting.add(woken)
        try:
            async with asyncio.timeout(seconds):
                await woken
        except TimeoutError:
            return False
        finally:
            self.waiting.discard(woken)
        return True

    def end(self) -> None:
        """Let the readers end once they have read everything here."""
        self.ended = True
        for reader in self.waiting:
            _wake(reader)


class Alarm:
    """Wakes the readers of backlogs that have news, a few at a time."""

    def __init__(self) -> None:
        self._news: set[Backlog] = set()
        self._waking: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether no reader waits to be woken."""
        return self._waking is None

    def note(self, backlog: Backlog) -> None:
        """Wake the readers of a backlog in the next round."""
        self._news.add(backlog)

    def wake(self, *backlogs: Backlog) -> None:
        """Wake the readers of these backlogs soon."""
        self._news.update(each for each in backlogs if each.waiting)
        if self._news and self._waking is None:
            self._waking = asyncio.get_running_loop().create_task(self._wake_readers(), name="phoneagent readers")

    def close(self) -> None:
        """Stop waking readers."""
        if self._waking is not None:
            self._waking.cancel()

    async def _wake_readers(self) -> None:
        loop = asyncio.get_running_loop()
        while self._news:
            begun, woken = loop.time(), 0
            news, self._news = self._news, set()  # later news waits for the next round
            for backlog in news:
                waiting, backlog.waiting = backlog.waiting, set()
                try:
                    while waiting:
                        if not _wake(waiting.pop()):
                            continue
                        woken += 1
                        if woken % WOKEN_AT_ONCE == 0:
                            await asyncio.sleep(0)
                finally:  # `close` may come in the middle of a round
                    for reader in waiting:
                        _wake(reader)
            await asyncio.sleep(max(REST_SECONDS, REST_SHARE * (loop.time() - begun)))
        self._waking = None


def _wake(reader: asyncio.Future[None]) -> bool:
    """Wake a reader; return whether it waited."""
    if reader.done():
        return False
    reader.set_result(None)
    return True


def piece(events: Iterable[Encoded]) -> Piece:
    """Return the first of these events: as many as are written to a reader at once."""
    found = Piece()
    size = 0
    for event in events:
        if found and (len(found) == MAX_AT_ONCE or size + len(event.full) > MAX_BYTES_AT_ONCE):
            break
        found.append(event)
        size += len(event.full)
    return found
