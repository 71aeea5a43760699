"""Whole calls at each kind of endpoint: OpenAI, Azure, Helicone in front of both, gateways of either dialect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from phoneagent import Agent, BargeIn, Call, CallEnded, Endpoint, Hearing, ToolReturned, TurnEnded, hang_up, tool
from phoneagent.demo.report import measure
from phoneagent.model import connection
from phoneagent.protocol.realtime import Dialect
from phoneagent.sim import Faults, Helicone, Line, Model
from phoneagent.sim.model.service import ANY, ANY_BETA, AZURE, AZURE_PREVIEW, BETA_GATEWAY, OPENAI
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import World, Worlds
from tests.protocol.sdk import check

pytestmark = pytest.mark.anyio

KEY, HELICONE_KEY = "sk-provider", "sk-helicone"
VOICE = Murmur()
OFFER = "Of course. We have one by the window at seven, another by the fireplace at half past seven, and one outside."
NEWS = "The kitchen closes soon."
DONE = "Done. Booked for 4. They know."
SCRIPT = f"""
[[turn]]
caller = "A table, please."
say = "{OFFER}"
[[turn]]
caller = "At seven."
say = "One moment."
calls = [{{ name = "book_table", arguments = {{ guests = 4 }} }}, {{ name = "tell_kitchen", arguments = {{}} }}]
then = "Done. {{output}}"
[[turn]]
caller = "Goodbye."
say = "Goodbye!"
call = "hang_up"
"""


@tool
async def book_table(call: Call, guests: int) -> str:
    """Book a table."""
    return f"Booked for {guests}."


@tool
def tell_kitchen() -> str:
    """Tell the kitchen."""
    return "They know."


HOST = Agent(
    instructions="You answer the phone.",
    greeting="Good evening!",
    hearing=Hearing(language="en"),
    tools=[book_table, tell_kitchen, hang_up],
)


class Running:
    """A model that runs already, for a world that would start its own."""

    def __init__(self, model: Model, gateway: Helicone | None = None) -> None:
        self._model = model
        self.gateway = gateway

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def __aenter__(self) -> Running:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


Found = tuple[Running, Endpoint]
StandIn = Callable[[Model], AbstractAsyncContextManager[Found]]


def origin(model: Model) -> str:
    return model.url.replace("ws:", "http:").split("/", 3)[0] + "//" + model.url.split("/", 3)[2]


@asynccontextmanager
async def openai(model: Model) -> AsyncIterator[Found]:
    yield Running(model), Endpoint.openai(KEY, base_url=f"{origin(model)}/v1")


@asynccontextmanager
async def azure(model: Model) -> AsyncIterator[Found]:
    yield Running(model), Endpoint.azure(origin(model), "talk", api_key=KEY)


@asynccontextmanager
async def azure_with_entra(model: Model) -> AsyncIterator[Found]:
    async def token() -> str:
        return KEY

    yield Running(model), Endpoint.azure(origin(model), "talk", token=token)


@asynccontextmanager
async def azure_preview(model: Model) -> AsyncIterator[Found]:
    yield Running(model), Endpoint.azure(origin(model), "talk", api_key=KEY, preview="2025-04-01-preview")


@asynccontextmanager
async def gateway(model: Model) -> AsyncIterator[Found]:
    yield Running(model), Endpoint.gateway(origin(model), api_key=KEY)


@asynccontextmanager
async def forced_beta(model: Model) -> AsyncIterator[Found]:
    yield Running(model), Endpoint.gateway(origin(model), api_key=KEY, dialect=Dialect.BETA)


@asynccontextmanager
async def helicone(model: Model) -> AsyncIterator[Found]:
    async with Helicone(model, api_key=HELICONE_KEY) as front:
        yield Running(model, front), Endpoint.openai(KEY).through_helicone(HELICONE_KEY, gateway=base(front))


@asynccontextmanager
async def helicone_to_azure(model: Model) -> AsyncIterator[Found]:
    far = Endpoint.azure("https://phones.openai.azure.com", "talk", api_key=KEY)
    async with Helicone(model, api_key=HELICONE_KEY) as front:
        yield Running(model, front), far.through_helicone(HELICONE_KEY, gateway=base(front))


def base(front: Helicone) -> str:
    return front.url.removesuffix("/realtime")


STAND_INS = {
    "OpenAI": (openai, OPENAI, "ga"),
    "Azure": (azure, AZURE, "ga"),
    "Azure with Entra": (azure_with_entra, AZURE, "ga"),
    "Azure preview": (azure_preview, AZURE_PREVIEW, "beta"),
    "GA gateway": (gateway, ANY, "ga"),
    "beta gateway": (gateway, BETA_GATEWAY, "beta"),
    "beta on request": (forced_beta, ANY_BETA, "beta"),
    "Helicone to OpenAI": (helicone, ANY_BETA, "beta"),  # a provider that still speaks the beta
    "Helicone to Azure": (helicone_to_azure, AZURE_PREVIEW, "beta"),
}


FAMILIES = {
    "OpenAI and gateways": ["OpenAI", "GA gateway", "beta gateway", "beta on request"],
    "Azure": ["Azure", "Azure with Entra", "Azure preview"],
    "Helicone": ["Helicone to OpenAI", "Helicone to Azure"],
}


@asynccontextmanager
async def at(name: str, world: Worlds) -> AsyncIterator[World]:
    """Make a world at a stand-in. At its end nothing has broken a rule, and all we sent fits the official types."""
    stand_in, service, dialect = STAND_INS[name]
    sent: list[dict[str, Any]] = []

    def watch(_session: Any, direction: str, event: dict[str, Any]) -> None:
        if direction == "in":
            sent.append(event)

    async with (
        Model(SCRIPT, api_key=KEY, service=service, watch=watch) as model,
        stand_in(model) as (running, far),
        world(HOST, model=running, endpoint=far) as w,
    ):
        yield w
        assert [session.dialect for session in model.sessions] == [dialect] * len(model.sessions)
        assert model.violations == []
        assert running.gateway is None or running.gateway.violations == []
        assert sent
        for event in sent:
            check(event, Dialect(dialect))


async def heard(w: World, words: str) -> None:
    """Wait until the caller has heard these words."""
    await w.until(lambda: any(each.turn.heard_text == words for each in w.of(TurnEnded)))


async def conversation(w: World) -> Line:
    """Have a call: a greeting, words from code, an interruption, two tools, a goodbye."""
    async with w.phone().dial() as line:
        await line.wait_for_silence(ms=200)
        w.app.calls[line.call_sid].say(NEWS)
        await heard(w, NEWS)
        await line.say(VOICE.render("A table, please."))
        await line.wait_for_agent(ms=800)
        await line.say(VOICE.render("At seven."))
        await heard(w, DONE)
        await line.say(VOICE.render("Goodbye."))
        await line.wait_ended(20)
    return line


async def a_whole_call(world: Worlds, name: str) -> None:
    async with at(name, world) as w:
        line = await conversation(w)
        assert (line.ended_by, line.violations) == ("agent", [])
        await w.until(lambda: w.of(CallEnded))
        (ended,) = w.of(CallEnded)
        assert [(turn.role, turn.text) for number, turn in enumerate(ended.transcript) if number != 3] == [
            ("agent", "Good evening!"),
            ("agent", NEWS),
            ("caller", "A table, please."),
            ("caller", "At seven."),
            ("agent", "One moment."),
            ("agent", DONE),
            ("caller", "Goodbye."),
            ("agent", "Goodbye!"),
        ]
        assert (ended.transcript[3].role, ended.transcript[3].interrupted) == ("agent", True)
        assert {each.name: each.output for each in w.of(ToolReturned) if each.name != "hang_up"} == {
            "book_table": "Booked for 4.",
            "tell_kitchen": "They know.",
        }
        assert len(w.of(BargeIn)) == 1
        assert measure(line, w.model.sessions[0]).passed


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_whole_call(world: Worlds, family: str) -> None:
    async with asyncio.TaskGroup() as calls:
        for name in FAMILIES[family]:
            calls.create_task(a_whole_call(world, name), name=name)


@pytest.mark.parametrize("fault", ["beta refused", "provider's key"])
async def test_what_helicone_cannot_do_is_said_clearly(
    world: Worlds, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Its upstream refuses beta, as OpenAI does; or it refuses the handshake, and Helicone says nothing."""
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.8)
    key = "another" if fault == "provider's key" else KEY
    async with (
        Model(SCRIPT, api_key=key, service=OPENAI) as model,
        helicone(model) as (running, far),
        world(HOST, model=running, endpoint=far) as w,
    ):
        async with w.phone().dial() as line:
            await line.wait_ended(20)
        await w.until(lambda: w.of(CallEnded))
        (ended,) = w.of(CallEnded)
        assert ended.ended_by == "error"
        if fault == "beta refused":
            assert "beta_api_shape_disabled" in ended.reason
            assert "remove HELICONE_API_KEY" in ended.reason
        else:
            assert "Helicone stays silent" in ended.reason
        assert KEY not in ended.reason


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_a_gateway_of_linear_pcm(world: Worlds, dialect: Dialect) -> None:
    """It refuses a telephone's formats, and keeps its own: 16 bits at 24 kHz, both ways."""
    ours = {"audio.input.format", "audio.output.format", "input_audio_format", "output_audio_format"}
    faults, service = Faults(refuse_fields=ours), ANY if dialect is Dialect.GA else BETA_GATEWAY
    running = Model(SCRIPT, service=service, faults=faults)
    async with world(HOST, model=running) as w:
        line = await conversation(w)
        assert (line.ended_by, line.violations) == ("agent", [])
        (session,) = running.sessions
        assert session.dialect == dialect.value
        assert {item.bytes_per_ms for item in session.audio_items} == {48}
        await w.until(lambda: w.of(CallEnded))
        turns = [turn for turn in w.of(CallEnded)[0].transcript if turn.role == "agent"]
        for turn, item in zip(turns, session.audio_items, strict=True):
            assert abs(turn.said_ms - item.sent_ms) <= 1
            assert turn.interrupted or turn.text == item.text
            assert turn.interrupted or turn.heard_ms == turn.said_ms
        spoken = [turn for turn in session.caller_turns if turn.audio]
        assert [turn.text for turn in spoken] == ["A table, please.", "At seven.", "Goodbye."]
        assert running.violations == []
