"""Migrations, and the transactions of a database."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sqlite3
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.errors import StoreError
from phoneagent.store import Store, StreamRecord, database, rows, schema, writer
from phoneagent.store.database import Database
from tests.patience import HANG_SECONDS
from tests.store.conftest import SID, contents, rows_left, started, until, upgrade, written

pytestmark = pytest.mark.anyio


async def test_processes_that_migrate_at_once_do_not_disturb_each_other(url: str) -> None:
    assert await asyncio.gather(*(upgrade(url) for _ in range(4))) == ["0017"] * 4


async def test_several_apps_of_one_process_make_their_databases_at_once(tmp_path: Path) -> None:
    """Alembic keeps its state in the process, so two migrations at once would mix up their tables."""
    made = [Database(f"sqlite:///{tmp_path}/{number}.db") for number in range(6)]

    async def tables(connection: AsyncConnection) -> list[str]:
        return await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())

    found = await asyncio.gather(*(each.write(tables) for each in made))
    assert all({"calls", "claims"} <= set(names) for names in found)
    for each in made:
        await each.close()


async def test_an_interrupted_migration_leaves_nothing_behind(url: str) -> None:
    base = Database(url)

    def interrupt(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "CREATE TABLE answers" in statement:
            raise sqlite3.OperationalError("interrupted") if "sqlite" in url else OSError("interrupted")

    sa.event.listen(sa.Engine, "before_cursor_execute", interrupt)
    try:
        with pytest.raises(StoreError, match="interrupted"):
            await base.upgrade()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", interrupt)
    names = await base.read(lambda connection: connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()))
    assert names == []
    await base.close()
    assert await upgrade(url) == "0017"


@pytest.fixture
async def first(url: str) -> str:
    """A database as the first revision left it, with a call in it."""
    base = Database(url)

    async def work(connection: AsyncConnection) -> None:
        await connection.run_sync(partial(database._upgrade, revision="0001"))
        values = {"sid": SID, "stream_sid": "MZ1", "direction": "inbound", "started_at": rows.now()}
        await connection.execute(sa.insert(schema.calls).values(values))
        await connection.execute(sa.insert(schema.calls).values({**values, "sid": "CA2", "stream_sid": ""}))

    await base._transaction(base.writing, 60, work)
    await base.close()
    return url


async def test_records_of_the_first_revision_are_kept(first: str) -> None:
    assert await upgrade(first) == "0017"
    async with Store.from_url(first) as kept:
        record = await kept.call(SID)
        assert record is not None
        assert record.streams == (StreamRecord(stream_sid="MZ1", at_ms=0),)
        assert len(await rows_left(kept, schema.streams)) == 1
        kept.tell(started(stream_sid="MZ2", resumed=True))
        record = await kept.call(SID)
        assert record is not None
        assert [stream.stream_sid for stream in record.streams] == ["MZ1", "MZ2"]


KILLED = """
import asyncio, os, signal, sys
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from phoneagent.store.database import Database

base = Database(sys.argv[1])

@sa.event.listens_for(sa.Engine, "after_cursor_execute")
def kill(connection, cursor, statement, *_):
    if "CREATE TABLE streams" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(base.upgrade())
