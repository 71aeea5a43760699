"""A session of a call between a caller's socket and a model's, both made of lists of messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Never

from phoneagent import Agent, Call, CallEnded, Event
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.policy import Policy
from phoneagent.bridge.steps import NextStep
from phoneagent.calls.session import ModelSocket, Session
from phoneagent.errors import EndpointUnreachable, ProtocolError
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import (
    FromCarrier,
    Started,
    Stopped,
    ToCarrier,
)
from tests.patience import HANG_SECONDS

START = Started(stream_sid="MZ1", call_sid="CA1", account_sid="AC1")


class Caller:
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    writable = True

    async def read(self, take: Callable[[Any], None], resumed: Callable[[], None]) -> None:
        await self.closed.wait()

    def decode(self, raw: Any) -> FromCarrier | None:
        if isinstance(raw, ProtocolError):
            raise raw
        message: FromCarrier = raw
        return message

    def write(self, messages: Iterable[ToCarrier]) -> None: ...

    async def close(self) -> None:
        self.closed.set()


async def never(elsewhere: bool) -> ModelSocket:
    await asyncio.Event().wait()
    raise AssertionError


class Shell:
    """A session without a network."""

    def __init__(self, agent: Agent | None = None, open_model: Any = never, caller: Any = None, **options: Any) -> None:
        self.told: list[Event] = []
        self.call = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
        self.session = Session(
            call=self.call,
            agent=agent or Agent(instructions="x"),
            bridge=Bridge(Policy(renews=True), call_sid="CA1"),
            caller=caller or Caller(),
            open_model=open_model,
            emit=self.told.append,
            **options,
        )

    def events(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    def ended(self) -> CallEnded:
        (ended,) = (each for each in self.told if isinstance(each, CallEnded))
        return ended


class Line(Caller):
    """A caller's socket: what it receives, in order, and what was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.incoming: asyncio.Queue[FromCarrier | ProtocolError | None] = asyncio.Queue()
        self.sent: list[ToCarrier] = []

    async def read(self, take: Callable[[Any], None], resumed: Callable[[], None]) -> None:
        while (message := await self.incoming.get()) is not None:
            take(message)

    def write(self, messages: Iterable[ToCarrier]) -> None:
        self.sent.extend(messages)


class Model:
    """A model's session, in the same way."""

    def __init__(self) -> None:
        self.dropped: tuple[str, ...] = ()
        self.effective: dict[str, Any] = {}
        self.incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.sent: list[realtime.ToModel] = []

    def says(self, kind: str, **fields: Any) -> None:
        self.incoming.put_nowait(json.dumps({"type": kind, **fields}).encode())

    def speaks(self, count: int = 1) -> None:
        for _ in range(count):
            self.says("response.output_audio.delta", response_id="r1", item_id="i1", delta="////")

    writable = True

    def write(self, messages: Iterable[realtime.ToModel]) -> None:
        self.sent.extend(messages)

    async def read(self, take: Callable[[bytes], None], resumed: Callable[[], None]) -> Never:
        while (raw := await self.incoming.get()) is not None:
            take(raw)
        raise EndpointUnreachable("the model's socket broke")

    def decode(self, raw: bytes) -> realtime.FromModel:
        return realtime.decode(raw)

    def abort(self) -> None:
        self.incoming.put_nowait(None)

    async def close(self) -> None: ...


class Running(Shell):
    """A call that runs between a line and a model; each further session is another model."""

    def __init__(self, agent: Agent | None = None, **options: Any) -> None:
        self.line = Line()
        self.models: list[Model] = []
        self.elsewhere: list[bool] = []
        super().__init__(agent, self.open_model, self.line, **options)

    async def open_model(self, elsewhere: bool) -> ModelSocket:
        self.elsewhere.append(elsewhere)
        self.models.append(Model())
        return self.models[-1]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            while not condition():
                await asyncio.sleep(0)

    async def __aenter__(self) -> Running:
        self.task = asyncio.create_task(self.session.run(START))
        await self.until(lambda: self.session.bridge.conversation.connected)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.line.incoming.put_nowait(Stopped())
        async with asyncio.timeout(HANG_SECONDS):
            await self.task
            await self.session.finish_tools()


class Journal:
    def __init__(self) -> None:
        self.steps: list[tuple[NextStep, bool]] = []

    async def tool_started(self, call_sid: str, call_id: str, name: str, arguments: str) -> None: ...

    async def next_step(self, call_sid: str, step: NextStep, *, early: bool = False) -> None:
        self.steps.append((step, early))
