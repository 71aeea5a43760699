"""The calls that an app makes: a queue that survives a crash, shared by all processes, and the status of each call.

    queued → placing → placed → initiated → ringing → in-progress → completed, busy, no-answer, failed, canceled
                     ↘ queued again, to be looked for or tried again
                     ↘ refused: it was not placed; or that is unknown, and Twilio's reports may still tell

A row is written before Twilio is asked for anything, and `asked_at` before each request. So if a process dies or an
answer is lost, the row shows that the call may have been placed. Its `id` is part of every URL that Twilio requests for
the call, so each of these requests identifies the call.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.errors import StoreError
from phoneagent.events import CallNotAnswered, UnansweredStatus
from phoneagent.store.afterwards import OPEN
from phoneagent.store.database import Database
from phoneagent.store.records import CALL_OVER, REFUSED, OutboundCall
from phoneagent.store.rows import clean, now
from phoneagent.store.schema import afterwards, campaign_calls
from phoneagent.store.schema import outbound_calls as table
from phoneagent.store.statements import insert_into
from phoneagent.store.sweeping import change_all

QUEUED, PLACING, PLACED = "queued", "placing", "placed"

PROGRESS = (QUEUED, PLACING, PLACED, "initiated", "ringing", "in-progress")
"""The statuses of a call that is not over, in their order. From the fourth on they are Twilio's."""

AT_TWILIO = PROGRESS[2:]
"""The statuses of a call that was placed and is not over."""

UNANSWERED = frozenset(CALL_OVER - {"completed"})
"""The statuses of a call that is over and was never answered."""

_RINGS = frozenset(PROGRESS[:-1])

SILENT_SECONDS = 180.0
"""How long after a report about a call Twilio is asked what became of it. If no process answers for a while, Twilio's
report of the end is lost."""

LEASE_SECONDS = 60.0
"""How long a process may take to place a call. After that another process takes it over."""


