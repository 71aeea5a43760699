"""The front desk: the workshop is asked before a caller is put through, and the office takes calls with a key."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from phoneagent import CallTransferred
from phoneagent.sim import Line
from phoneagent.sim.speech import Murmur
from phoneagent.sim.twilio.callee import Callee, Exchange
from phoneagent.sim.twilio.rest import TwilioRest
from phoneagent.store import Store
from tests.end_to_end.conftest import ACCOUNT_SID, AUTH_TOKEN, Worlds
from tests.examples.conftest import load

pytestmark = pytest.mark.anyio
VOICE = Murmur()

SCRIPT = """
[[turn]]
caller = "A key of my piano sticks."
say = "I ask the workshop."
call = "offer"
arguments = { to = "workshop" }
then = "One moment."
[[turn]]
caller = "I want to pay a bill."
say = "I put you through to the office."
call = "transfer"
arguments = { to = "office" }
"""


async def refuses(line: Line) -> None:
    await line.wait_for_words("Press 1")
    await line.press("2")


async def takes_it(line: Line) -> None:
    await line.wait_for_words("A call for office. Press 1")
    await line.press("1")
    await line.bridged.wait()
    await asyncio.sleep(5)
    await line.hang_up()


async def test_the_workshop_refuses_and_the_office_takes_the_call(world: Worlds, tmp_path: Path) -> None:
    module = load("front_desk")
    workshop, office = Callee(module.WORKSHOP, refuses), Callee(module.OFFICE, takes_it)
    async with TwilioRest(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN) as rest:
        rest.add_number("+15550100002")
        store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
        async with world(module.front_desk, SCRIPT, store=store, twilio_api_url=rest.url) as w:
            phone = w.phone(rest=rest)
            async with Exchange(phone, workshop, office) as exchange, phone.dial() as line:
                await line.wait_for_silence()
                await line.say(VOICE.render("A key of my piano sticks."))
                await w.until(lambda: w.of(CallTransferred))
                await line.wait_for_silence()
                await line.say(VOICE.render("I want to pay a bill."))
                await line.wait_ended()
            await w.until(lambda: len(w.of(CallTransferred)) == 2)
            assert [(each.to_name, each.outcome, each.warm) for each in w.of(CallTransferred)] == [
                ("workshop", "declined", True),
                ("office", "completed", False),
            ]
            assert (exchange.failures, line.violations, rest.violations) == ([], [], [])
            assert (workshop.rung, office.rung) == (1, 1)
