"""One move of a campaign, in one transaction: the results of calls that are over, and the calls that are due.

It locks the campaign, so the numbers being called and the pace are counted across all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias, assert_never

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.store.campaign_records import (
    ACTIVE,
    CampaignCall,
    CampaignState,
    Dial,
    End,
    Moved,
    Step,
    WaitUntil,
)
from phoneagent.store.do_not_call import listed
from phoneagent.store.outbound import PLACING, QUEUED, add_call
from phoneagent.store.records import CALL_OVER, REFUSED
from phoneagent.store.rows import clean, now
from phoneagent.store.schema import campaign_calls as numbers
from phoneagent.store.schema import campaigns
from phoneagent.store.schema import outbound_calls as outbound

BATCH = 100
"""How many numbers one transaction reads."""

CAMPAIGN = "campaign"
NOT_AFTER = "not_after"
"""The keys, in the plan of an outgoing call, of its campaign and of the moment after which it is not placed."""

MAYBE_PLACED = "maybe-placed"
"""The result of a call that was given up, that Twilio may have placed, and that Twilio never reported."""

AfterCall: TypeAlias = Callable[[CampaignCall], Step]
"""A function that returns a number's next step after a call has ended."""

BeforeCall: TypeAlias = Callable[[CampaignCall, bool], Step]
"""A function that returns the step of a number that is due; it takes whether the number is on the do-not-call list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """How to advance a campaign at a `moment`.

    `dial` is the plan of each call, without its context. A call that has not ended `lost_after` its request is given up
    as unknown.
    """

    after_call: AfterCall
    before_call: BeforeCall
    dial: Mapping[str, Any]
    at_once: int
    calls_per_second: float
    lost_after: timedelta
    moment: datetime


async def move(connection: AsyncConnection, *, id: str, how: Move) -> Moved | None:
    """Advance a campaign; return None if another process is doing so, or if there is nothing to do."""
    locked = sa.select(campaigns).where(campaigns.c.id == id, campaigns.c.state.in_(ACTIVE))
    row = (await connection.execute(locked.with_for_update(skip_locked=True))).one_or_none()
    if row is None:
        return None
    running = row.state == "running"
    collected = await _collect(connection, id, how)
    calling = await count_calling(connection, id)
    pace: datetime = max(row.paced_until or how.moment, how.moment)
    looked = started = 0
    if running and calling < how.at_once and pace <= how.moment:
        looked, started = await _start(connection, id, how, how.at_once - calling)
        if started and how.calls_per_second > 0:
            pace += timedelta(seconds=1 / how.calls_per_second)
            await connection.execute(sa.update(campaigns).where(campaigns.c.id == id).values(paced_until=pace))
    calling += started
    next_due = await _next_due(connection, id)
    if calling == 0 and (not running or next_due is None):
        state: CampaignState = "done" if next_due is None else "stopped"
        end = sa.update(campaigns).where(campaigns.c.id == id).values(state=state, ended_at=how.moment)
        await connection.execute(end)
    full = calling >= how.at_once or not running
    more = collected == BATCH or (looked == BATCH and not full and pace <= how.moment)
    return Moved(started, calling, None if full or next_due is None else max(next_due, pace), more)


async def _start(connection: AsyncConnection, id: str, how: Move, free: int) -> tuple[int, int]:
    """Queue up to `free` of the calls that are due, or one if there is a pace; return how many were due and queued."""
    due = await _due(connection, id, how.moment)
    barred = await listed(connection, [each.to for each in due]) if due else set()
    most = 1 if how.calls_per_second > 0 else free
    started = 0
    for each in due:
        if started >= most:
            break
        step = how.before_call(each, each.to in barred)
        if isinstance(step, Dial):
            await _dial(connection, id, each, {**how.dial, CAMPAIGN: id, NOT_AFTER: step.until.isoformat()})
            started += 1
        else:
            await _take(connection, id, each, step)
    return len(due), started


async def _collect(connection: AsyncConnection, id: str, how: Move) -> int:
    """Handle the results of calls that are over; return how many there were."""
    lost = outbound.c.asked_at <= how.moment - how.lost_after
    unclear = (outbound.c.status == REFUSED) & outbound.c.asked_at.is_not(None)  # it may ring, and be reported yet
    over = sa.or_(outbound.c.id.is_(None), outbound.c.status.in_(CALL_OVER) & ~unclear, lost)
    ended = (
        sa.select(numbers, outbound.c.status, outbound.c.decided, outbound.c.answered_by, outbound.c.error)
        .add_columns(outbound.c.call_sid.label("sid"), outbound.c.asked_at, outbound.c.message_left)
        .select_from(numbers.outerjoin(outbound, outbound.c.id == numbers.c.outbound_id))
        .where(numbers.c.campaign_id == id, numbers.c.state == "calling", over)
        .limit(BATCH)
    )
    rows = (await connection.execute(ended)).all()
    for row in rows:
        result = _result(row)
        call = call_of(row, result=result, call_sid=row.sid, reason=row.error)
        await _take(connection, id, call, how.after_call(call), result=result, call_sid=row.sid)
    return len(rows)


def _result(row: Any) -> str:
    """Return how a call ended: Twilio's status, or what answered if it was not a person, and if that got a message."""
    if row.status not in CALL_OVER:
        return "unknown"
    if row.status == REFUSED and row.asked_at is not None:
        return MAYBE_PLACED
    if row.status != "completed":
        return str(row.status)
    if row.message_left:
        return "message-left"
    if row.decided in ("machine", "fax"):
        return str(row.decided)
    return "machine" if row.decided is None and (row.answered_by or "").startswith("machine") else "completed"


