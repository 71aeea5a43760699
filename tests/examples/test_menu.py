"""The errand: an agent goes through a menu three levels deep, and reports what it heard at its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from phoneagent import Call, CallEnded, ToolCalled, TurnEnded
from phoneagent.sim import Menu, Model, Script
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import Worlds
from tests.examples.conftest import Quick, load
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

STATE = Menu("Your parcel is at the post office.")
LEVELS = Menu(
    "Parcels, one. Letters, two.",
    {"1": Menu("Send, one. Track, two.", {"2": Menu("Its number, please.", {"7": STATE, "8": Menu("None.")})})},
)
SCRIPT = """
[[turn]]
caller = "Parcels, one. Letters, two."
call = "press_keys"
arguments = { keys = "1" }
[[turn]]
caller = "Send, one. Track, two."
call = "press_keys"
arguments = { keys = "2" }
[[turn]]
caller = "Its number, please."
call = "press_keys"
arguments = { keys = "7441" }
[[turn]]
caller = "Your parcel is at the post office."
calls = [{ name = "report", arguments = { result = "It is at the post office." } }, { name = "hang_up" }]
then = "Goodbye."
"""


async def test_the_agent_finds_its_way(world: Worlds) -> None:
    module: Any = load("menu")
    model = Model(Script.parse(SCRIPT), voice=Quick(), vad=EnergyGate)
    async with world(module.app.agent, model=model) as w, w.phone().dial() as line:
        call: Call = await w.until(lambda: w.app.calls.get(line.call_sid))
        async with asyncio.timeout(HANG_SECONDS):
            assert await LEVELS.answer(line, voice=Murmur(pitch_hz=140)) == "127"
        await line.wait_ended(20)
        await w.until(lambda: w.of(CallEnded))
        assert call.state["result"] == "It is at the post office."
        assert [each.name for each in w.of(ToolCalled)] == ["press_keys"] * 3 + ["report", "hang_up"]
        pressed = [each.turn for each in w.of(TurnEnded) if each.turn.text.startswith("[keys")]
        assert [each.text for each in pressed] == ["[keys pressed: 1]", "[keys pressed: 1]", "[keys pressed: 4]"]
        assert not any(each.interrupted for each in pressed)
        assert w.of(CallEnded)[0].ended_by == "agent"
        assert line.violations == w.model.violations == []
