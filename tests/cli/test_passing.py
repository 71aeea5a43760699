"""Passing connections: two servers in one process, and real sockets between them and the client."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import struct
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from phoneagent.cli import passing
from phoneagent.cli.limits import RequestProtocol
from phoneagent.cli.passing import ABSENT, DRAINING, MAX_PASSED_BYTES, MAX_SILENT_SECONDS, MAX_UNDER_WAY, Passer, Shared
from phoneagent.cli.serve import UVICORN
from phoneagent.cli.workers import PunctualServer
from phoneagent.twilio.signatures import MediaTokens
from tests.patience import HANG_SECONDS

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="there is one process on Windows"),
]

VOICE = b"POST /twilio/voice HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
HANDSHAKE = (
    b" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
HEAD = struct.Struct("!HQ")


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


def media(worker: int | None) -> bytes:
    """Return the head of a media socket whose call that worker expects."""
    return b"GET /twilio/media/" + MediaTokens(["key"]).issue("CA" + "0" * 32, 0, worker=worker).encode() + HANDSHAKE


def frame(text: bytes) -> bytes:
    """Return a WebSocket frame of a client's; its mask changes nothing."""
    return bytes([0x81, 0x80 | len(text)]) + bytes(4) + text


class App:
    """An app that says which worker answered what. Each request for a new call makes one more call."""

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.carried = 0
        self.draining = False
        self.gate = asyncio.Event()
        self.gate.set()

    def end_streams(self) -> None:
        """End streams of events, of which there are none."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._echo(receive, send)
            return
        body, more = b"", True
        while more and (message := await receive())["type"] != "http.disconnect":
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await self.gate.wait()
        self.carried += scope["path"] == "/twilio/voice"
        text = f"[{self.worker} {scope['method']} {scope['path']} {len(body)} {zlib.crc32(body)}]".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
        await send({"type": "http.response.body", "body": text})

    async def _echo(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": f"[{self.worker}]"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": f"[{self.worker} {message['text']}]"})


class Client:
    """A connection to one of the workers, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, request: bytes, answers: int = 1) -> list[str]:
        """Write a request, and return what the app says."""
        self.writer.write(request)
        return [await self.said() for _ in range(answers)]

    async def said(self) -> str:
        """Return the next thing that the app says."""
        async with asyncio.timeout(HANG_SECONDS):
            await self.reader.readuntil(b"[")
            return (await self.reader.readuntil(b"]"))[:-1].decode()

    async def end(self) -> bytes:
        """Return all that comes until the server closes the connection."""
        async with asyncio.timeout(HANG_SECONDS):
            with suppress(ConnectionError):
                return await self.reader.read()
        return b""