async def _due(connection: AsyncConnection, id: str, moment: datetime) -> list[CampaignCall]:
    due = sa.select(numbers).where(
        numbers.c.campaign_id == id, numbers.c.state == "waiting", numbers.c.due_at <= moment
    )
    due = due.order_by(numbers.c.due_at, numbers.c.position).limit(BATCH)
    found = await connection.execute(due.with_for_update())  # until they are queued: `forget` then deletes that too
    return [call_of(row) for row in found]


async def _dial(connection: AsyncConnection, id: str, call: CampaignCall, plan: Mapping[str, Any]) -> None:
    """Queue the next attempt for a number."""
    attempt = call.attempts + 1
    queued = await add_call(
        connection,
        to=call.to,
        plan={**plan, "context": dict(call.context)},
        idempotency_key=f"campaign/{id}/{call.position}/{attempt}",
    )
    values = {"state": "calling", "attempts": attempt, "outbound_id": queued.id, "due_at": None, "reason": None}
    await connection.execute(_of(id, call).values(values))


async def _take(connection: AsyncConnection, id: str, call: CampaignCall, step: Step, **more: Any) -> None:
    """Record a number's next step, if it is not a call."""
    match step:
        case WaitUntil():
            values: dict[str, Any] = {"state": "waiting", "due_at": step.moment, "reason": step.why}
        case End():
            values = {"state": step.state, "due_at": None, "reason": clean(step.why), "ended_at": now()}
        case Dial():
            raise AssertionError("a call is queued by _dial")
        case _:
            assert_never(step)
    await connection.execute(_of(id, call).values({**values, **more}))


def _of(id: str, call: CampaignCall) -> sa.Update:
    return sa.update(numbers).where(numbers.c.campaign_id == id, numbers.c.position == call.position)


async def withdraw(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> None:
    """Take calls that Twilio was never asked for out of the queue, as if they had never been queued.

    Their rows are deleted, so a process that has taken one finds that it must not place it.
    """
    calling = sa.select(numbers.c.outbound_id).where(which, numbers.c.state == "calling")
    unasked = outbound.c.asked_at.is_(None) & outbound.c.status.in_((QUEUED, PLACING))
    gone = sa.delete(outbound).where(outbound.c.id.in_(calling), unasked).returning(outbound.c.id)
    ids = list(await connection.scalars(gone))
    for begin in range(0, len(ids), BATCH):
        back = sa.update(numbers).where(numbers.c.outbound_id.in_(ids[begin : begin + BATCH]))
        values = {"state": "waiting", "attempts": numbers.c.attempts - 1, "due_at": now(), "outbound_id": None}
        await connection.execute(back.values(values))


async def count_calling(connection: AsyncConnection, id: str) -> int:
    """Return how many numbers are being called."""
    calling = sa.select(sa.func.count()).where(numbers.c.campaign_id == id, numbers.c.state == "calling")
    return int(await connection.scalar(calling) or 0)


async def _next_due(connection: AsyncConnection, id: str) -> datetime | None:
    first = sa.select(numbers.c.due_at).where(numbers.c.campaign_id == id, numbers.c.state == "waiting")
    moment: datetime | None = (await connection.execute(first.order_by(numbers.c.due_at).limit(1))).scalar()
    return moment


def call_of(row: Any, **changes: Any) -> CampaignCall:
    """Return the number of a row; `changes` has newer values."""
    found = {name: getattr(row, name) for name in ("position", "context", "state", "attempts", "due_at", "call_sid")}
    found |= {name: getattr(row, name) for name in ("result", "reason", "ended_at")}
    return CampaignCall(to=row.called, **{**found, **changes})
