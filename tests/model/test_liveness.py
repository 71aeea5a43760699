"""Whether a connection is alive: whatever arrives says so, and silence for long says that it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError
from websockets.protocol import State

from phoneagent.model import liveness
from phoneagent.model.liveness import LivingConnection
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


@asynccontextmanager
async def connected(behaviour: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[ClientConnection]:
    async with serve(behaviour, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with connect(
            f"ws://127.0.0.1:{port}",
            create_connection=LivingConnection,
            ping_interval=0.02,
            ping_timeout=None,
            close_timeout=0.1,
        ) as connection:
            yield connection


async def test_a_far_end_that_vanishes_without_a_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "SILENT_SECONDS", 0.1)
    noticed = asyncio.Event()

    async def freezes(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.pause_reading()  # its socket stays, and nothing comes any more
        await noticed.wait()
        connection.transport.abort()

    async with connected(freezes) as connection:
        await (await connection.ping())  # it is one that answers pings
        connection.latency = 0.0  # as a clock in steps of a millisecond may measure it
        await connection.send("freeze")
        try:
            with pytest.raises(ConnectionClosedError) as raised:
                async with asyncio.timeout(HANG_SECONDS):
                    await connection.recv()
        finally:
            noticed.set()
        assert raised.value.rcvd is None


@pytest.mark.parametrize("sign", ["audio", "pongs"])
async def test_whatever_arrives_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    monkeypatch.setattr(liveness, "SILENT_SECONDS", 0.1)
    over = asyncio.Event()

    async def lives(connection: ServerConnection) -> None:
        if sign == "audio":
            connection.transport.pause_reading()  # it answers no ping
            while not over.is_set():
                await connection.send("audio")
                await asyncio.sleep(0.01)
            connection.transport.resume_reading()
        await over.wait()

    async with connected(lives) as connection:
        try:
            with suppress(TimeoutError):  # longer than the silence that would end it
                async with asyncio.timeout(0.35):
                    while True:
                        await connection.recv()
            assert connection.state is State.OPEN
        finally:
            over.set()


async def test_a_far_end_that_answers_no_ping_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "SILENT_SECONDS", 0.02)
    over = asyncio.Event()

    async def listens(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await over.wait()
        connection.transport.resume_reading()

    async with connected(listens) as connection:
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await connection.recv()
            assert connection.state is State.OPEN
        finally:
            over.set()


async def test_a_connection_that_is_over_is_not_watched() -> None:
    async def closes(connection: ServerConnection) -> None:
        await connection.close()

    async with connected(closes) as connection:
        await connection.wait_closed()
        assert isinstance(connection, LivingConnection)
        assert connection._watching is not None
        assert connection._watching.cancelled()


class Watched(LivingConnection):
    """A connection whose time is set by hand, and which has answered a ping."""

    def __init__(self) -> None:
        self.now, self.aborted = 0.0, False
        self.loop = self.transport = self  # type: ignore[assignment]
        self._heard_at, self._answers = 0.0, True
        self._watch()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> None: ...

    def abort(self) -> None:
        self.aborted = True

    def look(self, now: float) -> float:
        """Let a look that was due come at this moment; return when the next one is due."""
        self.now = now
        self._watch()
        return self._look_at


def test_a_loop_that_was_held_up_gives_a_late_ping_the_time_to_be_answered() -> None:
    connection = Watched()
    connection._heard_at = 5.0
    assert connection.look(10.0) == 15.0
    assert connection.look(15.3 + liveness.LATE_SECONDS) == pytest.approx(21.3)
    assert not connection.aborted
    connection.look(21.3)  # the ping had its time
    assert connection.aborted


def test_a_look_in_time_drops_a_silent_connection() -> None:
    connection = Watched()
    connection.look(liveness.SILENT_SECONDS)
    assert connection.aborted
