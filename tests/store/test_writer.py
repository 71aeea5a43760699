"""The writer: what it writes together, and a database that refuses, is away, full or silent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from phoneagent.errors import StoreError
from phoneagent.events import Event
from phoneagent.store import Store, database, store, writer
from phoneagent.store.rows import Row, RowBuilder
from phoneagent.store.writer import Writer
from tests.patience import HANG_SECONDS
from tests.store.conftest import (
    CALLER,
    GREETING,
    OFFER,
    SID,
    WHOLE,
    WISH,
    Outage,
    ended,
    said,
    started,
    until,
    written,
)

pytestmark = pytest.mark.anyio
OTHER = "CA" + "2" * 32
GONE = StoreError("gone")
REFUSED = StoreError("refused", retry=False)


# --- with a database that says what the test wants ---


class FakeDatabase:
    """Takes what it is given, or raises what comes next in `failures`. `known` calls have a record."""

    dialect = "sqlite"

    def __init__(self, *failures: BaseException | None, known: Iterable[str] = (SID, OTHER)) -> None:
        self.failures = list(failures)
        self.known = set(known)
        self.transactions: list[list[dict[str, Any]]] = []
        self.tries: list[int] = []
        self.poison: str | None = None
        """The `item_id` of a turn that is refused."""
        self.hangs = False

    async def write(self, work: Any) -> Any:
        self._written: list[dict[str, Any]] = []
        if self.hangs:
            await asyncio.Event().wait()
        await work(self)
        self.tries.append(len(self._written))
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        if any(self.poison is not None and row.get("item_id") == self.poison for row in self._written):
            raise REFUSED
        self.transactions.append(self._written)

    async def execute(self, statement: sa.UpdateBase, rows: list[dict[str, Any]]) -> None:
        self._written += [{"table": statement.table.name, "verb": statement.__visit_name__, **row} for row in rows]

    async def scalars(self, statement: sa.Select[Any]) -> list[str]:
        return sorted(self.known)

    @property
    def items(self) -> list[str]:
        return [row["item_id"] for rows in self.transactions for row in rows if "item_id" in row]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for between two tries."""
    for name in ("LINGER_SECONDS", "FIRST_RETRY_SECONDS", "LAST_RETRY_SECONDS"):
        monkeypatch.setattr(writer, name, 0.0)


def rows_of(*events: Event) -> list[Row]:
    builder = RowBuilder()
    return [row for event in events for row in builder.rows(event)]


def turns(number: int, sid: str = SID) -> list[Event]:
    return [said(replace(WISH, item_id=f"item_{each}"), sid) for each in range(number)]


def fake(*failures: BaseException | None, **options: Any) -> tuple[FakeDatabase, Writer]:
    made = FakeDatabase(*failures)
    return made, Writer(made, **options)  # type: ignore[arg-type]


async def test_without_rows_there_is_nothing_to_wait_for() -> None:
    base, target = fake()
    await target.flush()
    await target.close(1)
    assert base.tries == []


async def test_rows_are_gathered_and_written_in_one_transaction() -> None:
    base, target = fake()
    for event in (started(), *turns(3)):
        target.add(rows_of(event))
    assert target.waiting == 5
    await target.flush()
    assert (base.tries, target.waiting) == ([5], 0)
    assert base.items == ["item_0", "item_1", "item_2"]


async def test_calls_are_written_before_what_hangs_on_them_in_the_same_order_by_every_process() -> None:
    base, target = fake()
    target.add(rows_of(*turns(1, OTHER), *turns(1), started(OTHER), started()))
    await target.flush()
    (rows,) = base.transactions
    assert [(row["table"], row["of_call"]) for row in rows] == [
        (table, sid) for table in ("calls", "streams", "turns") for sid in (SID, OTHER)
    ]


async def test_nothing_is_kept_of_a_call_without_a_record() -> None:
    base, target = fake()
    base.known.remove(OTHER)
    target.add(rows_of(*turns(1, OTHER), *turns(2)))
    await target.flush()
    assert [row["of_call"] for row in base.transactions[0]] == [SID, SID]


