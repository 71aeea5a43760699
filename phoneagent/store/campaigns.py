"""Campaigns in the database: their lists, and the progress of each number. All processes advance them together.

    waiting → calling → finished, given_up
       ↑________|  busy, no answer: it waits for the next attempt
    skipped: it is never called

Each attempt is one row of the queue of outgoing calls, with the key `campaign/<id>/<position>/<attempt>`. It is written
in the transaction that marks the number as being called. So if a process dies, no call is lost and none is made twice.
`move` locks the campaign, so the numbers being called are counted across all processes.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.protocol.callerid import caller_id
from phoneagent.protocol.dialing import canonical
from phoneagent.protocol.mediastream import CALL_SID
from phoneagent.store.campaign_moves import CAMPAIGN, NOT_AFTER, Move, call_of, count_calling, move, withdraw
from phoneagent.store.campaign_records import ACTIVE, Campaign, CampaignCall, Moved, NewCall, OtherCampaign
from phoneagent.store.database import Database
from phoneagent.store.do_not_call import DoNotCall, listed
from phoneagent.store.records import OutboundCall
from phoneagent.store.rows import clean, now
from phoneagent.store.schema import calls, campaigns, outbound_calls
from phoneagent.store.schema import campaign_calls as numbers
from phoneagent.store.statements import insert_into
from phoneagent.store.sweeping import change_all


class CampaignRows:
    """The campaigns of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.do_not_call = DoNotCall(database)
        self._up_to_date = False

    # --- starting and stopping ----------------------------------------------------------------------------------------

    async def begin(self, name: str, digest: str, plan: Mapping[str, Any]) -> Campaign:
        """Return the campaign of that name; if there is none, make one that can be filled.

        Raises:
            OtherCampaign: there is one with another list or other rules (another digest).
            StoreError: the database does not answer.
        """
        key = clean(name)
        values = {
            "id": secrets.token_hex(8),
            "name": key,
            "digest": digest,
            "plan": dict(plan),
            "state": "loading",
            "created_at": now(),
        }
        once = (
            insert_into(campaigns, self._database.dialect)
            .values(values)
            .on_conflict_do_nothing(index_elements=["name"])
        )

        async def write(connection: AsyncConnection) -> Campaign:
            of_name = sa.select(campaigns).where(campaigns.c.name == key)
            found = (await connection.execute(of_name.with_for_update())).one_or_none()
            if found is not None and found.digest != digest and (found.state == "loading" or not found.digest):
                # It has called none of its numbers, or is being swept.
                await _delete(connection, campaigns.c.id == found.id)
            await connection.execute(once)
            row = (await connection.execute(of_name)).one()
            if row.digest != digest:
                raise OtherCampaign(
                    f"there is a campaign {name!r:.80} with another list or other rules: choose another name"
                )
            return _campaign(row)

        return await self._database.write(write)

    async def fill(self, id: str, calls: Sequence[NewCall]) -> None:
        """Put numbers on the list of a campaign; those already on it do not change.

        Raises:
            OtherCampaign: the campaign has been stopped, or another list was started under its name.
            StoreError: they were not added.
        """
        rows = [
            {
                "campaign_id": id,
                "position": each.position,
                "called": clean(each.to),
                "context": dict(each.context),
                "state": "waiting" if each.problem is None else "skipped",
                "attempts": 0,
                "due_at": each.due_at,
                "reason": None if each.problem is None else clean(each.problem),
            }
            for each in calls
        ]
        if not rows:
            return
        insert = insert_into(numbers, self._database.dialect)
        once = insert.on_conflict_do_nothing(index_elements=["campaign_id", "position"])

        async def write(connection: AsyncConnection) -> None:
            if await _state(connection, id) in (None, "stopped"):
                raise OtherCampaign(
                    "the campaign was stopped, or another list was started under its name, while its list was being "
                    "written: nothing of it is called"
                )
            await connection.execute(once, rows)  # one statement for all rows takes a tenth of a second to compile

        await self._database.write(write)

    async def run(self, id: str) -> None:
        """Start calling the numbers of a campaign that was filled or stopped.

        Raises:
            StoreError: it was not started.
        """
        from_ = campaigns.c.state.in_(("loading", "stopping", "stopped")) & (campaigns.c.digest != "")
        change = sa.update(campaigns).where(campaigns.c.id == id, from_).values(state="running", ended_at=None)

        async def write(connection: AsyncConnection) -> None:
            await connection.execute(change)

        await self._database.write(write)

    async def stop(self, id: str) -> None:
        """Make no new call for a campaign. Calls that Twilio may have continue; queued ones are withdrawn.

        Raises:
            StoreError: it was not stopped.
        """

        async def write(connection: AsyncConnection) -> None:
            state = await _state(connection, id)
            if state == "loading":  # its list is incomplete: without a digest, the next start begins from scratch
                await connection.execute(sa.delete(numbers).where(numbers.c.campaign_id == id))
                anew = {"state": "stopped", "ended_at": now(), "digest": ""}
                await connection.execute(sa.update(campaigns).where(campaigns.c.id == id).values(anew))
            if state != "running":
                return
            await withdraw(connection, numbers.c.campaign_id == id)
            calling = await count_calling(connection, id)
            values = {"state": "stopping"} if calling else {"state": "stopped", "ended_at": now()}
            await connection.execute(sa.update(campaigns).where(campaigns.c.id == id).values(values))

        await self._database.write(write)

    # --- moving on ----------------------------------------------------------------------------------------------------

    async def active(self) -> list[Campaign]:
        """Return the campaigns to advance, without their counts.

        Raises:
            StoreError: the database does not answer.
        """
        if self._database.absent:
            return []

        async def read(connection: AsyncConnection) -> list[Campaign]:
            query = sa.select(campaigns).where(campaigns.c.state.in_(ACTIVE)).order_by(campaigns.c.created_at)
            return [_campaign(row) for row in await connection.execute(query)]

        if self._up_to_date:
            return await self._database.read(read)
        found = await self._database.write(read)  # a write brings the tables of a SQLite file up to date
        self._up_to_date = True
        return found

    async def move(self, id: str, how: Move) -> Moved | None:
        """Handle the results of calls that are over, and queue the calls that are due; None: another process does it.

        Raises:
            StoreError: nothing was changed.
        """
        return await self._database.write(partial(move, id=id, how=how))

    async def barred(self, call: OutboundCall, late: str | None = None) -> str | None:
        """Return why a queued call must no longer be placed; None if it may be. `late` says why it comes too late.

        Calls of a campaign that was stopped, or whose hours are over, are withdrawn, and so are those that are late:
        they are made later, if at all.

        Raises:
            StoreError: the database does not answer, so the call must not be placed.
        """
        id, until = call.plan.get(CAMPAIGN), call.plan.get(NOT_AFTER)

        async def read(connection: AsyncConnection) -> str | None:
            if await listed(connection, {call.to, canonical(call.to)}):
                return "its number is on the do-not-call list"
            if id is None:
                return late
            state = await connection.scalar(sa.select(campaigns.c.state).where(campaigns.c.id == id))
            if state != "running":
                return "its campaign was stopped"
            state = await connection.scalar(sa.select(numbers.c.state).where(numbers.c.outbound_id == call.id))
            if state != "calling":
                return "its campaign has given it up: its end was not known in time"
            closed = until is not None and now() > datetime.fromisoformat(until)
            return "the calling hours are over" if closed else late

        why = await self._database.read(read)
        if why is not None and id is not None:

            async def write(connection: AsyncConnection) -> None:
                await withdraw(connection, numbers.c.outbound_id == call.id)

            await self._database.write(write)
        return why

    # --- reading ------------------------------------------------------------------------------------------------------

    async def find(self, which: str) -> Campaign | None:
        """Return the campaign with this id or name; None if there is none.

        Raises:
            StoreError: the database does not answer.
        """
        if self._database.absent:
            return None
        text = clean(which)

        async def read(connection: AsyncConnection) -> Campaign | None:
            query = sa.select(campaigns).where(sa.or_(campaigns.c.id == text, campaigns.c.name == text))
            row = (await connection.execute(query.order_by((campaigns.c.id == text).desc()))).first()
            return None if row is None else await _counted(connection, row)

        return await self._database.read(read)

    async def latest(self, limit: int) -> list[Campaign]:
        """Return the latest campaigns, newest first.

        Raises:
            StoreError: the database does not answer.
        """
        if self._database.absent:
            return []

        async def read(connection: AsyncConnection) -> list[Campaign]:
            query = sa.select(campaigns).order_by(campaigns.c.created_at.desc(), campaigns.c.id).limit(limit)
            return [await _counted(connection, row) for row in (await connection.execute(query)).all()]

        return await self._database.read(read)

    async def calls(self, id: str, *, after: int = -1, limit: int = 1000) -> list[CampaignCall]:
        """Return the next numbers of a campaign after a position, in the order of its list.

        Raises:
            StoreError: the database does not answer.
        """
        of_call = numbers.outerjoin(calls, calls.c.sid == numbers.c.call_sid)
        query = sa.select(numbers, calls.c.outcome.label("of_agent")).select_from(of_call)
        query = query.where(numbers.c.campaign_id == id, numbers.c.position > after)

        async def read(connection: AsyncConnection) -> list[CampaignCall]:
            found = await connection.execute(query.order_by(numbers.c.position).limit(limit))
            return [call_of(row, outcome=row.of_agent) for row in found]

        return await self._database.read(read)


