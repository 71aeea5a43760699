"""Notices between processes of one database: what wakes a waiting process, and what happens when nothing can."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.store import Store, database, notices
from phoneagent.store.database import Database
from phoneagent.store.notices import Changes, Channel, Notices
from tests.patience import HANG_SECONDS
from tests.store.conftest import Outage, contents, started, stores, until, upgrade

pytestmark = pytest.mark.anyio
QUIET = 0.5
FAR = 3600.0
"""Longer than any test: only a notice ends such a wait."""


@pytest.fixture
async def own_database(postgres_url: str) -> AsyncIterator[str]:
    """A PostgreSQL database in which no other test changes anything: notices come from all schemas of a database."""
    address = urlsplit(postgres_url)._replace(query="")
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(urlunsplit(address))
    await connection.execute(f"CREATE DATABASE {name}")
    yield urlunsplit(address._replace(path=f"/{name}"))
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


async def write_in(store: Store, *channels: Channel) -> None:
    """Change the database, and notify these channels."""

    async def write(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("UPDATE calls SET reason = 'x' WHERE sid = 'none'"))
        await connection.execute(sa.text("INSERT INTO claims (name, until) VALUES ('a', '2020-01-01 00:00:00')"))
        await connection.execute(sa.text("DELETE FROM claims WHERE name = 'a'"))
        for each in channels:
            await notices.tell(connection, each)

    await store._database.write(write)


async def listening(changes: Changes) -> None:
    """Wait until notices arrive, and take those that came so far."""
    await until(lambda: changes._notices.connected and changes.arrived.is_set())
    changes.arrived.clear()


async def test_a_process_learns_of_what_another_one_changed(ready: str) -> None:
    async with stores(ready) as (here, there):
        with here.notices.watch("commands") as changes:
            await listening(changes)
            for _ in range(3):
                waiting = asyncio.create_task(changes.wait(FAR))
                await write_in(there, "commands")
                async with asyncio.timeout(HANG_SECONDS):
                    await waiting


async def test_a_change_between_two_waits_is_not_missed(ready: str) -> None:
    async with stores(ready) as (here, there):
        with here.notices.watch("events") as changes:
            await listening(changes)
            await write_in(there, "events")
            await until(changes.arrived.is_set)
            async with asyncio.timeout(HANG_SECONDS):
                await changes.wait(FAR)


async def test_the_first_wait_returns_at_once_and_a_wait_ends_by_itself(ready: str) -> None:
    async with Store.from_url(ready) as store:
        with store.notices.watch("events") as changes:
            async with asyncio.timeout(HANG_SECONDS):
                await changes.wait(FAR)
                for _ in range(20):
                    await changes.wait(0.01)
                assert not changes.arrived.is_set()


async def test_other_channels_of_postgresql_do_not_wake_it(own_database: str) -> None:
    await upgrade(own_database)
    async with stores(own_database) as (here, there):
        with here.notices.watch("commands") as commands, here.notices.watch("events") as events:
            await listening(commands)
            await listening(events)
            await write_in(there, "events")
            await until(events.arrived.is_set)
            assert not commands.arrived.is_set()
        with here.notices.watch("commands") as again:  # the connection is still open
            await listening(again)
            await write_in(there, "events", "commands")
            await until(again.arrived.is_set)


async def test_a_transaction_that_is_not_committed_tells_nothing(own_database: str) -> None:
    await upgrade(own_database)
    async with stores(own_database) as (here, there):
        with here.notices.watch("commands") as commands, here.notices.watch("events") as events:
            await listening(commands)
            await listening(events)

            async def fail(connection: AsyncConnection) -> None:
                await notices.tell(connection, "commands")
                raise LookupError

            with pytest.raises(LookupError):
                await there._database.write(fail)
            await write_in(there, "events")
            await until(events.arrived.is_set)
            assert not commands.arrived.is_set()


async def test_a_lost_connection_means_short_waits_until_it_is_back(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notices, "FIRST_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(notices, "LAST_RETRY_SECONDS", 0.05)
    await upgrade(postgres_url)
    outage = Outage(postgres_url)
    await outage.open()
    async with stores(postgres_url, 1) as (there,), Store.from_url(outage.url) as here:
        with here.notices.watch("commands") as changes, caplog.at_level(logging.WARNING):
            await listening(changes)
            waiting = asyncio.create_task(changes.wait(FAR))
            await outage.begin()
            async with asyncio.timeout(HANG_SECONDS):
                await waiting  # a wait that had begun ends
            await until(lambda: here.notices.connected is False)
            changes.arrived.clear()
            async with asyncio.timeout(HANG_SECONDS):
                await changes.wait(FAR)  # and another is short
            await outage.end()
            await listening(changes)
            await write_in(there, "commands")
            async with asyncio.timeout(HANG_SECONDS):
                await changes.wait(FAR)
    await outage.close()
    [warning] = [each.message for each in caplog.records if "sends no notices" in each.message]
    assert "postgres@" not in warning


async def test_a_connection_that_nothing_waits_for_is_closed(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "LINGER_SECONDS", 0.05)
    monkeypatch.setattr(notices, "ALIVE_SECONDS", 0.05)
    async with Store.from_url(postgres_url) as store:
        with store.notices.watch("events") as changes:
            await listening(changes)
            for _ in range(20):  # a line that is silent is tried, and is still good
                await changes.wait(0.01)
            assert store.notices.connected
        await until(lambda: not store.notices.connected)
        with store.notices.watch("events") as changes:
            await listening(changes)


async def test_a_database_that_does_not_answer_is_no_error_of_the_waiting(caplog: pytest.LogCaptureFixture) -> None:
    found = Notices(Database("postgresql://user:hunter2@127.0.0.1:1/nothing"))
    with found.watch("commands") as changes:
        for _ in range(5):
            await changes.wait(FAR)
    await found.close()
    assert "127.0.0.1:1/nothing sends no notices" in caplog.text
    assert "hunter2" not in caplog.text


async def test_sqlite_writes_close_together_are_all_seen(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/phoneagent.db"
    await upgrade(url)
    async with stores(url) as (here, there):
        with here.notices.watch("events") as changes:
            for _ in range(30):
                await changes.wait(0.001)
                await write_in(there)
                async with asyncio.timeout(HANG_SECONDS):
                    await changes.wait(FAR)


async def test_reading_a_quiet_sqlite_database_is_no_change_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(notices, "LOOK_SECONDS", 0.01)
    async with Store.from_url(f"sqlite:///{tmp_path}/phoneagent.db") as store:
        with store.notices.watch("events") as changes:
            for _ in range(3):
                await changes.wait(0.05)  # there is no file yet
            store.tell(started())
            await store.flush()
            async with asyncio.timeout(HANG_SECONDS):
                await changes.wait(FAR)
                is_quiet = False
                while not is_quiet:  # each wake-up reads, which opens and closes the log; that must come to rest
                    await store.calls()
                    began = asyncio.get_running_loop().time()
                    await changes.wait(QUIET)
                    is_quiet = asyncio.get_running_loop().time() - began >= QUIET
            await until(lambda: len(contents(tmp_path)) == 1)  # nothing keeps the log, with its deleted data


async def test_a_sqlite_file_that_is_replaced_is_a_change(tmp_path: Path) -> None:
    url, path = f"sqlite:///{tmp_path}/phoneagent.db", tmp_path / "phoneagent.db"
    await upgrade(url)
    async with Store.from_url(url) as store:
        with store.notices.watch("events") as changes:
            await listening(changes)
            copy = tmp_path / "copy.db"
            copy.write_bytes(path.read_bytes())
            copy.rename(path)
            async with asyncio.timeout(HANG_SECONDS):
                await changes.wait(FAR)


async def test_no_fault_of_the_driver_ends_the_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "FIRST_RETRY_SECONDS", 0.0)
    tries, listens = 0, asyncio.Event()

    async def listen_once(self: Notices) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise asyncpg.InternalClientError("got result for unknown protocol state")
        listens.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Notices, "_listen_once", listen_once)
    made = Notices(Database("postgresql://127.0.0.1:1/none"))
    with made.watch("commands"):
        async with asyncio.timeout(HANG_SECONDS):
            await listens.wait()
    await made.close()