async def test_a_batch_that_failed_is_written_before_what_came_later(caplog: pytest.LogCaptureFixture) -> None:
    base, target = fake(GONE)
    first, second, third = turns(3)
    target.add(rows_of(first, second))
    with pytest.raises(StoreError, match="gone"):
        await target.flush()
    assert target.waiting == 2
    target.add(rows_of(third))
    await target.flush()
    assert base.items == ["item_0", "item_1", "item_2"]
    assert [text for text in caplog.messages if "not recorded" in text or "written again" in text] == [
        "calls are not recorded: gone; trying again until it works",
        "call records are written again: 0 were lost, 0 are waiting",
    ]


@pytest.mark.usefixtures("at_once")
async def test_without_a_waiting_task_it_is_tried_again_until_it_works() -> None:
    base, target = fake(GONE, GONE, GONE)
    target.add(rows_of(*turns(1)))
    await until(lambda: not target.waiting and base.items)
    assert base.tries == [1, 1, 1, 1]


async def test_one_row_that_is_refused_is_found_and_the_others_are_written(caplog: pytest.LogCaptureFixture) -> None:
    base, target = fake()
    base.poison = "item_2"
    target.add(rows_of(started(), *turns(5)))
    await target.flush()
    assert base.items == ["item_0", "item_1", "item_3", "item_4"]
    assert base.tries == [7, *[1] * 7]
    assert [text for text in caplog.messages if "lost" in text] == [
        "a call record (turn) is lost: the database refused it: refused"
    ]
    target.add(rows_of(*turns(2)))
    await target.flush()
    assert base.tries[8:] == [2], "after the search they are written together again"


async def test_a_fault_of_ours_costs_the_row_that_it_is_about(caplog: pytest.LogCaptureFixture) -> None:
    base, target = fake(KeyError("item_0"))
    target.add(rows_of(*turns(1)))
    await target.flush()
    target.add(rows_of(started()))
    await target.flush()
    assert (base.items, [row["table"] for row in base.transactions[0]]) == ([], ["calls", "streams"])
    assert "calls cannot be recorded because of a bug in phoneagent" in caplog.messages


async def test_a_wait_that_is_given_up_takes_no_other_with_it() -> None:
    base, target = fake()
    target.add(rows_of(started()))
    impatient, patient = asyncio.create_task(target.flush()), asyncio.create_task(target.flush())
    await asyncio.sleep(0)
    impatient.cancel()
    await patient
    assert impatient.cancelled()
    assert len(base.transactions) == 1


@pytest.mark.parametrize(("keep_ended", "verbs"), [(True, ["update"] * 2), (False, ["update"] * 2 + ["delete"])])
async def test_an_ended_call_is_deleted_where_nothing_is_kept(keep_ended: bool, verbs: list[str]) -> None:
    base, target = fake(keep_ended=keep_ended)
    builder = RowBuilder()
    builder.rows(started())
    target.add(builder.rows(ended()))
    await target.flush()
    assert [row["verb"] for row in base.transactions[0]] == verbs


async def test_closing_gives_up_on_a_database_that_hangs_and_counts_what_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    base, target = fake()
    base.hangs = True
    target.add(rows_of(started(), *turns(3)))
    async with asyncio.timeout(HANG_SECONDS):
        await target.close(0.01)
    assert target.waiting == 5
    assert "5 call records were not written" in caplog.text


async def test_closing_tries_once_more_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    base, target = fake(GONE, GONE, GONE)
    target.add(rows_of(started()))
    async with asyncio.timeout(HANG_SECONDS):
        await target.close(60)
    assert base.tries == [2]
    assert "2 call records were not written" in caplog.text


# --- with real databases ---


