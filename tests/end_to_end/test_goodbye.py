"""The end of a call: the goodbye is heard, whole, and once."""

from __future__ import annotations

import pytest

from phoneagent import Agent, Call, CallEnded, Silence, TurnEnded, hang_up, tool
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import Worlds

pytestmark = pytest.mark.anyio
VOICE = Murmur()
GOODBYE = "It was a pleasure to talk to you. Have a wonderful evening, and goodbye!"
WITH_WORDS = f"""
[[turn]]
caller = "Bye."
say = "{GOODBYE}"
call = "hang_up"
"""
WITHOUT_WORDS = f"""
goodbye = "{GOODBYE}"
[[turn]]
caller = "Bye."
call = "hang_up"
"""
AGENT = Agent(instructions="Part politely.", tools=[hang_up])


@pytest.mark.parametrize("script", [WITH_WORDS, WITHOUT_WORDS], ids=["with words", "without words"])
@pytest.mark.parametrize("talks_over", [False, True], ids=["silent caller", "caller talks over it"])
async def test_the_whole_goodbye_is_played(world: Worlds, script: str, talks_over: bool) -> None:
    async with world(AGENT, script) as w:
        async with w.phone().dial() as line:
            await line.say(VOICE.render("Bye."))
            if talks_over:
                await line.wait_for_agent(ms=1500)  # by now the model has called hang_up
                await line.say(VOICE.render("Wait, I forgot something, hello, are you still there?"))
            await line.wait_ended(20)
        assert line.ended_by == "agent"
        assert line.violations == []
        assert w.model.violations == []
        assert line.clears == []
        (item,) = (each for each in w.model.sessions[0].audio_items if not each.interrupted)
        assert item.text == GOODBYE
        assert bytes(line.received) == bytes(item.audio)
        assert sum(span.stream_end - span.stream_start for span in line.heard) == len(item.audio)
        await w.until(lambda: w.of(CallEnded))
        (ended,) = w.of(CallEnded)
        assert ended.ended_by == "agent"
        assert [turn.heard_text for turn in ended.transcript if turn.role == "agent"] == [GOODBYE]


async def test_hanging_up_from_code_lets_the_sentence_end(world: Worlds) -> None:
    async with world(Agent(instructions="x", greeting="Good evening, and welcome to the house.")) as w:
        async with w.phone().dial() as line:
            await line.wait_for_agent(ms=200)
            w.app.calls[line.call_sid].hang_up(goodbye=False)
            await line.wait_ended(10)
        (item,) = w.model.sessions[0].audio_items
        assert bytes(line.received) == bytes(item.audio)


async def test_a_tool_may_hang_up_and_others_may_run_beside_it(world: Worlds) -> None:
    @tool
    async def finish(call: Call) -> str:
        """Finish."""
        call.hang_up()
        return "ok"

    script = """
goodbye = "So long!"
[[turn]]
caller = "Bye."
call = "finish"
"""
    async with world(Agent(instructions="x", tools=[finish]), script) as w:
        async with w.phone().dial() as line:
            await line.say(VOICE.render("Bye."))
            await line.wait_ended(10)
        assert [item.text for item in w.model.sessions[0].audio_items] == ["So long!"]
        await w.until(lambda: w.of(CallEnded))
        assert [turn.turn.text for turn in w.of(TurnEnded) if turn.turn.role == "agent"] == ["So long!"]


async def test_the_longest_call_ends_politely(world: Worlds) -> None:
    script = 'greeting = "We end soon."\ngoodbye = "Our time is up."'
    async with world(Agent(instructions="x"), script, max_call_seconds=4) as w:
        async with w.phone().dial() as line:
            await line.wait_ended(15)
        await w.until(lambda: w.of(CallEnded))
        (ended,) = w.of(CallEnded)
        assert (ended.ended_by, ended.reason) == ("agent", "the call reached its maximum duration")
        assert [item.text for item in w.model.sessions[0].audio_items] == ["We end soon.", "Our time is up."]


async def test_a_caller_who_says_nothing_is_asked_twice_and_then_hears_a_goodbye(world: Worlds) -> None:
    quiet = Silence(idle_seconds=0.7)
    script = 'default = "Are you still there?"\ngoodbye = "Goodbye, then."'
    async with world(Agent(instructions="x", greeting="Hello!", silence=quiet), script) as w:
        async with w.phone().dial() as line:
            await line.wait_ended(30)
        await w.until(lambda: w.of(CallEnded))
        (ended,) = w.of(CallEnded)
        assert (ended.ended_by, ended.reason) == ("agent", "the caller was silent")
        said = [turn.heard_text for turn in ended.transcript]
        assert said == ["Hello!", "Are you still there?", "Are you still there?", "Goodbye, then."]


async def test_an_agent_that_says_goodbye_and_does_not_hang_up_is_taken_at_its_word(world: Worlds) -> None:
    script = '[[turn]]\ncaller = "That is all."\nsay = "Thank you for calling. Have a nice day!"'
    quiet = Silence(closing_silence_seconds=1)
    async with world(Agent(instructions="x", greeting="Hello!", silence=quiet), script) as w:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=300)
            await line.say(VOICE.render("That is all."))
            await line.wait_ended(30)
        await w.until(lambda: w.of(CallEnded))
        (ended,) = w.of(CallEnded)
        assert ended.ended_by == "agent"
        assert ended.reason == "the agent said goodbye, and neither side spoke for 1 s"
        assert ended.transcript[-1].heard_text == "Thank you for calling. Have a nice day!"
