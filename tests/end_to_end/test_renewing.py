"""Calls that lose their model session: another one goes on, and the caller notices little."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from phoneagent import (
    Agent,
    AgentAnswered,
    Call,
    CallEnded,
    Endpoint,
    EndpointUnreachable,
    RateLimitsUpdated,
    Silence,
    Trouble,
    TurnEnded,
    hang_up,
    tool,
)
from phoneagent.bridge import renewal
from phoneagent.calls import opening
from phoneagent.calls.opening import FAILOVER_SECONDS
from phoneagent.model.connection import ModelSession
from phoneagent.sim import Faults, Line, Model, Script
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import World, Worlds

pytestmark = pytest.mark.anyio

VOICE = Murmur()
SCRIPT = "\n".join(
    f"""
[[turn]]
caller = "Question {number}?"
say = "This is the answer to question number {number}, and it is not a very short one."
"""
    for number in range(12)
)


def heard_ms(line: Line) -> float:
    return sum(span.end_ms - span.start_ms for span in line.heard)


async def heard_more(w: World, line: Line, ms: float = 100) -> float:
    """Wait until the caller hears more of the agent; return how long that took, in seconds."""
    before, since = heard_ms(line), asyncio.get_running_loop().time()
    await w.until(lambda: heard_ms(line) > before + ms)
    return asyncio.get_running_loop().time() - since


def living(w: World) -> int:
    return len([session for session in w.model.sessions if not session.closed])


async def test_a_session_lost_in_mid_answer_is_replaced_and_the_answer_goes_on(world: Worlds) -> None:
    async with world(Agent(instructions="x", greeting="Hello!"), SCRIPT) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        await line.say(VOICE.render("Question?"))
        await line.wait_for_agent(ms=300)
        w.model.sessions[0].kill()
        await w.until(lambda: len(w.model.sessions) == 2 and w.model.sessions[1].said)
        told = w.model.sessions[1].told
        assert ("user", "Question 0?") in told
        assert any("go on where you were cut off" in text for _, text in told)
        assert w.model.sessions[1].said[0] != "Hello!"
        await line.wait_for_silence(ms=300)
        await line.say(VOICE.render("Question?"))
        await line.wait_for_silence(ms=300)
        assert "number 1," in w.model.sessions[1].said[-1]
        assert w.of(CallEnded) == []
        assert line.violations == []
    assert w.model.violations == []


async def test_a_question_that_is_being_asked_is_heard_by_the_next_session(world: Worlds) -> None:
    async with world(Agent(instructions="x", greeting="Hello!"), SCRIPT) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        speaking = asyncio.create_task(line.say(VOICE.render("This is quite a long question, is it not?")))
        await w.until(lambda: any(type(event).__name__ == "CallerSpoke" for event in w.events))
        await asyncio.sleep(0.3)
        w.model.sessions[0].kill()
        await speaking
        await line.wait_for_silence(ms=300)
        assert "number 0," in w.model.sessions[1].said[-1]
        (turn,) = w.model.sessions[1].heard
        assert turn == "Question 0?"


async def test_killed_ten_times_the_caller_hears_every_answer_and_tools_run_once(world: Worlds) -> None:
    ran: list[int] = []
    chance = random.Random(7)

    @tool
    async def look_up(number: int) -> str:
        """Look something up."""
        ran.append(number)
        await asyncio.sleep(0.2)
        return f"It is {number}."

    script = "\n".join(
        f"""
