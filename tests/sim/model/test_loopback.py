"""The WebSocket server under `Model` and `Helicone`."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response

from phoneagent.sim.model.loopback import LoopbackServer

pytestmark = pytest.mark.anyio


class Echo(LoopbackServer):
    """Sends everything back, except at `/no`, which it refuses."""

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(403, "no\n") if request.path == "/no" else None

    async def _serve(self, connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)


def echo(port: int = 0) -> Echo:
    return Echo(not_running="the echo does not run; enter it first", port=port)


async def test_an_address_only_while_it_runs() -> None:
    server = echo()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="does not run; enter it first"):
            _ = server.origin
        async with server:
            assert server.origin.startswith("ws://127.0.0.1:")


async def test_connections_are_served_or_refused() -> None:
    async with echo() as server:
        async with connect(server.origin, compression=None) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
        with pytest.raises(InvalidStatus) as caught:
            await connect(server.origin + "/no")

    assert caught.value.response.status_code == 403


async def test_a_port_that_is_asked_for_is_free_again_afterwards() -> None:
    async with echo() as first:
        port = urlsplit(first.origin).port
        assert port
        with pytest.raises(OSError, match="in use"):
            async with echo(port):
                pass
    async with echo(port) as second:
        assert urlsplit(second.origin).port == port


async def test_leaving_closes_the_connections() -> None:
    async with echo() as server:
        socket = await connect(server.origin, compression=None)
    await socket.wait_closed()
    assert socket.close_code == 1001
