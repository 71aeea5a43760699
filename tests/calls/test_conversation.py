"""Whole calls over real sockets: the phone, the app and the model."""

from __future__ import annotations

import pytest

from phoneagent import Agent, BargeIn, Call, CallEnded, ToolReturned, hang_up, tool
from phoneagent.sim.speech import Murmur

pytestmark = pytest.mark.anyio

SCRIPT = """
[[turn]]
heard = "table"
caller = "A table for four, please."
say = "Of course. We have one by the window at seven, another by the fireplace at half past seven, and one outside."
[[turn]]
heard = "half past"
caller = "Half past seven."
say = "One moment."
call = "book_table"
arguments = { guests = 4, time = "19:30" }
then = "Done. {output}"
[[turn]]
heard = "bye"
caller = "Thanks, goodbye."
say = "Goodbye!"
call = "hang_up"
"""


@tool
async def book_table(call: Call, guests: int, time: str) -> str:
    """Book a table."""
    return f"Booked for {guests} at {time}."


HOST = Agent(instructions="You answer the phone.", greeting="Good evening!", tools=[book_table, hang_up])


async def test_a_whole_call(world) -> None:
    voice = Murmur()
    async with world(HOST, SCRIPT) as w:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=300)
            await line.say(voice.render("A table for four, please."))
            await line.wait_for_agent(ms=1500)
            await line.say(voice.render("Half past seven."))
            await line.wait_for_silence(ms=1500)
            await line.say(voice.render("Thanks, goodbye."))
            await line.wait_ended(20)
        assert line.ended_by == "agent"
        assert line.violations == []
        assert w.model.violations == []
        (ended,) = w.of(CallEnded)
        for turn in ended.transcript:
            print(turn)
        print(w.of(BargeIn), line.clears)
        assert ended.ended_by == "agent"
        assert [each.output for each in w.of(ToolReturned)][0] == "Booked for 4 at 19:30."
        assert len(w.of(BargeIn)) == 1