[[turn]]
caller = "Question {number}?"
call = "look_up"
arguments = {{ number = {number} }}
then = "{{output}} That is the answer to question number {number}, I am quite sure of it."
"""
        for number in range(12)
    )
    agent = Agent(instructions="x", greeting="Hello!", tools=[look_up, hang_up])
    waits: list[float] = []
    async with world(agent, script) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        for number in range(10):
            await line.say(VOICE.render("Question?"))
            await asyncio.sleep(chance.uniform(0.0, 2.0))
            await w.until(lambda: living(w) == 1)
            w.model.sessions[-1].kill()
            waits.append(await heard_more(w, line))
            await line.wait_for_silence(ms=500)
            assert len(set(ran)) == number + 1
        assert w.of(CallEnded) == []
        assert line.violations == []
    assert ran == list(range(10))
    print(f"from the kill to the agent's voice: {max(waits):.2f} s at most")
    assert w.model.violations == []


async def test_the_next_endpoint_takes_over_in_mid_call(world: Worlds) -> None:
    async with Model(Script.parse(SCRIPT)) as second:
        first = await Model(Script.parse(SCRIPT)).__aenter__()
        both = [Endpoint(f"{model.url}?model=m", transcription_models=("whisper-1",)) for model in (first, second)]
        agent = Agent(instructions="x", greeting="Hello!")
        async with world(agent, endpoints=both) as w, w.phone().dial() as line:
            await line.wait_for_silence(ms=300)
            await first.__aexit__(None, None, None)
            await w.until(lambda: second.sessions)
            await line.say(VOICE.render("Question?"))
            await line.wait_for_silence(ms=300)
            assert second.sessions[0].said


async def test_sessions_that_expire_are_rotated_unheard(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of more than two hours, where an hour has 16 seconds."""
    monkeypatch.setattr(renewal, "SHORTEST_SECONDS", 1)
    script = "\n".join(f'[[turn]]\ncaller = "?"\nsay = "Here is answer {number}."' for number in range(9))
    model = Model(Script.parse(script), session_seconds=16)
    async with world(Agent(instructions="x", greeting="Hello!"), model=model) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        for number in range(5):
            await line.say(VOICE.render("Question?"))
            await line.wait_for_silence(ms=3000)
            answers = [text for session in model.sessions for text in session.said if "answer" in text]
            assert len(answers) == number + 1
        assert len(model.sessions) >= 3
        assert w.of(Trouble) == w.of(CallEnded) == []
        assert not any(event.turn.interrupted for event in w.of(TurnEnded))
        assert [text for session in model.sessions for text in session.said].count("Hello!") == 1
        assert line.violations == model.violations == []
        print(f"{len(model.sessions)} sessions, answers after {[event.latency_ms for event in w.of(AgentAnswered)]} ms")


async def test_a_call_that_ends_leaves_no_session_that_was_to_come(
    world: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "SHORTEST_SECONDS", 1)
    model = Model(Script.parse(SCRIPT), session_seconds=4)
    async with world(Agent(instructions="x", greeting="Hello!"), model=model) as w, w.phone().dial() as line:
        talking = asyncio.create_task(line.say(VOICE.render("I go on and on about nothing at all. " * 4)))
        await w.until(lambda: len(model.sessions) == 2)  # opened beside the other one
        assert living(w) == 2
        await line.hang_up()
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        await w.until(lambda: living(w) == 0)


async def test_a_rate_limit_is_waited_for(world: Worlds) -> None:
    model = Model(Script.parse(SCRIPT), faults=Faults(fail_responses=1, rate_limit_resets_seconds=1.5))
    async with world(Agent(instructions="x", greeting="Hello!"), model=model) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        (session,) = model.sessions
        assert session.said == ["Hello!"]
        failed, said = session.responses
        assert said.created_at - (failed.done_at or 0) >= 1.3
        await w.until(lambda: w.of(RateLimitsUpdated))
        (first, *_) = w.of(RateLimitsUpdated)
        assert first.limits[0].remaining == 0


async def test_a_rate_limit_that_lasts_is_gone_round(world: Worlds) -> None:
    limited = Faults(fail_responses=99, rate_limit_resets_seconds=40)
    async with Model(Script.parse(SCRIPT), faults=limited) as first, Model(Script.parse(SCRIPT)) as second:
        both = [Endpoint(f"{model.url}?model=m", transcription_models=("whisper-1",)) for model in (first, second)]
        agent = Agent(instructions="x", greeting="Hello!")
        async with world(agent, endpoints=both) as w, w.phone().dial() as line:
            await line.wait_for_silence(ms=300)
            await line.say(VOICE.render("Question?"))
            await line.wait_for_silence(ms=300)
            assert len(first.sessions) == len(second.sessions) == 1
            assert "Hello!" in second.sessions[0].said
            assert any("number 0," in text for text in second.sessions[0].said)
            second.sessions[0].kill()  # the one that served the caller is asked first
            await w.until(lambda: len(second.sessions) == 2)
            assert len(first.sessions) == 1


async def test_an_endpoint_that_never_answers_is_passed_over_in_time(
    world: Worlds, caplog: pytest.LogCaptureFixture
) -> None:
    dumb = Model(Script.parse(SCRIPT), faults=Faults(stall_after_seconds=0.0))
    async with dumb as first, Model(Script.parse(SCRIPT)) as second:
        agent = Agent(instructions="x", greeting="Hello!", silence=Silence(dead_air_ms=0))  # no filler meanwhile
        both = [Endpoint(f"{model.url}?model=m", transcription_models=("whisper-1",)) for model in (first, second)]
        async with world(agent, endpoints=both) as w, w.phone().dial() as line:
            await line.wait_for_agent(ms=100)
            second.sessions[0].kill()
            await heard_more(w, line)
            assert len(first.sessions) == 1  # it was not asked first any more
            messages = (record.getMessage() for record in caplog.records)
            (told,) = {message for message in messages if "did not open a session" in message}
            assert f"within {FAILOVER_SECONDS:g} s" in told


