"""The switchboard: sales is reached and transcribed, and the desk takes messages."""

from __future__ import annotations

import pytest

from phoneagent import TurnEnded
from phoneagent.sim import Model
from phoneagent.sim.model.vad import EnergyGate
from tests.end_to_end.conftest import Worlds
from tests.examples.conftest import HUM, Players, Quick, Told, load

pytestmark = pytest.mark.anyio


async def test_sales_talks_to_the_caller(world: Worlds) -> None:
    module, ear = load("switchboard"), Told()
    async with world(module.app.agent, model=Model(voice=Quick(), ear=ear, vad=EnergyGate)) as w:
        async with w.phone(called=module.SALES).dial() as line:
            for speak, text in ((line.say, "Is it ready?"), (line.callee_says, "Tomorrow.")):
                ear.lines.append(text)
                await speak(HUM)
                await w.until(lambda: text in [event.turn.text for event in w.of(TurnEnded)])  # noqa: B023 - at once
            line.callee_hangs_up()
            await line.wait_ended()
        assert line.verbs == ["Say This call is transcribed.", "Start", f"Dial {module.SALES_DESK}"]
        assert line.violations == []
        assert [event.turn.role for event in w.of(TurnEnded)] == ["caller", "callee"]


async def test_the_desk_takes_a_message(played: Players) -> None:
    module = load("switchboard")
    script = """
[[turn]]
heard = "call me"
call = "take_message"
arguments = { name = "Ann", message = "Call me back." }
then = "{output}"
"""
    async with played(module, script) as number, number.call() as caller:
        await caller.says("I am Ann, please call me back.", hears="Noted.")
    assert module.messages == ["Ann: Call me back."]
