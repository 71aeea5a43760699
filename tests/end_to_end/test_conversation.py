"""Whole calls over real sockets: the phone, the app and the model."""

from __future__ import annotations

import pytest

from phoneagent import Agent, BargeIn, Call, CallEnded, ToolReturned, hang_up, tool
from phoneagent.demo.report import measure
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import BOTH_SOCKETS, Worlds

pytestmark = [pytest.mark.anyio, BOTH_SOCKETS]

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


async def test_a_whole_call(world: Worlds) -> None:
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
        await w.until(lambda: w.of(CallEnded))
        (ended,) = w.of(CallEnded)
        assert ended.ended_by == "agent"
        assert [(turn.role, turn.interrupted) for turn in ended.transcript] == [
            ("agent", False),
            ("caller", False),
            ("agent", True),
            ("caller", False),
            ("agent", False),
            ("agent", False),
            ("caller", False),
            ("agent", False),
        ]
        interrupted = ended.transcript[2]
        assert interrupted.text.startswith(interrupted.heard_text)
        assert 0 < len(interrupted.heard_text) < len(interrupted.text) / 2
        (returned,) = (each for each in w.of(ToolReturned) if each.name == "book_table")
        assert returned.output == "Booked for 4 at 19:30."
        assert len(w.of(BargeIn)) == 1
        report = measure(line, w.model.sessions[0])
        assert report.passed
        assert [each.text for each in report.turns] == [each.text for each in ended.transcript]
