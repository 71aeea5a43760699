"""Warm transfers as rows: each change of a state succeeds once, in whatever process."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from phoneagent.bridge.steps import Transfer
from phoneagent.store import Store
from phoneagent.store.records import ACCEPTED, DIALING, JOINED, LEFT
from phoneagent.store.schema import transfers
from tests.store.conftest import SID, started, stores

pytestmark = pytest.mark.anyio
STEP = Transfer(to="+12025550107", name="billing", timeout=30, caller_id="called", screen=True)


async def test_another_process_reads_what_one_has_written(ready: str) -> None:
    async with stores(ready) as (first, second):
        assert await second.transfers.get("t1") is None
        await first.transfers.begin("t1", SID, STEP)
        await first.transfers.describe("t1", "Anna asks.\0")
        await second.transfers.called("t1", "CA2")
        row = await second.transfers.get("t1")
        assert row is not None
        assert (row.call_sid, row.state, row.step, row.summary, row.callee_sid) == (
            *(SID, DIALING, STEP),
            *("Anna asks.", "CA2"),
        )
        assert abs(row.at - datetime.now(UTC)) < timedelta(minutes=1)
        assert STEP.to not in repr(row)


async def test_of_many_decisions_at_once_one_succeeds(ready: str) -> None:
    async with stores(ready) as (first, second):
        await first.transfers.begin("t1", SID, STEP)
        rows = [first.transfers, second.transfers] * 5
        moved = await asyncio.gather(
            *(each.move("t1", ACCEPTED if n % 2 else "declined", of=(DIALING,)) for n, each in enumerate(rows))
        )
        assert sum(moved) == 1


async def test_a_call_has_its_transfer_as_long_as_the_caller_waits(ready: str) -> None:
    async with stores(ready) as (first, second):
        assert await first.transfers.open(SID) is None
        await first.transfers.begin("t1", SID, STEP)
        await first.transfers.describe("t1", "Anna asks.")
        row = await second.transfers.open(SID)
        assert row is not None
        assert (row.id, row.summary) == ("t1", "Anna asks.")
        assert await first.transfers.move("t1", ACCEPTED, of=(DIALING,))
        await first.transfers.describe("t1", "Anna asks, too late.")
        row = await second.transfers.open(SID)
        assert row is not None
        assert row.summary is None
        assert await first.transfers.move("t1", JOINED, of=(ACCEPTED,))
        assert await second.transfers.open(SID) is None
        row = await second.transfers.open(SID, joined=True)
        assert row is not None
        assert row.state == JOINED
        assert not await first.transfers.move("t1", LEFT, of=(DIALING, ACCEPTED))


async def test_transfers_are_forgotten_with_their_call_and_within_a_day(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        await kept.transfers.begin("t1", SID, STEP)
        await kept.forget(SID)
        assert await kept.transfers.get("t1") is None
        await kept.transfers.begin("t2", "CA9", STEP)
        await kept.sweep()
        assert await kept.transfers.get("t2") is not None
        old = sa.update(transfers).values(at=datetime.now(UTC) - timedelta(hours=25))
        await kept._database.write(lambda connection: connection.execute(old))
        await kept.sweep()
        assert await kept.transfers.get("t2") is None
