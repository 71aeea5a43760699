"""The event log: what happens in the calls of all processes of one database, for readers that come and go.

Ids grow in the order in which events are committed, so a reader that has seen an id misses none that is lower: writers
take turns. An id is the date in microseconds, or one more than the newest id if that is later. So ids do not start over
with another process, nor after a restored backup or a lost file.

The log has its own transactions, separate from the records: if the log cannot be written, calls are still recorded.
Events then wait in bounded memory. If some had to be dropped, a `missed` event takes their place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.errors import StoreError
from phoneagent.store import notices, sweeping
from phoneagent.store.database import Database
from phoneagent.store.rows import clean, now
from phoneagent.store.schema import calls, claims
from phoneagent.store.schema import events as table
from phoneagent.store.statements import FORGOTTEN, RESUME_SECONDS

log = logging.getLogger("phoneagent.store")

MISSED = "missed"
"""The type of an event that replaces dropped ones. It belongs to all calls."""

KEEP = timedelta(days=1)
MAX_ROWS = 500_000
"""How long events are kept, and how many: about 200 MB."""

LINGER_SECONDS = 0.1
"""How long events are collected before they are written together."""

BATCH_ROWS = 200
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""The memory for events that wait while the database is away. Beyond it the oldest are dropped."""

ROW_BYTES = 300
"""The size of an event in memory, without its body."""

FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 5.0

SWEEP_SECONDS = 60.0
"""How often old events are deleted."""

WRITERS_LOCK = 0x70686F6E66
"""The advisory lock with which PostgreSQL's writers take turns."""

SETTLED_SECONDS = RESUME_SECONDS
"""How long after the end of a call's record no more events of it are expected: they may be written later than it."""

FROZEN_SECONDS = 5
"""After how long PostgreSQL ends the session of a writer that was suspended during its turn, while all others wait."""


class LoggedEvent(NamedTuple):
    """An event in the log. `body` is its JSON, with whole phone numbers."""

    id: int
    call_sid: str
    stream_sid: str
    type: str
    body: str


class Page(NamedTuple):
    """A part of the log, and the ids of the oldest and the newest event in the whole log; 0 and 0 if it is empty."""

    events: list[LoggedEvent]
    oldest: int
    newest: int


class _Attempt(NamedTuple):
    """A transaction that writes events: the newest id before it, the events with their ids, and how many were lost
    before. If its answer is lost, it is unknown whether it was committed."""

    before: int
    events: list[LoggedEvent]
    lost: int


