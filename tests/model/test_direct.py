"""A session's connection over loopback, against a server by hand: nothing is lost, held up, or kept without bound."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.frames import Frame, Opcode

from phoneagent.model import direct
from phoneagent.model.direct import MAX_WAITING, DirectConnection
from phoneagent.protocol.frames import MAX_PIECES
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
MAX_BYTES = 100_000


def frame(data: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=False)


class Server:
    """The far end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def handshake(self) -> bytes:
        """Read the request, and return the response that accepts it."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        (key,) = (line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        return upgrade + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def frame(self) -> Frame:
        def read_exact(count: int) -> object:
            return (yield count)

        parsing = Frame.parse(read_exact, mask=True)  # type: ignore[arg-type]
        wanted = next(parsing)
        while True:
            try:
                wanted = parsing.send(await self.reader.readexactly(wanted))  # type: ignore[arg-type, func-returns-value]
            except StopIteration as done:
                found: Frame = done.value
                return found


Behaviour = Callable[[Server], Awaitable[None]]


@asynccontextmanager
async def listening(behaviour: Behaviour) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(ConnectionError, asyncio.CancelledError):
            await behaviour(Server(reader, writer))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def connected(behaviour: Behaviour) -> AsyncIterator[DirectConnection]:
    async with listening(behaviour) as url:
        connection = await connect(
            url,
            create_connection=DirectConnection,
            compression=None,
            max_size=MAX_BYTES,
            ping_interval=None,
            close_timeout=HANG_SECONDS,
            proxy=None,
        )
        assert isinstance(connection, DirectConnection)
        try:
            yield connection
        finally:
            connection.transport.abort()
            await connection.wait_closed()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():
            await asyncio.sleep(0)


class Reader:
    """What a connection passes on, and how it ends."""

    def __init__(self, connection: DirectConnection) -> None:
        self.taken: list[bytes] = []
        self.tasks: list[object] = []
        self.resumed = 0
        self.task = asyncio.create_task(connection.read(self.take, self.resume))

    def take(self, message: bytes) -> None:
        self.taken.append(message)
        self.tasks.append(asyncio.current_task())

    def resume(self) -> None:
        self.resumed += 1

    async def end(self) -> ConnectionClosed:
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(HANG_SECONDS):
                await self.task
        return closed.value


@pytest.mark.parametrize("cut", [1, 10, 60, 10_000])
async def test_messages_in_the_packet_of_the_handshake_are_not_lost(cut: int) -> None:
    async def hurries(server: Server) -> None:
        stream = await server.handshake() + frame(b"a") + frame(b"b" * 300) + frame(b"c")
        for start in range(0, len(stream), cut):
            await server.write(stream[start : start + cut])
            await asyncio.sleep(0)
        await server.reader.read()

    async with connected(hurries) as connection:
        assert await connection.receive() == b"a"
        reader = Reader(connection)
        await until(lambda: len(reader.taken) == 2)
        assert reader.taken == [b"b" * 300, b"c"]
        reader.task.cancel()


async def test_everything_before_a_close_is_read_and_the_close_is_told() -> None:
    async def says_goodbye(server: Server) -> None:
        await server.write(await server.handshake())
        await server.frame()
        last = frame(b"fragm", fin=False) + frame(b"", Opcode.PING) + frame(b"ented", Opcode.CONT) + frame(b"last")
        await server.write(frame(b"first") + last + frame(b"\x03\xf3done", Opcode.CLOSE) + frame(b"late"))
        await server.reader.read()

    async with connected(says_goodbye) as connection:
        reader = Reader(connection)
        await asyncio.sleep(0)
        connection.write([b"go"])
        closed = await reader.end()
        assert reader.taken == [b"first", b"fragmented", b"last"]
        assert closed.rcvd is not None
        assert (closed.rcvd.code, closed.rcvd.reason) == (1011, "done")
        with pytest.raises(ConnectionError):
            connection.write([b"x"])
        with pytest.raises(ConnectionClosed):
            await connection.receive()


async def test_a_message_reaches_its_reader_in_the_callback_that_read_it() -> None:
    async def echoes(server: Server) -> None:
        await server.write(await server.handshake())
        while True:
            await server.write(frame((await server.frame()).data[:]))

    async with connected(echoes) as connection:
        reader = Reader(connection)
        await asyncio.sleep(0)
        connection.write([b"a", b"b" * 70_000, b"\xc3\xbc"])
        await until(lambda: len(reader.taken) == 3)
        assert reader.taken == [b"a", b"b" * 70_000, b"\xc3\xbc"]
        assert reader.tasks == [None] * 3
        reader.task.cancel()


async def test_what_comes_after_a_reader_has_gone_waits_for_the_next_one() -> None:
    async def echoes(server: Server) -> None:
        await server.write(await server.handshake())
        while True:
            await server.write(frame(bytes((await server.frame()).data)))

    async with connected(echoes) as connection:
        first = Reader(connection)
        await asyncio.sleep(0)
        first.task.cancel()
        await asyncio.gather(first.task, return_exceptions=True)
        connection.write([b"a"])
        assert await connection.receive() == b"a"
        assert first.taken == []


async def test_messages_that_nothing_reads_are_bounded_and_none_is_lost() -> None:
    sent, stop = 0, asyncio.Event()

    async def floods(server: Server) -> None:
        nonlocal sent
        await server.write(await server.handshake())
        while not stop.is_set():
            await server.write(frame(sent.to_bytes(4, "big") + bytes(1000)))
            sent += 1
        await server.reader.read()

    async with connected(floods) as connection:
        await until(lambda: not connection.transport.is_reading())
        waiting = len(connection._waiting)
        assert MAX_WAITING <= waiting < MAX_WAITING + 1000
        reader = Reader(connection)
        await until(lambda: len(reader.taken) > 5000)
        stop.set()
        await until(lambda: len(reader.taken) == sent)
        assert [int.from_bytes(message[:4], "big") for message in reader.taken] == list(range(sent))
        reader.task.cancel()


async def test_a_server_that_does_not_read_holds_writing_up_and_nothing_else() -> None:
    go_on = asyncio.Event()

    async def reads_late(server: Server) -> None:
        await server.write(await server.handshake())
        await server.write(frame(b"still heard"))
        await go_on.wait()
        while True:
            await server.frame()

    async with connected(reads_late) as connection:
        reader = Reader(connection)
        async with asyncio.timeout(HANG_SECONDS):
            while connection.writable:
                connection.write([bytes(10_000)])
                await asyncio.sleep(0)
        await until(lambda: reader.taken == [b"still heard"])
        assert reader.resumed == 0
        go_on.set()
        await until(lambda: reader.resumed)
        assert connection.writable
        reader.task.cancel()


async def test_a_flood_of_pings_whose_answers_are_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "MAX_UNSENT_BYTES", 200_000)

    async def floods(server: Server) -> None:
        await server.write(await server.handshake())
        while True:
            await server.write(frame(os.urandom(125), Opcode.PING) * 500)

    async with connected(floods) as connection:
        closed = await Reader(connection).end()
        assert closed.rcvd is None


async def test_a_flood_of_tiny_messages_leaves_others_their_turn() -> None:
    async def floods(server: Server) -> None:
        await server.write(await server.handshake())
        await server.frame()
        await server.write(frame(b"") * 20_000 + frame(b"last"))
        await server.reader.read()

    async with connected(floods) as connection:
        reader = Reader(connection)
        await asyncio.sleep(0)
        connection.write([b"go"])
        steps, known = [], 0
        async with asyncio.timeout(HANG_SECONDS):
            while not reader.taken or reader.taken[-1] != b"last":
                await asyncio.sleep(0)
                steps.append(len(reader.taken) - known)
                known = len(reader.taken)
        assert len(reader.taken) == 20_001
        assert max(steps) <= 2 * MAX_PIECES
        reader.task.cancel()


async def test_what_came_before_an_end_is_read_although_the_end_is_reported_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As TLS does: it reports the end in the same call, even if reading is paused."""

    def receive(connection: DirectConnection, data: bytes) -> None:
        whole(connection, data)
        if data and connection._frames.more:
            connection.eof_received()

    async def ends(server: Server) -> None:
        await server.write(await server.handshake())
        await server.frame()
        await server.write(frame(b"event") * (3 * MAX_PIECES) + frame(b"\x03\xf0full", Opcode.CLOSE))
        await server.reader.read()

    whole = DirectConnection.data_received
    monkeypatch.setattr(DirectConnection, "data_received", receive)
    async with connected(ends) as connection:
        reader = Reader(connection)
        await asyncio.sleep(0)
        connection.write([b"go"])
        closed = await reader.end()
        assert closed.rcvd is not None
        assert (closed.rcvd.code, closed.rcvd.reason) == (1008, "full")
        assert len(reader.taken) == 3 * MAX_PIECES


