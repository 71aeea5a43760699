"""MCP servers that the model's provider calls, in a live call: the caller hears what came of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from phoneagent import Agent, McpServer, Trouble
from phoneagent.sim import Faults, Model, Script
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import World, Worlds

pytestmark = pytest.mark.anyio
VOICE = Murmur()

FOUND = """
[[turn]]
caller = "Where is my parcel?"
say = "Hm."
call = "track"
server = "shop"
output = "Monday."
then = "On {output}"
"""
CLOSED = """
[[turn]]
caller = "Where is my parcel?"
call = "track"
server = "shop"
error = "The shop is closed."
then = "Pity."
"""
HAND_OVER = """
[[turn]]
caller = "Hello."
call = "hand_off_to_parcels"
then = "Yes?"
"""
INLINE = [False, True]
"""How the model's provider goes about its calls; see `Faults.mcp_inline`."""


def shop(**options: Any) -> Agent:
    return Agent(instructions="x", tools=[McpServer("shop", "https://shop.example/mcp", **options)])


def model(script: str, *, inline: bool = False, **faults: Any) -> Model:
    return Model(Script.parse(script), faults=Faults(mcp_inline=inline, **faults))


async def said(w: World, line: Any, *words: str) -> None:
    """Let the caller ask, once the server's tools are known, and wait until they have heard all these words."""
    (session,) = w.model.sessions
    await w.until(lambda: any(item["type"] == "mcp_list_tools" for item in session.items))
    await line.say(VOICE.render("Parcel?"))
    await w.until(lambda: session.said == [*words])
    await line.wait_for_silence(ms=400)
    assert session.said == [*words], "nothing is said twice"
    heard = sum(span.stream_end - span.stream_start for span in line.heard)
    assert heard == sum(len(item.audio) for item in session.audio_items)
    assert not w.model.violations
    assert not line.violations


@pytest.mark.parametrize("inline", INLINE)
async def test_the_caller_hears_what_a_server_answers(world: Worlds, inline: bool) -> None:
    async with world(shop(), model=model(FOUND, inline=inline)) as w, w.phone().dial() as line:
        await said(w, line, "Hm.", "On Monday.")
        assert [call.output for call in w.model.sessions[0].mcp_calls] == ["Monday."]


@pytest.mark.parametrize("inline", INLINE)
async def test_a_server_that_fails_is_told_and_talked_about(world: Worlds, inline: bool) -> None:
    async with world(shop(), model=model(CLOSED, inline=inline)) as w, w.phone().dial() as line:
        await said(w, line, "Pity.")
        await w.until(lambda: w.of(Trouble))
        assert "a tool of an MCP server failed" in w.of(Trouble)[0].what


@pytest.mark.parametrize("inline", INLINE)
async def test_approval_requests_are_declined_during_a_call(world: Worlds, inline: bool) -> None:
    agent = shop(allowed_tools=["track"], require_approval=["track"])
    script = FOUND.replace("On {output}", "No.")
    async with world(agent, model=model(script, inline=inline)) as w, w.phone().dial() as line:
        await said(w, line, "Hm.", "No.")
        (call,) = w.model.sessions[0].mcp_calls
        assert (call.approved, call.output) == (False, None)
        assert "This needs approval, which is not possible during a phone call" in str(call.error), (
            "so the model can tell"
        )


async def test_what_needs_no_approval_is_not_asked_about(world: Worlds) -> None:
    agent = shop(allowed_tools=["track", "refund"], require_approval=["refund"])
    async with world(agent, model=model(FOUND, inline=True)) as w, w.phone().dial() as line:
        await said(w, line, "Hm.", "On Monday.")
        assert w.model.sessions[0].mcp_calls[0].approved is None


async def test_an_agent_that_takes_over_a_call_brings_its_server(world: Worlds) -> None:
    front = Agent(name="front", instructions="x", handoffs=[replace(shop(), name="parcels")])
    script = HAND_OVER + FOUND
    async with world(front, model=model(script, inline=True)) as w, w.phone().dial() as line:
        await line.say(VOICE.render("Hello?"))
        await w.until(lambda: w.model.sessions[0].said == ["Yes?"])
        await line.wait_for_silence(ms=300)
        await said(w, line, "Yes?", "Hm.", "On Monday.")


async def test_a_server_that_cannot_be_reached_is_told(world: Worlds) -> None:
    async with world(shop(), model=model(FOUND, mcp_unreachable={"shop"})) as w, w.phone().dial() as line:
        await w.until(lambda: w.of(Trouble))
        assert "an MCP server could not be asked for its tools" in w.of(Trouble)[0].what
        await line.say(VOICE.render("Parcel?"))
        await w.until(lambda: w.model.sessions[0].said == ["Hm."])
        await line.wait_for_silence(ms=300)
        assert not w.model.sessions[0].mcp_calls
        assert not w.model.violations
