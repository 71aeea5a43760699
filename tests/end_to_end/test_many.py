"""Fifty callers at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from phoneagent import Agent, CallEnded, hang_up
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import World, Worlds

pytestmark = pytest.mark.anyio
CALLERS = 50
VOICE = Murmur()
SCRIPT = """
[[turn]]
caller = "one"
say = "This is an answer that goes on and on until somebody has had enough of it and says so."
[[turn]]
caller = "two"
say = "Very well then, goodbye!"
call = "hang_up"
"""


async def converse(w: World, number: int) -> Any:
    await asyncio.sleep(number * 0.04)  # fifty people do not dial in the same millisecond
    async with w.phone(caller=f"+1555010{number:04}").dial() as line:
        await line.wait_for_silence(ms=200, timeout=60)
        await line.say(VOICE.render("One?"))
        await line.wait_for_agent(ms=600, timeout=60)
        await line.say(VOICE.render("Two!"))
        await line.wait_ended(40)
    return line


async def test_fifty_calls_at_once_run_to_their_end(world: Worlds) -> None:
    agent = Agent(instructions=lambda call: call.sid, greeting="Good evening!", tools=[hang_up])
    async with world(agent, SCRIPT) as w:
        lines = await asyncio.gather(*(converse(w, number) for number in range(CALLERS)))
        assert [line.ended_by for line in lines] == ["agent"] * CALLERS
        assert [violation for line in lines for violation in line.violations] == []
        assert w.model.violations == []
        sessions = {session.session["instructions"]: session for session in w.model.sessions}
        for line in lines:  # no crosstalk: each caller heard their own session, and nothing else
            said = b"".join(bytes(item.audio) for item in sessions[line.call_sid].audio_items if not item.interrupted)
            assert bytes(line.received).endswith(said[-1600:])
        await w.until(lambda: len(w.of(CallEnded)) >= CALLERS)
        assert {each.ended_by for each in w.of(CallEnded)} == {"agent"}
        assert len(w.of(CallEnded)) == CALLERS
