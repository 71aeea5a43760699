"""The writer: accepts rows without ever waiting, and writes them in batches from one background task.

The task runs as long as there are rows to write. While the database fails, rows wait here, and the same batch is
retried at growing intervals. The memory is bounded: only the newest version of a changing row, such as a turn in
progress, waits, and detail is dropped before any call's start or end.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.errors import StoreError
from phoneagent.store.afterwards import AfterwardsRows
from phoneagent.store.database import Database
from phoneagent.store.rows import BEGINNINGS, CALL_ITSELF, ENDS, Kind, Row
from phoneagent.store.schema import calls
from phoneagent.store.statements import forget_ended, parameters, statements

log = logging.getLogger("phoneagent.store")

LINGER_SECONDS = 0.1
"""How long rows are collected before they are written together."""

BATCH_ROWS = 200
FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 15.0

MAX_DETAIL_BYTES = 32 * 1024 * 1024
"""The memory for waiting turns, tools and other detail while the database is away. Beyond it, the oldest go."""

MAX_CALL_ROWS = 100_000
"""How many starts and ends of calls may wait: days of calls, about 60 MB."""


class _Waiter(NamedTuple):
    """A waiting `flush`: it is done once the first `calls` and `detail` rows ever added are written.

    Counts are needed because other calls add rows in the meantime.
    """

    done: asyncio.Future[None]
    calls: int
    detail: int


class Writer:
    """Writes rows to a database. `add` never blocks."""

    def __init__(
        self, database: Database, *, keep_ended: bool = True, afterwards: AfterwardsRows | None = None
    ) -> None:
        self._database = database
        self._afterwards = afterwards or AfterwardsRows(database)
        self._keep_ended = keep_ended
        self._statements = statements(database.dialect)
        self._forget_ended = forget_ended()
        self._calls: deque[Row] = deque()
        self._detail: deque[Row] = deque()
        self._detail_bytes = 0
        self._newest: dict[tuple[Kind, str, str, str], Row] = {}  # in `_detail`: a newer version updates it
        self._calls_added = self._detail_added = 0
        self._lost = 0
        self._down = False
        self._one_by_one = 0  # how many rows to try one by one, to find the one that is refused
        self._waiters: list[_Waiter] = []
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        """How many rows are not written yet."""
        return len(self._calls) + len(self._detail)

    def add(self, rows: Iterable[Row], *, at_once: bool = False) -> None:
        """Accept rows to write; `at_once`, unless the database is away. Must be called on the event loop."""
        for row in rows:
            if row.kind in CALL_ITSELF:
                self._calls.append(row)
                self._calls_added += 1
            elif row.key is not None and (older := self._newest.get(row.key)) is not None:
                self._detail_bytes += row.weight - older.weight
                older.values.update(row.values)
            else:
                self._detail.append(row)
                self._detail_added += 1
                self._hold(row)
        self._trim()
        if at_once and not self._down:
            self._hurry.set()
        self._start()

    async def flush(self) -> None:
        """Write everything added so far, starting now, and wait for it.

        Raises:
            StoreError: the attempt failed; the rows keep waiting.
        """
        if not self.waiting and (self._task is None or self._task.done()):
            return
        done = asyncio.get_running_loop().create_future()
        self._waiters.append(_Waiter(done, self._calls_added, self._detail_added))
        self._hurry.set()
        self._start()
        await done

    async def close(self, seconds: float) -> None:
        """Write the waiting rows, for at most `seconds`, and stop. The log counts the rows that are left."""
        self._closing = True  # the task ends after its next attempt
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(seconds):
                await self.flush()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.waiting:
            log.error("%d call records were not written: the database cannot write them", self.waiting)

    # --- the task -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="phoneagent store")

    async def _run(self) -> None:
        pause = LINGER_SECONDS
        while self.waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            self._hurry.clear()
            failed = await self._attempt()
            self._tell_waiters(failed)
            if failed is None:
                pause = 0.0 if self.waiting >= BATCH_ROWS or self._waiters or self._one_by_one else LINGER_SECONDS
            elif not failed.retry:
                pause = 0.0
            else:
                pause = min(max(2 * pause, FIRST_RETRY_SECONDS), LAST_RETRY_SECONDS)
            if self._closing and failed is not None and failed.retry:
                return

    async def _attempt(self) -> StoreError | None:
        """Write the next batch; return the error if it failed."""
        batch = self._take(1 if self._one_by_one else BATCH_ROWS)
        try:
            await self._database.write(partial(self._write, batch))
        except asyncio.CancelledError:
            self._put_back(batch)
            raise
        except StoreError as error:
            if not error.retry:
                self._refused(batch, error)
                return error
            self._put_back(batch)
            if not self._down:
                self._down = True
                log.error("calls are not recorded: %s; trying again until it works", error)
            return error
        except Exception as error:  # our own bug must not end the writer: its row is found and dropped
            log.exception("calls cannot be recorded because of a bug in phoneagent")
            fault = StoreError(type(error).__name__, retry=False)
            self._refused(batch, fault)
            return fault
        self._one_by_one = max(0, self._one_by_one - 1)
        if self._down:
            self._down = False
            log.warning("call records are written again: %d were lost, %d are waiting", self._lost, self.waiting)
            self._lost = 0
        return None

    def _refused(self, batch: Sequence[Row], error: StoreError) -> None:
        """Find the row of this batch that the database refuses, and go on without it."""
        if len(batch) > 1:
            self._put_back(batch)
            self._one_by_one = len(batch)
            return
        self._one_by_one = max(0, self._one_by_one - 1)
        log.error("a call record (%s) is lost: the database refused it: %s", batch[0].kind.name.lower(), error)

    def _tell_waiters(self, failed: StoreError | None) -> None:
        calls_done, detail_done = self._calls_added - len(self._calls), self._detail_added - len(self._detail)
        for waiter in self._waiters:
            if waiter.done.done():  # its flush was canceled
                continue
            if failed is not None and failed.retry:
                waiter.done.set_exception(StoreError(str(failed)))
            elif waiter.calls <= calls_done and waiter.detail <= detail_done:
                waiter.done.set_result(None)
        self._waiters = [waiter for waiter in self._waiters if not waiter.done.done()]

    # --- what waits ---------------------------------------------------------------------------------------------------

    def _take(self, limit: int) -> list[Row]:
        """Take the next rows, calls first: detail is only written for a recorded call."""
        batch = [self._calls.popleft() for _ in range(min(limit, len(self._calls)))]
        batch += [self._next_detail() for _ in range(min(limit - len(batch), len(self._detail)))]
        return batch

    def _hold(self, row: Row) -> None:
        self._detail_bytes += row.weight
        if row.key is not None:
            self._newest.setdefault(row.key, row)

    def _next_detail(self) -> Row:
        row = self._detail.popleft()
        self._detail_bytes -= row.weight
        if row.key is not None and self._newest.get(row.key) is row:
            del self._newest[row.key]
        return row

    def _put_back(self, batch: Sequence[Row]) -> None:
        for row in reversed(batch):
            if row.kind in CALL_ITSELF:
                self._calls.appendleft(row)
            else:
                self._detail.appendleft(row)
                self._hold(row)
        self._trim()

    def _trim(self) -> None:
        while self._detail_bytes > MAX_DETAIL_BYTES:
            self._next_detail()
            self._lost += 1
        while len(self._calls) > MAX_CALL_ROWS:
            self._calls.popleft()
            self._lost += 1

    async def _write(self, batch: Sequence[Row], connection: AsyncConnection) -> None:
        """Write the calls, each in the order of its events, and then their detail.

        All processes write calls in the same order, so that two of them cannot deadlock.
        """
        of_calls = sorted((row for row in batch if row.kind in CALL_ITSELF), key=lambda row: row.call_sid)
        for kind, run in groupby(of_calls, key=lambda row: row.kind):
            group = list(run)
            await self._execute(connection, self._statements[kind], group)
            if kind in BEGINNINGS:  # before their next end, which may be in the same batch
                await self._afterwards.go_on(connection, {row.call_sid for row in group})
        await self._afterwards.ended(connection, {row.call_sid for row in of_calls if row.kind in ENDS}, had=True)
        detail = sorted((row for row in batch if row.kind not in CALL_ITSELF), key=lambda row: row.call_sid)
        if detail:
            known = await self._known(connection, detail)
            for kind in Kind:
                rows = [row for row in detail if row.kind is kind and row.call_sid in known]
                await self._execute(connection, self._statements[kind], rows)
        if not self._keep_ended:
            await self._execute(connection, self._forget_ended, [row for row in of_calls if row.kind in ENDS])

    async def _execute(self, connection: AsyncConnection, statement: sa.UpdateBase, rows: Sequence[Row]) -> None:
        if rows:
            await connection.execute(statement, [parameters(row) for row in rows])

    async def _known(self, connection: AsyncConnection, batch: Sequence[Row]) -> set[str]:
        """Return which calls of a batch have a record: nothing more is written about a forgotten call."""
        sids = {row.call_sid for row in batch}
        return set(await connection.scalars(sa.select(calls.c.sid).where(calls.c.sid.in_(sids))))