class Workers:
    """Two workers, each with a port of its own, so that a test chooses where a connection comes."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.apps = [App(number) for number in range(2)]
        self.servers = [self._server(app) for app in self.apps]
        self.ports = [0, 0]
        self._clients: list[Client] = []

    def _server(self, app: Any) -> PunctualServer:
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off", **UVICORN)
        return PunctualServer(config, app, 1, self.shared)

    def passer(self, number: int) -> Passer:
        found = passing.find(self.servers[number].server_state)
        assert found is not None
        return found

    async def at(self, number: int) -> Client:
        """Connect to a worker."""
        self._clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.ports[number])))
        return self._clients[-1]

    def close(self) -> None:
        for client in self._clients:
            client.writer.transport.abort()

    def connections(self) -> list[int]:
        return [len(server.server_state.connections) for server in self.servers]

    async def begun(self) -> None:
        """Wait until a worker has an incomplete request."""

        def begun() -> bool:
            """The request is in h11, or has gone to the other worker already."""
            here = [each for each in self.servers[0].server_state.connections if isinstance(each, RequestProtocol)]
            return any(each.conn.trailing_data[0] for each in here) or self.connections() == [0, 1]

        await until(begun)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    """Two processes, neither of which is ever held to be held up: this machine may stop for longer."""
    monkeypatch.setattr(passing, "MAX_SILENT_SECONDS", HANG_SECONDS)
    made = Shared(2, multiprocessing.get_context("spawn"))
    yield made
    made.close()


@asynccontextmanager
async def running(made: Workers) -> AsyncIterator[Workers]:
    tasks = [asyncio.create_task(server._serve()) for server in made.servers]
    await until(lambda: all(server.started for server in made.servers))
    made.ports = [server.servers[0].sockets[0].getsockname()[1] for server in made.servers]
    try:
        yield made
    finally:
        for app in made.apps:
            app.gate.set()
        made.close()
        await until(lambda: made.connections() == [0, 0])
        for server in made.servers:
            server.should_exit = True
        await asyncio.gather(*tasks)
    assert list(made.shared.loads) == [ABSENT, ABSENT]
    assert [made.passer(number).answering for number in (0, 1)] == [0, 0]


@pytest.fixture
async def workers(shared: Shared) -> AsyncIterator[Workers]:
    async with running(Workers(shared)) as made:
        yield made


# --- media sockets ---


@pytest.mark.parametrize("frames", [[], [b"one"], [b"one", b"two", b"three"]])
async def test_a_media_socket_goes_to_its_worker_with_what_was_read(workers: Workers, frames: list[bytes]) -> None:
    client = await workers.at(0)
    said = await client.ask(media(1) + b"".join(map(frame, frames)), 1 + len(frames))
    assert said == ["1", *(f"1 {each.decode()}" for each in frames)]
    assert await client.ask(frame(b"more")) == ["1 more"]
    assert workers.connections() == [0, 1]


async def test_a_media_socket_of_a_call_from_the_browser_goes_to_its_worker(workers: Workers) -> None:
    head = media(1).replace(b"/twilio/media/", b"/console/phone/media/")
    assert await (await workers.at(0)).ask(head + frame(b"one"), 2) == ["1", "1 one"]


@pytest.mark.parametrize("place", [1, 10, 60, -30, -1])
async def test_a_head_may_come_in_parts(workers: Workers, place: int) -> None:
    client, head = await workers.at(0), media(1)
    client.writer.write(head[:place])
    await workers.begun()
    assert await client.ask(head[place:] + frame(b"one"), 2) == ["1", "1 one"]


async def test_a_head_may_come_byte_by_byte(workers: Workers) -> None:
    client = await workers.at(0)
    for byte in media(1):
        client.writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert await client.ask(frame(b"one"), 2) == ["1", "1 one"]


@pytest.mark.parametrize("worker", [None, 0, 2, 9999])
async def test_a_media_socket_of_no_other_worker_stays(workers: Workers, worker: int | None) -> None:
    assert await (await workers.at(0)).ask(media(worker) + frame(b"one"), 2) == ["0", "0 one"]


@pytest.mark.parametrize("token", [b"", b"x", b"%40", b"A" * 150, b"A" * 5000, b"\xff"])
async def test_a_token_that_is_none_stays(workers: Workers, token: bytes) -> None:
    client = await workers.at(0)
    client.writer.write(b"GET /twilio/media/" + token + HANDSHAKE)
    await client.reader.readline()
    assert workers.connections()[1] == 0


async def test_a_draining_worker_gets_its_media_sockets_and_no_new_calls(workers: Workers) -> None:
    workers.apps[0].carried, workers.apps[1].draining = 5, True
    for number in (0, 1):
        workers.passer(number).publish()
    assert workers.shared.loads[1] == DRAINING
    assert await (await workers.at(0)).ask(media(1)) == ["1"]
    assert (await (await workers.at(0)).ask(VOICE + b"hello"))[0].startswith("0 POST")
    assert (await (await workers.at(1)).ask(VOICE + b"hello"))[0].startswith("0 POST")


# --- new calls ---


async def test_new_calls_are_spread_evenly_wherever_they_come(workers: Workers) -> None:
    for app in workers.apps:
        app.gate.clear()
    clients = [await workers.at(0) for _ in range(20)]
    asked = [asyncio.create_task(client.ask(VOICE + b"hello")) for client in clients]
    await until(lambda: workers.connections() == [10, 10])
    for app in workers.apps:
        app.gate.set()
    said = [text for each in await asyncio.gather(*asked) for text in each]
    assert sorted(text[0] for text in said) == ["0"] * 10 + ["1"] * 10
    assert {text[1:] for text in said} == {f" POST /twilio/voice 5 {zlib.crc32(b'hello')}"}


async def test_requests_of_one_connection_go_to_both_processes(workers: Workers) -> None:
    """A router of a platform keeps a connection, and many callers' requests come over it."""
    client = await workers.at(0)
    said = [(await client.ask(VOICE + b"hello"))[0][0] for _ in range(6)]
    assert 2 <= said.count("0") <= 4
    last = said[-1]
    assert await client.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") == [f"{last} GET /healthz 0 0"]
    assert await client.ask(media(0) + frame(b"one"), 2) == ["0", "0 one"]
    assert workers.connections() == [1, 0]


