"""Commands: requests to act on a call, as rows that go from the process that got the request to the one with the call.

    asked → taken → answered         the asking process deletes the row, unless it has an idempotency key
          ↘ withdrawn: no process took it in time, so the row is gone and nothing will be done

A process takes a command by a change that only one can make, and withdrawing is such a change too. So a command is
carried out once, or never. The row of a key stays for a day: a repeated request finds the answer. The request body is
deleted when the command is taken.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.store import notices
from phoneagent.store.database import Database
from phoneagent.store.rows import clean, now
from phoneagent.store.schema import commands as table
from phoneagent.store.statements import insert_into

TAKE_SECONDS = 30.0
"""The maximum age of a command that is taken. The asking process withdraws it long before, unless it died."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that was taken: the call, the name of the action, and the unchanged body of the request."""

    id: str
    call_sid: str
    action: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """The state of a command: a hash of its body, whether it was taken, and the answer if there is one."""

    digest: str
    taken: bool
    answer: dict[str, Any] | None


class CommandRows:
    """The commands of one database. Each method raises StoreError if the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, id: str, call_sid: str, action: str, *, digest: str, body: bytes | None) -> Asked | None:
        """Add a command and return None; if there is one with that id, return that one instead.

        Without a body, the command counts as taken: this process carries it out itself.
        """
        moment = now()
        values = {
            "id": id,
            "call_sid": clean(call_sid),
            "action": action,
            "digest": digest,
            "body": body,
            "at": moment,
            "taken_at": moment if body is None else None,
        }
        once = insert_into(table, self._database.dialect).values(values).on_conflict_do_nothing(index_elements=["id"])

        async def write(connection: AsyncConnection) -> Asked | None:
            if (await connection.execute(once)).rowcount > 0:
                if body is not None:
                    await notices.tell(connection, "commands")
                return None
            return await _read(connection, id)

        return await self._database.write(write)

    async def get(self, id: str) -> Asked | None:
        """Return the state of a command; None if there is none."""
        if self._database.absent:
            return None

        async def read(connection: AsyncConnection) -> Asked | None:
            return await _read(connection, id)

        return await self._database.read(read)

    async def answers(self, ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the answers to these commands that exist, by id."""
        if self._database.absent:
            return {}
        which = sa.select(table.c.id, table.c.answer).where(table.c.id.in_(ids))

        async def read(connection: AsyncConnection) -> dict[str, dict[str, Any]]:
            return {row.id: row.answer for row in await connection.execute(which) if row.answer is not None}

        return await self._database.read(read)

    async def take(self, call_sids: Container[str]) -> Command | None:
        """Take the oldest command for one of these calls; None if there is none. No two processes take the same."""
        if self._database.absent:
            return None
        waiting = sa.and_(table.c.taken_at.is_(None), table.c.at > now() - timedelta(seconds=TAKE_SECONDS))
        columns = (table.c.id, table.c.call_sid, table.c.action, table.c.body)

        async def read(connection: AsyncConnection) -> list[str]:
            rows = await connection.execute(
                sa.select(table.c.id, table.c.call_sid).where(waiting).order_by(table.c.at, table.c.id)
            )
            return [row.id for row in rows if row.call_sid in call_sids]

        async def write(connection: AsyncConnection) -> Command | None:
            change = sa.update(table).where(table.c.taken_at.is_(None)).values(taken_at=now(), body=None)
            for id in found:
                row = (await connection.execute(sa.select(*columns).where(table.c.id == id))).one_or_none()
                if row is not None and (await connection.execute(change.where(table.c.id == id))).rowcount > 0:
                    return Command(*row)
            return None

        found = await self._database.read(read)
        return await self._database.write(write) if found else None

    async def answer(self, id: str, answer: dict[str, Any]) -> None:
        """Answer a command that was taken."""
        change = sa.update(table).where(table.c.id == id).values(answer=answer)

        async def write(connection: AsyncConnection) -> None:
            await connection.execute(change)
            await notices.tell(connection, "commands")

        await self._database.write(write)

    async def withdraw(self, id: str) -> bool:
        """Delete a command that no process has taken; return whether there was one. If so, it will never be taken."""
        return await self._delete((table.c.id == id) & table.c.taken_at.is_(None))

    async def delete(self, id: str, *, answered: bool = False) -> None:
        """Delete a command: nothing was done, or (with `answered`) its answer was read.

        By then, the id may belong to a newer command, which has no answer.
        """
        which = table.c.id == id
        await self._delete(which & table.c.answer.is_not(None) if answered else which)

    async def _delete(self, which: sa.ColumnElement[bool]) -> bool:
        async def write(connection: AsyncConnection) -> bool:
            return (await connection.execute(sa.delete(table).where(which))).rowcount > 0

        return await self._database.write(write)


async def _read(connection: AsyncConnection, id: str) -> Asked | None:
    row = (await connection.execute(sa.select(table).where(table.c.id == id))).one_or_none()
    return None if row is None else Asked(row.digest, row.taken_at is not None, row.answer)