class OutboundCalls:
    """The queue of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.unanswered: Callable[[CallNotAnswered], None] = lambda event: None
        """Takes each call that ended unanswered, once: in the process that recorded it."""

    async def add(self, to: str, plan: Mapping[str, Any], idempotency_key: str | None = None) -> OutboundCall:
        """Queue a call, and return it. With a key that was used before, return that call, and queue none.

        Raises:
            StoreError: it was not queued.
        """
        return await self._database.write(partial(add_call, to=to, plan=plan, idempotency_key=idempotency_key))

    async def take(self) -> OutboundCall | None:
        """Take the next call that is due, for LEASE_SECONDS; None if there is none. Calls of campaigns come last.

        Two processes never take the same call. If its `asked_at` is set, it may have been placed before.

        Raises:
            StoreError: the database does not answer.
        """
        if self._database.absent:
            return None
        moment = now()
        due = sa.and_(table.c.status.in_((QUEUED, PLACING)), table.c.due_at <= moment)
        of_campaign = sa.exists().where(campaign_calls.c.outbound_id == table.c.id)  # a user waits for the other calls
        first = sa.select(table).where(due).order_by(of_campaign, table.c.due_at, table.c.id)
        lease = {
            "status": PLACING,
            "due_at": moment + timedelta(seconds=LEASE_SECONDS),
            "attempts": table.c.attempts + 1,
        }
        return await self._take(first, lease)

    async def asking(self, id: str, attempt: int) -> bool:
        """Record that we are about to ask Twilio to place a call; return whether to go ahead.

        False if another process has taken the call since that `attempt`, because its lease was over.

        Raises:
            StoreError: it was not recorded, so Twilio must not be asked.
        """
        moment = now()
        values = {"asked_at": moment, "due_at": moment + timedelta(seconds=LEASE_SECONDS)}
        return await self._change(id, values, *_holds(attempt), table.c.call_sid.is_(None))

    async def placed(self, id: str, call_sid: str, *, certain: bool) -> bool:
        """Record the sid of a call that was placed; return whether it belongs to this row.

        Without `certain`, the call was only found among others to that number, and may belong to another row.

        Raises:
            StoreError: it was not recorded.
        """
        try:
            return await self._link(id, call_sid, PLACED, certain=certain)
        except StoreError as error:
            if error.retry:
                raise
            return False  # the sid belongs to another row

    async def again(
        self, id: str, attempt: int, *, after_seconds: float, error: str, asked: bool, counts: bool
    ) -> None:
        """Put a call back into the queue. With `asked`, it may have been placed, so it is looked for first.

        With `counts`, this attempt may have placed it. Other attempts are not counted. A process takes back only its
        own attempt, and holds the call no longer, so no two processes ever hold it with the same `attempt`.

        Raises:
            StoreError: it was not recorded; the lease ends in any case.
        """
        values: dict[str, Any] = {"status": QUEUED, "due_at": now() + timedelta(seconds=after_seconds), "error": error}
        values["attempts"] = attempt if counts else attempt - 1
        await self._change(id, values if asked else {**values, "asked_at": None}, *_holds(attempt))

    async def refuse(self, id: str, error: str, *, asked: bool = False) -> None:
        """End a call that will not be placed. With `asked`, it may have been: then its `asked_at` stays.

        Raises:
            StoreError: it was not recorded.
        """
        values: dict[str, Any] = {"status": REFUSED, "error": error, "ended_at": now()}
        if not asked:
            values["asked_at"] = None
        if await self._change(id, values, table.c.status.in_((QUEUED, PLACING))):
            self.unanswered(CallNotAnswered(call_sid="", outbound_id=id, status="refused", error=error))

    async def tell(self, id: str, call_sid: str, status: str) -> bool:
        """Record Twilio's report about a call; return False if the report is not about the row's call.

        Reports may come in any order, and twice: a call never goes back to an earlier status.

        Raises:
            StoreError: it was not recorded.
        """
        return await self._link(id, call_sid, status, certain=True)

    async def answered_by(self, id: str, call_sid: str, verdict: str) -> None:
        """Record the result of Twilio's answering machine detection.

        Raises:
            StoreError: it was not recorded.
        """
        await self._change(id, {"answered_by": clean(verdict)}, table.c.call_sid == call_sid)

    async def decided(self, id: str, verdict: str, message_left: bool | None) -> None:
        """Record the decision about what the far end is, and whether it is a machine that got the message.

        Raises:
            StoreError: it was not recorded.
        """
        await self._change(id, {"decided": verdict, "message_left": message_left})

    async def fail(self, id: str, call_sid: str, error: str) -> None:
        """Record that an answered call was turned away. Twilio will report it as completed.

        Raises:
            StoreError: it was not recorded.
        """
        values = {"status": "failed", "error": error, "ended_at": now()}
        if await self._change(id, values, table.c.call_sid == call_sid, table.c.status.in_(PROGRESS)):
            self.unanswered(CallNotAnswered(call_sid=call_sid, outbound_id=id, status="failed", error=error))

    async def take_silent(self) -> OutboundCall | None:
        """Take a placed call of which no end has been reported for SILENT_SECONDS; None if there is none.

        It is taken again as much later. Two processes never take the same call at the same time.

        Raises:
            StoreError: the database does not answer.
        """
        if self._database.absent:
            return None
        moment = now()
        silent = sa.and_(table.c.status.in_(AT_TWILIO), table.c.due_at <= moment)
        later = {"due_at": moment + timedelta(seconds=SILENT_SECONDS)}
        return await self._take(sa.select(table).where(silent).order_by(table.c.due_at, table.c.id), later)

    async def get(self, id: str) -> OutboundCall | None:
        """Return a call; None if there is none with this id.

        Raises:
            StoreError: the database does not answer.
        """
        if self._database.absent:
            return None

        async def read(connection: AsyncConnection) -> OutboundCall | None:
            row = (await connection.execute(sa.select(table).where(table.c.id == clean(id)))).one_or_none()
            return None if row is None else _call(row)

        return await self._database.read(read)

    async def next_due(self) -> datetime | None:
        """Return when the next call is due; None if none waits.

        Raises:
            StoreError: the database does not answer.
        """
        if self._database.absent:
            return None

        async def read(connection: AsyncConnection) -> datetime | None:
            found = await connection.execute(
                sa.select(table.c.due_at).where(table.c.status.in_((QUEUED, PLACING))).order_by(table.c.due_at).limit(1)
            )
            moment: datetime | None = found.scalar()
            return moment

        return await self._database.read(read)

    async def unknown(self, call_sids: Collection[str]) -> list[str]:
        """Return the sids that belong to no call here.

        Raises:
            StoreError: the database does not answer.
        """

        async def read(connection: AsyncConnection) -> list[str]:
            found = await connection.scalars(sa.select(table.c.call_sid).where(table.c.call_sid.in_(call_sids)))
            known = set(found)
            return [sid for sid in call_sids if sid not in known]

        return await self._database.read(read)

    async def _take(self, which: sa.Select[Any], values: Mapping[str, Any]) -> OutboundCall | None:
        """Change the first of these rows that no other process is changing; return it as it was before."""

        async def write(connection: AsyncConnection) -> OutboundCall | None:
            row = (await connection.execute(which.limit(1).with_for_update(skip_locked=True))).one_or_none()
            if row is None:
                return None
            await connection.execute(sa.update(table).where(table.c.id == row.id).values(dict(values)))
            return _call(row)

        return await self._database.write(write)

    async def _link(self, id: str, call_sid: str, status: str, *, certain: bool) -> bool:
        """Give a row its sid, and the status if that is a later one."""
        over = status in CALL_OVER
        earlier = PROGRESS if over else PROGRESS[: PROGRESS.index(status)] if status in PROGRESS else ()
        if certain:  # it was given up, and has been placed after all
            earlier = (*earlier, REFUSED)

        async def write(connection: AsyncConnection) -> str | None:
            row = (await connection.execute(sa.select(table).where(table.c.id == clean(id)).with_for_update())).first()
            if row is None or (row.call_sid not in (None, call_sid) and (row.certain or not certain)):
                return None
            if certain:  # another row got the sid by mistake
                guessed = sa.update(table).where(table.c.call_sid == call_sid, table.c.id != row.id)
                await connection.execute(guessed.values(call_sid=None, status=QUEUED, due_at=now()))
            values: dict[str, Any] = {"call_sid": call_sid, "certain": row.certain or certain}
            if row.status in earlier:
                values |= {"status": status, "error": None, "ended_at": now() if over else None}
                values["due_at"] = now() + timedelta(seconds=SILENT_SECONDS)
            await connection.execute(sa.update(table).where(table.c.id == row.id).values(values))
            return str(row.status)

        before = await self._database.write(write)
        if before in _RINGS and status in UNANSWERED:
            event = CallNotAnswered(call_sid=call_sid, outbound_id=id, status=cast(UnansweredStatus, status))
            self.unanswered(event)
        return before is not None

    async def _change(self, id: str, values: Mapping[str, Any], *conditions: sa.ColumnElement[bool]) -> bool:
        change = sa.update(table).where(table.c.id == clean(id), *conditions).values(dict(values))

        async def write(connection: AsyncConnection) -> bool:
            return (await connection.execute(change)).rowcount > 0

        return await self._database.write(write)


async def add_call(
    connection: AsyncConnection, *, to: str, plan: Mapping[str, Any], idempotency_key: str | None
) -> OutboundCall:
    """Queue a call in a transaction, and return it; with a key that was used before, return that call."""
    key = None if idempotency_key is None else clean(idempotency_key)
    moment = now()
    values = {
        "id": secrets.token_hex(16),
        "idempotency_key": key,
        "called": clean(to),
        "plan": dict(plan),
        "status": QUEUED,
        "certain": False,
        "attempts": 0,
        "created_at": moment,
        "due_at": moment,
    }
    once = (
        insert_into(table, connection.dialect.name)
        .values(values)
        .on_conflict_do_nothing(index_elements=["idempotency_key"])
    )
    await connection.execute(once)
    which = table.c.id == values["id"] if key is None else table.c.idempotency_key == key
    return _call((await connection.execute(sa.select(table).where(which))).one())


def _holds(attempt: int) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions under which a process still has a call that it has taken."""
    return table.c.status == PLACING, table.c.attempts == attempt


