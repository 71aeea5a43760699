"""The store: an observer that keeps the record of each call, and the journal that calls write before they act.

    store = Store.from_url("sqlite:///phoneagent.db")
    store.tell(event, stream_sid="MZ…")  # never waits, never raises; on disk within a second
    record = await store.call("CA…")     # includes every event so far

A store needs no opening: the first event connects, and an unreachable database is retried. `close` writes the waiting
rows. A store belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.bridge.steps import NextStep, Pending
from phoneagent.errors import StoreError
from phoneagent.events import EndedBy, Event, Turn
from phoneagent.settings import Records
from phoneagent.store.afterwards import AfterwardsRows, still_needed
from phoneagent.store.campaigns import CampaignRows
from phoneagent.store.commands import CommandRows
from phoneagent.store.database import Database
from phoneagent.store.event_log import EventLog
from phoneagent.store.filters import CallFilter
from phoneagent.store.forgetting import begin_forgetting, forget, sweep
from phoneagent.store.notices import Notices
from phoneagent.store.outbound import OutboundCalls
from phoneagent.store.outcomes import OutcomeRows
from phoneagent.store.queries import read_call, read_calls, read_highlights, read_so_far, read_standing
from phoneagent.store.records import CallDetails, CallRecord, Highlights, SoFar, Standing
from phoneagent.store.rows import RowBuilder, clean, now
from phoneagent.store.schema import calls, claims, next_steps
from phoneagent.store.statements import FORGOTTEN, RESUME_SECONDS, insert_into
from phoneagent.store.steps import to_row
from phoneagent.store.transfers import TransferRows
from phoneagent.store.writer import Writer

log = logging.getLogger("phoneagent.store")

RECORD_DAYS = 90

FIRST_SWEEP_SECONDS = 10.0
SWEEP_SECONDS = 3600.0
"""How often old records are deleted."""

CLOSE_SECONDS = 2.0


class Store:
    """Records of calls in one database. `record_days` is how long they are kept; 0 deletes a record when its call ends.

    A call that continues in another media stream, here or in another process, is one record. Its latest stream
    represents it, and the end of an older stream changes nothing.
    """

    def __init__(self, database: Database, *, record_days: int = RECORD_DAYS) -> None:
        self._database = database
        self._record_days = record_days
        self._row_builder = RowBuilder()
        self.afterwards = AfterwardsRows(database)
        self._writer = Writer(database, keep_ended=record_days > 0, afterwards=self.afterwards)
        self.transfers = TransferRows(database)
        self.commands = CommandRows(database)
        self.notices = Notices(database)
        self.events = EventLog(database, self.notices) if record_days else None
        """The events of all processes; None with RECORD_DAYS=0, because they would outlive their calls."""
        self._next_sweep: asyncio.TimerHandle | None = None
        self._sweeping: asyncio.Task[None] | None = None

    @classmethod
    def from_url(cls, url: str, *, record_days: int = RECORD_DAYS) -> Store:
        """Return the store at a URL: sqlite:///path (relative to the working directory), postgres:// or postgresql://.

        Raises:
            ConfigurationError: the URL names no supported database.
        """
        return cls(Database(url), record_days=record_days)

    @classmethod
    def from_settings(cls, settings: Records) -> Store:
        """Return the store that DATABASE_URL and RECORD_DAYS describe.

        Raises:
            ConfigurationError: the URL names no supported database.
        """
        return cls.from_url(settings.database_url.get_secret_value(), record_days=settings.record_days)

    def __repr__(self) -> str:
        return f"<Store {self._database.name}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Write the waiting rows, within 2 s, and disconnect from the database."""
        if self._next_sweep is not None:
            self._next_sweep.cancel()
            self._next_sweep = None
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await self.notices.close()
        if self.events is not None:
            await self.events.close(CLOSE_SECONDS)
        await self._writer.close(CLOSE_SECONDS)
        await self._database.close(CLOSE_SECONDS)

    @property
    def outcomes(self) -> OutcomeRows:
        """The outcomes of calls."""
        return OutcomeRows(self._database)

    @cached_property
    def outbound(self) -> OutboundCalls:
        """The calls that the app makes."""
        return OutboundCalls(self._database)

    @property
    def campaigns(self) -> CampaignRows:
        """The campaigns, and the numbers that are never called."""
        return CampaignRows(self._database)

    # --- writing ------------------------------------------------------------------------------------------------------

    def tell(self, event: Event, *, stream_sid: str | None = None) -> None:
        """Record an event. Never waits and never raises. Must be called on the event loop.

        `stream_sid` is the event's stream. By default it is the call's latest stream in this process.
        """
        try:
            if rows := self._row_builder.rows(event, stream_sid):
                self._writer.add(rows)
                self._schedule_sweep(FIRST_SWEEP_SECONDS)
        except Exception:  # an observer must not harm the call that it observes
            log.exception("an event was not recorded: %s", type(event).__name__)

    def keep_state(self, call_sid: str, stream_sid: str, state: str) -> None:
        """Save the user's state of a call, as JSON. Never waits. Only the call's latest stream may change it."""
        self._writer.add([self._row_builder.state(call_sid, stream_sid, state)])

    def keep_unfinished(
        self, call_sid: str, stream_sid: str, turns: Sequence[Turn], pending: Pending | None = None
    ) -> None:
        """Save the unfinished turns of a call, in case this process dies; and what is open, if it changed.

        Never waits. The end of a turn replaces its saved part.
        """
        self._writer.add(self._row_builder.unfinished(call_sid, stream_sid, turns, pending), at_once=True)

    async def flush(self) -> None:
        """Wait until everything recorded so far is written.

        Raises:
            StoreError: the database cannot write it now; it will be retried.
        """
        await self._writer.flush()

    async def tool_started(self, call_sid: str, call_id: str, name: str, arguments: str) -> None:
        """Record that a tool is about to run (see `Journal`).

        Raises:
            StoreError: it is not written yet, but it will be once the database is back.
        """
        self._writer.add([self._row_builder.tool_started(call_sid, call_id, name, arguments, now())])
        await self._writer.flush()

    async def next_step(self, call_sid: str, step: NextStep, *, at: datetime | None = None) -> None:
        """Record the next step after a media stream (see `Journal`). A later step replaces an earlier one.

        `at` is when the step was given, by default now: if two steps overtake each other, the later one stays.

        Raises:
            StoreError: the step is not written, and will not be. The same holds if this call is canceled.
        """
        key = {"call_sid": clean(call_sid), "stream_sid": clean(step.stream_sid)}
        kind, data = to_row(step)
        values = {**key, "kind": kind, "data": data, "at": at or datetime.now(UTC)}
        insert = insert_into(next_steps, self._database.dialect).values(values)
        changes = {name: insert.excluded[name] for name in ("kind", "data", "at")}
        newer = insert.excluded.at >= next_steps.c.at
        latest = insert.on_conflict_do_update(index_elements=list(key), set_=changes, where=newer)
        given_up = False

        async def write(connection: AsyncConnection) -> None:
            await connection.execute(latest)
            if given_up:  # the call took the step in another way, and must not take it twice
                raise StoreError("the call did not wait for its next step")

        try:
            await self._database.write(write)
        except asyncio.CancelledError:
            given_up = True
            raise

    async def settle(self, call_sid: str, *, ended_by: EndedBy, reason: str) -> bool:
        """End the record of a call whose session has reported no end; return whether the record was still open.

        Use it only once the call is certainly over. If the session still reports its end, that end replaces this one.

        Raises:
            StoreError: the end is not written.
        """
        await self._writer.flush()
        sid = clean(call_sid)
        end = {"ended_at": now(), "ended_by": ended_by, "reason": clean(reason)}

        async def write(connection: AsyncConnection) -> bool:
            still_open = sa.update(calls).where(calls.c.sid == sid, calls.c.ended_at.is_(None))
            closed = (await connection.execute(still_open.values(end))).rowcount > 0
            await self.afterwards.ended(connection, [sid], had=not closed, certain=True)
            if self._record_days == 0:  # this includes a record that was kept for a next stream
                await connection.execute(sa.delete(calls).where(calls.c.sid == sid, ~still_needed(now())))
            return closed

        return await self._database.write(write)

    async def claim(self, name: str, seconds: float) -> bool:
        """Claim a name for `seconds`, which only one process can; return whether it was free.

        Raises:
            StoreError: the database does not answer, so the name may or may not be free.
        """
        moment = now()
        values = {"name": clean(name), "until": moment + timedelta(seconds=seconds)}
        insert = insert_into(claims, self._database.dialect).values(values)
        taken = insert.on_conflict_do_update(
            index_elements=["name"], set_={"until": insert.excluded.until}, where=claims.c.until <= moment
        )

        async def write(connection: AsyncConnection) -> bool:
            return (await connection.execute(taken)).rowcount > 0

        return await self._database.write(write)

    @property
    def empty(self) -> bool:
        """Whether there is no database yet, for example on a disk that was lost with the previous process."""
        return self._database.absent

    # --- reading ------------------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Check whether the database can be used. A SQLite file that does not exist yet only needs its folder.

        Raises:
            StoreError: it does not answer, its tables are missing, or there is no folder for it.
        """
        if not self._database.absent:
            await self._database.read(partial(read_calls, limit=1) if self._database.path is None else _read_schema)
        elif (problem := self._database.folder_problem()) is not None:
            raise StoreError(problem)

    async def calls(
        self,
        limit: int = 50,
        *,
        after: tuple[datetime, str] | None = None,
        ended: bool | None = None,
        without: Collection[str] = (),
        only: CallFilter | None = None,
    ) -> list[CallRecord]:
        """Return the latest calls, newest first, without what was said in them.

        `after` is the start and the SID of a call: only calls after it in this order are returned. `ended` selects
        calls whose end is recorded, or is not. `without` are SIDs to leave out. `only` has further conditions.

        Raises:
            StoreError: the database does not answer.
        """
        await self._writer.flush()
        query = partial(read_calls, limit=limit, after=after, ended=ended, without=without, only=only)
        return await self._database.read(query)

    async def highlights(self, call_sids: Sequence[str]) -> dict[str, Highlights]:
        """Return the details of each of these calls in a list, besides its record: its agents and its latencies.

        Raises:
            StoreError: the database does not answer.
        """
        await self._writer.flush()
        return await self._database.read(partial(read_highlights, call_sids=call_sids))

    async def call(self, call_sid: str) -> CallDetails | None:
        """Return a call with all its details; None if it is not recorded. A resumed call is one record, on one clock.

        Raises:
            StoreError: the database does not answer.
        """
        await self._writer.flush()
        return await self._database.read(partial(read_call, call_sid=clean(call_sid)))

    async def standing(self, call_sid: str) -> Standing:
        """Return the current state of a call. It is empty if there is no database yet.

        Raises:
            StoreError: the database does not answer.
        """
        if self.empty:
            return Standing()
        await self._writer.flush()
        return await self._database.read(partial(read_standing, call_sid=clean(call_sid)))

    async def so_far(self, call_sid: str) -> SoFar:
        """Return the current state of a call, and what was said and done in it; empty if there is no database yet.

        Raises:
            StoreError: the database does not answer.
        """
        if self.empty:
            return SoFar()
        await self._writer.flush()
        return await self._database.read(partial(read_so_far, call_sid=clean(call_sid)))

    # --- forgetting ---------------------------------------------------------------------------------------------------

    async def begin_forgetting(self, what: str) -> list[tuple[str, datetime]]:
        """Return the SID and the start of each call that `forget` would delete, and mark it as forgotten.

        No process goes on recording the call, so its recording can be deleted. Its record stays: until `forget`, the
        call is found again.

        Raises:
            StoreError: nothing was marked.
        """
        if self.empty:
            return []
        await self._writer.flush()
        return await self._database.write(partial(begin_forgetting, what=what))

    async def forget(self, what: str) -> int:
        """Delete a call, or all calls with a person's number; return how many.

        A live call goes on unrecorded in every process: its CallSid is remembered as forgotten for a day.

        Raises:
            StoreError: nothing was deleted.
        """
        await self._writer.flush()
        return await self._database.write(partial(forget, what=what))

    async def sweep(self, days: int | None = None) -> int:
        """Delete calls that ended more than `days` ago (default: RECORD_DAYS); return how many.

        A call that may continue in another stream is kept for a minute. A call whose end was never reported is ended
        first, at its last known moment. This runs automatically once an hour, and with RECORD_DAYS=0 every minute.

        Raises:
            StoreError: some were not deleted.
        """
        keep = timedelta(days=self._record_days if days is None else days)
        return await sweep(self._database, keep=keep, afterwards=self.afterwards)

    async def forgotten(self, call_sid: str) -> bool:
        """Return whether a call was forgotten while it may have been live.

        Raises:
            StoreError: the database does not answer.
        """
        if self.empty:
            return False
        claimed = sa.select(sa.exists().where(claims.c.name == FORGOTTEN + clean(call_sid)))

        async def read(connection: AsyncConnection) -> bool:
            return bool(await connection.scalar(claimed))

        return await self._database.read(read)

    def _schedule_sweep(self, seconds: float) -> None:
        if self._next_sweep is None:
            self._next_sweep = asyncio.get_running_loop().call_later(seconds, self._start_sweep)

    def _start_sweep(self) -> None:
        self._next_sweep = None
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep_once(), name="phoneagent store sweep")
        self._schedule_sweep(SWEEP_SECONDS if self._record_days else RESUME_SECONDS)

    async def _sweep_once(self) -> None:
        try:
            if count := await self.sweep():
                log.info("%d records older than %d days were deleted", count, self._record_days)
        except StoreError as error:
            log.warning("old records were not deleted: %s; trying again later", error)


async def _read_schema(connection: AsyncConnection) -> object:
    """Read what any SQLite file has. The tables may be old: the first write brings them up to date."""
    return await connection.execute(sa.text("SELECT count(*) FROM sqlite_master"))
