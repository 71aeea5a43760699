"""The path of a frame, counted: what runs for it, from the bytes of one socket to the bytes of the other one.

The sockets' protocols are the real ones, between transports that only keep what is written: one write is one system
call at most.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import pytest
import uvicorn
from starlette.websockets import WebSocket
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from phoneagent import Agent, Call, Recording
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.policy import Policy
from phoneagent.calls.recorder import Recorder
from phoneagent.calls.session import Session
from phoneagent.cli import limits
from phoneagent.cli.direct import DirectProtocol
from phoneagent.model.connection import ModelSession
from phoneagent.model.direct import DirectConnection
from phoneagent.protocol.carrier import Started
from phoneagent.protocol.negotiation import Negotiation
from phoneagent.store.recordings import Recordings
from phoneagent.twilio.socket import TwilioSocket
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
PAYLOAD = base64.b64encode(bytes(160)).decode()
DELTA = base64.b64encode(b"\x55" * 800).decode()  # 100 ms
CHECKED = 30
"""After so many deltas the check for PCM is over."""

START = json.dumps(
    {"event": "start", "streamSid": "MZ1", "start": {"streamSid": "MZ1", "callSid": "CA1", "accountSid": "AC1"}}
)


class Wire(asyncio.Transport):
    """A transport that keeps what is written, each write by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


def messages(data: bytes, *, masked: bool) -> list[dict[str, Any]]:
    """Return the messages of a write."""
    stream, found = bytearray(data), []

    def read_exact(count: int) -> Any:
        taken = bytes(stream[:count])
        del stream[:count]
        return taken
        yield

    while stream:
        try:
            next(Frame.parse(read_exact, mask=masked))
        except StopIteration as done:
            found.append(json.loads(bytes(done.value.data)))
    return found


class Path:
    """A call between the two protocols of its sockets."""

    def __init__(self, recordings: Recordings | None = None, *, start: bool = False) -> None:
        self.recordings, self.start = recordings, start
        self.to_twilio, self.to_model = Wire(), Wire()
        state = ServerState()
        limits._silent_connections[state] = limits.SilentConnections(10, 60)
        config = uvicorn.Config(
            self.app,
            interface="asgi3",
            ws=DirectProtocol,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
        )
        config.load()
        self.twilio = DirectProtocol(config, state, app_state={})
        self.model = DirectConnection(ClientProtocol(parse_uri("ws://model/")), ping_interval=None)
        self.session: Session | None = None

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        await websocket.accept()
        socket = TwilioSocket(websocket)
        start = await socket.receive()
        assert isinstance(start, Started)
        bridge, option = Bridge(Policy(), call_sid="CA1"), Recording(start=self.start)
        recorder = None
        if self.recordings is not None:
            sids = {"call_sid": "CA1", "stream_sid": "MZ1"}
            recorder = Recorder(self.recordings, bridge, **sids, option=option, earlier=None, emit=lambda event: None)
        self.session = Session(
            call=Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC)),
            agent=Agent(instructions="x"),
            bridge=bridge,
            caller=socket,
            open_model=self.open_model,
            emit=lambda event: None,
            recorder=recorder,
        )
        await self.session.run(start)
        if recorder is not None:
            await recorder.close()

    async def open_model(self, elsewhere: bool) -> ModelSession:
        server = ServerProtocol()
        client = self.model.protocol
        self.model.connection_made(self.to_model)
        client.send_request(client.connect())
        server.receive_data(b"".join(client.data_to_send()))
        (request,) = server.events_received()
        server.send_response(server.accept(request))  # type: ignore[arg-type]
        self.model.data_received(b"".join(server.data_to_send()))
        configured = Negotiation({})
        configured.acknowledged = True
        return ModelSession(self.model, configured)

    def from_twilio(self, number: int) -> bytes:
        media = {"payload": PAYLOAD, "timestamp": str(20 * number)}
        text = json.dumps({"event": "media", "streamSid": "MZ1", "media": media})
        return Frame(Opcode.TEXT, text.encode()).serialize(mask=True)

    def from_model(self, kind: str, **fields: Any) -> bytes:
        return Frame(Opcode.TEXT, json.dumps({"type": kind, **fields}).encode()).serialize(mask=False)

    def delta(self) -> bytes:
        return self.from_model(
            "response.output_audio.delta", response_id="r1", item_id="i1", content_index=0, delta=DELTA
        )

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            while not condition():
                await asyncio.sleep(0)

    def speak(self) -> None:
        """Let the agent speak, until only its audio comes."""
        self.model.data_received(self.from_model("response.created", response={"id": "r1", "status": "in_progress"}))
        for _ in range(CHECKED):
            self.model.data_received(self.delta())


