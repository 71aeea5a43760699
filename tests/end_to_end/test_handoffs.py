"""A call that one agent hands to another, in one model session and across two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from phoneagent import Agent, CallStarted, ToolReturned, Trouble, TurnEnded, tool
from phoneagent.sim import Faults, Model, Script
from phoneagent.sim.speech import Murmur
from phoneagent.store import Store
from tests.end_to_end.conftest import World, Worlds

pytestmark = pytest.mark.anyio
WORD = Murmur().render("My bill is wrong.")

SCRIPT = """
[[turn]]
caller = "My bill is wrong."
say = "I put you through."
call = "hand_off_to_billing"
then = "Billing here."
[[turn]]
caller = "Give me my money back."
call = "refund"
then = "It is {output}."
[[turn]]
caller = "And again."
call = "refund"
then = "It is {output}."
"""


@tool
async def refund() -> str:
    """Give the money back."""
    return "refunded"


BILLING = Agent(name="billing", instructions="You do bills.", tools=[refund], voice="cedar", handoffs=["front desk"])
FRONT = Agent(name="front desk", instructions="You answer.", greeting="Good day!", handoffs=[BILLING])


def said(w: World) -> list[tuple[str | None, str]]:
    return [(event.turn.agent, event.turn.text) for event in w.of(TurnEnded) if event.turn.role == "agent"]


async def test_a_call_is_handed_over_within_its_session(world: Worlds) -> None:
    async with world(FRONT, SCRIPT) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        await line.say(WORD)
        await line.wait_for_silence(ms=300)
        (session,) = w.model.sessions
        assert session.session["instructions"] == "You do bills."
        assert [each["name"] for each in session.session["tools"]] == ["refund", "hand_off_to_front_desk"]
        assert session.session["audio"]["output"]["voice"] == "marin"  # it was heard: it stays
        await line.say(WORD)
        await line.wait_for_silence(ms=300)
        await w.until(lambda: len(said(w)) == 4)
        assert w.model.violations == []
    assert said(w) == [
        ("front desk", "Good day!"),
        ("front desk", "I put you through."),
        ("billing", "Billing here."),
        ("billing", "It is refunded."),
    ]


async def test_it_stays_handed_over_in_the_next_stream(world: Worlds, tmp_path: Path) -> None:
    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    async with world(FRONT, SCRIPT, store=store) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        await line.say(WORD)
        await line.wait_for_silence(ms=300)
        w.app.hand_over_now(line.call_sid, "test")
        await w.until(lambda: len(w.of(CallStarted)) == 2)
        await w.until(lambda: len(w.model.sessions) == 2 and w.model.sessions[1].items)
        session = w.model.sessions[1]
        assert session.session["instructions"] == "You do bills."
        await line.say(WORD)
        await line.wait_for_silence(ms=300)
        await w.until(lambda: said(w)[-1] == ("billing", "It is refunded."))
        assert w.model.violations == []


async def test_it_stays_handed_over_in_the_next_model_session(world: Worlds) -> None:
    async with world(FRONT, SCRIPT) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        await line.say(WORD)
        await line.wait_for_silence(ms=300)
        w.model.sessions[0].kill()
        await w.until(lambda: len(w.model.sessions) == 2 and w.model.sessions[1].items)
        assert w.model.sessions[1].session["instructions"] == "You do bills."
        await line.say(WORD)
        await line.wait_for_silence(ms=300)
        await w.until(lambda: said(w)[-1] == ("billing", "It is refunded."))
        assert w.model.violations == []


async def test_an_agent_that_hands_over_without_a_word_is_never_heard(world: Worlds) -> None:
    router = Agent(name="router", instructions="You decide.", handoffs=[replace(BILLING, handoffs=["router"])])
    script = SCRIPT.replace('say = "I put you through."\n', "").replace("front desk", "router")
    async with world(router, script) as w, w.phone().dial() as line:
        await line.say(WORD)
        await line.wait_for_silence(ms=300)
        await w.until(lambda: said(w) == [("billing", "Billing here.")])
        assert w.model.sessions[0].session["audio"]["output"]["voice"] == "cedar"
        assert w.model.violations == []


async def test_a_server_that_takes_neither_voice_nor_choice_takes_the_agent(world: Worlds) -> None:
    mute = replace(BILLING, handoffs=["router"], tool_choice="required")
    router = Agent(name="router", instructions="You decide.", handoffs=[mute])
    script = SCRIPT.replace('say = "I put you through."\n', "").replace("front desk", "router")
    model = Model(Script.parse(script), faults=Faults(refuse_fields={"audio.output.voice", "tool_choice"}))
    async with world(router, model=model) as w, w.phone().dial() as line:
        await line.say(WORD)
        await line.wait_for_silence(ms=300)
        await w.until(lambda: said(w) == [("billing", "Billing here.")])
        (session,) = w.model.sessions
        assert session.session["instructions"] == "You do bills."
        assert [each["name"] for each in session.session["tools"]] == ["refund", "hand_off_to_router"]
        await w.until(lambda: len(w.of(Trouble)) >= 2)
        assert {each.what for each in w.of(Trouble)} >= {
            "the model refused an event: unknown_parameter session.audio.output.voice",
            "the model refused an event: unknown_parameter session.tool_choice",
        }


async def test_an_agent_that_the_server_refuses_does_not_get_the_call(world: Worlds) -> None:
    async with world(FRONT, SCRIPT) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        (session,) = w.model.sessions
        session.setup = replace(session.setup, faults=Faults(refuse_fields={"tools"}))  # from now on
        await line.say(WORD)
        await line.wait_for_silence(ms=300)
        await w.until(lambda: w.of(ToolReturned))
        assert "was not handed over (unknown_parameter)" in w.of(ToolReturned)[0].output
        assert session.session["instructions"] == "You answer."
        await w.until(lambda: len(said(w)) == 3)
        assert {agent for agent, _ in said(w)} == {"front desk"}
        assert {each.what for each in w.of(Trouble)} == {"the model refused an event: unknown_parameter session.tools"}
