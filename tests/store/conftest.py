"""Databases for the tests of records, an outage of them, and a call to record."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.errors import StoreError
from phoneagent.events import (
    AgentAnswered,
    BargeIn,
    CallEnded,
    CallStarted,
    Cost,
    Event,
    MessageAdded,
    RecordingChanged,
    ToolCalled,
    ToolReturned,
    Turn,
    TurnEnded,
    Usage,
    UsageReported,
)
from phoneagent.store import CallDetails, Store, database, engines, rows, writer
from phoneagent.store.database import Database
from phoneagent.store.schema import metadata
from tests.patience import HANG_SECONDS

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
    agent="host",
)
WISH = replace(
    GREETING,
    role="caller",
    item_id="item_2",
    text="A table",
    heard_text="A table",
    start_ms=2000,
    end_ms=3000,
    agent=None,
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
USED = UsageReported(
    call_sid=SID,
    at_ms=4000,
    number=1,
    source="response",
    model="gpt-realtime-2.1",
    usage=Usage(text_in=100, text_cached=900, audio_in=80, text_out=15, audio_out=70),
    cost=Cost(Decimal("0.008160001")),
    total=Cost(Decimal("0.008160001")),
)
HEARD = replace(
    USED,
    at_ms=4100,
    number=2,
    source="transcription",
    model="house-recogniser",
    usage=Usage(audio_ms=3200),
    cost=Cost(at_least=True),
    total=Cost(USED.total.usd, at_least=True),
)
BROKEN = ended(ended_by="line", reason="the media socket closed", duration_ms=4000)
FACT = MessageAdded(call_sid=SID, at_ms=1200, number=1, role="system", text="A regular.")

RECORDING = RecordingChanged(call_sid=SID, at_ms=20, status="in-progress", where="/recordings/day/CA1")
RECORDED = replace(RECORDING, at_ms=9100, status="completed", complete=False, duration_ms=9080)

WHOLE: list[Event] = [
    started(),
    said(GREETING),
    FACT,
    RECORDING,
    said(WISH),
    TOOL,
    RETURNED,
    ANSWERED,
    BargeIn(call_sid=SID, at_ms=4400, item_id="item_3", audio_end_ms=800, said_ms=2500),
    said(OFFER),
    USED,
    HEARD,
    ended(transcript=(GREETING, WISH, OFFER), cost=HEARD.total),
]


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database: a new file, or a new schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/phoneagent.db"
        return
    async with new_schema() as found:
        yield found


@pytest.fixture
async def postgres_url() -> AsyncIterator[str]:
    """An empty PostgreSQL database."""
    async with new_schema() as found:
        yield found


@asynccontextmanager
async def new_schema() -> AsyncIterator[str]:
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
    """A database with its tables: a copy of one that `upgrade` made, or what makes them in PostgreSQL, at once."""
    if not url.startswith("sqlite"):
        connection = await asyncpg.connect(url)
        await connection.execute(postgres_tables())
        await connection.close()
        return url
    Path(url.removeprefix("sqlite:///")).write_bytes(await asyncio.to_thread(sqlite_tables))  # noqa: ASYNC240
    return url


@cache
def sqlite_tables() -> bytes:
    """Return an empty SQLite database with its tables."""
    with TemporaryDirectory() as folder:
        asyncio.run(upgrade(f"sqlite:///{folder}/empty.db"))
        return Path(folder, "empty.db").read_bytes()


@cache
def postgres_tables() -> str:
    """Return the statements with which `upgrade` makes the tables of an empty PostgreSQL database."""
    statements = []

    def note(statement: Any, *_: Any, **__: Any) -> None:
        statements.append(str(statement.compile(dialect=engine.dialect)))

    engine = sa.create_mock_engine("postgresql+asyncpg://", note)
    metadata.create_all(engine, checkfirst=False)
    version = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
    return ";\n".join([*statements, version, f"INSERT INTO alembic_version VALUES ('{database.HEAD}')"])


async def upgrade(url: str) -> str:
    base = Database(url)
    try:
        return await base.upgrade()
    finally:
        await base.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


async def written(kept: Store) -> None:
    """Wait until the database is back and everything is written."""
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            try:
                await kept.flush()
                return
            except StoreError:
                await asyncio.sleep(0.005)


async def record_of(kept: Store) -> CallDetails:
    record = await kept.call(SID)
    assert record is not None
    return record


async def rows_left(kept: Store, *tables: sa.Table) -> list[Any]:
    async def read(connection: AsyncConnection) -> list[Any]:
        return [row for table in tables for row in await connection.execute(sa.select(table))]

    return await kept._database.read(read)


def contents(folder: Path) -> list[bytes]:
    """Return what is in the files of a folder. One may be deleted meanwhile."""
    found = []
    for file in folder.iterdir():
        with suppress(FileNotFoundError):
            found.append(file.read_bytes())
    return found


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
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.02)
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
