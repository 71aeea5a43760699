"""Forgetting: which rows are deleted with a call or a person's number, and which because they are old."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.errors import StoreError
from phoneagent.protocol.callerid import caller_id
from phoneagent.store.afterwards import AfterwardsRows, still_needed
from phoneagent.store.campaigns import forget_in_campaigns, sweep_campaigns
from phoneagent.store.commands import TAKE_SECONDS
from phoneagent.store.database import Database
from phoneagent.store.event_log import erase, sweep_events, take_turn
from phoneagent.store.outbound import sweep_outbound
from phoneagent.store.records import MAY_GO_ON
from phoneagent.store.rows import clean, now
from phoneagent.store.schema import calls, claims, commands, events, next_steps, outbound_calls, transfers, turns
from phoneagent.store.statements import FORGOTTEN, RESUME_SECONDS, insert_into
from phoneagent.store.sweeping import change_all, repeat

MAX_CALL_SECONDS = 24 * 3600.0
"""The maximum duration of a call at Twilio."""

STEP_HOURS = 24
"""How long a next step is kept. Twilio asks for it within seconds."""

SWEEP_CALLS = 100
"""How many calls one transaction of a sweep deletes, with all that belongs to them."""

CALL_SID = re.compile(r"(?:CA|WC)[0-9a-fA-F]{32}")
"""The id of a call: Twilio's of a phone call, or the one that a web call has here."""


def calls_of(what: str) -> sa.ColumnElement[bool]:
    """Return the condition for a call's SID, or for the number of a person."""
    what = clean(what).strip()
    if CALL_SID.fullmatch(what):
        return calls.c.sid == what
    person = (what, caller_id(what))  # older versions recorded addresses unchanged
    outbound = calls.c.direction.startswith("outbound")  # the person is the other side: our number is on each call
    inbound = sa.not_(outbound)
    return sa.or_(inbound & calls.c.caller.in_(person), outbound & calls.c.called.in_(person))


def _outbound_of(what: str) -> sa.ColumnElement[bool]:
    """Return the same condition for the calls that the app makes."""
    what = clean(what).strip()
    if CALL_SID.fullmatch(what):
        return outbound_calls.c.call_sid == what
    return outbound_calls.c.called.in_((what, caller_id(what)))


async def mark(connection: AsyncConnection, *, what: str) -> None:
    """Remember the CallSid of each call that `forget` deletes for a day: no process records the rest of a live call.

    A call that the app makes has no record before it is answered.
    """
    moment = now()
    until = sa.literal(moment + timedelta(seconds=MAX_CALL_SECONDS), claims.c.until.type)
    may_live = calls_of(what) & (calls.c.started_at > moment - timedelta(seconds=MAX_CALL_SECONDS))
    may_ring = _outbound_of(what) & outbound_calls.c.call_sid.is_not(None) & outbound_calls.c.ended_at.is_(None)
    for sid, which in ((calls.c.sid, may_live), (outbound_calls.c.call_sid, may_ring)):
        names = sa.select(sa.literal(FORGOTTEN) + sid, until).where(which)
        marks = insert_into(claims, connection.dialect.name).from_select(["name", "until"], names)
        marks = marks.on_conflict_do_update(index_elements=["name"], set_={"until": marks.excluded.until})
        await connection.execute(marks)


async def begin_forgetting(connection: AsyncConnection, *, what: str) -> list[tuple[str, datetime]]:
    """Mark the calls that `forget` deletes, and return the SID and the start of each that has a record."""
    await mark(connection, what=what)
    found = await connection.execute(sa.select(calls.c.sid, calls.c.started_at).where(calls_of(what)))
    return [(row.sid, row.started_at) for row in found]


