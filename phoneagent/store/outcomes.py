"""The outcomes of calls in the database: each is written once, with the cost of the model that filled it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.events import Cost, Usage
from phoneagent.store.database import Database
from phoneagent.store.rows import clean
from phoneagent.store.schema import calls, usage

SOURCE = "outcome"
"""The media stream and the source of the cost of outcomes, in the usage table."""


@dataclass(frozen=True, slots=True)
class Spent:
    """The usage of a model for one answer, and its cost."""

    model: str
    usage: Usage
    cost: Cost


class OutcomeRows:
    """The outcomes of one database. Each method raises StoreError if the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(
        self,
        call_sid: str,
        stream_sid: str,
        outcome: Mapping[str, Any] | None,
        error: str | None,
        spent: Sequence[Spent] = (),
    ) -> bool:
        """Record the outcome of a call, or why it could not be filled in, unless one of them is recorded already.

        It is the outcome of the call up to the media stream `stream_sid`. If the call has come back in a later one, it
        is not recorded. Returns whether it was. The cost is recorded in any case, as long as the call has a record.
        """
        sid = clean(call_sid)
        still_open = (calls.c.sid == sid) & calls.c.outcome.is_(sa.null()) & calls.c.outcome_error.is_(None)
        still_open &= calls.c.stream_sid == clean(stream_sid)
        values = {"outcome": None if outcome is None else dict(outcome), "outcome_error": error and clean(error)}

        async def write(connection: AsyncConnection) -> bool:
            await _charge(connection, sid, spent)
            return (await connection.execute(sa.update(calls).where(still_open).values(values))).rowcount > 0

        return await self._database.write(write)

    async def charge(self, call_sid: str, spent: Sequence[Spent]) -> None:
        """Record the cost of a failed attempt."""
        if not spent:
            return
        sid = clean(call_sid)

        async def write(connection: AsyncConnection) -> None:
            await _charge(connection, sid, spent)

        await self._database.write(write)


async def _charge(connection: AsyncConnection, call_sid: str, spent: Sequence[Spent]) -> None:
    if not spent:
        return
    # This locks the call, so that two processes cannot take the same number; a forgotten call has no row.
    known = sa.update(calls).where(calls.c.sid == call_sid).values(sid=calls.c.sid)
    if (await connection.execute(known)).rowcount == 0:
        return
    earlier = sa.select(sa.func.max(usage.c.number)).where(usage.c.call_sid == call_sid, usage.c.stream_sid == SOURCE)
    first = (await connection.scalar(earlier) or 0) + 1
    rows = [
        {
            "call_sid": call_sid,
            "stream_sid": SOURCE,
            "number": number,
            "source": SOURCE,
            "model": clean(each.model),
            **asdict(each.usage),
            "nano_usd": int(each.cost.usd.scaleb(9)),
            "at_least": each.cost.at_least,
        }
        for number, each in enumerate(spent, first)
    ]
    await connection.execute(sa.insert(usage), rows)