async def test_a_request_in_many_parts_is_whole(workers: Workers) -> None:
    workers.apps[0].carried = 1
    body = os.urandom(200_000)
    head = b"POST /twilio/voice?again=1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    client = await workers.at(0)
    client.writer.write(head[:50])
    await workers.begun()
    expected = f"1 POST /twilio/voice {len(body)} {zlib.crc32(body)}"
    assert await client.ask(head[50:] + body) == [expected]


async def test_pipelined_requests_are_all_answered_in_order(workers: Workers) -> None:
    workers.apps[0].carried = 9
    client = await workers.at(0)
    other = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    said = await client.ask(VOICE + b"first" + other + VOICE + b"third", 3)
    assert [text.split(" ", 1)[1] for text in said] == [
        f"POST /twilio/voice 5 {zlib.crc32(b'first')}",
        "GET /healthz 0 0",
        f"POST /twilio/voice 5 {zlib.crc32(b'third')}",
    ]
    assert {text[0] for text in said} == {"1"}
    assert await client.ask(other) == ["1 GET /healthz 0 0"]


async def test_the_rest_of_a_pipelined_head_is_read_by_one_of_them(workers: Workers) -> None:
    client = await workers.at(0)
    assert (await client.ask(VOICE + b"hello" + VOICE[:20]))[0][0] == "0"
    assert (await client.ask(VOICE[20:] + b"again"))[0] == f"1 POST /twilio/voice 5 {zlib.crc32(b'again')}"


