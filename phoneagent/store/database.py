"""One database, given by its URL: transactions, migrations, and errors that contain no data of calls."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from phoneagent.errors import ConfigurationError, StoreError

CONNECT_SECONDS = 5.0
BUSY_SECONDS = 5.0
"""How long SQLite waits for another process that is writing."""

READERS = 3
"""How many SQLite connections read. If each reader had its own connection, a hundred calls reading at once would all
wait as long as the slowest one."""

IDLE_SECONDS = 1.0
"""How long SQLite connections stay open after use. Closing them also removes deleted data from the write-ahead log."""

TRANSACTION_SECONDS = 15.0
"""How long a transaction may take, including the time to connect."""

MIGRATION_SECONDS = 600.0
HEAD = "0016"
"""The latest revision of the tables, as the newest migration calls it."""

MIGRATION_LOCK = 0x70686F6E65
"""The advisory lock that keeps two processes from migrating the same PostgreSQL database at once."""

NO_TABLES = "its tables are missing or old: run `phoneagent migrate`"
_LIBPQ_ONLY = frozenset({"channel_binding", "connect_timeout", "gssencmode"})
"""Query parameters in some hosts' URLs. asyncpg would forward them to the server, which refuses them."""

_T = TypeVar("_T")
Work: TypeAlias = Callable[[AsyncConnection], Awaitable[_T]]
"""The body of a transaction."""

logging.getLogger("alembic.runtime").setLevel(logging.WARNING)  # at INFO it writes two lines for each check