async def test_without_another_session_the_caller_hears_the_apology(
    world: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "PATIENCE_SECONDS", 1.0)
    model = await Model(Script.parse(SCRIPT)).__aenter__()
    endpoint = Endpoint(f"{model.url}?model=m", transcription_models=("whisper-1",))
    async with world(Agent(instructions="x", greeting="Hello!"), endpoint=endpoint) as w:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=300)
            await model.__aexit__(None, None, None)
            await line.wait_ended(15)
        await w.until(lambda: w.of(CallEnded))
        assert w.of(CallEnded)[0].ended_by == "error"
        assert any("model session lost" in event.what for event in w.of(Trouble))


async def test_an_endpoint_that_has_just_failed_is_asked_last(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "FAILOVER_SECONDS", 0.5)
    dumb = Model(Script.parse(SCRIPT), faults=Faults(stall_after_seconds=0.0))
    async with dumb as first, Model(Script.parse(SCRIPT)) as second:
        both = [Endpoint(f"{model.url}?model=m", transcription_models=("whisper-1",)) for model in (first, second)]
        async with world(Agent(instructions="x", greeting="Hello!"), endpoints=both) as w:
            for number in range(2):
                async with w.phone().dial() as line:
                    await line.wait_for_agent(ms=100)
                    assert (len(first.sessions), len(second.sessions)) == (1, number + 1)
                    await line.hang_up()
            monkeypatch.setattr(opening, "FAILED_SECONDS", 0.0)  # that was long ago
            async with w.phone().dial() as line:
                await line.wait_for_agent(ms=100)
                assert (len(first.sessions), len(second.sessions)) == (2, 3)


async def test_a_next_session_that_does_not_come_is_tried_again(world: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "SHORTEST_SECONDS", 1)
    monkeypatch.setattr(renewal, "OPEN_AGAIN_SECONDS", 0.2)
    tries: list[int] = []
    really = opening.open_session

    async def hiccups(*given: Any, **more: Any) -> ModelSession:
        tries.append(living(w))
        if len(tries) == 2:
            raise EndpointUnreachable("away for a moment")
        return await really(*given, **more)

    monkeypatch.setattr(opening, "open_session", hiccups)
    model = Model(Script.parse(SCRIPT), session_seconds=6)
    async with world(Agent(instructions="x", greeting="Hello!"), model=model) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        await w.until(lambda: len(tries) == 3)
        assert tries == [0, 1, 1]  # the third time too while the first session lives
        assert [event.what for event in w.of(Trouble)] == ["the next model session did not open: away for a moment"]


@pytest.mark.parametrize("reserve", [True, False])
async def test_a_session_that_is_thrown_out_is_replaced(world: Worlds, reserve: bool) -> None:
    thrown_out = Faults(drop_after_seconds=1.5, drop_code=1008)
    async with Model(Script.parse(SCRIPT), faults=thrown_out) as first, Model(Script.parse(SCRIPT)) as second:
        models = [first, second] if reserve else [first]
        endpoints = [Endpoint(f"{model.url}?model=m", transcription_models=("whisper-1",)) for model in models]
        async with world(Agent(instructions="x", greeting="Hello!"), endpoints=endpoints) as w, w.phone().dial():
            await w.until(lambda: w.of(CallEnded) or sum(len(model.sessions) for model in models) == 2)
            assert len(models[-1].sessions) == 2 - reserve
            assert w.of(CallEnded) == []


async def test_instructions_are_written_once_for_all_sessions_of_a_stream(world: Worlds) -> None:
    asked: list[str] = []

    def instructions(call: Call) -> str:
        asked.append(call.sid)
        if len(asked) > 1:
            raise OSError("the CRM is away")
        return "You answer the phone."

    async with world(Agent(instructions=instructions, greeting="Hello!"), SCRIPT) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        w.model.sessions[0].kill()
        await w.until(lambda: w.of(CallEnded) or (len(w.model.sessions) == 2 and w.model.sessions[1].told))
        assert w.of(CallEnded) == []
        assert w.model.sessions[1].session["instructions"] == "You answer the phone."
        assert len(asked) == 1
