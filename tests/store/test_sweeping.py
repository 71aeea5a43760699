"""Old records are deleted little by little: the others go on writing, and what fails keeps nothing else."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from phoneagent.errors import StoreError
from phoneagent.store import Store, campaigns, database, forgetting, rows, schema, store, sweeping
from tests.patience import HANG_SECONDS
from tests.store.conftest import GREETING, WISH, a_moment, ended, rows_left, said, started, stores, until
from tests.store.test_campaigns import NUMBERS, counts, made

pytestmark = pytest.mark.anyio

SLOW_SECONDS = 0.02
SLOW_IN_SQLITE = "CREATE TRIGGER slow BEFORE DELETE ON calls BEGIN SELECT slow(); END"
SLOW_IN_POSTGRES = f"""
CREATE FUNCTION slow() RETURNS trigger AS $$
BEGIN PERFORM pg_sleep({SLOW_SECONDS}); RETURN OLD; END $$ LANGUAGE plpgsql;
CREATE TRIGGER slow BEFORE DELETE ON calls FOR EACH ROW EXECUTE FUNCTION slow()
"""


async def slow_down(kept: Store) -> None:
    """Make each deletion of a call take SLOW_SECONDS."""
    if kept._database.dialect == "postgresql":
        connection = await asyncpg.connect(kept._database.url)
        await connection.execute(SLOW_IN_POSTGRES)
        await connection.close()
        return

    @sa.event.listens_for(kept._database.writing.sync_engine, "connect")
    def define(connection: Any, _: Any) -> None:
        connection.create_function("slow", 0, lambda: time.sleep(SLOW_SECONDS))

    await kept._database.write(lambda connection: connection.exec_driver_sql(SLOW_IN_SQLITE))


async def fill(kept: Store, count: int) -> None:
    for number in range(count):
        sid = f"CA{number:032x}"
        for event in (started(sid), said(GREETING, sid), said(WISH, sid), ended(sid, duration_ms=1)):
            kept.tell(event)
    await kept.flush()
    await a_moment()


async def test_a_sweep_that_takes_longer_than_a_transaction_ends_and_lets_others_write(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "SWEEP_CALLS", 5)
    async with stores(ready) as (kept, other):
        await slow_down(kept)
        await fill(kept, 200)  # 4 s
        monkeypatch.setattr(database, "TRANSACTION_SECONDS", 3.5)
        deleting = asyncio.create_task(kept.sweep(days=0))
        claimed = 0
        async with asyncio.timeout(HANG_SECONDS):
            while not deleting.done():
                assert await other.claim(f"token {claimed}", 60)
                claimed += 1
                await asyncio.sleep(0.05)
        assert await deleting == 200
        assert claimed > 1
        assert await rows_left(kept, schema.calls, schema.turns) == []


async def test_what_cannot_be_deleted_keeps_nothing_else(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> int:
        raise StoreError("the events are locked", retry=True)

    async with Store.from_url(ready) as kept:
        await fill(kept, 2)
        await kept.claim("token", -1)
        monkeypatch.setattr(forgetting, "sweep_events", fail)
        with pytest.raises(StoreError, match="the events are locked"):
            await kept.sweep(days=0)
        assert await rows_left(kept, schema.calls, schema.claims) == []


async def test_rows_are_changed_in_parts(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "ROWS", 2)
    monkeypatch.setattr(sweeping, "REST_SECONDS", 0.001)
    async with Store.from_url(ready) as kept:
        campaign = await made(kept, NUMBERS[:5])
        numbers, written = schema.campaign_calls, []
        sa.event.listen(
            kept._database.writing.sync_engine,
            "after_cursor_execute",
            lambda _, cursor, statement, *__: written.append(cursor.rowcount) if statement[0] in "UD" else None,
        )
        busy = sa.update(numbers).values(state="calling")
        few = (numbers.c.campaign_id == campaign.id) & (numbers.c.state == "waiting") & (numbers.c.position > 2)
        assert await sweeping.change_all(kept._database, busy, few) == 4
        assert written == [2, 2, 0]
        assert await counts(kept, campaign) == ("running", {"waiting": 1, "calling": 4})
        assert await sweeping.change_all(kept._database, sa.delete(numbers), numbers.c.position > 0) == 5
        assert await rows_left(kept, numbers) == []


async def test_what_is_empty_is_not_written_again(ready: str) -> None:
    async with Store.from_url(ready, record_days=0) as kept:
        campaign = await made(kept, NUMBERS[:3])
        added = await kept.outbound.add(NUMBERS[0], {"context": {"why": "a visit"}}, "key")
        await kept.outbound.tell(added.id, "CA1", "completed")
        over = sa.update(schema.campaigns).values(state="done", ended_at=rows.now())
        await kept._database.write(lambda connection: connection.execute(over))
        await a_moment()
        changed: list[int] = []

        @sa.event.listens_for(kept._database.writing.sync_engine, "after_cursor_execute")
        def note(_: Any, cursor: Any, statement: str, *__: Any) -> None:
            if statement.startswith("UPDATE"):
                changed.append(cursor.rowcount)

        await kept.sweep()
        assert sum(changed) == 4
        assert {row.called for row in await rows_left(kept, schema.campaign_calls)} == {""}
        assert campaign.id in {row.id for row in await rows_left(kept, schema.campaigns)}
        changed.clear()
        await kept.sweep()
        assert sum(changed) == 0


async def test_what_a_line_without_a_number_says_about_a_person_is_emptied(ready: str) -> None:
    async with Store.from_url(ready, record_days=0) as kept:
        await made(kept, ["", NUMBERS[0]])
        over = sa.update(schema.campaigns).values(state="done", ended_at=rows.now())
        await kept._database.write(lambda connection: connection.execute(over))
        await a_moment()
        await kept.sweep()
        assert [(row.called, row.context) for row in await rows_left(kept, schema.campaign_calls)] == [("", {})] * 2


async def test_a_campaign_that_is_half_deleted_begins_from_scratch(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change_all, deleted = campaigns.change_all, []

    async def fail_late(base: Any, change: Any, which: Any) -> int:
        if change.is_delete:
            deleted.append(change)
        if len(deleted) > 1:
            raise StoreError("the database went away", retry=True)
        return await change_all(base, change, which)

    async with Store.from_url(ready, record_days=0) as kept:
        campaign = await made(kept, NUMBERS[:3])
        await kept.campaigns.stop(campaign.id)
        long_ago = sa.update(schema.campaigns).values(ended_at=rows.now() - timedelta(days=2))
        await kept._database.write(lambda connection: connection.execute(long_ago))
        monkeypatch.setattr(campaigns, "change_all", fail_late)
        with pytest.raises(StoreError, match="went away"):
            await kept.sweep()
        await kept.campaigns.run(campaign.id)
        assert await counts(kept, campaign) == ("stopped", {})
        anew = await made(kept, NUMBERS[:3])
        assert await counts(kept, anew) == ("running", {"waiting": 3})


async def test_two_sweeps_of_a_process_do_not_overlap(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FIRST_SWEEP_SECONDS", 0.0)
    monkeypatch.setattr(store, "SWEEP_SECONDS", 0.01)
    begun, may_end = [], asyncio.Event()

    async def sweep(*_: Any, **__: Any) -> int:
        begun.append(1)
        await may_end.wait()
        return 0

    monkeypatch.setattr(store, "sweep", sweep)
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        await until(lambda: begun)
        for _ in range(3):
            due = kept._next_sweep
            await until(lambda due=due: kept._next_sweep is not due)  # it was due, and is due again
        assert len(begun) == 1
        may_end.set()
        await until(lambda: len(begun) > 1)
