"""Records of calls: on both databases, while they work, while they do not, and once they do again."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.errors import ConfigurationError, StoreError
from phoneagent.events import (
    AgentAnswered,
    BargeIn,
    CallEnded,
    CallStarted,
    Event,
    NextStep,
    ToolCalled,
    ToolReturned,
    Turn,
    TurnEnded,
)
from phoneagent.store import Store, database, rows, schema, store, writer
from phoneagent.store.database import Database

pytestmark = pytest.mark.anyio

POSTGRES = os.environ.get("TEST_DATABASE_URL")
SID = "CA" + "1" * 32
CALLER, CALLED = "+33123456789", "+33987654321"

GREETING = Turn(
    role="agent",
    item_id="item_1",
    text="Chez Nous, good evening!",
    heard_text="Chez Nous, good evening!",
    start_ms=20,
    end_ms=1520,
    said_ms=1500,
    heard_ms=1500,
)
WISH = replace(
    GREETING, role="caller", item_id="item_2", text="A table", heard_text="A table", start_ms=2000, end_ms=3000
)
OFFER = replace(
    GREETING,
    item_id="item_3",
    text="We have one by the window",
    heard_text="We have one",
    start_ms=3600,
    end_ms=4400,
    said_ms=2500,
    heard_ms=800,
    interrupted=True,
)


def started(sid: str = SID, **changes: Any) -> CallStarted:
    values = {"stream_sid": "MZ1", "caller": CALLER, "called": CALLED, "direction": "inbound", **changes}
    return CallStarted(call_sid=sid, **values)


def said(turn: Turn, sid: str = SID) -> TurnEnded:
    return TurnEnded(call_sid=sid, turn=turn)


def ended(sid: str = SID, **changes: Any) -> CallEnded:
    values = {"ended_by": "agent", "reason": "the goodbye was heard", "duration_ms": 9000, "transcript": (), **changes}
    return CallEnded(call_sid=sid, **values)


TOOL = ToolCalled(call_sid=SID, at_ms=3100, call_id="call_1", name="book", arguments='{"guests":4}')
RETURNED = ToolReturned(call_sid=SID, at_ms=3150, call_id="call_1", name="book", output="Booked", ms=50)
ANSWERED = AgentAnswered(call_sid=SID, at_ms=3600, latency_ms=600)
WHOLE: list[Event] = [
    started(),
    said(GREETING),
    said(WISH),
    TOOL,
    RETURNED,
    ANSWERED,
    BargeIn(call_sid=SID, at_ms=4400, item_id="item_3", audio_end_ms=800, said_ms=2500),
    said(OFFER),
    ended(transcript=(GREETING, WISH, OFFER)),
]


# --- the databases ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database: a new file, or a new schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/phoneagent.db"
        return
    if POSTGRES is None:
        pytest.skip("TEST_DATABASE_URL names no PostgreSQL")
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(POSTGRES)
    await connection.execute(f"CREATE SCHEMA {name}")
    yield f"{POSTGRES}?search_path={name}"
    await connection.execute(f"DROP SCHEMA {name} CASCADE")
    await connection.close()


@pytest.fixture
async def ready(url: str) -> str:
    """A database with its tables."""
    await upgrade(url)
    return url


async def upgrade(url: str) -> str:
    base = Database(url)
    try:
        return await base.upgrade()
    finally:
        await base.close()


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def written(kept: Store) -> None:
    """Wait until the database is back and everything is written."""
    async with asyncio.timeout(10):
        while True:
            try:
                await kept.flush()
                return
            except StoreError:
                await asyncio.sleep(0.005)


async def rows_left(kept: Store, *tables: sa.Table) -> list[Any]:
    async def read(connection: AsyncConnection) -> list[Any]:
        return [row for table in tables for row in await connection.execute(sa.select(table))]

    return await kept._database.read(read)


def contents(folder: Path) -> list[bytes]:
    """Return what is in the files of a folder."""
    return [file.read_bytes() for file in folder.iterdir()]


async def a_moment() -> None:
    """Wait until the clock of the records has moved on."""
    seen = rows.now()
    await until(lambda: (rows.now() - seen).total_seconds() > 0.002)


class Outage:
    """A database that can be taken away and given back: SQLite by a lock, PostgreSQL by a cut line."""

    def __init__(self, url: str) -> None:
        self.url = self._target = url
        self._lock: sqlite3.Connection | None = None
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()
        self._holder: Any = None

    @property
    def is_sqlite(self) -> bool:
        return self._target.startswith("sqlite")

    async def open(self) -> None:
        if not self.is_sqlite:
            self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
            self._port = self._server.sockets[0].getsockname()[1]
            parts = urlsplit(self._target)
            self.url = self._target.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{self._port}")

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self._target)
        there_reader, there_writer = await asyncio.open_connection(parts.hostname, parts.port)
        self._lines |= {writer, there_writer}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    async def begin(self) -> None:
        if self.is_sqlite:
            path = self._target.removeprefix("sqlite:///")
            self._lock = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            # In a thread: the writer that is to be locked out may be at work, and needs this loop to finish.
            await asyncio.to_thread(self._lock.execute, "BEGIN IMMEDIATE")
            return
        assert self._server is not None
        self._server.close()
        for line in self._lines:
            line.transport.abort()
        self._lines.clear()

    async def hold(self) -> None:
        """Make writers of next steps wait, until the end."""
        if self.is_sqlite:
            await self.begin()
        else:
            self._holder = await asyncpg.connect(self._target)
            await self._holder.execute("BEGIN; LOCK TABLE next_steps")

    async def end(self) -> None:
        if self._holder is not None:
            await self._holder.close()
            self._holder = None
        if self._lock is not None:
            self._lock.execute("ROLLBACK")
            self._lock.close()
            self._lock = None
        elif self._server is not None and not self._server.is_serving():
            self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)

    async def close(self) -> None:
        await self.end()
        if self._server is not None:
            self._server.close()
            for line in self._lines:
                line.transport.abort()


@pytest.fixture
async def outage(ready: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Outage]:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(writer, "FIRST_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(writer, "LAST_RETRY_SECONDS", 0.05)
    made = Outage(ready)
    await made.open()
    yield made
    await made.close()


@asynccontextmanager
async def stores(url: str, count: int = 2) -> AsyncIterator[list[Store]]:
    """Several processes' worth of stores on one database."""
    made = [Store.from_url(url) for _ in range(count)]
    yield made
    for each in made:
        await each.close()