# --- within a transaction ---------------------------------------------------------------------------------------------


async def _state(connection: AsyncConnection, id: str) -> str | None:
    """Return the state of a campaign, and lock it; None if there is none."""
    state: str | None = await connection.scalar(
        sa.select(campaigns.c.state).where(campaigns.c.id == id).with_for_update()
    )
    return state


async def _counted(connection: AsyncConnection, row: Any) -> Campaign:
    counts: list[dict[str, int]] = []
    for column in (numbers.c.state, numbers.c.result):
        query = sa.select(column, sa.func.count()).where(numbers.c.campaign_id == row.id, column.is_not(None))
        counts.append({str(name): int(count) for name, count in await connection.execute(query.group_by(column))})
    return _campaign(row, *counts)


async def _delete(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> None:
    ids = sa.select(campaigns.c.id).where(which)
    await connection.execute(sa.delete(numbers).where(numbers.c.campaign_id.in_(ids)))
    await connection.execute(sa.delete(campaigns).where(which))


async def forget_in_campaigns(connection: AsyncConnection, what: str) -> None:
    """Delete a person's number, or the number of a call, from all lists."""
    of_person = numbers.c.called.in_((what, caller_id(what)))
    made = sa.select(outbound_calls.c.id).where(outbound_calls.c.call_sid == what)
    of_call = (numbers.c.call_sid == what) | numbers.c.outbound_id.in_(made)  # the second while the call is in progress
    which = of_call if CALL_SID.fullmatch(what) else of_person
    await connection.execute(sa.delete(numbers).where(which))


async def sweep_campaigns(database: Database, moment: datetime, keep: timedelta) -> int:
    """Delete campaigns that ended longer ago than `keep`; return how many.

    If that is less than a day, only personal data is deleted.

    The numbers that a stopped campaign has not called yet stay for a day, because it may continue.
    """
    over = sa.select(campaigns.c.id).where(campaigns.c.ended_at <= moment - keep)
    nothing: dict[str, Any] = {"called": "", "context": {}}
    may_go_on = over.where(campaigns.c.state == "stopped")
    waits = numbers.c.campaign_id.in_(may_go_on) & (numbers.c.state == "waiting")
    full = sa.or_(numbers.c.called != "", sa.cast(numbers.c.context, sa.Text) != "{}")
    await change_all(database, sa.update(numbers).values(nothing), numbers.c.campaign_id.in_(over) & ~waits & full)
    last = moment - max(keep, timedelta(days=1))
    abandoned = (campaigns.c.state == "loading") & (campaigns.c.created_at <= last)
    old = sa.or_(campaigns.c.ended_at <= last, abandoned)
    # Without a digest, it does not go on with a part of its list: the next start begins from scratch.
    await change_all(database, sa.update(campaigns).values(digest=""), old & (campaigns.c.digest != ""))
    await change_all(database, sa.delete(numbers), numbers.c.campaign_id.in_(sa.select(campaigns.c.id).where(old)))
    return await change_all(database, sa.delete(campaigns), old)


def _campaign(row: Any, states: Mapping[str, int] | None = None, results: Mapping[str, int] | None = None) -> Campaign:
    return Campaign(
        id=row.id,
        name=row.name,
        state=row.state,
        plan=row.plan,
        created_at=row.created_at,
        ended_at=row.ended_at,
        numbers=states or {},
        results=results or {},
    )
