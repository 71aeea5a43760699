"""One whole call of each stranger: the simulated phone calls its server, its client speaks with the simulated model.

The caller is greeted, books a table, which takes a tool call, hears the confirmation, and hangs up. Neither simulator
may find fault with it: these packages work with the real services.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from phoneagent.protocol.audio import BYTES_PER_MS
from phoneagent.sim import Line, Model, Phone, TwilioRest
from phoneagent.sim.speech import Murmur
from phoneagent.sim.twilio.phone import ACCOUNT_SID
from tests.strangers.conftest import API_KEY, AUTH_TOKEN, HERE, PUBLIC_URL, interpreter, node, running

pytestmark = pytest.mark.anyio

SCRIPT = """
greeting = "The bicycle shop, hello!"

[[turn]]
caller = "A table for four at half past seven, please."
say = "Let me see."
call = "book_table"
arguments = { guests = 4, time = "19:30" }
then = "Done. {output}"

[[turn]]
caller = "Thank you."
say = "See you then!"

[[turn]]
caller = "Hang up, please."
call = "end_call"
"""

WAIT_SECONDS = 20.0
CALL_SECONDS = 150.0
"""The longest that a stranger takes in all."""


@dataclass
class Played:
    """A call that is over, and both simulators' records of it."""

    line: Line
    model: Model
    rest: TwilioRest


async def turn(line: Line, words: str) -> None:
    """Say something and hear the answer out."""
    await line.say(Murmur().render(words))
    await line.wait_for_agent(timeout=WAIT_SECONDS)
    await line.wait_for_silence(ms=1500, timeout=WAIT_SECONDS)


@contextlib.asynccontextmanager
async def call(command: list[str], *, greets: bool, tls: bool = False) -> AsyncIterator[Played]:
    """Call a stranger and book a table. The caller then still holds the line. With `tls` the model is at wss://."""
    rest = TwilioRest(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN, api_key=API_KEY)
    async with (
        asyncio.timeout(CALL_SECONDS),
        Model(SCRIPT, api_key="sk-test", **({"tls": True} if tls else {})) as model,
        rest,
        running(command, model, rest, {"NODE_EXTRA_CA_CERTS": str(model.certificate)} if tls else {}) as url,
    ):
        phone = Phone(url, auth_token=AUTH_TOKEN, public_url=PUBLIC_URL, rest=rest)
        async with phone.dial() as line:
            if greets:
                await line.wait_for_agent(timeout=WAIT_SECONDS)
                await line.wait_for_silence(timeout=WAIT_SECONDS)
            await turn(line, "A table for four, please.")
            await turn(line, "Thank you.")
            yield Played(line, model, rest)
        assert line.violations == []
        assert rest.violations == []
        assert model.violations == []
        assert model.refusals == []


def booked(played: Played) -> None:
    """Check the call: the model heard the caller, the tool ran, and the caller heard all that the model said.

    If audio is in a wrong format on the way, it lasts several times as long.
    """
    (session,) = played.model.sessions
    assert session.heard == ["A table for four at half past seven, please.", "Thank you."]
    assert any(line.startswith("Done. ") and "41" in line for line in session.said), session.said
    assert session.said[-1] == "See you then!"
    said_ms = sum(len(Murmur().render(line)) for line in session.said) / BYTES_PER_MS
    heard_ms = sum(span.end_ms - span.start_ms for span in played.line.heard)
    assert 0.8 < heard_ms / said_ms < 1.25, f"{heard_ms} ms of {said_ms} ms"


@pytest.mark.parametrize(
    ("script", "packages", "greets"),
    [
        ("openai_sdk", ["openai", "twilio", "starlette", "uvicorn", "websockets"], False),
        ("openai_agents", ["agents", "starlette", "uvicorn", "websockets"], True),
        ("livekit_agents", ["livekit.agents", "livekit.plugins.openai", "audioop", "starlette", "uvicorn"], True),
        ("agent_connect", ["tac", "fastapi", "uvicorn", "openai"], True),
    ],
)
async def test_a_stranger_takes_a_booking(script: str, packages: list[str], greets: bool):
    command = [interpreter(script, packages), str(HERE / f"{script}.py")]
    async with call(command, greets=greets) as played:
        booked(played)


@pytest.mark.parametrize(
    ("script", "packages", "greets", "tls"),
    [
        ("twilio_node", ["twilio", "ws"], False, False),
        ("agents_node", ["@openai/agents", "@openai/agents-extensions"], True, False),
        ("openai_node", ["openai"], True, True),
    ],
)
async def test_a_stranger_in_node_takes_a_booking(script: str, packages: list[str], greets: bool, tls: bool):
    command = [node([*packages, "fastify", "@fastify/formbody", "@fastify/websocket"]), str(HERE / f"{script}.cjs")]
    async with call(command, greets=greets, tls=tls) as played:
        booked(played)


async def test_pipecat_hangs_up_by_the_rest_api():
    command = [interpreter("pipecat_bot", ["pipecat", "fastapi", "uvicorn"]), str(HERE / "pipecat_bot.py")]
    async with call(command, greets=True) as played:
        booked(played)
        await played.line.say(Murmur().render("Hang up, please."))
        await played.line.wait_ended(WAIT_SECONDS)
        assert played.line.ended_by == "agent"
        assert [(each.method, each.status) for each in played.rest.requests] == [("POST", 200)]
