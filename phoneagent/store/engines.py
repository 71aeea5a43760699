"""The engines of the databases that are supported, made from their URLs: SQLite in a file, and PostgreSQL."""

from __future__ import annotations

import importlib.util
import sqlite3
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from phoneagent.errors import ConfigurationError

CONNECT_SECONDS = 5.0
BUSY_SECONDS = 5.0
"""How long SQLite waits for another process that is writing."""

TRANSACTION_SECONDS = 15.0
"""How long a transaction may take, including the time to connect."""

_LIBPQ_ONLY = frozenset({"channel_binding", "connect_timeout", "gssencmode"})
"""Query parameters in some hosts' URLs. asyncpg would forward them to the server, which refuses them."""


def malformed(remedy: str) -> ConfigurationError:
    return ConfigurationError([f"DATABASE_URL is malformed: {remedy}"])


# --- SQLite -----------------------------------------------------------------------------------------------------------


def sqlite_path(url: str) -> Path:
    path = url.partition("://")[2].partition("?")[0].removeprefix("/")
    if not path or path == ":memory:":
        raise malformed("it names no file: write it like sqlite:///phoneagent.db")
    return Path(path)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def sqlite_engine(path: Path, connections: int, begin_with: str = "BEGIN") -> AsyncEngine:
    """Return an engine that keeps its connections open: opening a file takes forty times as long as writing a row."""
    engine = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=str(path)),
        hide_parameters=True,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=TRANSACTION_SECONDS,
        # The driver begins no transactions: ours also cover reads and schema changes, and a writer locks at its start.
        connect_args={"timeout": BUSY_SECONDS, "isolation_level": None},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def remember(_: Any, record: Any) -> None:
        record.info["file"] = _identity(path)

    @event.listens_for(engine.sync_engine, "checkout")
    def compare(_: Any, record: Any, __: Any) -> None:
        if record.info["file"] != _identity(path):
            raise exc.DisconnectionError("the file was replaced")  # the pool reconnects

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        try:
            _configure(connection.cursor())
        except sqlite3.Error:
            connection.close()  # the pool forgets it, but its thread would stay
            raise

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin_with)

    return engine


def _configure(cursor: Any) -> None:
    cursor.execute("PRAGMA journal_mode")  # fails if the file is locked; only setting it may fail without harm
    if cursor.fetchone() != ("wal",):
        with suppress(sqlite3.OperationalError):  # another process is doing so right now, and the mode persists
            cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")  # with WAL, a power failure costs at most the last transactions
    cursor.execute("PRAGMA cache_size=-512")  # KiB; by default 2 MiB fill up in each connection of the pool
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA secure_delete=ON")  # deleted data is overwritten
    cursor.close()


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def postgres_engine(url: str, seconds: float) -> tuple[AsyncEngine, tuple[type[Exception], ...]]:
    """Return an engine whose statements may take `seconds`, and the errors of its driver."""
    if importlib.util.find_spec("asyncpg") is None:
        raise ConfigurationError(
            ["DATABASE_URL names PostgreSQL, but its driver is missing: install phoneagent[postgres]"]
        )
    import asyncpg

    _dsn(url)  # a malformed URL is found before the first connection
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(connect_postgres, url, seconds),
        hide_parameters=True,
        isolation_level="READ COMMITTED",  # a role's default may differ; after a wait for a lock, new rows must be read
        pool_size=3,
        max_overflow=3,
        pool_timeout=CONNECT_SECONDS,
        pool_pre_ping=True,
        pool_recycle=300,
    )
    return engine, (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


async def connect_postgres(url: str, seconds: float) -> Any:
    """Return a new connection of the driver, whose statements may take `seconds`."""
    import asyncpg

    # asyncpg reads the URL itself: it knows `sslmode` and the other parameters that hosts put there.
    return await asyncpg.connect(_dsn(url), timeout=CONNECT_SECONDS, command_timeout=seconds)


def _dsn(url: str) -> str:
    try:
        parts = urlsplit(url)
        # host and path are shown, and part of the password may be in them
        if "@" in parts.path + parts.query + parts.fragment or parts.netloc.count("@") > 1:
            raise malformed("write / ? # and @ in its password as %2F %3F %23 and %40")
        _ = parts.port  # raises if it is not a number
        query = [(name, value) for name, value in parse_qsl(parts.query) if name not in _LIBPQ_ONLY]
    except ValueError:
        raise malformed("it is not a URL: write it like postgresql://user:password@host/database") from None
    return urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query), ""))


def host_of(url: str) -> str:
    """Return the host and database of a URL, without user and password."""
    parts = urlsplit(_dsn(url))
    return parts.netloc.rpartition("@")[2] + parts.path
