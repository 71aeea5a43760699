"""A tool that asks the model beside the call, over real sockets: the caller hears the agent, and nothing else."""

from __future__ import annotations

import pytest

from phoneagent import Agent, Call, CallEnded, ToolReturned, hang_up, tool
from phoneagent.events import UsageReported
from phoneagent.sim.speech import Murmur
from tests.agent.test_image import PNG
from tests.end_to_end.conftest import Worlds

pytestmark = pytest.mark.anyio

SCRIPT = """
[[turn]]
heard = "colleague"
caller = "May I speak to a colleague?"
say = "I will tell them what it is about."
call = "tell_colleague"
then = "{output}"
[[turn]]
heard = "bye"
caller = "Goodbye."
say = "Goodbye!"
call = "hang_up"
[[turn]]
heard = "where the caller is"
caller = "(a picture)"
say = "I see a map."
"""


ANSWERS: list[str] = []


@tool
async def tell_colleague(call: Call) -> str:
    """Tell a colleague what the call is about."""
    ANSWERS.append(await call.ask('Summarize it for a colleague: "A caller wants to talk to you."'))
    ANSWERS.append(await call.ask("Answer what follows.", "Well, bye."))
    call.add("This is where the caller is.", image=PNG)
    return "They know."


HOST = Agent(instructions="You answer the phone.", greeting="Good evening!", tools=[tell_colleague, hang_up])


async def test_a_tool_asks_while_the_agent_speaks(world: Worlds) -> None:
    voice = Murmur()
    ANSWERS.clear()
    async with world(HOST, SCRIPT) as w:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=300)
            await line.say(voice.render("May I speak to a colleague?"))
            await w.until(lambda: w.of(ToolReturned))
            await line.wait_for_silence(ms=1500)
            await line.say(voice.render("Goodbye."))
            await line.wait_ended(20)
        assert line.violations == []
        assert w.model.violations == []
        await w.until(lambda: w.of(CallEnded))
        assert ANSWERS == ["A caller wants to talk to you.", "Goodbye!"]
        (ended,) = w.of(CallEnded)
        said = [turn.text for turn in ended.transcript if turn.role == "agent"]
        assert said == ["Good evening!", "I will tell them what it is about.", "They know.", "I see a map.", "Goodbye!"]
        (shown,) = (item for item in w.model.sessions[0].brought if item.get("role") == "user")
        assert [part["type"] for part in shown["content"]] == ["input_text", "input_image"]
        out_of_band = [each for each in w.model.sessions[0].responses if each.out_of_band]
        assert len(out_of_band) == 2
        assert len(w.of(UsageReported)) >= len(w.model.sessions[0].responses)