async def test_an_outage_is_told_once_and_everything_is_recorded_after_it(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    async with Store.from_url(outage.url) as kept:
        kept.tell(started())
        await kept.flush()
        await outage.begin()
        for event in WHOLE[1:]:
            kept.tell(event)
        for _ in range(3):
            with pytest.raises(StoreError, match=r"SQLite|PostgreSQL"):
                await kept.flush()
        await outage.end()
        await written(kept)
        record = await kept.call(SID)
        assert record is not None
        assert record.turns == (GREETING, WISH, OFFER)
        assert (record.ended_by, record.duration_ms) == ("agent", 9000)
        assert caplog.text.count("calls are not recorded") == 1
        assert caplog.text.count("call records are written again: 0 were lost") == 1
        for secret in (CALLER, GREETING.text, "Booked"):
            assert secret not in caplog.text


async def test_what_waits_is_bounded_and_the_end_of_a_call_is_kept(
    outage: Outage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "MAX_DETAIL_BYTES", 20_000)
    async with Store.from_url(outage.url) as kept:
        kept.tell(started())
        await kept.flush()
        await outage.begin()
        for number in range(500):
            kept.tell(said(replace(WISH, item_id=f"item_{number}", start_ms=number, text="words " * 100)))
        kept.tell(ended())
        with pytest.raises(StoreError):
            await kept.flush()
        assert kept._writer.waiting < 50
        await outage.end()
        await written(kept)
        record = await kept.call(SID)
        assert record is not None
        assert record.ended_by == "agent"
        assert 0 < len(record.turns) < 50
        assert record.turns[-1].item_id == "item_499"
        assert " were lost, " in caplog.text


async def test_starts_and_ends_are_bounded_as_well(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_CALL_ROWS", 10)
    async with Store.from_url(outage.url) as kept:
        await outage.begin()
        for number in range(50):
            kept.tell(started(f"CA{number:032x}"))
        assert len(kept._writer._calls) == 10
        await outage.end()
        await written(kept)
        assert {record.call_sid for record in await kept.calls()} == {f"CA{number:032x}" for number in range(40, 50)}


async def test_a_full_disk_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FIRST_RETRY_SECONDS", 0.02)
    async with Store.from_url(f"sqlite:///{tmp_path}/phoneagent.db") as kept:
        kept.tell(started())
        await kept.flush()
        full = True

        @sa.event.listens_for(kept._database.writing.sync_engine, "checkout")
        def limit(connection: Any, *_: Any) -> None:
            pages = 1 if full else 2**30  # 1 stands for what there is, and not a page more
            connection.cursor().execute(f"PRAGMA max_page_count={pages}")

        for number in range(200):
            kept.tell(said(replace(WISH, item_id=f"item_{number}", text="words " * 200)))
        kept.tell(ended())
        with pytest.raises(StoreError, match="full"):
            await kept.flush()
        full = False
        await kept.flush()
        record = await kept.call(SID)
        assert record is not None
        assert (record.ended_by, len(record.turns)) == ("agent", 200)


async def test_closing_while_the_database_is_away_ends_and_says_what_is_lost(
    outage: Outage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Store.from_url(outage.url)
    await outage.begin()
    kept.tell(started())
    async with asyncio.timeout(HANG_SECONDS):
        await kept.close()
    assert "2 call records were not written" in caplog.text


async def test_closing_writes_what_waits(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
    async with Store.from_url(ready) as kept:
        assert len(await kept.calls()) == 1


async def test_a_hanging_database_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It neither answers nor refuses."""
    monkeypatch.setattr(database, "TRANSACTION_SECONDS", 0.2)
    lines: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda reader, writer: lines.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with Store.from_url(f"postgres://someone:s3cret@127.0.0.1:{port}/calls?sslmode=disable") as kept:
        kept.tell(started())
        with pytest.raises(StoreError, match="does not answer"):
            await kept.flush()
        monkeypatch.setattr(store, "CLOSE_SECONDS", 0.3)
    silent.close()
    for line in lines:
        line.close()
    assert "s3cret" not in caplog.text


async def test_a_row_that_is_refused_is_lost_alone(ready: str, caplog: pytest.LogCaptureFixture) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        kept.tell(said(GREETING))
        kept.tell(said(replace(WISH, heard_ms=2**70)))
        kept.tell(said(OFFER))
        record = await kept.call(SID)
        assert record is not None
        assert record.turns == (GREETING, OFFER)
        assert "a call record (turn) is lost" in caplog.text
        assert WISH.text not in caplog.text


async def test_nothing_runs_while_there_is_nothing_to_write(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        await kept.flush()
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "phoneagent store"])


async def test_waiting_for_what_was_told_is_not_waiting_for_what_is_told_meanwhile(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Store.from_url(ready) as kept:
        write, numbers = kept._database.write, count()

        async def busy_write(work: Any) -> Any:
            kept.tell(said(replace(WISH, item_id=f"item_{next(numbers)}")))  # another call, as it were
            return await write(work)

        monkeypatch.setattr(kept._database, "write", busy_write)
        kept.tell(started())
        async with asyncio.timeout(HANG_SECONDS):
            await kept.tool_started(SID, "call_1", "book", "{}")
        assert kept._writer.waiting
        monkeypatch.undo()
        record = await kept.call(SID)
        assert record is not None
        assert len(record.turns) == next(numbers)