"""


async def test_a_migration_that_is_killed_between_its_steps_can_be_run_again(first: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, first)
    assert await process.wait() == -signal.SIGKILL
    async with Store.from_url(first) as kept:
        assert len(await rows_left(kept, sa.Table("calls", sa.MetaData(), sa.Column("sid")))) == 2  # as it was
        with pytest.raises(StoreError, match="phoneagent migrate"):
            await kept.call(SID)
    assert await upgrade(first) == "0017"
    async with Store.from_url(first) as kept:
        assert await kept.call(SID) is not None


async def test_a_migration_may_take_longer_than_a_transaction(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "TRANSACTION_SECONDS", 0.1)
    holder = await asyncpg.connect(postgres_url)
    await holder.execute("SELECT pg_advisory_lock($1)", database.MIGRATION_LOCK)
    migrating = asyncio.create_task(upgrade(postgres_url))
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with asyncio.timeout(HANG_SECONDS):
        while not await holder.fetchval(waiting):
            await asyncio.sleep(0.01)
        await asyncio.wait([migrating], timeout=0.5)
        assert not migrating.done()
        await holder.close()
        assert await migrating == database.HEAD


async def test_postgresql_is_migrated_by_its_owner_only(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "FIRST_RETRY_SECONDS", 0.02)
    async with Store.from_url(postgres_url) as kept:
        kept.tell(started())
        with pytest.raises(StoreError, match="phoneagent migrate"):
            await kept.flush()
        assert caplog.text.count("calls are not recorded") == 1
        await upgrade(postgres_url)
        assert len(await kept.calls()) == 1


async def test_a_removed_sqlite_file_is_created_again(tmp_path: Path) -> None:
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


async def nothing(connection: AsyncConnection) -> None:
    await connection.execute(sa.text("SELECT 1"))


@pytest.mark.parametrize("what", ["read", "write"])
async def test_a_transaction_does_not_wait_for_a_connection_that_is_being_closed(tmp_path: Path, what: str) -> None:
    base = Database(f"sqlite:///{tmp_path}/calls.db")
    await base.upgrade()
    do = getattr(base, what)
    async with asyncio.timeout(HANG_SECONDS):  # one that waits does so for TRANSACTION_SECONDS
        for _ in range(30):
            working = [asyncio.create_task(do(nothing)) for _ in range(2 * database.READERS)]
            await asyncio.sleep(0)
            base._start(base._dispose())
            await do(nothing)
            await asyncio.gather(*working)
    await base.close()


async def test_a_read_that_begins_while_the_database_closes_leaves_no_connection_open(tmp_path: Path) -> None:
    base = Database(f"sqlite:///{tmp_path}/calls.db")
    await base.upgrade()
    opened, closed, late = [], [], []
    sa.event.listen(base.engine.sync_engine, "connect", lambda *_: opened.append(1))

    @sa.event.listens_for(base.engine.sync_engine, "close")
    def read_once_more(*_: Any) -> None:
        if not closed:
            late.append(asyncio.create_task(base.read(nothing)))
        closed.append(1)

    both = asyncio.Barrier(2)

    async def together(connection: AsyncConnection) -> None:
        await both.wait()
        await connection.execute(sa.text("SELECT 1"))

    async with asyncio.timeout(HANG_SECONDS):
        await asyncio.gather(base.read(together), base.read(together))
        await base.close()
        await asyncio.gather(*late)
        await base.close()
    assert (len(late), len(opened), len(closed)) == (1, 3, 3)


async def test_readers_queue_for_a_few_connections_that_close_when_they_are_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Database(f"sqlite:///{tmp_path}/calls.db")
    await base.upgrade()
    opened, reading, most = [], 0, 0
    sa.event.listen(base.engine.sync_engine, "connect", lambda *_: opened.append(1))
    enough = asyncio.Event()

    async def read(connection: AsyncConnection) -> None:
        nonlocal reading, most
        reading, most = reading + 1, max(most, reading + 1)
        if most == database.READERS:
            enough.set()
        await enough.wait()
        await connection.execute(sa.text("SELECT 1"))
        reading -= 1

    async with asyncio.timeout(HANG_SECONDS):
        await asyncio.gather(*(base.read(read) for _ in range(10 * database.READERS)))
        assert most == len(opened) == database.READERS
        monkeypatch.setattr(database, "IDLE_SECONDS", 0.01)
        await base.read(nothing)
        await until(lambda: [file.name for file in tmp_path.iterdir()] == ["calls.db"])  # the log too
        assert len(opened) == database.READERS
        await base.read(nothing)
        assert len(opened) == database.READERS + 1
    await base.close()


async def test_a_connection_is_not_closed_under_a_long_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "IDLE_SECONDS", 0.01)
    base = Database(f"sqlite:///{tmp_path}/calls.db")
    await base.upgrade()
    begun, others_read = asyncio.Event(), asyncio.Event()

    async def long(connection: AsyncConnection) -> None:
        begun.set()
        await others_read.wait()
        await connection.execute(sa.text("SELECT 1"))

    async with asyncio.timeout(HANG_SECONDS):
        slow = asyncio.create_task(base.read(long))
        await begun.wait()
        for _ in range(5):
            seen = base._idle
            await until(lambda seen=seen: base._idle is not seen)  # the time is up, and it looks again later
            await base.read(nothing)
        others_read.set()
        await slow
    await base.close()


class Stalled:
    """A stall of the database, until it is `over`, and what ran after it."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.ran: list[str] = []

    async def wait(self, connection: AsyncConnection) -> None:
        await self.over.wait()

    def note(self, what: str) -> Callable[[AsyncConnection], Awaitable[None]]:
        async def work(connection: AsyncConnection) -> None:
            self.ran.append(what)

        return work


