"""Media sockets over loopback, read directly and as ASGI messages: whatever a peer does, both paths do the same."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.frames import Frame, Opcode

from phoneagent.cli import direct, limits
from phoneagent.cli.serve import MEDIA_SOCKETS
from phoneagent.protocol.carrier import Clear
from phoneagent.protocol.frames import MAX_PIECES
from phoneagent.protocol.mediastream import MAX_MESSAGE_BYTES
from phoneagent.twilio.socket import TwilioSocket
from tests.cli.test_limits import HANDSHAKE, Stranger, served, until
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio


def frame(data: bytes | str, opcode: Opcode = Opcode.TEXT, *, masked: bool = True, fin: bool = True) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return Frame(opcode, data, fin).serialize(mask=masked)


class App:
    """An app that reads one message as ASGI's and the others as a session does."""

    def __init__(self) -> None:
        self.socket: TwilioSocket | None = None
        self.begin = asyncio.Event()
        self.begin.set()
        self.taken: list[str | bytes] = []
        self.resumed = 0
        self.ended = asyncio.Event()
        self.stop = asyncio.Event()

    async def run(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self.socket = socket = TwilioSocket(websocket)
        first = await websocket.receive()
        self.taken.append(first.get("text") or first.get("bytes") or first["type"])
        await self.begin.wait()
        reading = asyncio.create_task(socket.read(self.taken.append, self.resume))
        stopping = asyncio.create_task(self.stop.wait())
        await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        stopping.cancel()
        await asyncio.gather(reading, stopping, return_exceptions=True)
        with suppress(TimeoutError):  # as a session does: it waits for nobody for long
            async with asyncio.timeout(0.5):
                await socket.close()
        self.ended.set()

    def resume(self) -> None:
        self.resumed += 1


class Peer(Stranger):
    """A client by hand."""

    async def closed(self) -> int | None:
        """Return the code of the close that the server sends, None if it just ends the connection."""
        code = None
        async with asyncio.timeout(HANG_SECONDS):
            while (got := await self.frame()) is not None:
                if got.opcode is Opcode.CLOSE:
                    code = int.from_bytes(got.data[:2], "big")
        return code

    async def write_until_it_breaks(self, data: bytes) -> None:
        with suppress(ConnectionError):
            async with asyncio.timeout(HANG_SECONDS):
                while True:
                    self.writer.write(data)
                    await self.writer.drain()
                    await asyncio.sleep(0.001)
        self.writer.transport.abort()

    async def frame(self) -> Frame | None:
        try:
            first, second = await self.reader.readexactly(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8), "big")
            return Frame(Opcode(first & 15), await self.reader.readexactly(length), bool(first & 128))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


@asynccontextmanager
async def talking(kind: str, *early: bytes, **options: Any) -> AsyncIterator[tuple[App, Peer]]:
    """Serve an app with sockets of that kind; yields it, with a client that has sent one message."""
    app = App()
    routes = Starlette(routes=[WebSocketRoute("/", app.run)])
    async with served(routes, ws=MEDIA_SOCKETS[kind], **options) as server:
        opened = await Stranger.at(server, b"GET / HTTP/1.1\r\n" + HANDSHAKE + b"\r\n")
        peer = Peer(opened.reader, opened.writer)
        try:
            async with asyncio.timeout(HANG_SECONDS):
                await peer.reader.readuntil(b"\r\n\r\n")
            peer.writer.write(frame("first") + b"".join(early))
            await until(lambda: app.taken)
            yield app, peer
        finally:
            peer.writer.close()
            app.stop.set()
            app.begin.set()
            await until(app.ended.is_set)


