"""The limits of the server, held against strangers over loopback, beside a live call."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidMessage
from websockets.frames import Frame, Opcode

from phoneagent import Agent, Endpoint, PhoneApp
from phoneagent.cli import limits
from phoneagent.cli.limits import MediaProtocol, RequestProtocol
from phoneagent.cli.serve import UVICORN
from phoneagent.console import body, campaigns, playing, setup, signin, web_session
from phoneagent.sim import Model, Phone
from phoneagent.sim.model.vad import EnergyGate
from tests.end_to_end.conftest import ACCOUNT_SID, AUTH_TOKEN, PUBLIC_URL, settings
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
HEAD = b"Host: x\r\n"
HANDSHAKE = (
    HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
PART = b"a" * 65536


@asynccontextmanager
async def served(
    app: Any, *, seconds: float = 30, connections: int | None = None, **options: Any
) -> AsyncIterator[uvicorn.Server]:
    """Run an app as `phoneagent serve` does, with other limits; yields the server, its port in `config.port`."""

    class Protocol(RequestProtocol):
        request_seconds = seconds
        max_connections = connections

    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, **UVICORN | {"http": Protocol} | options)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    config.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        server.should_exit = True
        await task


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


class Stranger:
    """A connection by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @staticmethod
    async def at(server: uvicorn.Server, begin: bytes = b"") -> Stranger:
        stranger = Stranger(*await asyncio.open_connection("127.0.0.1", server.config.port))
        stranger.writer.write(begin)
        return stranger

    async def flood(self, part: bytes) -> None:
        """Send the same for ever, until the server ends the connection."""
        with suppress(ConnectionError):
            while not self.writer.is_closing():
                self.writer.write(part)
                await self.writer.drain()

    async def end(self) -> bytes:
        """Wait until the server ends the connection; return what it said."""
        said = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(HANG_SECONDS):
                while part := await self.reader.read(65536):
                    said += part
        return said

    def close(self) -> None:
        self.writer.transport.abort()


