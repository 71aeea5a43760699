"""A campaign with whole calls: stopped in mid-call, resumed by another start, and machines that are called again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Agent, Call, CallEnded
from phoneagent.sim.twilio.callee import Callee, machine, person
from phoneagent.sim.twilio.line import Line
from phoneagent.store.campaign_records import Campaign
from tests.end_to_end.conftest import World, Worlds
from tests.end_to_end.test_calling_out import GREETING, TO_A_MACHINE, VOICE, calling, polite
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

ANNA, BEN, CLEO = "+12025550100", "+12025550101", "+12025550102"
ROWS = [{"to": ANNA, "name": "Anna"}, {"to": BEN, "name": "Ben"}, {"to": CLEO, "name": "Cleo"}]
RULES: dict[str, Any] = {
    "hours": "00:00-24:00",
    "days": "mon-sun",
    "at_once": 1,
    "calls_per_second": 0,
    "retry_seconds": 1,
}


async def until(w: World, state: str) -> Campaign:
    async with asyncio.timeout(300):
        while (found := await w.app.campaigns.get("visits")) is None or found.state != state:
            await asyncio.sleep(0.5)
    return found


async def test_a_stop_in_mid_call_lets_that_call_end_and_a_start_calls_the_others(
    world: Worlds, tmp_path: Path
) -> None:
    names: list[str] = []
    go_on = asyncio.Event()

    def instructions(call: Call) -> str:
        names.append(call.context["name"])
        return "Remind them."

    async def stays(line: Line) -> None:
        await line.wait_for_silence()
        await go_on.wait()
        await line.hang_up()

    anna = Callee(ANNA, person(VOICE.render("Hello?"), "Hello?", stays))
    others = [Callee(number, person(VOICE.render("Hello?"), "Hello?", polite)) for number in (BEN, CLEO)]
    async with calling(world, tmp_path, anna, *others, agent=Agent(instructions=instructions)) as (w, rest, exchange):
        await w.app.campaigns.start("visits", ROWS, **RULES)
        line = await anna.called()
        await line.wait_for_silence()
        stopped = await w.app.campaigns.stop("visits")
        assert stopped is not None
        assert (stopped.state, stopped.numbers) == ("stopping", {"calling": 1, "waiting": 2})
        assert line.ended_by is None, "the call goes on"
        go_on.set()
        await anna.over()
        found = await until(w, "stopped")
        assert found.numbers == {"finished": 1, "waiting": 2}
        assert (len(rest.calls), names) == (1, ["Anna"])
        await w.app.campaigns.start("visits", ROWS, **RULES)
        found = await until(w, "done")
        await w.until(lambda: len(w.of(CallEnded)) == 3)
    assert exchange.failures == []
    assert (found.numbers, names, len(rest.calls)) == ({"finished": 3}, ["Anna", "Ben", "Cleo"], 3)


async def test_a_machine_is_hung_up_on_and_called_again_as_often_as_the_rules_say(
    world: Worlds, tmp_path: Path
) -> None:
    ben = Callee(BEN, machine(VOICE.render(GREETING), GREETING))
    async with calling(world, tmp_path, ben, script=TO_A_MACHINE) as (w, _, exchange):
        await w.app.campaigns.start("visits", ROWS[1:2], attempts=2, **RULES)
        found = await until(w, "done")
        (call,) = await w.app.campaigns.page(found.id)
        await w.until(lambda: len(w.of(CallEnded)) == 2)
    assert exchange.failures == []
    assert (ben.rung, call.attempts, call.result, call.state) == (2, 2, "machine", "given_up")
    assert call.call_sid == ben.lines[1].call_sid


async def test_a_number_that_asks_not_to_be_called_again_is_not(world: Worlds, tmp_path: Path) -> None:
    anna = Callee(ANNA, outcome="busy")
    async with calling(world, tmp_path, anna) as (w, _, _):
        await w.app.campaigns.start("visits", ROWS[:1], **RULES)
        await anna.over()
        await w.app.campaigns.never_call([ANNA])
        found = await until(w, "done")
        (call,) = await w.app.campaigns.page(found.id)
        made = await w.app.dial(ANNA)
        async with asyncio.timeout(HANG_SECONDS):
            while (dialed := await w.app.outbound_call(made.id)) is None or not dialed.over:
                await asyncio.sleep(0.1)
    assert (anna.rung, call.state, call.reason) == (1, "given_up", "it is on the do-not-call list")
    assert (dialed.status, dialed.error) == ("refused", "its number is on the do-not-call list")
