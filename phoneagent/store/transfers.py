"""Warm transfers as rows: what one process does about a call's other party, and other processes have to know."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.bridge.steps import Transfer
from phoneagent.store.database import Database
from phoneagent.store.records import DIALING, JOINED, OPEN, TransferRecord
from phoneagent.store.rows import clean
from phoneagent.store.schema import transfers
from phoneagent.store.steps import read_transfer


class TransferRows:
    """The warm transfers of one database. Each method raises StoreError if the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, transfer_id: str, call_sid: str, step: Transfer) -> None:
        """Write down that a party is about to be called."""
        values = {
            "id": transfer_id,
            "call_sid": clean(call_sid),
            "state": DIALING,
            "data": asdict(step),
            "at": datetime.now(UTC),
        }

        async def write(connection: AsyncConnection) -> None:
            await connection.execute(sa.insert(transfers).values(values))

        await self._database.write(write)

    async def get(self, transfer_id: str) -> TransferRecord | None:
        """Return a transfer; None if there is none with that id."""
        return await self._one(transfers.c.id == clean(transfer_id))

    async def open(self, call_sid: str, *, joined: bool = False) -> TransferRecord | None:
        """Return the transfer of a call whose caller is still with the agent; None if there is none.

        With `joined`, also one whose caller is joining the party, or has joined it.
        """
        states = (*OPEN, JOINED) if joined else OPEN
        return await self._one((transfers.c.call_sid == clean(call_sid)) & transfers.c.state.in_(states))

    async def move(self, transfer_id: str, state: str, *, of: Collection[str]) -> bool:
        """Change the state of a transfer from one of the states `of`; return whether it was. One change wins.

        The summary is kept only while the party is being asked.
        """
        which = (transfers.c.id == clean(transfer_id)) & transfers.c.state.in_(list(of))
        return await self._update(which, state=state, summary=None)

    async def describe(self, transfer_id: str, summary: str) -> None:
        """Write down what the party is told, if it is still being asked."""
        which = (transfers.c.id == clean(transfer_id)) & (transfers.c.state == DIALING)
        await self._update(which, summary=clean(summary))

    async def called(self, transfer_id: str, callee_sid: str) -> None:
        """Write down the CallSid of the party's call."""
        await self._update(transfers.c.id == clean(transfer_id), callee_sid=clean(callee_sid))

    async def _update(self, which: sa.ColumnElement[bool], **values: Any) -> bool:
        async def write(connection: AsyncConnection) -> bool:
            return (await connection.execute(sa.update(transfers).where(which).values(values))).rowcount > 0

        return await self._database.write(write)

    async def _one(self, which: sa.ColumnElement[bool]) -> TransferRecord | None:
        async def read(connection: AsyncConnection) -> sa.Row[Any] | None:
            found = sa.select(transfers).where(which).order_by(transfers.c.at.desc()).limit(1)
            return (await connection.execute(found)).first()

        if self._database.absent:
            return None
        row = await self._database.read(read)
        if row is None:
            return None
        return TransferRecord(
            id=row.id,
            call_sid=row.call_sid,
            state=row.state,
            step=read_transfer("", row.data),
            summary=row.summary,
            callee_sid=row.callee_sid,
            at=row.at,
        )
