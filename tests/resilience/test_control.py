"""A client that is generated from `/openapi.json` drives a call that another process has, from dialing to transfer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from phoneagent.sim import Phone
from phoneagent.sim.twilio import callee
from phoneagent.sim.twilio.callee import Callee, Exchange
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.network import Network
from phoneagent.sim.twilio.rest import TwilioRest
from tests.end_to_end.generated import Driver, Generated, generate
from tests.resilience.cluster import ACCOUNT_SID, AUTH_TOKEN, PUBLIC_URL
from tests.resilience.conftest import Worlds
from tests.resilience.switchboard import DESKS

pytestmark = pytest.mark.anyio

TARGET = Path(__file__).parent / "switchboard.py"
OURS, ANNA, TOKEN = "+15550100002", "+15550100009", "let-me-in"


async def stays(line: Line) -> None:
    await asyncio.sleep(600)


async def talks(line: Line) -> None:
    await line.bridged.wait()
    await asyncio.sleep(1)
    await line.hang_up()


async def test_a_call_of_another_process_is_driven_from_dialing_to_transfer(
    both: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callee, "RING_SECONDS", 1.0)
    anna, desk = Callee(ANNA, stays), Callee(DESKS["desk 7"], talks)
    network = Network()
    network.parties = {desk.number: desk}
    async with TwilioRest(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN) as rest:
        rest.add_number(OURS)
        environment: dict[str, Any] = {
            "TWILIO_API_URL": rest.url,
            "TWILIO_PHONE_NUMBER": OURS,
            "PHONEAGENT_API_TOKEN": TOKEN,
            "CALLS_PER_SECOND": "0",
        }
        async with both(target=TARGET, **environment) as w:
            first, second = w.cluster.processes
            second.in_rotation = False  # so that the first has the call
            phone = Phone(
                f"{w.cluster.balancer.url}/twilio/voice#rc=5&rp=all",
                auth_token=AUTH_TOKEN,
                public_url=PUBLIC_URL,
                account_sid=ACCOUNT_SID,
                status_callback="/twilio/status",
                rest=rest,
                network=network,
            )
            url = f"http://127.0.0.1:{second.port}"
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
                async with http.get(f"{url}/openapi.json") as answer:
                    await asyncio.to_thread(generate, await answer.json(), tmp_path)
                monkeypatch.syspath_prepend(tmp_path)
                generated = Generated()
                async with Exchange(phone, anna) as exchange, generated.client(url, TOKEN) as client:
                    driver = Driver(generated, client)
                    made = await driver.dial(to=ANNA, timeout=20)
                    line = await anna.called()
                    assert made.call_sid == line.call_sid
                    await driver.heard("Hello!")
                    for process, state in ((first, "live"), (second, "open")):
                        async with http.get(f"http://127.0.0.1:{process.port}/calls/{driver.sid}") as answer:
                            assert (await answer.json())["state"] == state
                    shown = await driver.drive("Hello!", "desk 7")
                    await line.wait_ended(30)
            assert (shown.record.ended_by, shown.record.reason) == ("agent", "transferred to desk 7")
            assert (exchange.failures, line.violations, w.model.violations) == ([], [], [])
            assert line.verbs == ["Connect", f"Dial {desk.number}", "Hangup"]
            assert (anna.rung, desk.rung) == (1, 1)
            for process in (first, second):
                assert ANNA not in process.log.read_text()
        assert rest.violations == []
