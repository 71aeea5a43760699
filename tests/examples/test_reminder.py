"""The reminder: one person confirms the visit, and one machine keeps the message, word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from phoneagent import CallEnded, TurnEnded
from phoneagent.sim.twilio.callee import Callee, machine, person
from phoneagent.sim.twilio.line import Line
from tests.end_to_end.conftest import Worlds
from tests.end_to_end.test_calling_out import GREETING, VOICE, calling
from tests.examples.conftest import load

pytestmark = pytest.mark.anyio

TO_ANNA = """
[[turn]]
heard = "Hello"
caller = "Hello?"
say = "Hello Anna, I am an assistant with an artificial voice. You have a visit tomorrow at nine. Do you come?"
[[turn]]
heard = "Yes"
caller = "Yes, I do."
calls = [{ name = "note_answer", arguments = { coming = true } }, { name = "hang_up" }]
then = "Goodbye."
"""
TO_BEN = f"""
[[turn]]
heard = "."
caller = "{GREETING}"
say = "Hello Ben, I am an assistant."
"""


async def test_a_person_is_reminded_and_answers(world: Worlds, tmp_path: Path) -> None:
    module = load("reminder")
    anna, ben = module.VISITS

    async def then(line: Line) -> None:
        await line.wait_for_silence()
        await line.say(VOICE.render("Yes, I do."), "Yes, I do.")
        await line.wait_ended()

    callee = Callee(anna.number, person(VOICE.render("Hello?"), "Hello?", then))
    async with calling(world, tmp_path, callee, agent=module.app.agent, script=TO_ANNA) as (w, rest, exchange):
        for _ in range(3):  # it is run three times
            await module.remind(w.app, anna)
        await callee.over()
        await w.until(lambda: w.of(CallEnded))
    assert exchange.failures == []
    assert (module.COMING, callee.rung, len(rest.calls)) == ({anna.id: True}, 1, 1)
    assert ben.id not in module.COMING
    assert callee.lines[0].ended_by == "agent"


async def test_a_machine_keeps_the_message(world: Worlds, tmp_path: Path) -> None:
    module = load("reminder")
    ben = module.VISITS[1]
    callee = Callee(ben.number, machine(VOICE.render(GREETING), GREETING))
    async with calling(world, tmp_path, callee, agent=module.app.agent, script=TO_BEN) as (w, _, exchange):
        await module.remind(w.app, ben)
        await callee.over()
        await w.until(lambda: w.of(CallEnded))
        last = [each.turn for each in w.of(TurnEnded) if each.turn.role == "agent"][-1]
    assert exchange.failures == []
    assert last.heard_text == "This is your dentist. Your visit is tomorrow at ten. If you cannot come, please call us."
    beep = next(each for each in callee.lines[0].speech if each.text == "[beep]")
    assert last.start_ms >= beep.end_ms - 20
    assert module.COMING == {}
