"""Notices between the processes of one database: something in a channel has changed, so read the tables.

    with store.notices.watch("commands") as changes:
        while True:
            await changes.wait(30)  # the first wait returns at once
            ...                     # read the tables

PostgreSQL passes notices on to the connections that listen (LISTEN/NOTIFY). SQLite has nothing like it, so we check the
times and sizes of its files, which costs two system calls. An extra connection would keep deleted data in the
write-ahead log (see `database.IDLE_SECONDS`). A notice has no content. It may come without a cause, and a lost one does
no harm, because waits end and the tables are read again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.store.database import Database
from phoneagent.store.engines import TRANSACTION_SECONDS, connect_postgres

log = logging.getLogger("phoneagent.store")

Channel: TypeAlias = Literal["commands", "events"]

LOOK_SECONDS = 0.1
"""How often the files of a SQLite database are checked while something waits."""

SAME_TIME_SECONDS = 0.05
"""How far apart two writes to a file may be and still leave the same timestamp."""

POLL_SECONDS = 1.0
"""The longest wait while the listening connection is lost."""

FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 30.0

WARN_SECONDS = 60.0
"""How often the loss of that connection is logged as a warning."""

ALIVE_SECONDS = 30.0
"""How often the listening connection is tested. A broken one may look like a silent one."""

ANSWER_SECONDS = 10.0
LINGER_SECONDS = 60.0
"""How long the listening connection stays open once nothing waits."""


async def tell(connection: AsyncConnection, channel: Channel) -> None:
    """Notify the processes that watch a channel, this one included, once the transaction is committed."""
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.text("SELECT pg_notify(:name, '')"), {"name": _name(channel)})


class Notices:
    """The notices of one database that this process watches for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watched: set[Changes] = set()
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._warned_at = -math.inf
        self.connected = database.path is not None
        """Whether notices arrive."""

    def watch(self, channel: Channel) -> Changes:
        """Return the changes of a channel from now on. It must be closed, or used as a context manager."""
        changes = Changes(self, channel)
        self._watched.add(changes)
        self._woken.set()
        if self._task is None or self._task.done():
            path = self._database.path
            work = self._listen() if path is None else self._look(path, _files(path))
            self._task = asyncio.create_task(work, name="phoneagent notices")
        return changes

    def end(self, changes: Changes) -> None:
        """Stop watching for these changes."""
        self._watched.discard(changes)
        self._woken.set()

    async def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _announce(self, *channels: str) -> None:
        for each in self._watched:
            if not channels or each.channel in channels:
                each.arrived.set()

    # --- SQLite -------------------------------------------------------------------------------------------------------

    async def _look(self, path: Path, seen: _Files) -> None:
        while self._watched:
            await asyncio.sleep(LOOK_SECONDS)
            found = _files(path)
            # A write right after the last check may have left the same timestamp.
            if found != seen or _newest(seen) > time.time_ns() - (LOOK_SECONDS + SAME_TIME_SECONDS) * 1e9:
                self._announce()
            seen = found

    # --- PostgreSQL ---------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        import asyncpg

        delay = FIRST_RETRY_SECONDS
        try:
            while True:
                try:
                    await self._listen_once()
                    delay = FIRST_RETRY_SECONDS
                except (
                    OSError,
                    TimeoutError,
                    ValueError,
                    asyncpg.PostgresError,
                    asyncpg.InterfaceError,
                    asyncpg.InternalClientError,
                ) as error:
                    if self.connected:
                        delay = FIRST_RETRY_SECONDS
                    level = self._level(asyncio.get_running_loop().time())
                    name, kind = self._database.name, type(error).__name__
                    log.log(level, "%s sends no notices (%s), so it is looked at every second", name, kind)
                    self.connected = False
                    self._announce()  # current waits continue as short waits
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, LAST_RETRY_SECONDS)
                if not self._watched:
                    return
        finally:
            self.connected = False

    def _level(self, now: float) -> int:
        """Return the level at which a loss is logged: an unstable database must not fill the log."""
        if now < self._warned_at + WARN_SECONDS:
            return logging.DEBUG
        self._warned_at = now
        return logging.WARNING

    async def _listen_once(self) -> None:
        """Listen on one connection until nothing has waited for a while.

        Raises:
            ConnectionError: the connection was lost. The driver has other errors too.
        """
        connection = await connect_postgres(self._database.url, TRANSACTION_SECONDS)
        try:
            connection.add_termination_listener(lambda _: self._woken.set())
            listening: set[str] = set()
            while await self._follow(connection, listening):
                pass
        finally:
            with suppress(Exception):  # the connection is given up in any case
                await connection.close(timeout=POLL_SECONDS)

    async def _follow(self, connection: Any, listening: set[str]) -> bool:
        """Listen to the watched channels, until they may have changed; return False if nothing is left to do.

        Raises:
            ConnectionError: the connection was lost.
        """
        self._woken.clear()
        watched: set[Any] = {each.channel for each in self._watched}
        for channel in watched - listening:
            await connection.add_listener(_name(channel), self._heard)
            listening.add(channel)
            self._announce(channel)  # earlier changes sent no notice here
        self.connected = True
        try:
            async with asyncio.timeout(ALIVE_SECONDS if watched else LINGER_SECONDS):
                await self._woken.wait()
        except TimeoutError:
            if not self._watched:
                return False
            await connection.execute("SELECT 1", timeout=ANSWER_SECONDS)
        if connection.is_closed():
            raise ConnectionError
        return True

    def _heard(self, connection: object, process: int, name: str, content: object) -> None:
        self._announce(name.removeprefix(_name("")))


class Changes:
    """The changes of one channel, for one place in the code that waits for them."""

    def __init__(self, notices: Notices, channel: Channel) -> None:
        self.channel = channel
        self.arrived = asyncio.Event()
        self.arrived.set()  # anything may have changed before
        self._notices = notices

    async def wait(self, seconds: float) -> None:
        """Wait until something may have changed since the last wait, for `seconds` at most."""
        limit = seconds if self._notices.connected else min(seconds, POLL_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self.arrived.wait()
        self.arrived.clear()

    def close(self) -> None:
        self._notices.end(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _name(channel: str) -> str:
    """Return the name of a channel in PostgreSQL."""
    return f"phoneagent_{channel}"


_Files: TypeAlias = tuple[tuple[int, int, int], ...]
"""The identity, the size and the time of the last write, of the file and of its write-ahead log."""


def _files(path: Path) -> _Files:
    return tuple(_stats(path))


def _stats(path: Path) -> Iterator[tuple[int, int, int]]:
    for each in (path, f"{path}-wal"):
        try:
            found = os.stat(each)
        except OSError:
            found = None
        # Readers create an empty log, and remove it: that is not a change.
        yield (found.st_ino, found.st_size, found.st_mtime_ns) if found is not None and found.st_size else (0, 0, 0)


def _newest(files: _Files) -> int:
    return max(time_ns for _, _, time_ns in files)