@pytest.mark.parametrize("end", ["close", "eof"])
async def test_a_server_that_ends_is_not_waited_for_although_it_has_not_read(end: str) -> None:
    over = asyncio.Event()

    async def ends(server: Server) -> None:
        await server.write(await server.handshake())
        server.writer.transport.pause_reading()
        await full.wait()
        if end == "close":
            await server.write(frame(b"\x03\xe8", Opcode.CLOSE))
        else:
            server.writer.write_eof()
        await over.wait()

    full = asyncio.Event()
    async with connected(ends) as connection:
        reader = Reader(connection)
        async with asyncio.timeout(HANG_SECONDS):
            while connection.writable:
                connection.write([bytes(100_000)])
                await asyncio.sleep(0)
        full.set()
        await reader.end()
        over.set()


BAD = {
    "masked": (b"\x81\x81\x00\x00\x00\x00x", 1002),
    "too long": (frame(b"x" * (MAX_BYTES + 1)), 1009),
    "compressed without agreement": (b"\xc1\x01x", 1002),
    "inside a fragmented one": (frame(b"x", fin=False) + frame(b"y"), 1002),
    "cut off": (frame(b"x" * 100)[:50], 1006),
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_message_that_breaks_the_protocol_ends_the_session(bad: str) -> None:
    stream, code = BAD[bad]

    async def breaks(server: Server) -> None:
        await server.write(await server.handshake() + frame(b"good") + stream)
        if code != 1006:
            close = await server.frame()
            assert int.from_bytes(bytes(close.data[:2]), "big") == code

    async with connected(breaks) as connection:
        reader = Reader(connection)
        closed = await reader.end()
        assert reader.taken == [b"good"]
        assert closed.rcvd is None
        assert (None if closed.sent is None else closed.sent.code) == (None if code == 1006 else code)


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", InvalidStatus),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\nuntil the end", InvalidStatus),
        (b"SSH-2.0-OpenSSH\r\n", InvalidMessage),
    ],
)
@pytest.mark.parametrize("cut", [1, 1000])
async def test_a_refusal_is_read_to_its_end(response: bytes, error: type[Exception], cut: int) -> None:
    async def refuses(server: Server) -> None:
        await server.reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(response), cut):
            await server.write(response[start : start + cut])
            await asyncio.sleep(0)

    async with listening(refuses) as url:
        with pytest.raises(error) as refused:
            await connect(url, create_connection=DirectConnection, proxy=None)
    if isinstance(refused.value, InvalidStatus):
        assert refused.value.response.body in (b"no", b"until the end")


async def test_a_close_is_answered_although_messages_had_no_reader() -> None:
    async def tells_much(server: Server) -> None:
        await server.write(await server.handshake())
        for _ in range(5 * MAX_WAITING):
            await server.write(frame(bytes(1000)))
        while (await server.frame()).opcode is not Opcode.CLOSE:
            pass
        await server.write(frame(b"\x03\xe8", Opcode.CLOSE))

    async with connected(tells_much) as connection:
        await until(lambda: not connection.transport.is_reading())
        await connection.close()
        assert connection.protocol.close_rcvd is not None