@pytest.mark.parametrize("method", [b"HEAD", b"PUT", b"POSTS", b"post"])
async def test_other_methods_stay(workers: Workers, method: bytes) -> None:
    workers.apps[0].carried = 9
    client = await workers.at(0)
    client.writer.write(method + b" /twilio/voice HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" in await client.reader.readline()
    assert workers.connections()[1] == 0


@pytest.mark.parametrize(
    "begin", [b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\n", b"\n", b" \n", b"POST /twilio/voice\n\n"]
)
async def test_odd_first_bytes_are_refused_as_ever(workers: Workers, begin: bytes) -> None:
    client = await workers.at(0)
    client.writer.write(begin)
    assert b" 400 " in await client.end()


async def test_a_websocket_at_the_webhook_is_counted_no_longer_than_it_is_answered(workers: Workers) -> None:
    client = await workers.at(0)
    assert await client.ask(b"GET /twilio/voice" + HANDSHAKE) == ["0"]
    assert workers.passer(0).answering == 0


# --- what cannot be passed ---


async def test_a_full_socket_keeps_the_connection_here(workers: Workers) -> None:
    workers.apps[0].carried = 9
    asyncio.get_running_loop().remove_reader(workers.shared.inboxes[1].fileno())  # it hangs
    with suppress(BlockingIOError):
        while True:
            workers.shared.outboxes[1].send(HEAD.pack(2, 0) + bytes(4096))
    client = await workers.at(0)
    assert (await client.ask(VOICE + b"hello"))[0].startswith("0 POST")
    assert await client.ask(media(1) + frame(b"one"), 2) == ["0", "0 one"]


async def test_a_worker_that_hangs_gets_no_more_than_so_many(workers: Workers) -> None:
    asyncio.get_running_loop().remove_reader(workers.shared.inboxes[1].fileno())
    for _ in range(MAX_UNDER_WAY):
        (await workers.at(0)).writer.write(media(1))
    await until(lambda: workers.shared.under_way(0, 1) == MAX_UNDER_WAY)
    assert workers.shared.load(1) == MAX_UNDER_WAY
    assert await (await workers.at(0)).ask(media(1)) == ["0"]
    workers.passer(1).open(workers.servers[1]._make_protocol)
    await until(lambda: workers.connections() == [1, MAX_UNDER_WAY])
    assert workers.shared.under_way(0, 1) == 0


class Transport(asyncio.Transport):
    """A transport at which nothing may be done."""

    def __init__(self, waiting: int = 0, closing: bool = False, **extra: Any) -> None:
        super().__init__(extra)
        self._found = waiting, closing

    def get_write_buffer_size(self) -> int:
        return self._found[0]

    def is_closing(self) -> bool:
        return self._found[1]


@pytest.mark.parametrize(
    ("transport", "size"),
    [
        (Transport(), MAX_PASSED_BYTES + 1),
        (Transport(waiting=1), 9),
        (Transport(closing=True), 9),
        (Transport(sslcontext=object()), 9),
    ],
)
async def test_some_connections_are_not_touched(workers: Workers, transport: Transport, size: int) -> None:
    assert workers.passer(0).pass_connection(1, transport, bytes(size)) is False


@pytest.fixture
def file() -> Iterator[Any]:
    with Path(__file__).open("rb") as opened:
        yield opened


async def test_garbage_does_no_harm(workers: Workers, caplog: pytest.LogCaptureFixture, file: Any) -> None:
    outbox, inside, far = workers.shared.outboxes[1], *socket.socketpair()
    before = descriptors()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        none: list[int] = []
        for data, given in (
            (b"", none),
            (b"x", none),
            (b"x", [file.fileno()]),
            (HEAD.pack(0, 5) + b"x", none),
            (HEAD.pack(0, 5) + b"x", [file.fileno()]),
            (HEAD.pack(0, 5) + b"x", [file.fileno(), inside.fileno()]),
            (HEAD.pack(0, 5) + b"x", [file.fileno()] * 30),
            (HEAD.pack(0, 5) + b"x", [inside.fileno()]),
            (HEAD.pack(0, 5) + b"x", [datagrams.fileno()]),
            (HEAD.pack(0, 5), [inside.fileno()]),
            (HEAD.pack(9, 2**64 - 1) + b"x", [file.fileno()]),
            (HEAD.pack(0, 0) + bytes(MAX_PASSED_BYTES + 1), [inside.fileno()]),
        ):
            socket.send_fds(outbox, [data], given)
    await until(lambda: caplog.text.count("cannot take") == 12)
    inside.close()
    far.close()
    assert await (await workers.at(0)).ask(media(1)) == ["1"]
    workers.close()
    await until(lambda: workers.connections() == [0, 0])
    await until(lambda: descriptors() <= before - 2)


def descriptors() -> int:
    """Return how many files this process has open; it is one too many, always."""
    return len(os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"))


async def test_connections_that_die_under_way_leave_nothing(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    before = descriptors()
    loop = asyncio.get_running_loop()
    loop.remove_reader(workers.shared.inboxes[1].fileno())
    for number in range(9):
        client = await workers.at(0)
        client.writer.write(media(1))
        await until(lambda: workers.shared.sent[1] > len(workers._clients) - 1)
        match number % 3:
            case 0:
                client.writer.write_eof()
            case 1:
                client.writer.transport.abort()
            case 2:
                reset = struct.pack("ii", 1, 0)
                client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                client.writer.transport.abort()
    workers.passer(1).open(workers.servers[1]._make_protocol)
    await until(lambda: workers.shared.under_way(0, 1) == 0)
    workers.close()
    await until(lambda: workers.connections() == [0, 0])
    await until(lambda: descriptors() <= before)
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG and "phoneagent" in record.name]


async def test_the_log_has_neither_tokens_nor_bodies(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "phoneagent")
    head = media(1)
    assert await (await workers.at(0)).ask(head) == ["1"]
    lines = [record.getMessage() for record in caplog.records if record.name == "phoneagent.passing"]
    assert lines == ["passed a connection to worker 1", "took a connection from worker 0"]


# --- workers that end, and come ---


async def test_what_waits_for_a_worker_that_ended_goes_to_another(workers: Workers) -> None:
    asyncio.get_running_loop().remove_reader(workers.shared.inboxes[1].fileno())
    clients = [await workers.at(0) for _ in range(3)]
    for client in clients:
        client.writer.write(media(1) + frame(b"one"))
    await until(lambda: workers.shared.under_way(0, 1) == 3)
    workers.shared.abandon(1)
    assert [await client.ask(b"", 2) for client in clients] == [["0", "0 one"]] * 3
    assert await (await workers.at(0)).ask(media(1)) == ["0"]


async def test_what_waits_for_the_only_worker_is_for_its_replacement(workers: Workers) -> None:
    asyncio.get_running_loop().remove_reader(workers.shared.inboxes[1].fileno())
    client = await workers.at(0)
    client.writer.write(media(1))
    await until(lambda: workers.shared.under_way(0, 1) == 1)
    workers.shared.loads[0] = ABSENT
    workers.shared.abandon(1)
    server = workers._server(workers.apps[1])
    assert workers.shared.under_way(0, 1) == 0
    replacement = passing.find(server.server_state)
    assert replacement is not None
    replacement.open(workers.servers[1]._make_protocol)
    assert await client.ask(b"") == ["1"]
    replacement.close()


async def test_a_descriptor_is_kept_until_the_other_has_it(shared: Shared) -> None:
    workers = Workers(shared)
    sender = Passer(shared, 0, carried=lambda: 0, draining=lambda: False, keeps=True)
    passing.attach(workers.servers[0].server_state, sender)
    async with running(workers):
        sender.open(workers.servers[0]._make_protocol)
        asyncio.get_running_loop().remove_reader(shared.inboxes[1].fileno())
        client = await workers.at(0)
        client.writer.write(media(1))
        await until(lambda: shared.under_way(0, 1) == 1)
        ((_, _, kept),) = sender._kept
        sender.publish()
        assert os.fstat(kept)
        workers.passer(1).open(workers.servers[1]._make_protocol)
        assert await client.ask(b"") == ["1"]
        sender.publish()
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(kept)
        assert await client.ask(frame(b"one")) == ["1 one"]
        sender.close()


async def test_without_shared_sockets_nothing_is_passed(tmp_path: Path) -> None:
    config = uvicorn.Config(App(0), log_config=None, **UVICORN)
    assert passing.find(PunctualServer(config, App(0), 1).server_state) is None  # type: ignore[arg-type]


def test_a_worker_that_is_held_up_gets_no_new_call() -> None:
    shared = Shared(2, multiprocessing.get_context("spawn"))
    shared.loads[:] = [0, 3]
    shared.seen[:] = [time.monotonic() - 2 * MAX_SILENT_SECONDS, time.monotonic()]
    assert shared.least_loaded() == 1
    shared.seen[0] = time.monotonic()
    assert shared.least_loaded() == 0
    shared.close()
