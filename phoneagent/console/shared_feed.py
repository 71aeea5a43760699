"""The feed of all processes of one database: a reader sees every call, and can reconnect to another process.

Events go into the event log of the database, and readers get only committed events, with the log's ids. While there are
readers, each process follows the log, and keeps the latest events in backlogs that its readers share. A reader whose
last event is older than these gets pages of the log until it has caught up, and so does a slow one.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from phoneagent.console.backlog import KEEP_ALIVE_SECONDS, MAX_AT_ONCE, Alarm, Backlog, Piece, piece
from phoneagent.console.encoding import ENDINGS, MISSED, NAMES, RETRY, Body, Encoded, body_of, encode, server_sent
from phoneagent.console.feed import MAX_DIGITS, Opened
from phoneagent.console.vitals import LiveVitals, Vitals
from phoneagent.errors import StoreError
from phoneagent.events import CallNotAnswered, CallStarted, Event
from phoneagent.store import event_log
from phoneagent.store.engines import TRANSACTION_SECONDS
from phoneagent.store.event_log import EventLog, LoggedEvent
from phoneagent.store.notices import Changes

log = logging.getLogger("phoneagent.console")

MAX_EVENTS = 5000
MAX_BYTES = 8 * 1024 * 1024
MAX_CALL_EVENTS = 200
MAX_CALL_BYTES = 256 * 1024
KEEP_SECONDS = 300.0
"""The limits of the events in memory, for all calls and for each call with readers, and how long they are kept. The log
has the rest."""

ROWS_AT_ONCE = 500
POLL_SECONDS = 10.0
"""How many events are read from the log at once, and how often it is read without a notice."""

ALONE_SECONDS = 0.2
"""How long after its own transaction a process assumes that no other one has written. Each transaction reveals it, so a
process that writes all the time, as one with calls does, need not read the log too."""

AWAY_SECONDS = 2.0
"""How long to wait after the database has not answered."""

MAX_PAGES = 8
PAGE_SECONDS = 1.0
"""How many pages of the log are remembered, and how long: after a restart, many readers ask for the same one."""

UNKNOWN = sys.maxsize
"""Stands for the newest id that a backlog does not have: none of the log is in it."""

_STARTED, _NOT_ANSWERED = NAMES[CallStarted], NAMES[CallNotAnswered]


@dataclass(slots=True)
class _Streams:
    """The media streams of a call so far, and whether the latest one has ended. Events of two processes may overtake
    each other."""

    latest: str = ""
    over: bool = False

    def take(self, event: Encoded) -> None:
        if event.type == _STARTED:
            self.latest, self.over = event.stream_sid, False
        elif event.ends and (event.type == _NOT_ANSWERED or self.latest in ("", event.stream_sid)):
            self.over = True


@dataclass(slots=True)
class _Place:
    """The place of a reader: the id to continue after, and whether it has missed events before that."""

    after: int
    missed: bool = False
    streams: _Streams = field(default_factory=_Streams)
    settled: bool = False
    """Whether the call was found to be over: then the log has all of its events. Not all ends are events."""
    over: bool = False
    """Whether no more events will come."""
    is_new: bool = False
    """Whether the log has nothing of the call."""


class _Found(NamedTuple):
    """Some events of the log, the id up to which there are no others, and whether older ones have been deleted."""

    events: Piece
    upto: int
    missed: bool


class SharedFeed:
    """The events of all processes, for the readers of this one. `tell` observes the calls of this process."""

    def __init__(self, events: EventLog, *, keep_alive_seconds: float = KEEP_ALIVE_SECONDS) -> None:
        self._log = events
        self._keep_alive_seconds = keep_alive_seconds
        self._vitals = LiveVitals()
        self._alarm = Alarm()
        self.all = Backlog(MAX_EVENTS, MAX_BYTES, dropped=UNKNOWN)
        self._calls: dict[str, Backlog] = {}
        self._readers: dict[Backlog, int] = {}
        self._position: int | None = None
        """The newest id that the backlogs have; None while the log is not followed."""
        self._following: asyncio.Task[None] | None = None
        self._alone_until = 0.0
        self._others_wrote = asyncio.Event()
        self._reading = asyncio.Lock()
        self._settled: dict[str, tuple[float, bool]] = {}
        """When the record of each call with readers was last looked at, and whether the call was over by it."""
        self._pieces: OrderedDict[tuple[str | None, int], tuple[float, _Found]] = OrderedDict()
        self._closed = False
        events.committed = self._committed

    # --- events ---

    def tell(self, event: Event, stream_sid: str) -> None:
        """Keep an event for the readers. Never waits and never raises."""
        try:
            self._vitals.note(event, stream_sid)
            if (body := body_of(event, datetime.now(UTC))) is not None:
                self._log.add(event.call_sid, stream_sid, body.type, body.json.decode())
        except Exception:  # an observer must not harm the call that it observes
            log.exception("an event does not reach its readers: %s", type(event).__name__)

    def vitals(self, call_sid: str) -> Vitals | None:
        """Return what is known about a live call of this process."""
        return self._vitals.get(call_sid)

    def close(self) -> None:
        """End all streams, because the server stops. Their readers reconnect to another process."""
        self._closed = True
        self._alarm.close()
        if self._following is not None:
            self._following.cancel()
        for backlog in (self.all, *self._calls.values()):
            backlog.end()

    # --- following the log ---

    def _committed(self, newest: int, events: list[LoggedEvent]) -> None:
        """Handle the events that this process has written, unless earlier ones of another process are not here yet."""
        if newest == self._position:
            self._take(events)
            self._alone_until = asyncio.get_running_loop().time() + ALONE_SECONDS
        else:
            self._others_wrote.set()

    async def _follow(self) -> None:
        away = False
        with self._log.watch() as changes:
            try:
                while self._readers:
                    try:
                        more = await self._read_on()
                        away = False
                    except StoreError as error:
                        if not away:
                            log.warning("readers of events get none for now: %s", error)
                        away = True
                        await asyncio.sleep(AWAY_SECONDS)
                        continue
                    if not more:
                        self._forget(int((time.time() - KEEP_SECONDS) * 1e6))
                        await self._until_others_wrote(changes)
            finally:
                self._position = None
                self._pieces.clear()
                self._forget(UNKNOWN - 1)
                self.all.dropped = UNKNOWN

    async def _until_others_wrote(self, changes: Changes) -> None:
        """Wait until another process may have written, or for POLL_SECONDS."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + POLL_SECONDS
        await changes.wait(POLL_SECONDS)
        while self._readers and (rest := min(self._alone_until, latest) - loop.time()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._others_wrote.wait()
                    break
        self._others_wrote.clear()

    async def _read_on(self) -> bool:
        """Read the next events of the log; return whether there may be more.

        Raises:
            StoreError: the database does not answer.
        """
        if self._position is None:
            newest = (await self._log.page(UNKNOWN, 1)).newest
            self._position = newest
            for backlog in (self.all, *self._calls.values()):
                backlog.dropped = newest
            self._alarm.wake(self.all, *self._calls.values())  # they wait for the position
        found = (await self._log.page(self._position, ROWS_AT_ONCE)).events
        self._take(found)
        return len(found) == ROWS_AT_ONCE

    def _take(self, events: Sequence[LoggedEvent]) -> None:
        """Append events to the backlogs, except those that they already have."""
        news = {self.all}
        for event in events:
            if self._position is None or event.id <= self._position:
                continue
            self._position = event.id
            encoded = _encoded(event)
            self.all.add(encoded)
            ours = self._calls.get(event.call_sid)
            for backlog in self._calls.values() if event.type == event_log.MISSED else [ours] if ours else []:
                backlog.add(encoded)
                news.add(backlog)
        self._alarm.wake(*news)

    def _forget(self, number: int) -> None:
        for backlog in (self.all, *self._calls.values()):
            backlog.drop(number)

    # --- readers ---

    async def open(self, call_sid: str | None, event_id: str | None, *, full: bool) -> Opened:
        """Return a stream of the events of a call, or of all, for a reader whose last event had that id.

        Raises:
            StoreError: the database does not answer, and the call is not in this process.
        """
        if call_sid is None:
            return self._read(None, event_id, None, full)
        if self._is_live(call_sid):  # its first events may not be written yet
            return self._read(call_sid, event_id, None, full)
        place = await self._find(call_sid, event_id)
        if place.is_new:
            return "unknown"
        return "over" if place.over else self._read(call_sid, event_id, place, full)

    async def _find(self, call_sid: str | None, event_id: str | None) -> _Place:
        """Return the place of a reader.

        Raises:
            StoreError: the database does not answer.
        """
        number = _number(event_id)
        if call_sid is not None:
            async with self._turn():
                return await self._find_in_call(call_sid, event_id, number)
        if (here := self._find_here(event_id, number)) is not None:
            return here
        async with self._turn():
            if (here := self._find_here(event_id, number)) is not None:  # the log is being followed by now
                return here
            newest = (await self._log.page(UNKNOWN, 1)).newest
            if event_id is None and self._position is not None:  # followed meanwhile: the reader gets all since
                newest = min(newest, self.all.dropped)
        is_known = number is not None and number <= newest
        return _Place(number if is_known and number is not None else newest, event_id is not None and not is_known)

    async def _find_in_call(self, call_sid: str, event_id: str | None, number: int | None) -> _Place:
        """Return the place of a reader of a call. What others have missed before the call does not concern it."""
        newest = (await self._log.page(UNKNOWN, 1)).newest  # read first: no event of a new call is older
        outline = await self._log.outline(call_sid, (_STARTED, *ENDINGS))
        is_unknown = event_id is not None and (number is None or number > newest)
        if not outline:
            return _Place(newest, event_id is not None, is_new=True)
        streams = _Streams()
        for event in outline:
            streams.take(_encoded(event))
        settled = streams.over or await self._log.is_settled(call_sid)
        first = outline[0]
        if number is None or is_unknown or number < first.id:
            return _Place(first.id - 1, is_unknown or not _begins(first), streams, settled)
        over = settled and not (await self._log.page(number, 1, call_sid=call_sid)).events
        return _Place(number, False, streams, settled, over)

    def _find_here(self, event_id: str | None, number: int | None) -> _Place | None:
        """Return the place of a reader of all calls, if it is known without the log."""
        if self._position is None:
            return None
        if number is None:
            return _Place(self._position, event_id is not None)
        return _Place(number) if self.all.dropped <= number <= self._position else None

    async def _read(
        self, call_sid: str | None, event_id: str | None, place: _Place | None, full: bool
    ) -> AsyncGenerator[bytes]:
        """Yield the events from a place on, as they come, until there are no more. Finds the place if none is given."""
        yield RETRY
        late = False
        with self._reader_of(call_sid) as backlog:
            while place is None and not backlog.ended:
                try:
                    place = await self._find(call_sid, event_id)
                    place.missed |= late and call_sid is None and event_id is None  # "now" is later than its request
                except StoreError:
                    late = True
                    await backlog.wait(AWAY_SECONDS)
                    yield b":\n\n"
            if place is None:
                return
            if place.missed:
                yield server_sent("missed", MISSED)
            while True:
                before = place.after, backlog.dropped
                found = await self._next(call_sid, backlog, place)
                if found is not None:
                    place.after = found.upto
                    if found.missed:
                        yield server_sent("missed", MISSED)
                if found is not None and found.events:
                    if call_sid is not None:
                        for each in found.events:
                            place.streams.take(each)
                    yield found.events.text(full=full)
                elif backlog.ended:
                    return
                elif before != (place.after, backlog.dropped):
                    continue  # the events read from the log end where the backlog now begins
                elif found is not None and (place.settled or place.streams.over) and not self._is_live(call_sid):
                    return
                elif not await backlog.wait(AWAY_SECONDS if found is None else self._keep_alive_seconds):
                    yield b":\n\n"
                    if found is not None:
                        place.settled = await self._is_settled(call_sid)

    async def _next(self, call_sid: str | None, backlog: Backlog, place: _Place) -> _Found | None:
        """Return the next events for a reader; None if the database does not answer."""
        after = place.after
        if after >= backlog.dropped and (not place.settled or self._is_live(call_sid)):
            found = backlog.after(after)
            return _Found(found, found[-1].number if found else after, False)
        if backlog.ended:  # events in between are not skipped: the reader reconnects for them
            return _Found(Piece(), after, False)
        try:
            return await self._page(call_sid, after)
        except StoreError:
            return None

    def _is_live(self, call_sid: str | None) -> bool:
        return call_sid is not None and self._vitals.get(call_sid) is not None

    async def _is_settled(self, call_sid: str | None) -> bool:
        """Tell whether a call is over by its record, if the database answers. The readers of a call share each look."""
        if call_sid is None or self._is_live(call_sid):
            return False
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(AWAY_SECONDS), self._turn():
                now = asyncio.get_running_loop().time()
                known = self._settled.get(call_sid)
                if known is None or now - known[0] >= self._keep_alive_seconds:
                    self._settled[call_sid] = now, False  # one look, even if the database does not answer
                    known = self._settled[call_sid] = now, await self._log.is_settled(call_sid)
                return known[1]
        return False

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until no other reader reads the log.

        Raises:
            StoreError: the others have waited for the database for too long.
        """
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS):  # one of them waits for at most as long
                await self._reading.acquire()
        except TimeoutError:
            raise StoreError("the database does not answer readers of events: check that it is up") from None
        try:
            yield
        finally:
            self._reading.release()

    async def _page(self, call_sid: str | None, after: int) -> _Found:
        """Return the next events of the log after an id. One reader reads at a time, then rests for as long as it took.

        Raises:
            StoreError: the database does not answer.
        """
        loop, key = asyncio.get_running_loop(), (call_sid, after)
        async with self._turn():
            begun = loop.time()
            if key in self._pieces and begun - self._pieces[key][0] < PAGE_SECONDS:
                return self._pieces[key][1]
            edge = after if self._position is None else max(after, self._position)
            page = await self._log.page(after, MAX_AT_ONCE, call_sid=call_sid)
            events = piece(map(_encoded, page.events))
            is_all = len(events) == len(page.events) < MAX_AT_ONCE
            upto = max(edge if is_all else after, events[-1].number if events else after)
            found = _Found(events, upto, 0 < after < page.oldest - 1)
            if upto > after:
                self._pieces[key] = begun, found
            if len(self._pieces) > MAX_PAGES:
                self._pieces.popitem(last=False)
            await asyncio.sleep(loop.time() - begun)
            return found

    @contextmanager
    def _reader_of(self, call_sid: str | None) -> Iterator[Backlog]:
        """Follow the log for one more reader, and keep a backlog for it."""
        dropped = UNKNOWN if self._position is None else self._position
        if call_sid is None:
            backlog = self.all
        else:
            made = Backlog(MAX_CALL_EVENTS, MAX_CALL_BYTES, dropped=dropped)
            backlog = self._calls.setdefault(call_sid, made)
        self._readers[backlog] = self._readers.get(backlog, 0) + 1
        if self._closed:
            backlog.end()
        elif self._following is None or self._following.done():
            self._following = asyncio.get_running_loop().create_task(self._follow(), name="phoneagent event readers")
        try:
            yield backlog
        finally:
            self._readers[backlog] -= 1
            if not self._readers[backlog]:
                del self._readers[backlog]
                if call_sid is not None:
                    del self._calls[call_sid]
                    self._settled.pop(call_sid, None)


def _number(event_id: str | None) -> int | None:
    """Return an id of the log as a number; None if it cannot be one."""
    if event_id is None or not (event_id.isascii() and event_id.isdigit()) or len(event_id) > MAX_DIGITS:
        return None
    return int(event_id)


def _begins(event: LoggedEvent) -> bool:
    """Tell whether an event is the first one of its call."""
    return event.type == _STARTED and not msgspec.json.decode(event.body).get("resumed")


def _encoded(event: LoggedEvent) -> Encoded:
    if event.type == event_log.MISSED:
        told = server_sent("missed", MISSED, str(event.id))
        return Encoded(event.id, told, told, event.type)
    return encode(Body(event.type, event.body.encode()), event.id, str(event.id), event.stream_sid)
