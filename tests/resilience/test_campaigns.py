"""A campaign of 200 numbers over two processes, one of them killed in the middle: each rung as planned, none twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from phoneagent.sim import Model, Phone, Script
from phoneagent.sim.twilio.callee import Callee, Exchange
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.rest import TwilioRest
from phoneagent.store import Store
from phoneagent.store.campaign_records import Campaign
from tests.resilience.cluster import ACCOUNT_SID, AUTH_TOKEN, PUBLIC_URL, Cluster
from tests.store.conftest import POSTGRES, new_schema, upgrade

pytestmark = pytest.mark.anyio

OWN, TOKEN = "+15550100002", "a-token-of-a-test"
TARGET = Path(__file__).parent / "campaigner.py"
COUNT, AT_ONCE = 200, 20

PLANNED = [
    ("in-progress",),
    ("busy", "in-progress"),
    ("no-answer", "no-answer", "no-answer"),
    ("busy", "no-answer", "busy"),
    ("failed", "in-progress"),
]
"""What the calls of each fifth number meet, in order."""

RULES = {
    "hours": "00:00-24:00",
    "days": "mon-sun",
    "at_once": AT_ONCE,
    "calls_per_second": 0,
    "attempts": 3,
    "retry_seconds": 1,
    "on_machine": "talk",
}


@dataclass
class Ringing:
    """How many telephones ring or are answered, now and at most."""

    now: int = 0
    most: int = 0
    rung: int = 0


async def hang_up(line: Line) -> None:
    await line.hang_up()


@dataclass(eq=False)
class Quick(Callee):
    """A party whose calls meet what is planned, each at once."""

    planned: tuple[str, ...] = ()
    ringing: Ringing = field(default_factory=Ringing)

    async def ring(self, timeout: float) -> str:
        met = self.planned[self.rung] if self.rung < len(self.planned) else "busy"
        self.rung += 1
        self.ringing.rung += 1
        self.ringing.now += 1
        self.ringing.most = max(self.ringing.most, self.ringing.now)
        await asyncio.sleep(0.05)
        self.ringing.now -= 1
        return met


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/phoneagent.db"
        return
    if POSTGRES is None:
        pytest.skip("TEST_DATABASE_URL names no PostgreSQL")
    async with new_schema() as url:
        await upgrade(url)
        yield url


async def post(url: str, path: str, body: Any) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession() as http, http.post(url + path, json=body, headers=headers) as answer:
        assert answer.status == 202, await answer.text()
        return await answer.json()


async def over(store: Store, id: str, seconds: float) -> Campaign:
    async with asyncio.timeout(seconds):
        while (found := await store.campaigns.find(id)) is None or not found.over:
            await asyncio.sleep(0.1)
    return found


async def test_each_number_is_rung_as_planned_although_a_process_is_killed(
    tmp_path: Path, database_url: str, measured: Callable[[str], None]
) -> None:
    ringing = Ringing()
    callees = [
        Quick(f"+1202556{n:04}", hang_up, planned=PLANNED[n % len(PLANNED)], ringing=ringing) for n in range(COUNT)
    ]
    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(TwilioRest(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN))
        rest.add_number(OWN)
        brain = await stack.enter_async_context(Model(Script.parse('default = "Hello."')))
        environment: dict[str, Any] = {
            "TWILIO_API_URL": rest.url,
            "TWILIO_PHONE_NUMBER": OWN,
            "CALLS_PER_SECOND": "0",
            "MAX_CALLS_PER_CALLER": "1000",
            "PHONEAGENT_API_TOKEN": TOKEN,
        }
        cluster = await stack.enter_async_context(
            Cluster(tmp_path, database_url=database_url, model_url=brain.url, target=TARGET, **environment)
        )
        store = await stack.enter_async_context(Store.from_url(database_url))
        phone = Phone(
            f"{cluster.balancer.url}/twilio/voice#rc=5&rp=all",
            auth_token=AUTH_TOKEN,
            public_url=PUBLIC_URL,
            account_sid=ACCOUNT_SID,
            rest=rest,
        )
        await stack.enter_async_context(Exchange(phone, *callees))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        body = {"name": "visits", "calls": [{"to": each.number} for each in callees], "rules": RULES}
        campaign = await post(cluster.balancer.url, "/campaigns", body)
        async with asyncio.timeout(180):
            while ringing.rung < 150:
                await asyncio.sleep(0.01)
        cluster.processes[0].kill()
        found = await over(store, campaign["id"], 240)
        took = loop.time() - begun
        calls = await store.campaigns.calls(found.id)
    assert {each.number: each.rung for each in callees} == {each.number: len(each.planned) for each in callees}
    assert len(rest.calls) == sum(len(each.planned) for each in callees)
    assert ringing.most <= AT_ONCE
    assert rest.violations == []
    assert (found.state, found.numbers) == ("done", {"finished": 120, "given_up": 80})
    assert found.results == {"completed": 120, "no-answer": 40, "busy": 40}
    assert [each.attempts for each in calls] == [len(each.planned) for each in callees]
    assert len({each.call_sid for each in calls}) == COUNT
    assert {each.reason for each in calls if each.state == "given_up"} == {
        "no answer, after 3 of 3 attempts",
        "busy, after 3 of 3 attempts",
    }
    measured(f"a campaign of {COUNT} numbers, {len(rest.calls)} calls: {took:.1f} s, {dict(found.numbers)}")