class Ear(EnergyGate):
    """A model's ear that counts the frames of its caller."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = 0

    def feed(self, frame: bytes) -> bool:
        self.frames += 1
        return super().feed(frame)


class Telephone:
    """An app with a model, and the ears of its calls."""

    def __init__(self) -> None:
        self.ears: list[Ear] = []
        self.model = Model(vad=self._ear)

    def _ear(self, threshold: float = 0.5) -> Ear:
        self.ears.append(Ear())
        return self.ears[-1]

    @property
    def app(self) -> PhoneApp:
        endpoint = Endpoint(f"{self.model.url}?model=gpt-realtime-2.1", transcription_models=())
        return PhoneApp(Agent(instructions="x"), settings=settings(), endpoint=endpoint)

    def phone(self, server: uvicorn.Server) -> Phone:
        url = f"http://127.0.0.1:{server.config.port}/twilio/voice"
        return Phone(url, auth_token=AUTH_TOKEN, public_url=PUBLIC_URL, account_sid=ACCOUNT_SID)

    async def hears(self, calls: int, frames: int = 20) -> None:
        """Wait until that many further frames of each call have come to the model."""
        await until(lambda: sum(ear.frames > 0 for ear in self.ears) == calls)
        enough = {ear: ear.frames + frames for ear in self.ears if ear.frames}
        await until(lambda: all(ear.frames >= each for ear, each in enough.items()))


@pytest.fixture
async def telephone() -> AsyncIterator[Telephone]:
    made = Telephone()
    async with made.model:
        yield made


# --- a request has a size ---


@pytest.mark.parametrize(
    ("begin", "part"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ", PART),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n" * 4096),
        (b"GET /", PART),
        (b"", PART),
        (b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Long: ", PART),
        (b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;", PART),
        (b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + PART + b"\r\n"),
        (b"POST /twilio/voice HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n", PART),
        (b"GET /twilio/media/x HTTP/1.1\r\n" + HANDSHAKE + b"X-Long: ", PART),
    ],
    ids=["header", "headers", "url", "method", "trailer", "chunk extension", "chunks", "body", "handshake"],
)
async def test_what_never_ends_is_ended_and_a_live_call_goes_on(
    telephone: Telephone, caplog: pytest.LogCaptureFixture, begin: bytes, part: bytes
) -> None:
    async with served(telephone.app) as server, telephone.phone(server).dial() as line:
        await telephone.hears(1, 1)
        stranger = await Stranger.at(server, begin)
        flood = asyncio.create_task(stranger.flood(part))
        await stranger.end()
        stranger.close()
        await flood
        await telephone.hears(1)
        assert line.ended_at is None
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("size", [limits.MAX_HEAD_BYTES, limits.MAX_HEAD_BYTES + 1, 4 * limits.MAX_HEAD_BYTES])
async def test_a_head_that_comes_at_once_has_the_same_size(telephone: Telephone, size: int) -> None:
    request = b"GET /healthz HTTP/1.1\r\nConnection: close\r\nHost: x\r\n\r\n"
    padding = b"X: " + b"a" * (size - len(request) - 5) + b"\r\n"
    async with served(telephone.app) as server:
        stranger = await Stranger.at(server, request[:-2] + padding + b"\r\n")
        answer = await stranger.end()
        stranger.close()
    expected = b"HTTP/1.1 200" if size <= limits.MAX_HEAD_BYTES else b"HTTP/1.1 400"
    assert answer.startswith(expected)


@pytest.mark.parametrize(
    "headers",
    [b"X-Long: " + b"b" * 10240 + b"\r\n", b"".join(b"X-%d: y\r\n" % number for number in range(200))],
    ids=["a long header", "many headers"],
)
async def test_a_handshake_that_cannot_be_read_is_answered(telephone: Telephone, headers: bytes) -> None:
    async with served(telephone.app) as server:
        stranger = await Stranger.at(server, b"GET /twilio/media/x HTTP/1.1\r\n" + HANDSHAKE + headers + b"\r\n")
        assert (await stranger.end()).startswith(b"HTTP/1.1 400 ")
        stranger.close()
        await until(lambda: not server.server_state.connections)


async def test_a_handshake_that_can_be_read_has_the_app_s_answer(telephone: Telephone) -> None:
    async with served(telephone.app) as server:
        stranger = await Stranger.at(server, b"GET /twilio/media/x HTTP/1.1\r\n" + HANDSHAKE + b"\r\n")
        assert (await stranger.end()).startswith(b"HTTP/1.1 403 ")
        stranger.close()


def test_the_largest_body_of_each_route_passes() -> None:
    bodies = (module.MAX_BODY_BYTES for module in (body, campaigns, playing, setup, signin, web_session))
    assert max(bodies) + limits.MAX_HEAD_BYTES <= limits.MAX_REQUEST_BYTES


async def test_requests_one_after_the_other_have_a_size_each(telephone: Telephone) -> None:
    request = b"POST /twilio/status HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b"a" * 60000
    async with served(telephone.app) as server:
        stranger = await Stranger.at(server)
        for _ in range(2 * limits.MAX_REQUEST_BYTES // len(request)):
            stranger.writer.write(request)
            assert b"HTTP/1.1 403 " in await stranger.reader.readuntil(b"\r\n\r\n")
        stranger.close()


# --- a request has a time ---


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: ",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /heal",
        b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
        b"GET /huge HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /never HTTP/1.1\r\n" + HANDSHAKE + b"\r\n",
    ],
    ids=[
        "silence",
        "half a head",
        "a second half",
        "half a body",
        "half a body unread",
        "answer untaken",
        "unaccepted",
    ],
)
async def test_a_connection_that_stays_silent_is_ended(begin: bytes) -> None:
    async with served(APP, seconds=0.1) as server:
        stranger = await Stranger.at(server, begin)
        if b"/huge" in begin:
            stranger.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: server.server_state.connections)
        await until(lambda: not server.server_state.connections)
        stranger.close()


async def test_what_is_answered_or_open_for_longer_is_not_silent() -> None:
    APP.state.wanted = asyncio.Event()
    async with served(APP, seconds=1) as server:
        stranger = await Stranger.at(server, b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        async with connect(f"ws://127.0.0.1:{server.config.port}/echo") as socket:
            await asyncio.sleep(1.5)
            APP.state.wanted.set()
            assert (await stranger.end()).endswith(b"later")
            await socket.send("hello")
            assert await socket.recv() == "hello"
        stranger.close()


# --- connections have a number ---


@pytest.mark.parametrize("begin", [b"", b"GET /twilio/media/x HTTP/1.1\r\n" + HANDSHAKE], ids=["silent", "handshakes"])
async def test_a_crowd_makes_room_for_new_calls_and_ends_none(telephone: Telephone, begin: bytes) -> None:
    async with (
        served(telephone.app, connections=20) as server,
        telephone.phone(server).dial() as line,
        telephone.phone(server).dial() as other,
    ):
        await telephone.hears(2, 1)
        crowd = [await Stranger.at(server, begin) for _ in range(100)]
        await until(lambda: len(server.server_state.connections) <= 20)
        async with telephone.phone(server).dial() as third:
            await telephone.hears(3)
            assert [each.ended_at for each in (line, other, third)] == [None] * 3
        ended = sorted(number for number, each in enumerate(crowd) if each.reader.at_eof() or each.reader.exception())
        assert ended == list(range(len(ended)))  # the oldest
        assert len(ended) >= 100 - 20
        for each in crowd:
            each.close()


async def test_if_none_is_silent_the_newcomer_goes(caplog: pytest.LogCaptureFixture) -> None:
    APP.state.wanted = asyncio.Event()
    async with served(APP, connections=2) as server, connect(f"ws://127.0.0.1:{server.config.port}/echo") as socket:
        busy = await Stranger.at(server, b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await until(lambda: len(server.server_state.tasks) == 2)
        for _ in range(3):
            with pytest.raises((InvalidMessage, ConnectionError)):
                await connect(f"ws://127.0.0.1:{server.config.port}/echo")
        await socket.send("hello")
        assert await socket.recv() == "hello"
        APP.state.wanted.set()
        assert (await busy.end()).endswith(b"later")
        busy.close()
    assert caplog.text.count("all 2 connections are taken") == 1


def test_the_limit_of_open_files_is_raised_or_told() -> None:
    code = (
        "import logging, resource; from phoneagent.cli import limits; logging.basicConfig(format='%(message)s')\n"
        "for hard in (4096, 1024):\n"
        "  resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); limits.raise_max_files()\n"
        "  print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], limits.max_connections())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "4096 1344\n1024 320\n"
    (line,) = ran.stderr.splitlines()
    assert line.startswith("this process may open only 1024 files, so it takes 320 connections at once: raise the ")


# --- an app for what the phone's own does not do ---


async def slow(request: Request) -> Response:
    """An answer that takes until it is wanted."""
    await request.app.state.wanted.wait()
    return PlainTextResponse("later")


async def upload(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def huge(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield PART
            await asyncio.sleep(0)  # here it notices that the client is gone

    return StreamingResponse(parts())


async def healthz(request: Request) -> Response:
    return PlainTextResponse("ok")


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    while True:
        await socket.send_text(await socket.receive_text())


async def never(socket: WebSocket) -> None:
    await socket.receive()
    await socket.receive()


APP = Starlette(
    routes=[
        Route("/slow", slow),
        Route("/upload", upload, methods=["POST"]),
        Route("/huge", huge),
        Route("/healthz", healthz, methods=["GET", "POST"]),
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/never", never),
    ]
)


async def test_a_socket_that_answers_no_ping_lives_on() -> None:
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.send_text(await socket.receive_text())

    async with served(Starlette(routes=[WebSocketRoute("/", echo)]), ws_ping_interval=0.001) as server:
        stranger = await Stranger.at(server, b"GET / HTTP/1.1\r\n" + HANDSHAKE + b"\r\n")
        await stranger.reader.readuntil(b"\r\n\r\n")
        pings = b""
        async with asyncio.timeout(HANG_SECONDS):
            while pings.count(b"\x89\x04") < 5:  # each answered by nothing
                pings += await stranger.reader.read(64)
            stranger.writer.write(b"\x81\x82" + bytes(4) + b"hi")
            await stranger.reader.readuntil(b"\x81\x02hi")
        stranger.close()


async def open_media_socket(server: uvicorn.Server) -> tuple[Stranger, MediaProtocol]:
    stranger = await Stranger.at(server, b"GET /echo HTTP/1.1\r\n" + HANDSHAKE + b"\r\n")
    await stranger.reader.readuntil(b"\r\n\r\n")
    (protocol,) = [each for each in server.server_state.connections if isinstance(each, MediaProtocol)]
    return stranger, protocol


async def test_a_pong_that_came_very_late_does_not_make_the_pings_a_flood() -> None:
    async with served(APP, ws_ping_interval=20.0) as server:
        stranger, protocol = await open_media_socket(server)
        protocol.last_ping_rtt = 25.0  # this process was frozen for that long
        protocol.send_keepalive_ping()
        assert protocol.ping_timer is not None
        assert protocol.ping_timer.when() > asyncio.get_running_loop().time() + 15
        stranger.close()


async def test_a_server_that_ends_while_a_peer_closes_its_socket_ends_as_planned() -> None:
    async with served(APP) as server:
        stranger, protocol = await open_media_socket(server)
        protocol.conn.receive_data(Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))  # its answer is not written
        protocol.shutdown()
        assert protocol.transport.is_closing()
        stranger.close()
