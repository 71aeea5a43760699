"""The engines of databases: their addresses, their drivers, and a file that is replaced."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg
import pytest
import sqlalchemy as sa

from phoneagent.errors import ConfigurationError, StoreError
from phoneagent.store import Store, engines
from phoneagent.store.database import Database
from tests.store.conftest import started

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "bad", ["", "mysql://host/db", "sqlite://", "sqlite:///:memory:", "phoneagent.db", "postgres://host:x/db"]
)
def test_a_url_of_no_known_database_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL is malformed"):
        Store.from_url(bad)


def test_a_password_is_never_shown() -> None:
    kept = Store.from_url("postgres://someone:s3cret@db.example:5433/calls?sslmode=require")
    assert repr(kept) == "<Store PostgreSQL at db.example:5433/calls>"


@pytest.mark.parametrize(
    "password", ["123/s3cret", "123?s3cret", "123#s3cret", "s3cret/123", "a@b/s3cret", "123@s3cret", "s3cret@123"]
)
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(password: str) -> None:
    with pytest.raises(ConfigurationError, match="in its password as %2F") as caught:
        Store.from_url(f"postgres://someone:{password}@db.example/calls")
    assert "s3cret" not in str(caught.value)
    assert "123" not in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"install phoneagent\[postgres\]"):
        Store.from_url("postgres://db.example/calls")


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///a.db", "a.db"), ("sqlite:////a/b.db", "/a/b.db"), ("sqlite+aiosqlite:///a.db", "a.db")],
)
def test_the_file_of_a_sqlite_url(url: str, path: str) -> None:
    assert Database(url).path == Path(path)


async def test_a_reader_sees_a_file_that_replaced_another(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    for path, count in ((ours, 1), (theirs, 2)):
        async with Store.from_url(f"sqlite:///{path}") as kept:
            for number in range(count):
                kept.tell(started(f"CA{number:032x}"))
    async with Store.from_url(f"sqlite:///{ours}") as kept:
        assert len(await kept.calls()) == 1
        theirs.replace(ours)
        assert len(await kept.calls()) == 2


async def test_a_file_that_is_locked_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "calls.db"
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("CREATE TABLE calls (sid)")
    lock.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.02)
    execute, tried = aiosqlite.Cursor.execute, []

    async def note(cursor: aiosqlite.Cursor, sql: str, *more: Any) -> aiosqlite.Cursor:
        tried.append(sql)
        return await execute(cursor, sql, *more)

    monkeypatch.setattr(aiosqlite.Cursor, "execute", note)
    base = Database(f"sqlite:///{path}")
    with pytest.raises(StoreError, match="database is locked"):
        await base.read(lambda connection: connection.exec_driver_sql("SELECT 1"))
    assert tried[-1] == "PRAGMA journal_mode"
    lock.close()
    await base.read(lambda connection: connection.exec_driver_sql("SELECT 1"))
    await base.close()
    with closing(sqlite3.connect(path)) as found:
        assert found.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("kind", [asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.ProtocolError, OSError])
async def test_each_error_of_the_driver_is_one_of_the_store(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    async def fail(*_: Any) -> None:
        raise kind("a secret")

    monkeypatch.setattr(engines, "connect_postgres", fail)
    base = Database("postgres://db.example/calls")
    with pytest.raises(StoreError, match=r"PostgreSQL at db.example/calls: ") as caught:
        await base.read(lambda connection: connection.scalar(sa.text("SELECT 1")))
    assert caught.value.retry
    await base.close()