async def forget(connection: AsyncConnection, *, what: str) -> int:
    """Delete all rows of a call, or of all calls with a person's number, and mark them; return how many calls."""
    which = calls_of(what)
    sids = sa.select(calls.c.sid).where(which)
    await take_turn(connection)  # an event is either written before this, or its call is forgotten
    await mark(connection, what=what)
    unanswered = sa.select(outbound_calls.c.call_sid).where(_outbound_of(what))  # they have events but no record
    told_of = (events.c.call_sid.in_(sids), events.c.call_sid.in_(unanswered), events.c.call_sid == clean(what).strip())
    await erase(connection, sa.or_(*told_of))
    for table in (next_steps, transfers, commands):
        await connection.execute(sa.delete(table).where(table.c.call_sid.in_(sids)))
    await forget_in_campaigns(connection, clean(what).strip())
    await connection.execute(sa.delete(outbound_calls).where(_outbound_of(what)))
    return (await connection.execute(sa.delete(calls).where(which))).rowcount


async def sweep(database: Database, *, keep: timedelta, afterwards: AfterwardsRows) -> int:
    """Delete the calls that ended longer than `keep` ago, and messages between processes; return how many calls.

    A call that may continue in another stream is kept for a minute. A call whose end was never reported is ended first.

    Raises:
        StoreError: some were not deleted. What cannot be deleted does not keep the rest.
    """
    moment = now()
    parts: tuple[Callable[[], Awaitable[int]], ...] = (
        partial(repeat, database, partial(_end_orphans, moment=moment, afterwards=afterwards), SWEEP_CALLS),
        partial(_sweep_messages, database, moment),
        partial(sweep_outbound, database, moment, keep),
        partial(sweep_events, database),
        partial(sweep_campaigns, database, moment, keep),
        partial(repeat, database, partial(_sweep_calls, moment=moment, keep=keep), SWEEP_CALLS),
    )
    count, problems = 0, list[StoreError]()
    for part in parts:
        try:
            count = await part()
        except StoreError as error:
            problems.append(error)
    if problems:
        raise problems[0]
    return count


async def _end_orphans(connection: AsyncConnection, *, moment: datetime, afterwards: AfterwardsRows) -> int:
    """End some of the calls whose end was never reported; return how many."""
    orphan = (calls.c.ended_at.is_(None)) & (calls.c.started_at < moment - timedelta(seconds=MAX_CALL_SECONDS))
    last_turn = sa.select(sa.func.max(turns.c.started_at)).where(turns.c.call_sid == calls.c.sid).scalar_subquery()
    end = {
        "ended_at": sa.func.coalesce(last_turn, calls.c.started_at),
        "ended_by": "error",
        "reason": "its end was never reported",
    }
    sids = await _some_calls(connection, orphan)
    await connection.execute(sa.update(calls).where(calls.c.sid.in_(sids)).values(end))
    await afterwards.ended(connection, sids, certain=True)
    return len(sids)


async def _sweep_messages(database: Database, moment: datetime) -> int:
    too_old = moment - timedelta(hours=STEP_HOURS)
    too_late = moment - timedelta(seconds=TAKE_SECONDS)  # the asking process has died: its request must not stay
    gone = [(table, table.c.at < too_old) for table in (next_steps, transfers, commands)]
    gone.append((commands, commands.c.taken_at.is_(None) & (commands.c.at < too_late)))
    gone.append((claims, claims.c.until < moment))
    return sum([await change_all(database, sa.delete(table), which) for table, which in gone])


async def _sweep_calls(connection: AsyncConnection, *, moment: datetime, keep: timedelta) -> int:
    """Delete some of the old calls, and their events; return how many calls."""
    may_go_on = calls.c.ended_by.in_(MAY_GO_ON) & (calls.c.ended_at > moment - timedelta(seconds=RESUME_SECONDS))
    old = (calls.c.ended_at <= moment - keep) & sa.not_(may_go_on) & ~still_needed(moment)
    sids = await _some_calls(connection, old)
    await erase(connection, events.c.call_sid.in_(sids))
    await connection.execute(sa.delete(calls).where(calls.c.sid.in_(sids)))
    return len(sids)


async def _some_calls(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> list[str]:
    """Return the SIDs of up to SWEEP_CALLS calls, and lock them; those that another process has locked are left out."""
    some = sa.select(calls.c.sid).where(which).order_by(calls.c.ended_at).limit(SWEEP_CALLS)
    return list(await connection.scalars(some.with_for_update(skip_locked=True)))