class EventLog:
    """The log of one database. `add` never waits.

    `committed` is called with each batch that this process writes: the newest id before it, and its events.
    """

    def __init__(self, database: Database, changes: notices.Notices) -> None:
        self.committed: Callable[[int, list[LoggedEvent]], None] | None = None
        self._database = database
        self._notices = changes
        self._waiting: deque[LoggedEvent] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._attempt: _Attempt | None = None
        """The latest attempt, if it is unknown whether it was committed."""
        self._tried = 0
        """How many of the waiting events are in it. They are the oldest."""
        self._writing: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._closing = False

    # --- writing ------------------------------------------------------------------------------------------------------

    def add(self, call_sid: str, stream_sid: str, type: str, body: str) -> None:
        """Accept an event. Never waits. Must be called on the event loop."""
        event = LoggedEvent(0, clean(call_sid), clean(stream_sid), type, body)
        self._waiting.append(event)
        self._waiting_bytes += _size(event)
        while self._waiting_bytes > MAX_WAITING_BYTES:
            self._waiting_bytes -= _size(self._waiting.popleft())
            self._lost += 1
            self._tried = max(0, self._tried - 1)
        loop = asyncio.get_running_loop()
        if self._writing is None or self._writing.done():
            self._writing = loop.create_task(self._run(), name="phoneagent events")
        if self._sweeping is None:
            self._sweeping = loop.create_task(self._sweep_at_times(), name="phoneagent events sweep")

    async def flush(self) -> None:
        """Write the waiting events, starting now, and wait until the database has them."""
        self._hurry.set()
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def close(self, seconds: float) -> None:
        """Write the waiting events, for at most `seconds`, and stop."""
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.flush()
        tasks = [each for each in (self._writing, self._sweeping) if each is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._waiting:
            log.error("%d events did not reach their readers: the database cannot write them", len(self._waiting))

    async def _run(self) -> None:
        pause = LINGER_SECONDS
        while self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            self._hurry.clear()
            failed = await self._write_batch()
            if failed is None:
                pause = 0.0 if len(self._waiting) >= BATCH_ROWS or self._closing else LINGER_SECONDS
            elif self._closing:
                return
            else:
                pause = min(max(2 * pause, FIRST_RETRY_SECONDS), LAST_RETRY_SECONDS)

    async def _write_batch(self) -> StoreError | None:
        """Write the next events; return the error if they are not written.

        If the answer to a commit was lost, the same events are tried again before any others.
        """
        if not self._tried:
            self._attempt = None
        batch = [self._waiting.popleft() for _ in range(self._tried or min(len(self._waiting), BATCH_ROWS))]
        self._tried = 0
        size, lost, written = sum(map(_size, batch)), self._lost, False
        self._waiting_bytes -= size
        told = [LoggedEvent(0, "", "", MISSED, ""), *batch] if lost else batch

        async def write(connection: AsyncConnection) -> _Attempt:
            await take_turn(connection)  # now an earlier transaction is over, and what it has committed is visible
            if self._attempt is None or not await _has(connection, self._attempt.events):
                before, events = await _with_ids(connection, told)
                self._attempt = _Attempt(before, events, lost)
                await _insert(connection, events)
            return self._attempt

        try:
            done = await self._database.write(write)
            written = True
        except StoreError as error:
            if error.retry:
                return error
            log.error("%d events did not reach their readers: the database refused them: %s", len(batch), error)
            self._lost += len(batch)
            written = True
            return error
        finally:
            if not written:
                self._waiting.extendleft(reversed(batch))
                self._waiting_bytes += size
                self._tried = len(batch)
        self._lost -= done.lost
        if done.lost:
            log.warning("%d events did not reach their readers: the database was away for too long", done.lost)
        if self.committed is not None and done.events:
            self.committed(done.before, done.events)
        return None

    # --- reading ------------------------------------------------------------------------------------------------------

    def watch(self) -> notices.Changes:
        """Return when other processes have written; see `Notices.watch`."""
        return self._notices.watch("events")

    async def page(self, after: int, limit: int, *, call_sid: str | None = None) -> Page:
        """Return the next events after an id, of all calls or of one.

        Raises:
            StoreError: the database does not answer.
        """
        found = sa.select(table).where(table.c.id > after, table.c.type != "").order_by(table.c.id).limit(limit)
        if call_sid is not None:
            of_all = sa.and_(table.c.call_sid == "", table.c.type == MISSED)  # "" is also a call that was never placed
            found = found.where(sa.or_(table.c.call_sid == clean(call_sid), of_all))
        ends = sa.select(
            sa.select(sa.func.min(table.c.id)).scalar_subquery(), sa.select(sa.func.max(table.c.id)).scalar_subquery()
        )

        async def read(connection: AsyncConnection) -> Page:
            events = [LoggedEvent(*row) for row in await connection.execute(found)]
            oldest, newest = (await connection.execute(ends)).one()  # read last, so deletions count
            return Page(events, oldest or 0, newest or 0)

        return Page([], 0, 0) if self._database.absent else await self._database.read(read)

    async def outline(self, call_sid: str, types: Sequence[str]) -> list[LoggedEvent]:
        """Return the first event of a call, and all its events of these types; empty if the log has none of the call.

        Raises:
            StoreError: the database does not answer.
        """
        of_call = table.c.call_sid == clean(call_sid)
        first = sa.select(sa.func.min(table.c.id)).where(of_call).scalar_subquery()
        found = sa.select(table).where(of_call, sa.or_(table.c.id == first, table.c.type.in_(types)))

        async def read(connection: AsyncConnection) -> list[LoggedEvent]:
            return [LoggedEvent(*row) for row in await connection.execute(found.order_by(table.c.id))]

        return [] if self._database.absent else await self._database.read(read)

    async def is_settled(self, call_sid: str) -> bool:
        """Tell whether a call is over by its record, for so long that no more events of it are expected.

        Raises:
            StoreError: the database does not answer.
        """
        long_over = calls.c.ended_at <= now() - timedelta(seconds=SETTLED_SECONDS)
        found = sa.select(sa.exists().where(calls.c.sid == clean(call_sid), long_over))
        if self._database.absent:
            return False
        return bool(await self._database.read(lambda connection: connection.scalar(found)))

    # --- deleting -----------------------------------------------------------------------------------------------------

    async def sweep(self) -> int:
        """Delete events beyond the limits of age and number, as `sweep_events` does."""
        return await sweep_events(self._database)

    async def _sweep_at_times(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except StoreError as error:
                log.warning("old events were not deleted: %s; trying again later", error)


async def take_turn(connection: AsyncConnection) -> None:
    """Wait until no other process writes events, and keep the others waiting until the end of the transaction.

    A transaction must take its turn before anything else. In SQLite each writing transaction has it anyway.
    """
    if connection.dialect.name == "postgresql":
        turn = "SELECT set_config('idle_in_transaction_session_timeout', :limit, true), pg_advisory_xact_lock(:lock)"
        await connection.execute(sa.text(turn), {"limit": f"{FROZEN_SECONDS}s", "lock": WRITERS_LOCK})


async def erase(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> None:
    """Erase the content of events. Their ids stay, because ids must keep growing."""
    nothing = dict.fromkeys(("call_sid", "stream_sid", "type", "body"), "")
    await connection.execute(sa.update(table).where(which, table.c.type != "").values(nothing))


async def sweep_events(database: Database) -> int:
    """Delete events beyond the limits of age and number; return how many. The newest is only erased: its id stays.

    Raises:
        StoreError: the database does not answer; some may have been deleted.
    """
    too_old = _too_old()
    too_many = sa.select(table.c.id).order_by(table.c.id.desc()).offset(MAX_ROWS).limit(1)
    newest = sa.select(sa.func.max(table.c.id))

    async def look(connection: AsyncConnection) -> tuple[int, int]:
        return await connection.scalar(too_many) or 0, await connection.scalar(newest) or 0

    async def write(connection: AsyncConnection) -> int:
        oldest = sa.select(table.c.id).where(table.c.id <= until).order_by(table.c.id).limit(sweeping.ROWS)
        if last <= too_old:
            await erase(connection, table.c.id == last)
        return (await connection.execute(sa.delete(table).where(table.c.id.in_(oldest)))).rowcount

    if database.absent:
        return 0
    excess, last = await database.read(look)
    until = min(max(too_old, excess), last - 1)
    return await sweeping.repeat(database, write, sweeping.ROWS)


async def _has(connection: AsyncConnection, events: Sequence[LoggedEvent]) -> bool:
    """Tell whether the log has these events. Some may have been erased since, and a `missed` looks like any other."""
    ids = table.c.id.in_([event.id for event in events])
    rows = await connection.execute(sa.select(table).where(ids, table.c.type != MISSED))
    return not {LoggedEvent(*row) for row in rows}.isdisjoint(events)


async def _with_ids(connection: AsyncConnection, batch: Sequence[LoggedEvent]) -> tuple[int, list[LoggedEvent]]:
    """Give events their ids, except those of forgotten calls; return the newest id before them, and the events."""
    names = {FORGOTTEN + event.call_sid for event in batch}
    which = claims.c.name.in_(names)
    look = sa.select(sa.select(sa.func.max(table.c.id)).scalar_subquery(), sa.exists().where(which))
    newest, any_forgotten = (await connection.execute(look)).one()
    newest = newest or 0
    forgotten = set(await connection.scalars(sa.select(claims.c.name).where(which))) if any_forgotten else set()
    first = max(newest + 1, _micros())
    known = [event for event in batch if FORGOTTEN + event.call_sid not in forgotten]
    return newest, [event._replace(id=first + number) for number, event in enumerate(known)]


async def _insert(connection: AsyncConnection, events: Sequence[LoggedEvent]) -> None:
    if events:
        await connection.execute(sa.insert(table), [event._asdict() for event in events])
        await notices.tell(connection, "events")


def _size(event: LoggedEvent) -> int:
    return ROW_BYTES + len(event.body)


def _too_old() -> int:
    return _micros() - int(KEEP.total_seconds() * 1e6)


def _micros() -> int:
    return time.time_ns() // 1000
