"""The path of a frame, counted: how many of our functions run for it, from socket to socket."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from websockets.protocol import State

import phoneagent
from phoneagent import Agent, Call
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.policy import Policy
from phoneagent.calls.session import Session
from phoneagent.model.connection import ModelSession
from phoneagent.protocol.carrier import Started
from phoneagent.protocol.negotiation import Negotiation
from phoneagent.twilio.socket import TwilioSocket

pytestmark = pytest.mark.anyio
OURS = str(Path(phoneagent.__file__).parent)
FRAME = base64.b64encode(bytes(160)).decode()
DELTA = base64.b64encode(b"\x55" * 800).decode()  # 100 ms
CHECKED = 30
"""After so many deltas the check for PCM is over."""


class Pipe:
    """A fake socket of either kind: what it was sent, and what it is about to receive."""

    def __init__(self) -> None:
        self.state = State.OPEN
        self.transport = self
        self.sent: list[Any] = []
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()

    async def receive(self) -> Any:
        return await self.incoming.get()

    async def recv(self, decode: bool | None = None) -> Any:
        return await self.incoming.get()

    async def send(self, message: Any, text: bool | None = None) -> None:
        self.sent.append(message)

    async def close(self, code: int = 1000) -> None: ...

    def abort(self) -> None: ...


class Counted:
    """A call between two pipes, and a profile of what runs in it."""

    def __init__(self) -> None:
        self.twilio, self.realtime = Pipe(), Pipe()
        call = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
        self.session = Session(
            call=call,
            agent=Agent(instructions="x"),
            bridge=Bridge(Policy(), call_sid="CA1"),
            caller=self.socket(),
            open_model=self.open_model,
            emit=lambda event: None,
        )
        self.names: list[str] = []
        self.tasks = 0

    def socket(self) -> TwilioSocket:
        socket = TwilioSocket(self.twilio)  # type: ignore[arg-type]
        socket._stream.stream_sid = "MZ1"
        return socket

    async def open_model(self, elsewhere: bool) -> ModelSession:
        configured = Negotiation({})
        configured.acknowledged = True
        return ModelSession(self.realtime, configured)  # type: ignore[arg-type]

    def from_twilio(self, number: int) -> None:
        media = {"payload": FRAME, "timestamp": str(20 * number)}
        text = json.dumps({"event": "media", "streamSid": "MZ1", "media": media})
        self.twilio.incoming.put_nowait({"type": "websocket.receive", "text": text})

    def from_model(self, kind: str, **fields: Any) -> None:
        self.realtime.incoming.put_nowait(json.dumps({"type": kind, **fields}).encode())

    def delta(self) -> None:
        self.from_model("response.output_audio.delta", response_id="r1", item_id="i1", content_index=0, delta=DELTA)

    async def settle(self) -> None:
        """Let everything that was put into the pipes come out at the other end."""
        while not (self.twilio.incoming.empty() and self.realtime.incoming.empty()):
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)

    async def count(self, put: Callable[[], None]) -> list[str]:
        """Return the functions of ours that run for what `put` does."""
        self.names.clear()

        def profile(frame: FrameType, event: str, argument: object) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(OURS):
                self.names.append(frame.f_code.co_qualname if sys.version_info >= (3, 11) else "")

        put()
        sys.setprofile(profile)
        try:
            await self.settle()
        finally:
            sys.setprofile(None)
        return list(self.names)


async def running(counted: Counted) -> asyncio.Task[None]:
    started = Started(stream_sid="MZ1", call_sid="CA1", account_sid="AC1")
    task = asyncio.create_task(counted.session.run(started))
    for number in range(5):
        counted.from_twilio(number)
    await counted.settle()
    assert len(counted.realtime.sent) >= 5
    return task


async def test_a_frame_takes_twenty_calls_at_most_no_task_and_no_timer_pass() -> None:
    counted = Counted()
    task = await running(counted)
    sent, tasks, timer = len(counted.realtime.sent), asyncio.all_tasks(), counted.session._timer
    names = await counted.count(lambda: counted.from_twilio(5))
    assert len(counted.realtime.sent) == sent + 1
    assert len(names) <= 20, "\n".join(names)
    assert not any("timer" in name for name in names)
    assert counted.session._timer is timer
    assert asyncio.all_tasks() == tasks
    counted.twilio.incoming.put_nowait({"type": "websocket.disconnect"})
    await task


async def test_an_audio_delta_takes_thirty_five_calls_at_most_no_task_and_no_timer_pass() -> None:
    counted = Counted()
    task = await running(counted)
    counted.from_model("response.created", response={"id": "r1", "status": "in_progress"})
    for _ in range(CHECKED):
        counted.delta()
    await counted.settle()
    sent, tasks, timer = len(counted.twilio.sent), asyncio.all_tasks(), counted.session._timer
    names = await counted.count(counted.delta)
    written = [json.loads(message["text"])["event"] for message in counted.twilio.sent[sent:]]
    assert written == ["media", "mark"]
    assert len(names) <= 35, "\n".join(names)
    assert not any("timer" in name for name in names)
    assert counted.session._timer is timer
    assert asyncio.all_tasks() == tasks
    counted.twilio.incoming.put_nowait({"type": "websocket.disconnect"})
    await task


async def test_a_frame_makes_no_task_even_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted()
    task = await running(counted)
    made: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_task_factory(
        lambda loop, coroutine, **options: made.append(1) or asyncio.Task(coroutine, loop=loop, **options)
    )
    try:
        for number in range(5, 15):
            counted.from_twilio(number)
            counted.delta()
        await counted.settle()
    finally:
        loop.set_task_factory(None)
    assert made == []
    counted.twilio.incoming.put_nowait({"type": "websocket.disconnect"})
    await task