# --- records ----------------------------------------------------------------------------------------------------------


async def test_a_call_is_recorded_as_it_happened(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        for event in WHOLE:
            kept.tell(event)
        record = await kept.call(SID)
        assert record is not None
        assert (record.caller, record.called, record.direction, record.stream_sid) == (CALLER, CALLED, "inbound", "MZ1")
        assert (record.ended_by, record.reason, record.duration_ms) == ("agent", "the goodbye was heard", 9000)
        assert record.turns == (GREETING, WISH, OFFER)
        assert [(tool.name, tool.arguments, tool.output, tool.at_ms, tool.ms) for tool in record.tools] == [
            ("book", '{"guests":4}', "Booked", 3100, 50)
        ]
        assert [(answer.at_ms, answer.latency_ms) for answer in record.answers] == [(3600, 600)]
        assert record.latency_ms(0.5) == record.latency_ms(0.95) == 600
        assert CALLER not in repr(record)
        assert GREETING.text not in repr(record)
        (listed,) = await kept.calls()
        assert (listed.call_sid, listed.started_at, listed.duration_ms) == (SID, record.started_at, 9000)


async def test_another_process_reads_it_within_a_second_while_the_call_goes_on(ready: str) -> None:
    async with stores(ready) as (ours, theirs):
        ours.tell(started())
        ours.tell(said(GREETING))
        async with asyncio.timeout(1.0):
            while (record := await theirs.call(SID)) is None or not record.turns:
                await asyncio.sleep(0.02)
        assert record.ended_by is None
        assert record.duration_ms is None


async def test_duplicates_change_nothing(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        for event in WHOLE:
            kept.tell(event)
        once = await kept.call(SID)
        for event in [*WHOLE, *WHOLE]:
            kept.tell(event)
            await kept.flush()
        assert await kept.call(SID) == once


async def test_the_order_in_which_facts_arrive_changes_nothing(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        for event in reversed(WHOLE):
            kept.tell(event)
            await kept.flush()
        record = await kept.call(SID)
        assert record is not None
        assert [turn.text for turn in record.turns] == [GREETING.text, WISH.text, OFFER.text]
        assert [(tool.arguments, tool.output, tool.ms) for tool in record.tools] == [('{"guests":4}', "Booked", 50)]
        assert (record.caller, record.ended_by) == (CALLER, "agent")


async def test_a_resumed_call_is_one_record_on_one_clock(ready: str) -> None:
    async with stores(ready) as (first, second):
        first.tell(started())
        first.tell(said(GREETING))
        await first.flush()
        before = await first.call(SID)
        second.tell(started(stream_sid="MZ2"))  # another process; its model numbers items from 1 as well
        second.tell(said(replace(WISH, item_id="item_1", start_ms=100, end_ms=900)))
        second.tell(ended(duration_ms=5000))
        record = await second.call(SID)
        assert before is not None
        assert record is not None
        assert [turn.text for turn in record.turns] == [GREETING.text, WISH.text]
        assert record.turns[1].start_ms >= 0
        assert (record.started_at, record.stream_sid) == (before.started_at, "MZ2")
        assert record.duration_ms is not None
        assert record.duration_ms >= 5000
        first.tell(started())  # a late duplicate does not open it again
        await first.flush()
        again = await second.call(SID)
        assert again is not None
        assert again.ended_by == "agent"


async def test_a_text_that_came_late_is_in_the_record(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        kept.tell(said(replace(GREETING, text="", heard_text="")))
        await kept.flush()
        kept.tell(ended(transcript=(GREETING,)))
        record = await kept.call(SID)
        assert record is not None
        assert record.turns == (GREETING,)


async def test_text_that_no_database_takes_is_cleaned(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started(caller="+1\x00555\ud800"))
        kept.tell(said(replace(GREETING, text="a\x00b\udfffc 😀", heard_text="")))
        record = await kept.call(SID)
        assert record is not None
        assert record.caller == "+1555?"
        assert record.turns[0].text == "ab?c 😀"


async def test_a_row_that_is_refused_is_lost_alone(ready: str, caplog: pytest.LogCaptureFixture) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        kept.tell(said(GREETING))
        kept.tell(said(replace(WISH, heard_ms=2**70)))
        kept.tell(said(OFFER))
        record = await kept.call(SID)
        assert record is not None
        assert record.turns == (GREETING, OFFER)
        assert "a fact of a call (turn) is lost" in caplog.text
        assert WISH.text not in caplog.text


async def test_the_latest_calls_are_listed_first(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        for number in range(4):
            kept.tell(started(f"CA{number:032x}"))
            await a_moment()
        assert [record.call_sid[-1] for record in await kept.calls(3)] == ["3", "2", "1"]


async def test_nothing_runs_while_there_is_nothing_to_write(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        await kept.flush()
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "phoneagent store"])


async def test_what_is_told_outside_of_a_loop_is_reported_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Store.from_url(f"sqlite:///{tmp_path}/phoneagent.db")
    await asyncio.to_thread(kept.tell, started())
    assert "an event was not recorded: CallStarted" in caplog.text
    await kept.close()


# --- the journal ------------------------------------------------------------------------------------------------------


async def test_a_tool_that_started_is_known_to_others_before_it_runs(ready: str) -> None:
    async with stores(ready) as (ours, theirs):
        ours.tell(started())
        await ours.tool_started(SID, "call_1", "book", '{"guests":4}')
        record = await theirs.call(SID)
        assert record is not None
        assert [(tool.call_id, tool.name, tool.output) for tool in record.tools] == [("call_1", "book", None)]
        ours.tell(TOOL)
        ours.tell(RETURNED)
        record = await ours.call(SID)
        assert record is not None
        assert [(tool.call_id, tool.output) for tool in record.tools] == [("call_1", "Booked")]


async def test_the_next_step_is_known_to_others(ready: str) -> None:
    async with stores(ready) as (ours, theirs):
        await ours.next_step(SID, NextStep(kind="transfer", data={"to": CALLER, "seconds": 20}))
        step = await theirs.step_after(SID)
        assert step == NextStep(kind="transfer", data={"to": CALLER, "seconds": 20})
        assert CALLER not in repr(step)
        await theirs.next_step(SID, NextStep(kind="hang_up"))
        assert await ours.step_after(SID) == NextStep(kind="hang_up")
        assert await ours.step_after("CA0") is None


async def test_a_next_step_that_could_not_be_written_never_is(outage: Outage) -> None:
    async with Store.from_url(outage.url) as kept:
        kept.tell(started())
        await kept.flush()
        await outage.begin()
        with pytest.raises(StoreError):
            await kept.next_step(SID, NextStep(kind="hang_up"))
        await outage.end()
        kept.tell(ended())
        await kept.flush()
        assert await kept.step_after(SID) is None


async def test_a_next_step_that_the_call_did_not_wait_for_is_not_written(
    outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    if outage.is_sqlite:
        monkeypatch.setattr(database, "BUSY_SECONDS", 5.0)
    async with Store.from_url(outage.url) as kept:
        await kept.next_step(SID, NextStep(kind="hang_up"))
        await outage.hold()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await kept.next_step(SID, NextStep(kind="transfer"))
        await outage.end()
        await until(lambda: not kept._database._at_work)
        assert await kept.step_after(SID) == NextStep(kind="hang_up")


async def test_a_tool_whose_start_could_not_be_written_says_so_and_is_written_later(outage: Outage) -> None:
    async with Store.from_url(outage.url) as kept:
        kept.tell(started())
        await kept.flush()
        await outage.begin()
        with pytest.raises(StoreError):
            await kept.tool_started(SID, "call_1", "book", "{}")
        await outage.end()
        await written(kept)
        record = await kept.call(SID)
        assert record is not None
        assert [tool.call_id for tool in record.tools] == ["call_1"]


async def test_an_end_from_elsewhere_closes_only_what_is_open(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        assert not await kept.settle(SID, ended_by="caller", reason="completed")
        assert await kept.call(SID) is None
        kept.tell(started())
        assert await kept.settle(SID, ended_by="caller", reason="completed")
        assert not await kept.settle(SID, ended_by="error", reason="failed")
        record = await kept.call(SID)
        assert record is not None
        assert (record.ended_by, record.reason) == ("caller", "completed")
        kept.tell(ended())  # the session knows better
        record = await kept.call(SID)
        assert record is not None
        assert record.ended_by == "agent"


async def test_a_name_is_claimed_once_by_all_processes(ready: str) -> None:
    async with stores(ready, 3) as several:
        taken = await asyncio.gather(*(each.claim("token", 60) for each in several for _ in range(3)))
        assert sorted(taken) == [False] * 8 + [True]
        assert await several[0].claim("expired", -1)
        assert await several[1].claim("expired", 60)
        assert not await several[2].claim("expired", 60)


# --- forgetting -------------------------------------------------------------------------------------------------------


async def test_a_call_is_forgotten_with_all_that_hangs_on_it(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        other = "CA" + "2" * 32
        for event in WHOLE:
            kept.tell(event)
        kept.tell(started(other))
        await kept.next_step(SID, NextStep(kind="hang_up"))
        assert await kept.forget(SID) == 1
        assert await kept.forget(SID) == 0
        assert await kept.call(SID) is None
        assert await kept.step_after(SID) is None
        assert [record.call_sid for record in await kept.calls()] == [other]
        assert await rows_left(kept, schema.turns, schema.tools, schema.answers) == []


async def test_a_number_is_forgotten_where_it_is_the_person_s(ready: str) -> None:
    inbound, outbound, ours = (f"CA{number:032x}" for number in range(3))
    async with Store.from_url(ready) as kept:
        kept.tell(started(inbound))
        kept.tell(started(outbound, caller=CALLED, called=CALLER, direction="outbound-api"))
        kept.tell(started(ours, caller="+4930123456", called=CALLER))  # called, but by somebody else
        assert await kept.forget(" +33 (1) 23-45.67 89 ") == 2
        assert [record.call_sid for record in await kept.calls()] == [ours]


async def test_a_live_call_that_is_forgotten_stays_so(ready: str) -> None:
    async with stores(ready) as (ours, theirs):
        ours.tell(started())
        ours.tell(said(GREETING))
        await ours.flush()
        assert await theirs.forget(SID) == 1
        for event in WHOLE[2:]:
            ours.tell(event)
        assert await ours.call(SID) is None


async def test_what_is_forgotten_is_no_longer_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "phoneagent.db"
    async with Store.from_url(f"sqlite:///{path}") as kept:
        for event in WHOLE:
            kept.tell(event)
        await kept.flush()
        assert OFFER.text.encode() in path.read_bytes()
        await kept.forget(CALLER)
    for content in contents(tmp_path):
        assert OFFER.text.encode() not in content
        assert CALLER.encode() not in content


async def test_with_record_days_0_nothing_is_left_after_the_call(ready: str) -> None:
    async with Store.from_url(ready, record_days=0) as kept:
        for event in WHOLE[:-1]:
            kept.tell(event)
        assert await kept.call(SID) is not None
        await kept.next_step(SID, NextStep(kind="hang_up"))
        kept.tell(WHOLE[-1])
        assert await kept.call(SID) is None
        kept.tell(RETURNED)  # a tool that was slower than its call
        kept.tell(WHOLE[-1])
        assert await kept.calls() == []
        assert await kept.step_after(SID) == NextStep(kind="hang_up")  # Twilio is going to ask for it
        kept.tell(started())
        assert await kept.settle(SID, ended_by="caller", reason="completed")
        assert await kept.calls() == []


async def test_old_records_are_swept(ready: str) -> None:
    live, old = f"CA{1:032x}", f"CA{2:032x}"
    async with Store.from_url(ready) as kept:
        kept.tell(started(live))
        kept.tell(started(old))
        kept.tell(ended(old, duration_ms=1))
        await kept.claim("token", -1)
        await kept.flush()
        assert await kept.sweep() == 0
        await a_moment()
        assert await kept.sweep(days=0) == 1
        assert [record.call_sid for record in await kept.calls()] == [live]
        assert await rows_left(kept, schema.claims) == []


async def test_a_call_that_never_reported_its_end_is_closed(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LONGEST_CALL_SECONDS", -1.0)
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        kept.tell(said(WISH))
        await kept.flush()
        await kept.sweep()
        record = await kept.call(SID)
        assert record is not None
        assert (record.ended_by, record.duration_ms) == ("error", WISH.start_ms)


async def test_sweeps_happen_by_themselves_and_survive_an_outage(
    outage: Outage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "phoneagent.store")
    monkeypatch.setattr(store, "FIRST_SWEEP_SECONDS", 0.0)
    monkeypatch.setattr(store, "SWEEP_SECONDS", 0.02)
    async with Store.from_url(outage.url, record_days=1) as kept:
        kept.tell(started())
        await kept.flush()
        await outage.begin()
        await until(lambda: "old records were not looked for" in caplog.text)
        await outage.end()
        kept.tell(ended())
        await kept.flush()
        long_ago = sa.update(schema.calls).values(ended_at=rows.now() - timedelta(days=2))
        await kept._database.write(lambda connection: connection.execute(long_ago))
        await until(lambda: "1 records older than 1 days were deleted" in caplog.text)


# --- while the database is away ---------------------------------------------------------------------------------------


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
        assert caplog.text.count("calls are recorded again: 0 facts were lost") == 1
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
        assert "facts were lost" in caplog.text


async def test_starts_and_ends_are_bounded_as_well(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_CALL_ROWS", 10)
    async with Store.from_url(outage.url) as kept:
        await outage.begin()
        for number in range(50):
            kept.tell(started(f"CA{number:032x}"))
        assert kept._writer.waiting == 10
        await outage.end()
        await written(kept)
        assert {record.call_sid for record in await kept.calls()} == {f"CA{number:032x}" for number in range(40, 50)}


async def test_a_full_disk_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FIRST_RETRY_SECONDS", 0.02)
    async with Store.from_url(f"sqlite:///{tmp_path}/phoneagent.db") as kept:
        kept.tell(started())
        await kept.flush()
        full = True

        @sa.event.listens_for(kept._database.engine.sync_engine, "connect")
        def limit(connection: Any, _: Any) -> None:
            if full:
                connection.cursor().execute("PRAGMA max_page_count=1")  # what there is, and not a page more

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
    async with asyncio.timeout(5):
        await kept.close()
    assert "1 facts of calls were not recorded" in caplog.text


async def test_closing_writes_what_waits(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
    async with Store.from_url(ready) as kept:
        assert len(await kept.calls()) == 1


async def test_a_hanging_database_is_given_up(
    ready: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody answers, and nobody refuses either."""
    if ready.startswith("sqlite"):
        pytest.skip("a file answers")
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


# --- migrations -------------------------------------------------------------------------------------------------------


async def test_migrations_build_what_the_code_expects(url: str) -> None:
    assert await upgrade(url) == "0001"
    base = Database(url)

    def differences(sync: sa.Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(sync), schema.metadata))

    assert await base.read(lambda connection: connection.run_sync(differences)) == []
    await base.close()


async def test_processes_that_migrate_at_once_do_not_disturb_each_other(url: str) -> None:
    assert await asyncio.gather(*(upgrade(url) for _ in range(4))) == ["0001"] * 4


async def test_an_interrupted_migration_leaves_nothing_behind(url: str) -> None:
    base = Database(url)

    @sa.event.listens_for(base.engine.sync_engine, "before_cursor_execute")
    def interrupt(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "CREATE TABLE answers" in statement:
            raise sqlite3.OperationalError("interrupted") if "sqlite" in url else OSError("interrupted")

    with pytest.raises(StoreError, match="interrupted"):
        await base.upgrade()
    names = await base.read(lambda connection: connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()))
    assert names == []
    await base.close()
    assert await upgrade(url) == "0001"


async def test_postgresql_is_migrated_by_its_owner_only(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if url.startswith("sqlite"):
        pytest.skip("SQLite is migrated at its first use")
    monkeypatch.setattr(writer, "FIRST_RETRY_SECONDS", 0.02)
    async with Store.from_url(url) as kept:
        kept.tell(started())
        with pytest.raises(StoreError, match="phoneagent migrate"):
            await kept.flush()
        await upgrade(url)
        assert len(await kept.calls()) == 1


async def test_a_sqlite_file_that_somebody_removes_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "phoneagent.db"
    async with Store.from_url(f"sqlite:///{path}") as kept:
        kept.tell(started())
        await kept.flush()
        path.unlink()
        kept.tell(started())
        await written(kept)
        assert len(await kept.calls()) == 1


async def test_asking_makes_no_database(tmp_path: Path) -> None:
    async with Store.from_url(f"sqlite:///{tmp_path}/phoneagent.db") as kept:
        with pytest.raises(StoreError, match="there is no database"):
            await kept.calls()
    assert contents(tmp_path) == []


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", ["", "mysql://host/db", "sqlite://", "sqlite:///:memory:", "phoneagent.db", "postgres://host:x/db"]
)
def test_a_url_of_no_known_database_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL is malformed"):
        Store.from_url(bad)


def test_a_password_is_never_shown() -> None:
    kept = Store.from_url("postgres://someone:s3cret@db.example:5433/calls?sslmode=require")
    assert repr(kept) == "<Store PostgreSQL at db.example:5433/calls>"


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"install phoneagent\[postgres\]"):
        Store.from_url("postgres://db.example/calls")


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///a.db", "a.db"), ("sqlite:////a/b.db", "/a/b.db"), ("sqlite+aiosqlite:///a.db", "a.db")],
)
def test_the_file_of_a_sqlite_url(url: str, path: str) -> None:
    assert Database(url).path == Path(path)
