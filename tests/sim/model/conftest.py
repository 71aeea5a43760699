"""A client of the simulated Realtime server: plain websockets, each event checked against the official SDK."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from phoneagent.protocol.audio import silence, tone
from phoneagent.sim.model.server import Model
from phoneagent.sim.model.setup import Faults
from phoneagent.sim.model.vad import EnergyGate

LIMIT_S = 10


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


@cache
def sdk(dialect: str) -> TypeAdapter[Any]:
    """Return the type of all events of a dialect. Its import takes a second, so it is imported where it is needed."""
    if dialect == "ga":
        from openai.types.realtime.realtime_server_event import RealtimeServerEvent

        return TypeAdapter(RealtimeServerEvent)
    from openai.types.beta.realtime.realtime_server_event import RealtimeServerEvent as BetaServerEvent

    return TypeAdapter(BetaServerEvent)


def of_its_time(event: dict[str, Any], dialect: str | None) -> dict[str, Any]:
    """Return the event with a model that the beta's types know: they were closed when it was."""
    if dialect == "beta" and "model" in event.get("session", {}):
        return {**event, "session": {**event["session"], "model": "gpt-realtime"}}
    return event


class Client:
    """One connection. `events` holds all that was received; each must fit the SDK's types for `dialect`, if given."""

    def __init__(self, socket: ClientConnection, *, dialect: str | None) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self._dialect = dialect
        self._sdk = sdk(dialect) if dialect is not None else None

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def steps(self, start: int = 0) -> list[str]:
        """The types from event `start` on, without the deltas, whose number and order vary."""
        return [kind for kind in self.types[start:] if not kind.endswith(".delta")]

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def say(self, ulaw: bytes) -> None:
        """Send audio in the frames of a phone call, as fast as it goes."""
        for at in range(0, len(ulaw), 160):
            await self.send("input_audio_buffer.append", audio=base64.b64encode(ulaw[at : at + 160]).decode())

    async def speak(self, ms: int = 600) -> None:
        """Say something that an energy gate takes for a turn."""
        await self.say(tone(300, ms) + silence(400))

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(LIMIT_S):
            event: dict[str, Any] = json.loads(await self.socket.recv())
        if self._sdk is not None:
            assert self._sdk.validate_python(of_its_time(event, self._dialect)).type == event["type"]
        self.events.append(event)
        return event

    async def until(self, kind: str) -> dict[str, Any]:
        """Receive up to the next event of this type and return it."""
        while (event := await self.next())["type"] != kind:
            pass
        return event

    async def configure(self, *, turn: dict[str, Any] | None = None, **session: Any) -> dict[str, Any]:
        """Set a telephone session up, `turn` changing its turn detection; returns the effective configuration."""
        detection = {"type": "server_vad", "silence_duration_ms": 300, "interrupt_response": False, **(turn or {})}
        pcmu = {"type": "audio/pcmu"}
        audio = {"input": {"format": pcmu, "turn_detection": detection}, "output": {"format": pcmu}}
        await self.send("session.update", session={"type": "realtime", "audio": audio, **session})
        effective: dict[str, Any] = (await self.until("session.updated"))["session"]
        return effective

    async def add(self, text: str, role: str = "user") -> None:
        """Add a message and wait until it is in the conversation."""
        content = [{"type": "output_text" if role == "assistant" else "input_text", "text": text}]
        await self.send("conversation.item.create", item={"type": "message", "role": role, "content": content})
        await self.until("conversation.item.done")

    async def answer(self, **response: Any) -> dict[str, Any]:
        """Ask for a response and return it when it is done."""
        await self.send("response.create", **({"response": response} if response else {}))
        done: dict[str, Any] = (await self.until("response.done"))["response"]
        return done

    async def refused(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send an event that must be refused, and return the error."""
        await self.send(kind, event_id="mine", **fields)
        error: dict[str, Any] = (await self.until("error"))["error"]
        assert error["event_id"] == "mine"
        return error

    def audio(self, item_id: str | None = None) -> bytes:
        """All audio received, or that of one item."""
        deltas = [event for event in self.events if event["type"] == "response.output_audio.delta"]
        return b"".join(base64.b64decode(event["delta"]) for event in deltas if item_id in (None, event["item_id"]))


async def closing(client: Any) -> ConnectionClosed:
    """Receive until the connection is closed."""
    while True:
        try:
            await client.next()
        except ConnectionClosed as closed:
            return closed


def code_of(closed: ConnectionClosed) -> int | None:
    return closed.rcvd.code if closed.rcvd else None


Dial = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def dial() -> Dial:
    """Open a session: `async with dial(model) as client`."""

    @asynccontextmanager
    async def dial(
        model: Model,
        *,
        headers: Iterable[tuple[str, str]] = (),
        query: str = "?model=gpt-realtime-2.1",
        checked: bool = True,
    ) -> AsyncIterator[Client]:
        beta = any(name == "OpenAI-Beta" for name, _ in headers)
        async with connect(model.url + query, additional_headers=list(headers), compression=None) as socket:
            yield Client(socket, dialect=("beta" if beta else "ga") if checked else None)

    return dial


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """Make a server that is quick and takes tones for speech."""

    def make(script: str | None = None, *, faults: Faults | None = None, **options: Any) -> Model:
        quick: dict[str, Any] = {"vad": EnergyGate, "speed": 100, "think_ms": 5, "faults": faults or Faults()}
        return Model(script, **(quick | options))

    return make


@pytest.fixture
def speech() -> Callable[[str], bytes]:
    """Read recorded human speech, by the name of its file: µ-law at 8 kHz."""

    def read(name: str) -> bytes:
        data = (Path(__file__).parents[2] / "data" / f"{name}.ulaw.wav").read_bytes()
        return data[data.index(b"data") + 8 :]

    return read