class Database:
    """A database and its engines. Creating one is cheap: connections are opened on first use.

    Raises:
        ConfigurationError: the URL is malformed, or names an unsupported database.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.path: Path | None = None
        """The file of a SQLite database."""
        self._migrated = False
        self._slots: dict[AsyncEngine, _Slots] = {}
        """The queue of each SQLite engine, which every transaction passes."""
        self._migrating = asyncio.Lock()
        self._at_work: set[asyncio.Task[Any]] = set()
        self._idle: asyncio.TimerHandle | None = None
        scheme = url.partition(":")[0].lower()
        if scheme in ("sqlite", "sqlite+aiosqlite"):
            self.path = _sqlite_path(url)
            self.name = f"SQLite in {self.path}"
            # SQLite lets a blocked writer sleep and retry, in no order. With one connection, writers queue here.
            self.engine, self.writing = _sqlite(self.path, READERS), _sqlite(self.path, 1, "BEGIN IMMEDIATE")
            self._slots = {self.engine: _Slots(READERS), self.writing: _Slots(1)}
            drivers: tuple[type[Exception], ...] = (sqlite3.Error,)
        elif scheme in ("postgres", "postgresql", "postgresql+asyncpg"):
            self.name = f"PostgreSQL at {_host(url)}"
            self.engine, drivers = _postgres(url)
            self.writing = self.engine
        else:
            raise _malformed("it must begin with sqlite:///, postgres:// or postgresql://")
        self._errors: tuple[type[Exception], ...] = (exc.SQLAlchemyError, OSError, TimeoutError, *drivers)

    @property
    def dialect(self) -> str:
        """The name of the dialect: sqlite or postgresql."""
        return self.engine.dialect.name

    @property
    def absent(self) -> bool:
        """Whether there is no database yet: the first write creates a SQLite file."""
        return self.path is not None and not self.path.exists()

    def folder_problem(self) -> str | None:
        """Return why a SQLite file cannot be created; None if it can."""
        folder = self.path.absolute().parent if self.path is not None else None
        if folder is None or (folder.is_dir() and os.access(folder, os.W_OK)):
            return None
        trouble = "cannot be written" if folder.is_dir() else "does not exist"
        return f"{self.name}: its folder {trouble}: create it, or make it writable, or change DATABASE_URL"

    async def read(self, work: Work[_T]) -> _T:
        """Run `work` in a read-only transaction and return its result.

        Raises:
            StoreError: the database does not answer, or does not exist.
        """
        if self.absent:
            if (problem := self.folder_problem()) is not None:
                raise StoreError(problem)
            raise StoreError(f"there is no database {self.path}: no call was recorded yet, or DATABASE_URL is wrong")
        return await self._apart(self._transaction(self.engine, TRANSACTION_SECONDS, work))

    async def write(self, work: Work[_T]) -> _T:
        """Run `work` in a transaction that writes, and return its result. A new SQLite file gets its tables first.

        Raises:
            StoreError: the transaction was not committed.
        """
        if self.path is not None:
            async with self._migrating:
                if not self._migrated:
                    await self._migrate()
                    self._migrated = True
        return await self._apart(self._transaction(self.writing, TRANSACTION_SECONDS, work))

    async def _migrate(self) -> None:
        try:
            await asyncio.to_thread(_upgrade_in_thread, self.url)  # on this loop, alembic would delay the calls
        except sqlite3.Error as error:
            raise StoreError(f"{self.name}: {_reason(error)}", retry=True) from None

    async def upgrade(self) -> str:
        """Migrate the tables to the latest revision, all or nothing, and return that revision.

        Raises:
            StoreError: the migration failed; the tables are unchanged.
        """

        async def work(connection: AsyncConnection) -> str:
            if self.dialect == "postgresql":
                await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            try:
                await connection.run_sync(_upgrade)
            except LookupError:
                raise StoreError(
                    f"{self.name}: a newer release has changed its tables: run that release, or restore a backup",
                    retry=True,
                ) from None
            return str(await connection.scalar(sa.text("SELECT version_num FROM alembic_version")))

        return await self._apart(self._transaction(self.writing, MIGRATION_SECONDS, work))

    async def close(self, seconds: float = CONNECT_SECONDS) -> None:
        """Wait up to `seconds` for running transactions, cancel the others, and close all connections."""
        if self._at_work:
            _, late = await asyncio.wait(self._at_work, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._idle is not None:
            self._idle.cancel()
        if self._slots:
            await self._dispose()
        else:
            await self.engine.dispose()

    def _close_when_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._close_idle)

    def _close_idle(self) -> None:
        self._idle = None
        if self._at_work:
            self._close_when_idle()
        else:
            self._start(self._dispose())

    async def _dispose(self) -> None:
        for engine, slots in self._slots.items():
            async with AsyncExitStack() as stack:
                for _ in range(slots.count):  # a checkout during the disposal would wait forever, or stay open
                    await stack.enter_async_context(slots)
                await engine.dispose()

    async def _apart(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` in its own task. The caller may be canceled, but a transaction that is canceled midway may leave
        its connection open."""
        task = self._start(work)
        await asyncio.wait([task])
        return task.result()

    def _start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work, name="phoneagent store")
        self._at_work.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._at_work.discard(task)
        if not task.cancelled():
            task.exception()  # marks the exception as retrieved, even if the caller was canceled

    async def _transaction(self, engine: AsyncEngine, seconds: float, work: Work[_T]) -> _T:
        slot: AbstractAsyncContextManager[Any] = self._slots.get(engine) or nullcontext()
        if self.path is not None:
            self._close_when_idle()
        try:
            async with asyncio.timeout(seconds), slot:
                try:
                    async with engine.begin() as connection:
                        return await work(connection)
                except exc.DBAPIError as error:
                    if getattr(_cause(error), "sqlstate", None) not in _RACES:
                        raise
                async with engine.begin() as connection:  # the other transaction has won and is done
                    return await work(connection)
        except self._errors as error:
            reason = _reason(error)
            if reason == NO_TABLES:
                self._migrated = False  # the file was removed: the next write creates it again
            raise StoreError(f"{self.name}: {reason}", retry=not _is_refusal(error)) from None
        except ValueError as error:  # an invalid host name, raised below the driver
            raise StoreError(f"{self.name}: {type(error).__name__}: check DATABASE_URL", retry=True) from None


_RACES = frozenset({"40P01", "40001"})
"""PostgreSQL's SQLSTATEs for a deadlock and a serialization failure: one of two conflicting transactions loses."""


_MIGRATING = threading.Lock()
"""Held by the one thread that migrates: alembic keeps its state in the process, not in the migration."""


def _upgrade_in_thread(url: str) -> None:
    async def run() -> None:
        database = Database(url)
        if database.path is not None and _sqlite_revision(database.path) == HEAD:
            return  # importing alembic takes longer than making the tables, and it is not needed here
        try:
            await database.upgrade()
        finally:
            await database.close()

    with _MIGRATING:
        asyncio.run(run())