async def sweep_outbound(database: Database, moment: datetime, keep: timedelta) -> int:
    """Delete calls that ended, or whose end was never reported, longer ago than `keep`; return how many.

    An idempotency key is kept for at least a day. If records are kept for less, only the key stays. A call whose
    outcome or webhook is still to come keeps its context: a function may choose the agent by it.
    """
    needed = sa.exists().where(afterwards.c.call_sid == table.c.call_sid, afterwards.c.state.in_(OPEN))
    nothing: dict[str, Any] = {"called": "", "plan": {}}
    over = (table.c.ended_at <= moment - keep) & (table.c.called != "")
    await change_all(database, sa.update(table).values(nothing), over & ~needed)
    longer = moment - max(keep, timedelta(days=1))
    old = sa.or_(table.c.ended_at <= longer, table.c.created_at <= longer - timedelta(days=1))
    tried = sa.or_(table.c.ended_at.is_not(None), table.c.asked_at.is_not(None))
    return await change_all(database, sa.delete(table), old & ~needed & tried)


def _call(row: Any) -> OutboundCall:
    return OutboundCall(
        id=row.id,
        idempotency_key=row.idempotency_key,
        to=row.called,
        plan=row.plan,
        status=row.status,
        call_sid=row.call_sid,
        answered_by=row.answered_by,
        decided=row.decided,
        message_left=row.message_left,
        error=row.error,
        attempts=row.attempts,
        created_at=row.created_at,
        asked_at=row.asked_at,
        ended_at=row.ended_at,
    )
