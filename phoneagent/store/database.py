"""One database, given by its URL: transactions, migrations, and errors that contain no data of calls."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from phoneagent.errors import StoreError
from phoneagent.store.engines import (
    BUSY_SECONDS,
    CONNECT_SECONDS,
    TRANSACTION_SECONDS,
    host_of,
    malformed,
    postgres_engine,
    sqlite_engine,
    sqlite_path,
)

READERS = 3
"""How many SQLite connections read. If each reader had its own connection, a hundred calls reading at once would all
wait as long as the slowest one."""

IDLE_SECONDS = 1.0
"""How long SQLite connections stay open after use. Closing them also removes deleted data from the write-ahead log."""

MIGRATION_SECONDS = 600.0
HEAD = "0017"
"""The latest revision of the tables, as the newest migration calls it."""

MIGRATION_LOCK = 0x70686F6E65
"""The advisory lock that keeps two processes from migrating the same PostgreSQL database at once."""

NO_TABLES = "its tables are missing or old: run `phoneagent migrate`"
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
        self._migrating: asyncio.Task[None] | None = None
        self._at_work: set[asyncio.Task[Any]] = set()
        self._waiting: set[asyncio.Task[Any]] = set()
        """Those of them that wait for their turn."""
        self._idle: asyncio.TimerHandle | None = None
        scheme = url.partition(":")[0].lower()
        if scheme in ("sqlite", "sqlite+aiosqlite"):
            self.path = sqlite_path(url)
            self.name = f"SQLite in {self.path}"
            # SQLite lets a blocked writer sleep and retry, in no order. With one connection, writers queue here.
            self.engine = sqlite_engine(self.path, READERS)
            self.writing = sqlite_engine(self.path, 1, "BEGIN IMMEDIATE")
            self._slots = {self.engine: _Slots(READERS), self.writing: _Slots(1)}
            drivers: tuple[type[Exception], ...] = (sqlite3.Error,)
        elif scheme in ("postgres", "postgresql", "postgresql+asyncpg"):
            self.name = f"PostgreSQL at {host_of(url)}"
            self.engine, drivers = postgres_engine(url, TRANSACTION_SECONDS)
            self.writing = self.engine
        else:
            raise malformed("it must begin with sqlite:///, postgres:// or postgresql://")
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
        return await self._apart(self._transaction(self.engine, TRANSACTION_SECONDS, work), droppable=True)

    async def write(self, work: Work[_T]) -> _T:
        """Run `work` in a transaction that writes, and return its result. A new SQLite file gets its tables first.

        Raises:
            StoreError: the transaction was not committed.
        """
        if self.path is not None and not self._migrated:
            if self._migrating is None or self._migrating.done():
                self._migrating = self._start(self._migrate())
            await asyncio.wait([self._migrating])  # one for all: it goes on even if its first caller is canceled
            self._migrating.result()
        return await self._apart(self._transaction(self.writing, TRANSACTION_SECONDS, work))

    async def _migrate(self) -> None:
        try:
            await asyncio.to_thread(_upgrade_in_thread, self.url)  # on this loop, alembic would delay the calls
        except sqlite3.Error as error:
            raise StoreError(f"{self.name}: {_reason(error)}", retry=True) from None
        self._migrated = True

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

        return await self._apart(self._patiently(work))

    async def _patiently(self, work: Work[_T]) -> _T:
        """Run `work` in a transaction whose statements may take as long as a migration."""
        if self.path is not None:
            return await self._transaction(self.writing, MIGRATION_SECONDS, work)
        engine, _ = postgres_engine(self.url, MIGRATION_SECONDS)
        try:
            return await self._transaction(engine, MIGRATION_SECONDS, work)
        finally:
            await engine.dispose()

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

    async def _apart(self, work: Coroutine[Any, Any, _T], *, droppable: bool = False) -> _T:
        """Run `work` in its own task. The caller may be canceled, but a transaction that is canceled midway may leave
        its connection open. A `droppable` one that has not begun is dropped: after a stall of the database, those
        that are no longer wanted would keep all others waiting."""
        task = self._start(work)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if droppable and task in self._waiting:
                task.cancel()
            raise
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
        if self.path is not None:
            self._close_when_idle()
        try:
            async with asyncio.timeout(seconds), self._turn(engine):
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

    @asynccontextmanager
    async def _turn(self, engine: AsyncEngine) -> AsyncIterator[None]:
        """Wait for a connection of SQLite, in order. PostgreSQL's connections have a queue of their own."""
        if (slots := self._slots.get(engine)) is None:
            yield
            return
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            await slots.acquire()
        finally:
            self._waiting.discard(task)
        try:
            yield
        finally:
            slots.release()


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


def _sqlite_revision(path: Path) -> str | None:
    """Return the revision of a file's tables, None if it has none. A new file is created.

    A file that cannot be opened or is locked fails here: a failed driver's thread would outlive the loop.
    """
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError as error:
            if not str(error).startswith("no such table"):
                raise
            return None
        return None if row is None else str(row[0])


class _Slots(asyncio.Semaphore):
    """A first-in, first-out queue for an engine's connections: at most `count` transactions run at once."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


# --- errors -----------------------------------------------------------------------------------------------------------


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
