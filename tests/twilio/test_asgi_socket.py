"""A media socket that ASGI carries: written at once while the server takes everything, and in one task where not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.websockets import WebSocket

from phoneagent.twilio.asgi_socket import AsgiSocket
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio


class Server:
    """A server that takes everything while it is `open`, waits while it is not, and may be closed or broken."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.got: list[str] = []
        self.waits = 0
        self.breaks: Exception | None = None
        self.ended = 0
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})

    async def receive(self) -> dict[str, Any]:
        return await self.incoming.get()

    async def send(self, message: Any) -> None:
        if message["type"] != "websocket.send":
            return
        try:
            if self.breaks is not None:
                raise self.breaks
            if not self.open.is_set():
                self.waits += 1
                await self.open.wait()
                if self.breaks is not None:
                    raise self.breaks
            self.got.append(message["text"])
        finally:
            self.ended += 1

    async def accepted(self) -> AsgiSocket:
        websocket = WebSocket({"type": "websocket", "headers": []}, self.receive, self.send)
        await websocket.accept()
        return AsgiSocket(websocket)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():
            await asyncio.sleep(0)


async def test_what_is_written_is_sent_at_once_in_order_and_without_a_task() -> None:
    socket = await (server := Server()).accepted()
    before = asyncio.all_tasks()
    socket.write([b"a", b"b", "ü".encode()])
    assert server.got == ["a", "b", "ü"]
    assert socket.writable
    assert asyncio.all_tasks() == before


async def test_it_sends_from_a_callback_which_is_no_task() -> None:
    socket = await (server := Server()).accepted()
    done = asyncio.get_running_loop().create_future()

    def write() -> None:
        assert asyncio.current_task() is None
        socket.write([b"a"])
        server.open.clear()
        socket.write([b"b"])
        done.set_result(None)

    asyncio.get_running_loop().call_soon(write)
    await done
    server.open.set()
    await until(lambda: socket.writable)
    assert server.got == ["a", "b"]


async def test_one_task_sends_what_the_server_does_not_take_and_then_the_reader_may_write_again() -> None:
    socket = await (server := Server()).accepted()
    resumed: list[bool] = []
    reading = asyncio.create_task(socket.read(lambda _: None, lambda: resumed.append(socket.writable)))
    await asyncio.sleep(0)
    server.open.clear()
    socket.write([b"a", b"b"])
    assert not socket.writable
    socket.write([b"c"])
    server.open.set()
    await until(lambda: resumed)
    assert resumed == [True]
    assert server.got == ["a", "b", "c"]
    assert server.waits == 1
    socket.write([b"d"])
    assert server.got[-1] == "d"
    server.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await reading


async def test_a_send_may_wait_several_times_and_have_a_timeout_of_its_own() -> None:
    """A send runs up to its first wait in whatever task writes, and a timeout belongs to the task it is begun in."""
    server = Server()
    wrote: list[str] = []

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            wrote.append(message["text"])

    server.send = send  # type: ignore[method-assign]
    socket = await server.accepted()
    socket.write([b"a", b"b"])
    await until(lambda: socket.writable)
    assert wrote == ["a", "b"]


@pytest.mark.parametrize("error", [OSError("reset"), RuntimeError("closed already")])
async def test_writing_to_a_broken_server_is_an_os_error(error: Exception) -> None:
    socket = await (server := Server()).accepted()
    server.breaks = error
    with pytest.raises(OSError):
        socket.write([b"a"])


async def test_a_server_that_breaks_while_it_is_waited_for_is_quiet() -> None:
    socket = await (server := Server()).accepted()
    server.open.clear()
    socket.write([b"a", b"b"])
    server.breaks = OSError("reset")
    server.open.set()
    await until(lambda: socket.writable)
    assert server.got == []


async def test_an_unforeseen_fault_of_the_task_is_raised_to_the_next_writer() -> None:
    socket = await (server := Server()).accepted()
    server.open.clear()
    socket.write([b"a"])
    server.breaks = LookupError()
    server.open.set()
    await until(lambda: socket.writable)
    with pytest.raises(LookupError):
        socket.write([b"b"])


async def test_each_message_is_passed_on_until_the_socket_is_closed() -> None:
    socket = await (server := Server()).accepted()
    taken: list[str | bytes] = []
    for message in ({"text": "a"}, {"bytes": b"b"}, {"text": None, "bytes": b"c"}, {"text": "", "bytes": None}):
        server.incoming.put_nowait({"type": "websocket.receive", **message})
    server.incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await socket.read(taken.append, lambda: None)
    assert taken == ["a", b"b", b"c", ""]


@pytest.mark.parametrize("begun", [True, False])
async def test_a_call_that_is_over_leaves_no_task_behind(begun: bool) -> None:
    socket = await (server := Server()).accepted()
    before = asyncio.all_tasks()
    reading = asyncio.create_task(socket.read(lambda _: None, lambda: pytest.fail("it is over")))
    await asyncio.sleep(0)
    server.open.clear()
    socket.write([b"a", b"b"])
    if begun:
        await asyncio.sleep(0)
    reading.cancel()
    await until(lambda: asyncio.all_tasks() == before)
    assert server.ended == 1
    assert server.got == []
