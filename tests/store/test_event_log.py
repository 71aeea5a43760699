"""The log of events: the order of ids, what is read, what happens in an outage, and what is deleted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.errors import StoreError
from phoneagent.store import Store, event_log, schema, sweeping
from phoneagent.store.event_log import EventLog, LoggedEvent, Page, take_turn
from tests.patience import HANG_SECONDS
from tests.store import conftest
from tests.store.conftest import CALLER, SID, Outage, contents, rows_left, started, stores, until

pytestmark = pytest.mark.anyio
OTHER = "CA" + "2" * 32


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real_time)])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database. PostgreSQL is another process, whose time cannot be skipped."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/phoneagent.db"
        return
    async with conftest.new_schema() as found:
        yield found


def log_of(store: Store) -> EventLog:
    found = store.events
    assert found is not None
    return found


def add(store: Store, *bodies: str, sid: str = SID, type: str = "trouble") -> None:
    for body in bodies:
        log_of(store).add(sid, "MZ1", type, body)


def bodies(page: Page) -> list[str]:
    return [event.body for event in page.events]


async def written(store: Store) -> None:
    await log_of(store).flush()


@asynccontextmanager
async def one(url: str) -> AsyncIterator[Store]:
    async with Store.from_url(url) as made:
        yield made


# --- writing and reading ---


async def test_what_one_process_writes_another_one_reads_in_pages(ready: str) -> None:
    async with stores(ready) as (here, there):
        add(here, "one", "two")
        add(here, "else", sid=OTHER)
        add(here, "three")
        await written(here)
        log = log_of(there)
        first = await log.page(0, 3)
        assert bodies(first) == ["one", "two", "else"]
        ids = [event.id for event in first.events]
        assert ids == sorted(set(ids))
        assert (first.oldest, first.newest) == (ids[0], (await log.page(ids[-1], 3)).events[0].id)
        assert bodies(await log.page(ids[-1], 3)) == ["three"]
        assert bodies(await log.page(ids[0], 3, call_sid=SID)) == ["two", "three"]
        assert bodies(await log.page(first.newest, 3)) == []
        assert first.events[0] == LoggedEvent(ids[0], SID, "MZ1", "trouble", "one")


async def test_a_database_that_is_not_there_yet_has_no_events(tmp_path: Path) -> None:
    async with one(f"sqlite:///{tmp_path}/new.db") as store:
        assert await log_of(store).page(0, 9) == Page([], 0, 0)
        assert await log_of(store).outline(SID, ("trouble",)) == []
        assert await log_of(store).sweep() == 0
        assert contents(tmp_path) == []
        add(store, "one")
        await written(store)
        assert bodies(await log_of(store).page(0, 9)) == ["one"]


async def test_the_outline_of_a_call(ready: str) -> None:
    async with one(ready) as store:
        for type in ("trouble", "call_started", "trouble", "call_ended", "trouble"):
            add(store, type, type=type)
        add(store, "else", sid=OTHER, type="call_started")
        await written(store)
        outline = await log_of(store).outline(SID, ("call_started", "call_ended"))
        assert [event.type for event in outline] == ["trouble", "call_started", "call_ended"]
        assert await log_of(store).outline("CA" + "3" * 32, ("call_started",)) == []


async def test_the_process_that_wrote_learns_of_the_ids(ready: str) -> None:
    async with stores(ready) as (here, there):
        told: list[tuple[int, list[LoggedEvent]]] = []
        log_of(here).committed = lambda newest, events: told.append((newest, events))
        add(here, "one", "two")
        await written(here)
        add(there, "theirs")
        await written(there)
        add(here, "three")
        await written(here)
        everything = (await log_of(here).page(0, 9)).events
        assert [newest for newest, _ in told] == [0, everything[2].id]
        assert [event for _, events in told for event in events] == [everything[0], everything[1], everything[3]]


async def test_it_is_off_where_nothing_is_kept_after_a_call(ready: str) -> None:
    async with Store.from_url(ready, record_days=0) as store:
        assert store.events is None


async def test_what_waits_is_written_at_the_end(ready: str) -> None:
    many = [str(number) for number in range(2 * event_log.BATCH_ROWS + 7)]
    async with one(ready) as store:
        add(store, *many)
    async with one(ready) as store:
        assert bodies(await log_of(store).page(0, 999)) == [
            str(number) for number in range(2 * event_log.BATCH_ROWS + 7)
        ]


# --- ids ---


async def test_ids_are_committed_in_their_order(ready: str) -> None:
    async with stores(ready, 3) as (first, second, reader):
        seen: list[LoggedEvent] = []

        async def follow() -> None:
            while len(seen) < 600:
                seen.extend((await log_of(reader).page(seen[-1].id if seen else 0, 50)).events)

        following = asyncio.create_task(follow())
        for number in range(100):
            for each in (first, second):
                add(each, *(f"{number}" for _ in range(3)))
            await asyncio.sleep(event_log.LINGER_SECONDS / 4)
        async with asyncio.timeout(HANG_SECONDS):
            await following
        everything = (await log_of(reader).page(0, 999)).events
        assert len(everything) == 600
        assert seen == everything


async def test_a_writer_waits_for_the_one_whose_turn_it_is(ready: str) -> None:
    async with stores(ready) as (first, second):
        has_turn, go_on = asyncio.Event(), asyncio.Event()

        async def slow(connection: AsyncConnection) -> None:
            await take_turn(connection)
            values = {"id": event_log._micros(), "call_sid": SID, "stream_sid": "MZ1", "type": "trouble"}
            await connection.execute(sa.insert(schema.events).values(**values, body="first"))
            has_turn.set()
            await go_on.wait()

        writing = asyncio.create_task(first._database.write(slow))
        await has_turn.wait()
        add(second, "second")
        await until(lambda: not log_of(second)._waiting)  # it has been taken, and is under way
        if first._database.dialect == "postgresql":
            waits = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            async with asyncio.timeout(HANG_SECONDS):
                while not await first._database.read(lambda connection: connection.scalar(waits)):
                    await asyncio.sleep(0.01)
        assert bodies(await log_of(first).page(0, 9)) == []
        go_on.set()
        await writing
        await written(second)
        assert bodies(await log_of(first).page(0, 9)) == ["first", "second"]


async def test_ids_go_on_growing_when_the_clock_goes_back(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with one(ready) as store:
        monkeypatch.setattr(event_log, "_micros", lambda: 5_000_000)
        add(store, "one", "two")
        await written(store)
        monkeypatch.setattr(event_log, "_micros", lambda: 4_000_000)
        add(store, "three")
        await written(store)
        assert [event.id for event in (await log_of(store).page(0, 9)).events] == [5_000_000, 5_000_001, 5_000_002]


async def test_ids_do_not_start_over_in_another_database(tmp_path: Path) -> None:
    newest = []
    for name in ("old.db", "new.db"):
        async with one(f"sqlite:///{tmp_path}/{name}") as store:
            before = time.time_ns() // 1000
            add(store, "one")
            await written(store)
            newest.append((await log_of(store).page(0, 9)).newest)
            assert newest[-1] >= before
    assert newest[0] < newest[1]


# --- when the database does not write ---


async def test_events_wait_for_a_database_that_is_away(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "FIRST_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(event_log, "LAST_RETRY_SECONDS", 0.05)
    async with one(outage.url) as store:
        add(store, "before")
        await written(store)
        await outage.begin()
        add(store, "one", "two")
        await asyncio.sleep(0.3)
        add(store, "three")
        await outage.end()
        await written(store)
        assert bodies(await log_of(store).page(0, 9)) == ["before", "one", "two", "three"]


async def test_too_many_of_them_are_dropped_and_readers_are_told(
    outage: Outage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_log, "FIRST_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(event_log, "LAST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(event_log, "MAX_WAITING_BYTES", 3 * (event_log.ROW_BYTES + 1))
    async with one(outage.url) as store:
        add(store, "0")
        await written(store)
        await outage.begin()
        add(store, *"123456789")
        assert len(log_of(store)._waiting) == 3
        await outage.end()
        await written(store)
        for sid in (None, SID, OTHER):
            page = await log_of(store).page((await log_of(store).page(0, 1)).oldest, 9, call_sid=sid)
            assert page.events[0].type == event_log.MISSED
            assert bodies(page)[1:] == ([] if sid == OTHER else ["7", "8", "9"])
        add(store, "x")
        await written(store)
        assert bodies(await log_of(store).page(0, 9)) == ["0", "", "7", "8", "9", "x"]  # told once
    assert "6 events did not reach their readers: the database was away for too long" in caplog.text


def unconfirmed(store: Store, monkeypatch: pytest.MonkeyPatch, *meanwhile: str) -> None:
    """Let the answers to the next commits be lost; `meanwhile` are the events that come during each of them."""
    write, coming = store._database.write, iter(meanwhile)

    async def lost(work: Any) -> Any:
        found = await write(work)
        if (bodies := next(coming, None)) is None:
            return found
        add(store, *bodies)
        raise StoreError("it does not answer", retry=True)

    monkeypatch.setattr(store._database, "write", lost)


async def test_events_whose_commit_was_not_confirmed_are_written_once(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "FIRST_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(event_log, "LAST_RETRY_SECONDS", 0.05)
    async with stores(ready) as (here, there):
        told: list[LoggedEvent] = []
        log_of(here).committed = lambda newest, events: told.extend(events)
        unconfirmed(here, monkeypatch, "45", "6")
        add(here, *"123")
        await written(here)
        everything = (await log_of(there).page(0, 99)).events
        assert [event.body for event in everything] == list("123456")
        assert told == everything


async def test_those_of_them_that_are_dropped_meanwhile_were_written_too(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "MAX_WAITING_BYTES", 4 * (event_log.ROW_BYTES + 1))
    async with stores(ready) as (here, there):
        unconfirmed(here, monkeypatch, "45")
        add(here, *"123")
        await until(lambda: len(log_of(here)._waiting) == 5)  # it is to be tried again
        add(here, "6")
        assert [event.body for event in log_of(here)._waiting] == list("3456")
        await written(here)
        assert bodies(await log_of(there).page(0, 99)) == [*"123", "", *"456"]


async def test_what_the_database_refuses_is_dropped_and_readers_are_told(
    ready: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with one(ready) as store:
        log_of(store).add(SID, "MZ1", None, "a secret")  # type: ignore[arg-type]
        await written(store)
        add(store, "after")
        await written(store)
        page = await log_of(store).page(0, 9)
        assert [event.type for event in page.events] == [event_log.MISSED, "trouble"]
    assert "1 events did not reach their readers: the database refused them" in caplog.text
    assert "secret" not in caplog.text


async def test_what_is_not_written_at_the_end_is_counted(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    async with one(outage.url) as store:
        add(store, "before")
        await written(store)
        await outage.begin()
        add(store, "one", "two")
    assert "2 events did not reach their readers: the database cannot write them" in caplog.text


# --- erasing and deleting ---


@pytest.mark.parametrize("by", [SID, CALLER])
async def test_events_of_a_forgotten_call_are_erased_and_no_more_are_written(ready: str, by: str) -> None:
    async with stores(ready) as (here, there):
        here.tell(started())
        here.tell(started(OTHER, caller="+15550100009"))
        add(here, "a word of theirs")
        add(here, "a word of others", sid=OTHER)
        add(here, "another word of theirs")
        await written(here)
        await here.flush()
        newest = (await log_of(here).page(0, 9)).newest
        assert await there.forget(by) == 1
        add(here, "a late word of theirs")
        add(here, "a late word of others", sid=OTHER)
        await written(here)
        assert bodies(await log_of(there).page(0, 9)) == ["a word of others", "a late word of others"]
        assert (await log_of(there).page(newest, 9)).oldest < newest  # a reader of the erased one has missed nothing
        left = await rows_left(there, schema.events)
        assert not [row for row in left if SID in row or "theirs" in row.body]
        assert len(left) == 4


@pytest.mark.parametrize("by", [SID, "+15550100005"])
async def test_events_of_a_call_that_was_never_answered_are_erased_too(ready: str, by: str) -> None:
    async with one(ready) as store:
        made = await store.outbound.add("+15550100005", {}, None)
        await store.outbound.tell(made.id, SID, "busy")
        add(store, "nobody was there")
        add(store, "a word of others", sid=OTHER)
        await log_of(store).flush()
        await store.forget(by)
        assert bodies(await log_of(store).page(0, 9)) == ["a word of others"]


async def test_what_was_erased_is_in_no_file(tmp_path: Path) -> None:
    async with one(f"sqlite:///{tmp_path}/phoneagent.db") as store:
        store.tell(started())
        add(store, "a word of theirs")
        await written(store)
        await store.forget(SID)
    assert contents(tmp_path)
    assert not any(b"a word of theirs" in each for each in contents(tmp_path))


async def test_events_go_with_the_records_that_are_deleted(ready: str) -> None:
    async with one(ready) as store:
        store.tell(started())
        add(store, "one")
        add(store, "else", sid=OTHER)
        await written(store)
        await store.flush()
        assert await store.settle(SID, ended_by="caller", reason="x")
        await asyncio.sleep(0.002)
        assert await store.sweep(days=0) == 1
        assert bodies(await log_of(store).page(0, 9)) == ["else"]


async def test_old_events_are_deleted_in_small_pieces_and_the_newest_keeps_its_id(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "ROWS", 2)
    monkeypatch.setattr(sweeping, "REST_SECONDS", 0.001)
    day = int(timedelta(days=1).total_seconds() * 1e6)
    now = event_log._micros()
    async with one(ready) as store:
        monkeypatch.setattr(event_log, "_micros", lambda: now - day - 1000)
        add(store, *"12345")
        await written(store)
        monkeypatch.setattr(event_log, "_micros", lambda: now - day + 1000)
        add(store, "6")
        await written(store)
        monkeypatch.setattr(event_log, "_micros", lambda: now)
        assert await log_of(store).sweep() == 5
        page = await log_of(store).page(0, 9)
        assert (bodies(page), page.oldest) == (["6"], page.events[0].id)
        monkeypatch.setattr(event_log, "_micros", lambda: now + day)
        assert await log_of(store).sweep() == 0
        assert await log_of(store).page(0, 9) == Page([], page.newest, page.newest)
        monkeypatch.setattr(event_log, "_micros", lambda: 0)
        add(store, "7")
        await written(store)
        assert (await log_of(store).page(0, 9)).events[0].id == page.newest + 1


async def test_a_log_that_is_no_longer_written_is_deleted_with_old_records(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one(ready) as store:
        add(store, "1", "2")
        await written(store)
    now = event_log._micros()
    async with Store.from_url(ready, record_days=0) as store:
        await store.sweep()
        assert len(await rows_left(store, schema.events)) == 2
        monkeypatch.setattr(event_log, "_micros", lambda: now + int(timedelta(days=1).total_seconds() * 1e6))
        await store.sweep()
        assert [row.body for row in await rows_left(store, schema.events)] == [""]


async def test_the_number_of_events_is_bounded(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MAX_ROWS", 3)
    async with one(ready) as store:
        add(store, *"12345")
        await written(store)
        assert await log_of(store).sweep() == 2
        assert bodies(await log_of(store).page(0, 9)) == ["3", "4", "5"]


async def test_they_are_deleted_from_time_to_time(
    ready: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(event_log, "MAX_ROWS", 1)
    monkeypatch.setattr(event_log, "SWEEP_SECONDS", 0.01)
    async with one(ready) as store:
        add(store, *"123")
        await written(store)

        async def left() -> int:
            return len((await log_of(store).page(0, 9)).events)

        async with asyncio.timeout(HANG_SECONDS):
            while await left() > 1:
                await asyncio.sleep(0.01)
    assert not caplog.records
