"""The calls of a process between media sockets and model servers that are lists of messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Never

from phoneagent import Agent, Call, Endpoint
from phoneagent.agent.agent import Answerer
from phoneagent.bridge.history import Past
from phoneagent.bridge.steps import NextStep
from phoneagent.calls.calls import Calls
from phoneagent.calls.hooks import Hooks
from phoneagent.calls.progress import Keep
from phoneagent.errors import EndpointError, EndpointUnreachable
from phoneagent.events import Event
from phoneagent.model.connection import ModelSession
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import FromCarrier, Started, Stopped, ToCarrier
from tests.patience import HANG_SECONDS

SID = "CA1"


class Socket:
    """A caller's media socket."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[FromCarrier | None] = asyncio.Queue()
        self.closed = False

    writable = True

    async def read(self, take: Callable[[Any], None], resumed: Callable[[], None]) -> None:
        while (message := await self.incoming.get()) is not None:
            take(message)

    def decode(self, raw: Any) -> FromCarrier | None:
        message: FromCarrier = raw
        return message

    def write(self, messages: Iterable[ToCarrier]) -> None: ...

    async def close(self) -> None:
        self.closed = True


class Model(ModelSession):
    """A model session that was opened at `endpoint`."""

    def __init__(self, endpoint: Endpoint, session: Mapping[str, Any]) -> None:
        self.endpoint = endpoint
        self.session = session
        self.dropped: tuple[str, ...] = ()
        self.effective: Mapping[str, Any] = {}
        self.sent: list[realtime.ToModel] = []
        self.closed = False
        self._broken = asyncio.Event()

    writable = True

    def write(self, messages: Iterable[realtime.ToModel]) -> None:
        self.sent.extend(messages)

    async def read(self, take: Callable[[bytes], None], resumed: Callable[[], None]) -> Never:
        await self._broken.wait()
        raise EndpointUnreachable("aborted")

    def abort(self) -> None:
        self._broken.set()

    async def close(self) -> None:
        self.closed = True


class Journal:
    """A journal that takes every step."""

    def __init__(self) -> None:
        self.steps: list[NextStep] = []

    async def tool_started(self, call_sid: str, call_id: str, name: str, arguments: str) -> None: ...

    async def next_step(self, call_sid: str, step: NextStep, *, early: bool = False) -> None:
        self.steps.append(step)


class Rig:
    """Calls whose endpoints are `ws://0/`, `ws://1/` …; those that `fail` give no session."""

    def __init__(
        self,
        answerer: Answerer | None = None,
        *,
        endpoints: int = 1,
        journal: Journal | None = None,
        fail: Mapping[int, EndpointError] | None = None,
        keep_unfinished: Keep | None = None,
    ) -> None:
        self.fail = dict(fail or {})
        self.asked: list[tuple[str, float | None]] = []
        """The hosts that were asked for a session, and within how many seconds."""
        self.models: list[Model] = []
        self.live: dict[str, Call] = {}
        self.told: list[tuple[Event, str]] = []
        self.calls = Calls(
            answerer or Agent(instructions="Be brief."),
            [Endpoint(f"ws://{number}/?model=m") for number in range(endpoints)],
            calls=self.live,
            hooks=Hooks(),
            emit=lambda event, stream_sid: self.told.append((event, stream_sid)),
            journal=journal,
            keep_unfinished=keep_unfinished,
            max_call_seconds=600,
        )

    async def open_session(
        self, endpoint: Endpoint, session: Mapping[str, Any], call: Call | None = None, *, within: float | None = None
    ) -> Model:
        self.asked.append((endpoint.host, within))
        await asyncio.sleep(0)
        if (error := self.fail.get(int(endpoint.host))) is not None:
            raise error
        self.models.append(Model(endpoint, session))
        return self.models[-1]

    def events(self, kind: type[Any]) -> list[Any]:
        return [event for event, _ in self.told if isinstance(event, kind)]

    @asynccontextmanager
    async def running(
        self, stream_sid: str = "MZ1", *, past: Past | None = None, call: Call | None = None
    ) -> AsyncIterator[tuple[Socket, asyncio.Task[None]]]:
        """Run a media stream until the block is over, and then to its end."""
        socket, start = Socket(), Started(stream_sid=stream_sid, call_sid=SID, account_sid="AC1")

        async def run() -> None:
            with self.calls.counted():  # as the media sockets do
                await self.calls.run(call or new_call(), start, socket, past)  # type: ignore[arg-type]

        running = asyncio.create_task(run())
        try:
            async with asyncio.timeout(HANG_SECONDS):
                await until(lambda: running.done() or any(sid == stream_sid for _, sid in self.told))
                yield socket, running
                socket.incoming.put_nowait(Stopped())
                await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def new_call(sid: str = SID) -> Call:
    return Call(sid=sid, caller="+15550100001", called=None, direction="inbound", started_at=datetime.now(UTC))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)
