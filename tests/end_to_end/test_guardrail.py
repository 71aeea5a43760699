"""A guardrail in a live call: the agent is stopped in mid-sentence and says something else."""

from __future__ import annotations

import pytest

from phoneagent import Agent, BargeIn, Call, Trouble, TurnEnded
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import World, Worlds

pytestmark = pytest.mark.anyio
WORD = Murmur().render("What does it cost?")
SECRET = "Well, that is a good question, and I tell you: the secret price of it is ten, and here is why that is so."
SCRIPT = f'default = "All good."\n[[turn]]\ncaller = "What does it cost?"\nsay = "{SECRET}"\n'


def said(w: World) -> list[str]:
    return [event.turn.text for event in w.of(TurnEnded) if event.turn.role == "agent"]


async def test_the_agent_is_interrupted_and_says_something_else(world: Worlds) -> None:
    async def no_prices(call: Call, text: str) -> str | None:
        return "I cannot tell you the secret price." if "secret price" in text else None

    agent = Agent(instructions="x", greeting="My greeting may name the secret price.", guardrail=no_prices)
    async with world(agent, SCRIPT) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        assert w.of(BargeIn) == []
        await line.say(WORD)
        await w.until(lambda: said(w)[-1] == "I cannot tell you the secret price.")
        (cut,) = w.of(BargeIn)
        assert cut.reaction_ms is None
        (told,) = w.model.sessions[0].truncations
        assert told.audio_end_ms == cut.audio_end_ms
        (turn,) = (each.turn for each in w.of(TurnEnded) if each.turn.item_id == cut.item_id)
        assert turn.interrupted
        assert "ten" not in turn.heard_text
        await line.say(WORD)
        await w.until(lambda: said(w)[-1] == "All good.")
        assert w.model.violations == []


async def test_one_that_fails_is_told_and_the_agent_goes_on(world: Worlds) -> None:
    def broken(call: Call, text: str) -> str:
        raise LookupError

    async with world(Agent(instructions="x", guardrail=broken), SCRIPT) as w, w.phone().dial() as line:
        await line.say(WORD)
        await w.until(lambda: said(w) == [SECRET])
        assert "the guardrail failed: LookupError" in [each.what for each in w.of(Trouble)]
        assert w.of(BargeIn) == []
