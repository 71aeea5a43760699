"""The numbers that are never called, in E.164. Erasing a person's records does not remove their number from here."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.store.database import Database
from phoneagent.store.rows import clean, now
from phoneagent.store.schema import do_not_call as table
from phoneagent.store.statements import insert_into

BATCH = 500


class DoNotCall:
    """The list of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, numbers: Iterable[str]) -> None:
        """Put numbers on the list.

        Raises:
            StoreError: not all of them were added.
        """
        moment = now()
        rows = [{"number": clean(number), "added_at": moment} for number in dict.fromkeys(numbers)]
        once = insert_into(table, self._database.dialect).on_conflict_do_nothing(index_elements=["number"])
        for begin in range(0, len(rows), BATCH):

            async def write(connection: AsyncConnection, begin: int = begin) -> None:
                await connection.execute(once, rows[begin : begin + BATCH])

            await self._database.write(write)

    async def remove(self, number: str) -> bool:
        """Remove a number from the list; return whether it was on it.

        Raises:
            StoreError: it is still on the list.
        """

        async def write(connection: AsyncConnection) -> bool:
            return (await connection.execute(sa.delete(table).where(table.c.number == clean(number)))).rowcount > 0

        return await self._database.write(write)

    async def holds(self, number: str) -> bool:
        """Return whether a number is on the list.

        Raises:
            StoreError: the database does not answer.
        """
        if self._database.absent:
            return False

        async def read(connection: AsyncConnection) -> bool:
            return number in await listed(connection, [number])

        return await self._database.read(read)


async def listed(connection: AsyncConnection, numbers: Collection[str]) -> set[str]:
    """Return which of these numbers are on the list."""
    return set(await connection.scalars(sa.select(table.c.number).where(table.c.number.in_(numbers))))
