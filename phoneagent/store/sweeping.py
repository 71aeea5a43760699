"""Deleting old rows little by little: others write in between, and what is deleted stays deleted if the rest fails."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.store.database import Database, Work

ROWS = 1000
REST_SECONDS = 0.2
"""How many rows one transaction changes, and how long others may write between two."""


async def repeat(database: Database, work: Work[int], full: int) -> int:
    """Run a transaction that changes up to `full` rows until it finds fewer; return how many it has changed.

    Raises:
        StoreError: the database does not answer; some may have been changed.
    """
    changed = 0
    while (count := await database.write(work)) >= full:
        changed += count
        await asyncio.sleep(REST_SECONDS)
    return changed + count


async def change_all(database: Database, change: sa.Delete | sa.Update, which: sa.ColumnElement[bool]) -> int:
    """Delete or update the rows of a condition, which an update must make false; return how many.

    Raises:
        StoreError: as for `repeat`.
    """
    key = sa.inspect(change.table).primary_key.columns
    some = sa.select(*key).where(which).limit(ROWS)
    part = change.where(which, sa.tuple_(*key).in_(some))

    async def write(connection: AsyncConnection) -> int:
        return (await connection.execute(part)).rowcount

    return await repeat(database, write, ROWS)
