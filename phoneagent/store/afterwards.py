"""The work that is left after calls have ended: an outbox, shared by all processes.

    outcome → deliver → delivered, failed
                      ↘ done: there is no receiver

The transaction that records a call's end also inserts its row. So whatever happens to a process after the hang-up, the
row is there, and a process finds it. A step is only leased: if its process dies, another one takes it again. A row is
deleted with its call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.store.database import Database
from phoneagent.store.records import MAY_GO_ON
from phoneagent.store.rows import clean, now
from phoneagent.store.schema import afterwards as table
from phoneagent.store.schema import calls
from phoneagent.store.statements import RESUME_SECONDS, insert_into

OUTCOME, DELIVER, DELIVERED, FAILED, DONE = "outcome", "deliver", "delivered", "failed", "done"

OPEN = (OUTCOME, DELIVER)
"""The states in which there is still work to do."""

LEASE_SECONDS = 30.0
"""How long a step is leased. A longer one must be held; otherwise another process takes it."""

SETTLE_SECONDS = 2.0
"""How long after a call's end its last details may arrive: the last words, the cost, the recording."""

KEEP_DAYS = 7
"""How long a call with work left is kept, if its record would otherwise be deleted earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Afterwards:
    """The work for one call. `attempts` counts those in the current state, including the one in progress."""

    call_sid: str
    state: str
    attempts: int
    problem: str | None
    """Why the latest attempt failed."""
    created_at: datetime
    due_at: datetime
    done_at: datetime | None


def still_needed(moment: datetime) -> sa.ColumnElement[bool]:
    """Return the condition for a call that must not be deleted yet."""
    recent = table.c.created_at > moment - timedelta(days=KEEP_DAYS)
    return sa.exists().where(table.c.call_sid == calls.c.sid, table.c.state.in_(OPEN), recent).correlate(calls)


class AfterwardsRows:
    """The outbox of one database. Each public coroutine raises StoreError if the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.first: Callable[[bool], str | None] = lambda had: None
        """Returns the first state of a call that ends; None if there is nothing to do for it.

        It takes whether this process had the call.
        """
        self.wake: Callable[[], None] = lambda: None
        """Called when a call that has ended is due."""

    # --- in the transaction of a call's end ---

    async def ended(
        self, connection: AsyncConnection, call_sids: Collection[str], *, had: bool = False, certain: bool = False
    ) -> None:
        """Insert the rows of the calls whose end this transaction records; ignore the other sids.

        `had` tells whether this process had them. A call that may continue is due a minute later, unless it is
        `certain` that it is over.
        """
        if call_sids and (state := self.first(had)) is not None:
            await self._insert(connection, call_sids, state, certain=certain)
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self.wake)

    async def go_on(self, connection: AsyncConnection, call_sids: Collection[str]) -> None:
        """Delete the rows of calls that continue after all, even finished ones; their next end inserts new ones."""
        if call_sids and self.first(False) is not None:
            live = sa.select(calls.c.sid).where(calls.c.sid.in_(list(call_sids)), calls.c.ended_at.is_(None))
            await connection.execute(sa.delete(table).where(table.c.call_sid.in_(live)))

    async def _insert(
        self, connection: AsyncConnection, call_sids: Collection[str], state: str, *, certain: bool
    ) -> None:
        moment = now()
        soon = sa.literal(moment + timedelta(seconds=SETTLE_SECONDS), table.c.due_at.type)
        later = sa.literal(moment + timedelta(seconds=RESUME_SECONDS), table.c.due_at.type)
        values: dict[str, sa.ColumnElement[Any]] = {
            "call_sid": calls.c.sid,
            "state": sa.literal(state),
            "attempts": sa.literal(0),
            "due_at": soon if certain else sa.case((calls.c.ended_by.in_(MAY_GO_ON), later), else_=soon),
            "created_at": sa.literal(moment, table.c.created_at.type),
        }
        over = calls.c.sid.in_(list(call_sids)) & calls.c.ended_at.is_not(None)
        rows = sa.select(*values.values()).where(over).order_by(calls.c.sid)
        made = insert_into(table, self._database.dialect).from_select(list(values), rows)
        untouched = table.c.state.in_(OPEN) & (table.c.attempts == 0)
        await connection.execute(
            made.on_conflict_do_update(
                index_elements=["call_sid"], set_={"due_at": made.excluded.due_at}, where=untouched
            )
        )

    # --- the steps ---

    async def take(self, states: Collection[str] = OPEN) -> Afterwards | None:
        """Take the next step that is due and in one of the states, for LEASE_SECONDS; None if there is none.

        Two processes never take the same step. A call that has resumed is left alone until it has ended.
        """
        if self._database.absent:
            return None
        moment = now()
        first = self._open(table, states=states).where(table.c.due_at <= moment).limit(1)
        lease = {"due_at": moment + timedelta(seconds=LEASE_SECONDS), "attempts": table.c.attempts + 1}

        async def write(connection: AsyncConnection) -> Afterwards | None:
            row = (await connection.execute(first.with_for_update(skip_locked=True, of=table))).one_or_none()
            if row is None:
                return None
            await connection.execute(sa.update(table).where(table.c.call_sid == row.call_sid).values(lease))
            return _read(row, attempts=row.attempts + 1)

        return await self._database.write(write)

    async def next_due(self, states: Collection[str] = OPEN) -> datetime | None:
        """Return when the next step in one of the states is due; None if there is none."""
        if self._database.absent:
            return None

        async def read(connection: AsyncConnection) -> datetime | None:
            moment: datetime | None = (
                await connection.execute(self._open(table.c.due_at, states=states).limit(1))
            ).scalar()
            return moment

        return await self._database.read(read)

    async def hold(self, step: Afterwards) -> None:
        """Extend the lease of a step by another LEASE_SECONDS, unless the step is due even later."""
        until = now() + timedelta(seconds=LEASE_SECONDS)
        await self._change(step, table.c.due_at < until, due_at=until)

    async def filled(self, step: Afterwards) -> None:
        """Move on to the delivery."""
        await self._change(step, state=DELIVER, attempts=0, due_at=now(), problem=None)

    async def again(self, step: Afterwards, after_seconds: float, problem: str) -> None:
        """Make the step due again, later."""
        await self._change(step, due_at=now() + timedelta(seconds=after_seconds), problem=clean(problem))

    async def finish(self, step: Afterwards, state: str, problem: str | None = None) -> None:
        """End the work in a final state: DELIVERED, FAILED or DONE."""
        await self._change(step, state=state, problem=problem and clean(problem), done_at=now())

    # --- reading, and sending again ---

    async def get(self, call_sid: str) -> Afterwards | None:
        """Return the row of a call; None if there is none."""

        async def read(connection: AsyncConnection) -> Afterwards | None:
            found = sa.select(table).where(table.c.call_sid == clean(call_sid))
            row = (await connection.execute(found)).one_or_none()
            return None if row is None else _read(row, attempts=row.attempts)

        return None if self._database.absent else await self._database.read(read)

    async def send_again(self, call_sid: str | None = None) -> int:
        """Deliver an ended call again, or all that failed; return how many."""
        state = sa.case((table.c.state == OUTCOME, OUTCOME), else_=DELIVER)
        anew = {"state": state, "attempts": 0, "due_at": now(), "created_at": now(), "problem": None, "done_at": None}
        which = table.c.state == FAILED if call_sid is None else table.c.call_sid == clean(call_sid)

        async def write(connection: AsyncConnection) -> int:
            if call_sid is not None:
                await self._insert(connection, [clean(call_sid)], DELIVER, certain=True)
            return (await connection.execute(sa.update(table).where(which).values(anew))).rowcount

        return await self._database.write(write)

    def _open(self, *columns: Any, states: Collection[str]) -> sa.Select[Any]:
        over = sa.select(*columns).join(calls, calls.c.sid == table.c.call_sid).where(calls.c.ended_at.is_not(None))
        return over.where(table.c.state.in_(states)).order_by(table.c.due_at, table.c.call_sid)

    async def _change(self, step: Afterwards, *conditions: sa.ColumnElement[bool], **values: Any) -> None:
        """Change a row, if this process still has the step that it took.

        A call that has come back and ended again has a new row, whose steps may have the same state and count.
        """
        held = (table.c.state == step.state) & (table.c.attempts == step.attempts)
        held &= table.c.created_at == step.created_at
        change = sa.update(table).where(table.c.call_sid == step.call_sid, held, *conditions).values(values)

        async def write(connection: AsyncConnection) -> None:
            await connection.execute(change)

        await self._database.write(write)


def _read(row: Any, *, attempts: int) -> Afterwards:
    return Afterwards(
        call_sid=row.call_sid,
        state=row.state,
        attempts=attempts,
        problem=row.problem,
        created_at=row.created_at,
        due_at=row.due_at,
        done_at=row.done_at,
    )