async def test_a_read_that_is_no_longer_wanted_keeps_no_other_waiting(tmp_path: Path) -> None:
    """After a stall of the disk, the reads of calls that were given up would all come first."""
    base, stalled = Database(f"sqlite:///{tmp_path}/calls.db"), Stalled()
    await base.upgrade()
    async with asyncio.timeout(HANG_SECONDS):
        busy = [asyncio.create_task(base.read(stalled.wait)) for _ in range(database.READERS)]
        given_up = [asyncio.create_task(base.read(stalled.note("given up"))) for _ in range(10)]
        await until(lambda: len(base._waiting) == 10)
        wanted = asyncio.create_task(base.read(stalled.note("wanted")))
        for task in given_up:
            task.cancel()
        stalled.over.set()
        await asyncio.gather(*busy, wanted)
        await until(lambda: not base._at_work)
    assert stalled.ran == ["wanted"]
    await base.close()


async def test_a_write_is_carried_out_although_its_caller_has_given_up(tmp_path: Path) -> None:
    base, stalled = Database(f"sqlite:///{tmp_path}/calls.db"), Stalled()
    await base.upgrade()
    async with asyncio.timeout(HANG_SECONDS):
        busy = asyncio.create_task(base.write(stalled.wait))
        given_up = asyncio.create_task(base.write(stalled.note("given up")))
        await until(lambda: len(base._waiting) == 1)
        given_up.cancel()
        stalled.over.set()
        await busy
        await until(lambda: not base._at_work)
    assert stalled.ran == ["given up"]
    await base.close()


async def test_a_transaction_that_lost_a_deadlock_is_retried_once(url: str) -> None:
    await upgrade(url)
    base = Database(url)
    tries = itertools.count(1)

    class Deadlock(Exception):
        sqlstate = "40P01"

    async def work(connection: AsyncConnection) -> int:
        number = next(tries)
        if number in (1, 3, 4):
            raise sa.exc.DBAPIError("update", {}, Deadlock())
        return number

    assert await base.write(work) == 2
    with pytest.raises(StoreError) as error:
        await base.write(work)
    assert error.value.retry
    assert next(tries) == 5
    await base.close()


async def test_the_revision_that_needs_no_migration_is_the_newest_one() -> None:
    migrations = Path(database.__file__).parent / "migrations"
    assert ScriptDirectory(str(migrations)).get_heads() == [database.HEAD]


async def test_a_file_that_is_up_to_date_needs_no_alembic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/kept.db"
    async with Store.from_url(url) as first:
        first.tell(started())
    monkeypatch.setitem(sys.modules, "alembic", None)  # an import would raise
    async with Store.from_url(url) as second:
        assert len(await second.calls()) == 1
        second.tell(started("CA" + "3" * 32))
        await second.flush()
        assert len(await second.calls()) == 2


async def test_a_file_that_is_locked_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "calls.db"
    await upgrade(f"sqlite:///{path}")
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.02)
    monkeypatch.setitem(sys.modules, "alembic", None)  # an import would raise
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("PRAGMA journal_mode=DELETE")
    lock.execute("BEGIN EXCLUSIVE")
    base = Database(f"sqlite:///{path}")
    with pytest.raises(StoreError, match="database is locked") as error:
        await base.write(nothing)
    assert error.value.retry
    lock.close()
    await base.write(nothing)
    await base.close()


async def test_writers_that_are_canceled_share_one_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade_file, begun, may_end = database._upgrade_in_thread, [], threading.Event()

    def slow(url: str) -> None:
        begun.append(url)
        may_end.wait()
        upgrade_file(url)

    monkeypatch.setattr(database, "_upgrade_in_thread", slow)
    base = Database(f"sqlite:///{tmp_path}/calls.db")
    try:
        for _ in range(3):
            writing = asyncio.create_task(base.write(nothing))
            await until(lambda: begun)
            writing.cancel()
            await asyncio.wait([writing])
        last = asyncio.create_task(base.write(nothing))
        await asyncio.sleep(0)
    finally:
        may_end.set()
    await last
    assert len(begun) == 1
    await base.close()