@asynccontextmanager
async def running(recordings: Recordings | None = None, *, start: bool = False) -> AsyncIterator[Path]:
    path = Path(recordings, start=start)
    head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    path.twilio.connection_made(path.to_twilio)
    path.twilio.data_received(head + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
    await path.until(lambda: path.to_twilio.writes)
    path.twilio.data_received(Frame(Opcode.TEXT, START.encode()).serialize(mask=True))
    await path.until(lambda: path.session is not None and path.session.bridge.conversation.connected)
    await asyncio.sleep(0)
    for number in range(5):
        path.twilio.data_received(path.from_twilio(number))
    assert len(path.to_model.writes) >= 5
    try:
        yield path
    finally:
        path.twilio.connection_lost(None)
        path.model.connection_lost(None)
        await path.until(lambda: not path.twilio.tasks)


def functions(work: Callable[[], None]) -> list[str]:
    """Return the Python functions that run for something, ours and those of libraries."""
    names: list[str] = []

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            names.append(frame.f_code.co_qualname if sys.version_info >= (3, 11) else "")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return names[1:]  # without `work` itself


def ordinarily(work: Callable[[], None]) -> list[str]:
    """Return the functions that run for most of some messages: on a busy machine something is due in between."""
    return min((functions(work) for _ in range(5)), key=len)


async def test_a_frame_takes_few_functions_one_write_no_task_and_no_timer_pass() -> None:
    async with running() as path:
        assert path.session is not None
        frame, tasks, timer = path.from_twilio(5), asyncio.all_tasks(), path.session._timer
        path.to_model.writes.clear()
        names = ordinarily(lambda: path.twilio.data_received(frame))
        assert [messages(write, masked=True) for write in path.to_model.writes] == [
            [{"type": "input_audio_buffer.append", "audio": PAYLOAD}]
        ] * 5
        assert len(names) <= 22, "\n".join(names)  # Python 3.11 counts each list comprehension
        assert not any("timer" in name for name in names)
        assert path.session._timer is timer
        assert asyncio.all_tasks() == tasks


async def test_an_audio_delta_takes_few_functions_one_write_no_task_and_no_timer_pass() -> None:
    async with running() as path:
        assert path.session is not None
        path.speak()
        delta, tasks, timer = path.delta(), asyncio.all_tasks(), path.session._timer
        path.to_twilio.writes.clear()
        names = ordinarily(lambda: path.model.data_received(delta))
        for write in path.to_twilio.writes:
            assert [message["event"] for message in messages(write, masked=False)] == ["media", "mark"]
        assert len(path.to_twilio.writes) == 5
        assert len(names) <= 38, "\n".join(names)
        assert not any("timer" in name for name in names)
        assert path.session._timer is timer
        assert asyncio.all_tasks() == tasks


async def test_the_echo_of_a_mark_takes_few_functions_and_no_write() -> None:
    async with running() as path:
        assert path.session is not None
        path.speak()
        sent = [each for write in path.to_twilio.writes[1:] for each in messages(write, masked=False)]
        mark = next(each["mark"] for each in sent if each["event"] == "mark")
        echo = json.dumps({"event": "mark", "streamSid": "MZ1", "mark": mark})
        frame, timer = Frame(Opcode.TEXT, echo.encode()).serialize(mask=True), path.session._timer
        path.to_twilio.writes.clear()
        path.to_model.writes.clear()
        names = functions(lambda: path.twilio.data_received(frame))
        assert len(names) <= 13, "\n".join(names)  # Python 3.11 counts each list comprehension
        assert path.session.bridge.playback._acked == 800
        assert path.to_twilio.writes == path.to_model.writes == []
        assert path.session._timer is timer


async def test_a_recording_that_is_off_costs_a_frame_nothing_and_one_that_is_on_little(tmp_path: Any) -> None:
    counts: list[tuple[list[str], list[str]]] = []
    for recordings, start in ((None, False), (Recordings(str(tmp_path)), False), (Recordings(str(tmp_path)), True)):
        async with running(recordings, start=start) as path:
            path.speak()
            frame, delta, tasks = path.from_twilio(5), path.delta(), asyncio.all_tasks()
            files = {each: os.stat(each).st_size for each in tmp_path.rglob("*")}
            of_frame = ordinarily(lambda: path.twilio.data_received(frame))  # noqa: B023
            of_delta = ordinarily(lambda: path.model.data_received(delta))  # noqa: B023
            assert files == {each: os.stat(each).st_size for each in tmp_path.rglob("*")}
            assert asyncio.all_tasks() == tasks
            counts.append((of_frame, of_delta))
    without, off, on = counts
    assert off == without
    assert len(on[0]) <= len(off[0]) + 5, on[0]
    assert len(on[1]) <= len(off[1]) + 5, on[1]


async def test_a_frame_makes_no_task_even_for_a_moment() -> None:
    async with running() as path:
        path.speak()
        made: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_task_factory(
            lambda loop, coroutine, **options: made.append(1) or asyncio.Task(coroutine, loop=loop, **options)
        )
        try:
            for number in range(5, 15):
                path.twilio.data_received(path.from_twilio(number))
                path.model.data_received(path.delta())
                await asyncio.sleep(0)
        finally:
            loop.set_task_factory(None)
        assert made == []


async def test_frames_leave_no_memory_behind() -> None:
    async with running() as path:
        frames = [path.from_twilio(number) for number in range(5, 1505)]
        for frame in frames[:500]:
            path.twilio.data_received(frame)
        path.to_model.writes.clear()
        gc.collect()
        before = sys.getallocatedblocks()
        for frame in frames[500:]:
            path.twilio.data_received(frame)
            path.to_model.writes.clear()
        gc.collect()
        assert sys.getallocatedblocks() - before < 1000  # a thousand frames; the odd cache may have grown