def _upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Migrate the tables. An empty database gets the latest revision directly: a first call may be waiting for it.

    Raises:
        LookupError: their revision is unknown, so a newer release made them.
    """
    if revision == "head" and not sa.inspect(connection).get_table_names():
        from phoneagent.store.schema import metadata

        metadata.create_all(connection)
        version = sa.Table("alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))
        version.create(connection)
        connection.execute(version.insert().values(version_num=HEAD))
        return
    from alembic import command  # its import loads templates and a highlighter, only for this
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "phoneagent.store:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise LookupError(str(error)) from None


# --- SQLite -----------------------------------------------------------------------------------------------------------


def _sqlite_path(url: str) -> Path:
    path = url.partition("://")[2].partition("?")[0].removeprefix("/")
    if not path or path == ":memory:":
        raise _malformed("it names no file: write it like sqlite:///phoneagent.db")
    return Path(path)


def _sqlite_revision(path: Path) -> str | None:
    """Return the revision of a file's tables, None if it has none. A new file is created.

    A file that cannot be opened fails here: a failed driver's thread would outlive the loop.
    """
    with closing(sqlite3.connect(path)) as connection, suppress(sqlite3.OperationalError):
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return None if row is None else str(row[0])
    return None


class _Slots(asyncio.Semaphore):
    """A first-in, first-out queue for an engine's connections: at most `count` transactions run at once."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _sqlite(path: Path, connections: int, begin_with: str = "BEGIN") -> AsyncEngine:
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
        cursor = connection.cursor()
        with suppress(sqlite3.OperationalError):  # another process is doing so right now, and the mode persists
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")  # with WAL, a power failure costs at most the last transactions
        cursor.execute("PRAGMA cache_size=-512")  # KiB; by default 2 MiB fill up in each connection of the pool
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA secure_delete=ON")  # deleted data is overwritten
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin_with)

    return engine


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _postgres(url: str) -> tuple[AsyncEngine, tuple[type[Exception], ...]]:
    if importlib.util.find_spec("asyncpg") is None:
        raise ConfigurationError(
            ["DATABASE_URL names PostgreSQL, but its driver is missing: install phoneagent[postgres]"]
        )
    import asyncpg

    _dsn(url)  # a malformed URL is found before the first connection
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(connect_postgres, url),
        hide_parameters=True,
        isolation_level="READ COMMITTED",  # a role's default may differ; after a wait for a lock, new rows must be read
        pool_size=3,
        max_overflow=3,
        pool_timeout=CONNECT_SECONDS,
        pool_pre_ping=True,
        pool_recycle=300,
    )
    return engine, (asyncpg.PostgresError, asyncpg.InterfaceError)


async def connect_postgres(url: str) -> Any:
    """Return a new connection of the driver."""
    import asyncpg

    # asyncpg reads the URL itself: it knows `sslmode` and the other parameters that hosts put there.
    return await asyncpg.connect(_dsn(url), timeout=CONNECT_SECONDS, command_timeout=TRANSACTION_SECONDS)


def _dsn(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is not a number
        query = [(name, value) for name, value in parse_qsl(parts.query) if name not in _LIBPQ_ONLY]
    except ValueError:
        raise _malformed("it is not a URL: write it like postgresql://user:password@host/database") from None
    return urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query), ""))


def _host(url: str) -> str:
    """Return the host and database of a URL, without user and password."""
    parts = urlsplit(_dsn(url))
    return parts.netloc.rpartition("@")[2] + parts.path


# --- errors -----------------------------------------------------------------------------------------------------------


def _malformed(remedy: str) -> ConfigurationError:
    return ConfigurationError([f"DATABASE_URL is malformed: {remedy}"])


def _cause(error: Exception) -> BaseException:
    """Return the driver's own error. SQLAlchemy wraps it once, and asyncpg's twice."""
    if not isinstance(error, exc.StatementError) or error.orig is None:
        return error
    return error.orig.__cause__ or error.orig


def _is_refusal(error: Exception) -> bool:
    """Tell whether the database refused the data, rather than failed itself."""
    cause = _cause(error)
    if state := getattr(cause, "sqlstate", None):
        return str(state)[:2] in ("22", "23")
    return isinstance(cause, sqlite3.IntegrityError | sqlite3.DataError | ValueError | TypeError | OverflowError)


def _reason(error: Exception) -> str:
    """Describe an error. Drivers quote data in their messages, so only messages that cannot contain any are used."""
    cause = _cause(error)
    if getattr(cause, "sqlstate", None) in ("42P01", "42703", "3F000"):
        return NO_TABLES
    if isinstance(cause, sqlite3.OperationalError):
        text = str(cause)
        if text == "unable to open database file":
            return f"{text}: create its folder, or make it writable"
        return NO_TABLES if text.startswith(("no such table", "no such column")) else text
    if isinstance(cause, TimeoutError | exc.TimeoutError):
        return "it does not answer"
    if isinstance(cause, OSError):
        return cause.strerror or str(cause) or type(cause).__name__
    if str(cause) in ("file is not a database", "database disk image is malformed"):
        return f"{cause}: move the file away or restore a backup, or change DATABASE_URL"
    return type(cause).__name__
