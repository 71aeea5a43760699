"""The campaign: of its list one person answers after a busy line, one wants no more calls, and none is called twice."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Call, CallEnded
from phoneagent.sim import Model, Script
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.sim.twilio.callee import Callee, person
from phoneagent.sim.twilio.line import Line
from tests.end_to_end.conftest import Worlds
from tests.end_to_end.test_calling_out import VOICE, calling
from tests.examples.conftest import load
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

SCRIPT = """
[[turn]]
heard = "Hello"
caller = "Hello?"
say = "Hello, I am an assistant with an artificial voice. You have a visit tomorrow. Do you come?"
[[turn]]
heard = "Yes"
caller = "Yes, I do."
calls = [{ name = "note_answer", arguments = { coming = true } }, { name = "hang_up" }]
then = "Goodbye."
[[turn]]
heard = "again"
caller = "Do not call again."
calls = [{ name = "never_call_again" }, { name = "hang_up" }]
then = "I am sorry. Goodbye."
"""
ANNA, BEN = "+12025550109", "+12025550108"


LINES = ("Hello?", "Yes, I do.", "Do not call again.")


class Ear:
    """Knows the lines by their bytes."""

    async def hear(self, ulaw: bytes) -> str:
        return next((text for text in LINES if VOICE.render(text)[800:1600] in ulaw), "")


def says(text: str) -> Any:
    async def then(line: Line) -> None:
        await line.wait_for_silence()
        await line.say(VOICE.render(text), text)
        await line.wait_ended()

    return person(VOICE.render("Hello?"), "Hello?", then)


async def test_a_list_is_called_and_what_people_say_is_noted(world: Worlds, tmp_path: Path) -> None:
    module = load("campaign")
    anna, ben = Callee(ANNA, says("Yes, I do."), outcome="busy"), Callee(BEN, says("Do not call again."))
    model = Model(Script.parse(SCRIPT), ear=Ear(), vad=EnergyGate)
    async with calling(world, tmp_path, anna, ben, agent=module.app.agent, model=model) as (w, rest, exchange):
        module.app = w.app  # the tool asks the app that has the call
        rules: dict[str, Any] = {"hours": "00:00-24:00", "days": "mon-sun", "calls_per_second": 0, "retry_seconds": 1}
        campaign = await w.app.campaigns.start("visits", module.LIST, **rules)
        await anna.over()
        anna.outcome = "answers"
        async with asyncio.timeout(300):
            while (found := await w.app.campaigns.get(campaign.id)) is None or not found.over:
                await asyncio.sleep(0.1)
        lines = await w.app.campaigns.page(campaign.id)
        await w.until(lambda: len(w.of(CallEnded)) == 2)
        dialed = await w.app.dial(BEN)
        async with asyncio.timeout(HANG_SECONDS):
            while (refused := await w.app.outbound_call(dialed.id)) is None or not refused.over:
                await asyncio.sleep(0.1)
    assert exchange.failures == []
    assert module.COMING == {"7": True}
    assert (anna.rung, ben.rung, len(rest.calls)) == (2, 1, 3)
    assert [(each.position, each.state, each.attempts) for each in lines] == [
        (2, "finished", 2),
        (3, "finished", 1),
        (4, "skipped", 0),
    ]
    assert refused.status == "refused"


async def test_a_caller_without_a_number_learns_that_none_was_noted() -> None:
    module = load("campaign")
    call = Call(sid="CA" + "1" * 32, caller=None, called=ANNA, direction="inbound", started_at=datetime.now(UTC))
    told = await module.never_call_again.run(call, "{}")
    assert "withheld" in told
    assert "Done" not in told
