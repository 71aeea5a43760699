"""A client that is generated from `/openapi.json` drives a call from dialing to transfer.

`resilience/test_control.py` has the same with the call in another process.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from phoneagent import Agent, Call, CallControlled, CallTransferred, transfer
from phoneagent.sim import TwilioRest
from phoneagent.sim.twilio.callee import Callee, Exchange
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.network import Network
from phoneagent.store import Store
from tests.console.test_openapi import described
from tests.end_to_end.conftest import ACCOUNT_SID, AUTH_TOKEN, Worlds
from tests.end_to_end.generated import Driver, Generated, generate

pytestmark = pytest.mark.anyio

OURS, ANNA, BILLING = "+15550100002", "+15550100009", "+12025550107"


async def stays(line: Line) -> None:
    await asyncio.sleep(600)


async def talks(line: Line) -> None:
    await line.bridged.wait()
    await asyncio.sleep(3)
    await line.hang_up()


@pytest.fixture
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generated:
    generate(asyncio.run(described()), tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return Generated()


async def test_a_call_is_driven_from_dialing_to_transfer(world: Worlds, generated: Generated, tmp_path: Path) -> None:
    contexts: list[Any] = []

    def instructions(call: Call) -> str:
        contexts.append(dict(call.context))
        return "Remind them."

    tools = [transfer(to={"billing": BILLING})]
    agent = Agent(name="reminder", instructions=instructions, greeting="This is the dentist.", tools=tools)
    anna, billing = Callee(ANNA, stays), Callee(BILLING, talks)
    network = Network()
    network.parties = {BILLING: billing}
    settings = {"api_token": SecretStr("let-me-in"), "twilio_phone_number": OURS, "calls_per_second": 0}
    async with (
        TwilioRest(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN) as rest,
        Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store,
        world(agent, store=store, twilio_api_url=rest.url, **settings) as w,
        Exchange(w.phone(rest=rest, network=network), anna) as exchange,
        generated.client(w.url, "let-me-in") as client,
    ):
        rest.add_number(OURS)
        driver = Driver(generated, client)
        context = generated.models.DialContext.from_dict({"visit": 7})
        made = await driver.dial(to=ANNA, agent="reminder", context=context, timeout=20)
        assert (anna.rung, made.to, made.from_) == (1, "+1••••••09", "+1••••••02")
        line = await anna.called()
        assert driver.sid == line.call_sid
        shown = await driver.drive("This is the dentist.", "billing")
        assert (shown.state.value, shown.record.reason) == ("ended", "transferred to billing")
        await line.wait_ended()
        await w.until(lambda: w.of(CallTransferred))
    assert [(each.to_name, each.outcome, each.warm) for each in w.of(CallTransferred)] == [
        ("billing", "completed", False)
    ]
    assert [each.operation for each in w.of(CallControlled)] == [
        *("say", "note", "play", "send-digits", "mute", "unmute", "interrupt", "transfer")
    ]
    assert (exchange.failures, line.violations, w.model.violations, rest.violations) == ([], [], [], [])
    assert line.verbs == ["Connect", f"Dial {BILLING}", "Hangup"]
    assert (billing.rung, contexts[0]) == (1, {"visit": 7})
    assert all(number not in w.log.text for number in (ANNA, BILLING))