@pytest.fixture(params=sorted(MEDIA_SOCKETS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_messages_come_in_order_and_the_end_is_clean(kind: str) -> None:
    async with talking(kind) as (app, peer):
        peer.writer.write(frame("a") + frame("ü") + frame(b"b", Opcode.BINARY) + frame("c"))
        await until(lambda: len(app.taken) == 5)
        assert app.taken == ["first", "a", "ü", b"b", "c"]
        peer.writer.write(frame(b"\x03\xe8", Opcode.CLOSE))
        assert await peer.closed() == 1000
        await until(app.ended.is_set)


async def test_what_came_before_the_reader_is_read_and_nothing_is_lost_at_the_hand_over(kind: str) -> None:
    whole, half = frame("d" * 300), frame("e" * 300)
    early = frame("a") + frame("b", fin=False) + frame("c", Opcode.CONT) + whole + half[:150]
    async with talking(kind, early) as (app, peer):
        app.begin.set()
        peer.writer.write(half[150:] + frame("f"))
        await until(lambda: len(app.taken) == 6)
        assert app.taken == ["first", "a", "bc", "d" * 300, "e" * 300, "f"]


@pytest.mark.parametrize("cut", range(1, 12))
async def test_a_hand_over_in_the_middle_of_a_frame(kind: str, cut: int) -> None:
    text = frame("x" * 200)
    app: App
    async with talking(kind, text[:cut]) as (app, peer):
        await until(lambda: app.socket is not None and app.socket.writable)
        for _ in range(5):
            await asyncio.sleep(0)
        peer.writer.write(text[cut:] + frame("y"))
        await until(lambda: len(app.taken) == 3)
        assert app.taken == ["first", "x" * 200, "y"]


async def test_a_peer_that_sends_byte_by_byte(kind: str) -> None:
    stream = frame("slow") + frame(b"", Opcode.PING) + frame("a", fin=False) + frame("b", Opcode.CONT)
    async with talking(kind) as (app, peer):
        for each in stream:
            peer.writer.write(bytes([each]))
            await peer.writer.drain()
            await asyncio.sleep(0)
        await until(lambda: len(app.taken) == 3)
        assert app.taken == ["first", "slow", "ab"]
        async with asyncio.timeout(HANG_SECONDS):
            pong = await peer.frame()
        assert pong is not None
        assert pong.opcode is Opcode.PONG


BAD = {
    "unmasked": (frame("x", masked=False), 1002),
    "too long": (frame("x" * (MAX_MESSAGE_BYTES + 1)), 1009),
    "too long in fragments": (
        frame("x" * 60_000, fin=False) + frame("x" * 60_000, Opcode.CONT),
        1009,
    ),
    "of an impossible length": (b"\x81\xff\x7f" + b"\xff" * 7, 1009),
    "compressed without agreement": (b"\xc1" + frame("x")[1:], 1002),
    "of an unknown opcode": (b"\x83" + frame("x")[1:], 1002),
    "a continuation of nothing": (frame("x", Opcode.CONT), 1002),
    "inside a fragmented one": (frame("x", fin=False) + frame("y"), 1002),
    "not UTF-8": (frame(b"\xff\xfe"), 1007),
    "not UTF-8 in fragments": (frame(b"\xff", fin=False) + frame(b"\xfe", Opcode.CONT), 1007),
    "a ping that is too long": (b"\x89\xfe" + (200).to_bytes(2, "big") + bytes(204), 1002),
    "a fragmented ping": (b"\x09" + frame("x")[1:], 1002),
    "a close of one byte": (frame(b"\x03", Opcode.CLOSE), 1002),
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_message_that_breaks_the_protocol_closes_the_socket(kind: str, bad: str) -> None:
    stream, code = BAD[bad]
    async with talking(kind) as (app, peer):
        peer.writer.write(frame("good"))
        await until(lambda: len(app.taken) == 2)  # uvicorn drops what it reads together with an error
        peer.writer.write(stream + frame("after it"))
        assert await peer.closed() == code
        await until(app.ended.is_set)
        assert app.taken == ["first", "good"]


@pytest.mark.parametrize("end", ["in a head", "in a message", "between", "reset"])
async def test_a_peer_that_is_gone_without_a_close(kind: str, end: str) -> None:
    stream = {"in a head": frame("x" * 200)[:3], "in a message": frame("x" * 200)[:50]}.get(end, b"")
    async with talking(kind) as (app, peer):
        peer.writer.write(frame("good") + stream)
        await until(lambda: len(app.taken) == 2)
        if end == "reset":
            peer.writer.transport.abort()
        else:
            peer.writer.close()
        await until(app.ended.is_set)
        assert app.taken == ["first", "good"]
        assert app.socket is not None
        with pytest.raises(OSError):
            app.socket.write([Clear()])


async def test_a_half_closed_peer_is_gone(kind: str) -> None:
    async with talking(kind) as (app, peer):
        peer.writer.write(frame("good"))
        peer.writer.write_eof()
        await until(app.ended.is_set)
        assert app.taken == ["first", "good"]


async def fill(app: App) -> int:
    """Write to a peer that does not read until its socket takes no more; return how many messages that took."""
    assert app.socket is not None
    count = 0
    async with asyncio.timeout(HANG_SECONDS):
        while app.socket.writable:
            app.socket.write([Clear()] * 50)
            count += 50
            if count % 5000 == 0:
                await asyncio.sleep(0)
    return count


async def test_a_peer_that_does_not_read_holds_writing_up_and_nothing_else(kind: str) -> None:
    async with talking(kind) as (app, peer):
        peer.writer.transport.pause_reading()
        await fill(app)
        peer.writer.write(frame("still heard"))
        await until(lambda: len(app.taken) == 2)
        assert app.resumed == 0
        peer.writer.transport.resume_reading()
        async with asyncio.timeout(HANG_SECONDS):
            while not app.resumed:
                assert await peer.frame() is not None
        assert app.socket is not None
        assert app.socket.writable


async def test_a_peer_that_never_reads_keeps_no_socket_after_its_call(kind: str) -> None:
    async with talking(kind, seconds=0.2) as (app, peer):
        peer.writer.transport.pause_reading()
        await fill(app)
        app.stop.set()
        await peer.write_until_it_breaks(frame("x"))


async def test_a_flood_of_pings_whose_answers_are_not_read_is_cut_off(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_UNSENT_BYTES", 200_000)
    ping = frame(os.urandom(125), Opcode.PING) * 500
    async with talking(kind) as (app, peer):
        peer.writer.transport.pause_reading()
        await peer.write_until_it_breaks(ping)
        await until(app.ended.is_set)
        assert app.taken == ["first"]


async def test_a_flood_of_tiny_messages_leaves_others_their_turn() -> None:
    async with talking("direct") as (app, peer):
        peer.writer.write(frame("") * 20_000 + frame("last"))
        steps, known = [], len(app.taken)
        async with asyncio.timeout(HANG_SECONDS):
            while app.taken[-1] != "last":
                await asyncio.sleep(0)
                steps.append(len(app.taken) - known)
                known = len(app.taken)
        assert len(app.taken) == 20_002
        assert max(steps) <= 2 * MAX_PIECES


async def test_messages_that_come_after_the_app_has_closed_are_of_no_account(kind: str) -> None:
    async with talking(kind) as (app, peer):
        app.stop.set()
        async with asyncio.timeout(HANG_SECONDS):
            close = await peer.frame()
        assert close is not None
        assert close.opcode is Opcode.CLOSE
        peer.writer.write(frame("late") + frame(close.data, Opcode.CLOSE))
        assert await peer.closed() is None
        assert app.taken == ["first"]


async def test_the_reader_of_a_direct_socket_runs_in_no_task_of_its_own() -> None:
    tasks: list[Any] = []

    class Looking(App):
        def __init__(self) -> None:
            super().__init__()
            self.taken = Noting()  # type: ignore[assignment]

    class Noting(list[Any]):
        def append(self, item: Any) -> None:
            tasks.append(asyncio.current_task())
            super().append(item)

    app = Looking()
    async with served(Starlette(routes=[WebSocketRoute("/", app.run)])) as server:
        opened = await Stranger.at(server, b"GET / HTTP/1.1\r\n" + HANDSHAKE + b"\r\n")
        await opened.reader.readuntil(b"\r\n\r\n")
        opened.writer.write(frame("first"))
        await until(lambda: app.taken)
        await asyncio.sleep(0)
        opened.writer.write(frame("a"))
        await until(lambda: len(app.taken) == 2)
        assert tasks[1] is None
        opened.writer.close()
        await until(app.ended.is_set)


def test_the_extension_has_one_name() -> None:
    assert direct.DIRECT == "phoneagent.direct"
