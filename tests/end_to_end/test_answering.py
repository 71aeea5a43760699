"""The choice of the agent: one app for many numbers, one choice for each call; and what is done to a call from code."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from phoneagent import Agent, Call, CallEnded, DefinitionError, Hearing, Turns, hang_up, tool
from phoneagent.calls import opening as opening_module
from phoneagent.sim import Model, Script
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import Worlds

pytestmark = pytest.mark.anyio
VOICE = Murmur()
SHOP = Agent(name="shop", instructions="You sell bicycles.", greeting="The bicycle shop, hello!")
CAFE = Agent(name="cafe", instructions="You serve coffee.", greeting="The café!", barge_in=False)
SHORT = 'default = "What a good question."'


async def test_one_app_answers_many_numbers(world: Worlds) -> None:
    asked: list[str | None] = []

    async def choose(call: Call) -> Agent:
        asked.append(call.called)
        return SHOP if call.called == "+15550100002" else CAFE

    async with world(choose, SHORT) as w:
        async with w.phone(called="+15550100002").dial() as line:
            await line.wait_for_silence(ms=200)
        async with w.phone(called="+15550100003").dial() as line:
            await line.wait_for_silence(ms=200)
            await line.say(VOICE.render("Hello?"))
            await line.wait_for_silence(ms=300)
        shop, cafe = w.model.sessions
        assert [item.text for item in shop.audio_items] == ["The bicycle shop, hello!"]
        assert [item.text for item in cafe.audio_items] == ["The café!", "What a good question."]
        assert (shop.session["instructions"], cafe.session["instructions"]) == (SHOP.instructions, CAFE.instructions)
        assert {response.by for response in cafe.responses} == {"client"}  # it has no barge-in
        assert asked == ["+15550100002", "+15550100003"]
        assert w.model.violations == []


async def test_a_plain_function_may_choose_without_a_session_opened_ahead(world: Worlds) -> None:
    asked: list[str] = []

    def choose(call: Call) -> Agent:
        asked.append(call.sid)
        return SHOP

    async with world(choose, SHORT, web_concurrency=2) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=200)
        assert [item.text for item in w.model.sessions[0].audio_items] == [SHOP.greeting]
        assert asked == [line.call_sid]


async def broken(call: Call) -> Agent:
    raise LookupError("the database is down")


async def mistaken(call: Call) -> Any:
    return "the shop"


@pytest.mark.parametrize(("choice", "error"), [(broken, "LookupError"), (mistaken, "DefinitionError")])
async def test_a_choice_that_fails_leads_to_an_apology(world: Worlds, choice: Any, error: str) -> None:
    async with world(choice) as w:
        async with w.phone().dial() as line:
            await line.wait_ended(15)
            assert len(line.received) > 8 * 500
        await w.until(lambda: w.of(CallEnded))
        assert w.of(CallEnded)[0].reason == f"the choice of the agent failed: {error}"


async def test_a_choice_that_takes_too_long_leads_to_an_apology(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening_module, "INSTRUCTIONS_SECONDS", 0.2)

    async def choose(call: Call) -> Agent:
        await asyncio.Event().wait()
        raise AssertionError

    async with world(choose) as w:
        async with w.phone().dial() as line:
            await line.wait_ended(15)
        await w.until(lambda: w.of(CallEnded))
        assert w.of(CallEnded)[0].reason == "the choice of the agent took longer than 0.2 s"


async def test_a_caller_who_hangs_up_during_the_choice_leaves_nothing(world: Worlds) -> None:
    chosen, begun = asyncio.Event(), asyncio.Event()

    async def choose(call: Call) -> Agent:
        begun.set()
        await chosen.wait()
        return SHOP

    async with world(choose) as w:
        async with w.phone().dial():
            await begun.wait()
        chosen.set()
        await w.until(lambda: w.of(CallEnded))
        assert w.of(CallEnded)[0].ended_by == "caller"


async def test_an_agent_brings_its_own_recognizers(world: Worlds) -> None:
    agent = Agent(instructions="x", hearing=Hearing(models=("gpt-live-transcribe",), language=("fr", "de")))
    async with world(agent) as w, w.phone().dial():
        heard = await w.until(
            lambda: w.model.sessions and w.model.sessions[0].session["audio"]["input"]["transcription"]
        )
        assert heard == {"model": "gpt-live-transcribe", "languages": ["fr", "de"]}
        assert w.model.violations == []


# --- from code ---


@tool
async def look_up(call: Call) -> str:
    """Look something up."""
    return "It is blue."


async def test_code_adds_facts_and_asks_for_responses(world: Worlds) -> None:
    agent = Agent(instructions="x", tools=[look_up, hang_up])
    async with world(agent, SHORT) as w, w.phone().dial() as line:
        session = await w.until(lambda: w.model.sessions and w.model.sessions[0])
        call = await w.until(lambda: w.app.calls.get(line.call_sid))
        call.add("The caller has called before.")
        call.add("I am still here.", role="user")
        await asyncio.to_thread(call.respond, 'Say "Welcome back!"', [look_up])
        await line.wait_for_agent(ms=100)
        await line.wait_for_silence(ms=200)
        (response,) = session.responses
        assert response.instructions == 'Say "Welcome back!"'
        assert [item.text for item in session.audio_items] == ["Welcome back!"]
        texts = [item["content"][0]["text"] for item in session.brought]
        assert texts == ["The caller has called before.", "I am still here."]
        with pytest.raises(DefinitionError, match=r"call\.commit is for turns that your code marks"):
            call.commit()
        with pytest.raises(DefinitionError, match=r"call\.clear is for turns"):
            call.clear()
        assert w.model.violations == []


async def test_push_to_talk(world: Worlds) -> None:
    script = Script.parse('[[turn]]\ncaller = "Over."\nsay = "Understood."\n[[turn]]\nsay = "Out."')
    agent = Agent(instructions="x", turns=Turns(detection="manual"))
    async with world(agent, model=Model(script)) as w, w.phone().dial() as line:
        session = await w.until(lambda: w.model.sessions and w.model.sessions[0])
        call = await w.until(lambda: w.app.calls.get(line.call_sid))
        await line.say(VOICE.render("Nobody hears me before I press the key."))
        call.clear()
        await line.say(VOICE.render("Do you read me?"))
        assert session.caller_turns == []
        call.commit()
        call.respond()
        await line.wait_for_agent(ms=100)
        await line.wait_for_silence(ms=200)
        assert [item.text for item in session.audio_items] == ["Understood."]
        assert len(session.caller_turns) == 1
        assert len(session.caller_turns[0].audio) < 8 * 4000
        assert len(session.responses) == 1
        assert w.model.violations == []
