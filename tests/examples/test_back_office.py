"""The back office: it takes the webhooks that are signed, each once, and so the messages of the voicemail."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from standardwebhooks import Webhook

from phoneagent.sim import Model, Script, serving
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.sim.speech import Murmur
from phoneagent.store import Store, afterwards
from tests.end_to_end.conftest import Worlds
from tests.examples.conftest import Caller, Quick, Told, load
from tests.examples.test_voicemail import MESSAGE, SCRIPT
from tests.receiver import SECRET

pytestmark = pytest.mark.anyio


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    return load("back_office")


async def test_a_message_of_the_voicemail_is_there_once(
    office: Any, world: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = load("voicemail")
    monkeypatch.setattr(shop, "is_open", lambda now: False)
    monkeypatch.setattr(afterwards, "SETTLE_SECONDS", 0.0)  # the date goes on as ever, and calls skip time
    ear = Told()
    model = Model(Script.parse(SCRIPT), voice=Quick(), ear=ear, vad=EnergyGate)
    async with (
        serving(office.app) as url,
        Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store,
        world(
            shop.answerer,
            model=model,
            store=store,
            webhook_url=f"{url}/calls",
            webhook_secret=SECRET,
            webhook_allow_private=True,
        ) as w,
    ):
        async with w.phone().dial() as line:
            caller = Caller(line, w, ear)
            await caller.hears("Please say your name")
            ear.lines.append(MESSAGE)
            await line.say(Murmur().render(MESSAGE), MESSAGE)
            await line.wait_ended(20)
        await w.until(lambda: office.messages)
        found = await store.call(line.call_sid)
    assert found is not None
    assert found.outcome is not None
    assert office.messages == {f"call_ended_{line.call_sid}": "Ann: Her chain is broken."}


async def test_what_is_not_signed_is_refused_and_what_comes_twice_is_taken_once(office: Any) -> None:
    turns = [{"role": "agent", "text": "Hello!"}, {"role": "caller", "text": "Call me."}]
    data = {"call": {"caller": "+15550100009", "turns": turns}, "outcome": None}

    def signed(body: str, webhook_id: str, secret: str = SECRET) -> dict[str, str]:
        moment = datetime.now(UTC)
        return {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": Webhook(secret).sign(webhook_id, moment, body),
        }

    ended = json.dumps({"type": "call.ended", "data": data})
    test = json.dumps({"type": "webhook.test", "data": {}})
    forger = "whsec_" + "A" * 40
    async with serving(office.app) as url, aiohttp.ClientSession() as http:
        for body, headers, status in (
            (ended, signed(ended, "1"), 204),
            (ended, signed(ended, "1"), 204),
            (ended.replace("Call me", "Pay me"), signed(ended, "2"), 401),
            (ended, signed(ended, "2", forger), 401),
            (ended, {}, 401),
            (test, signed(test, "3"), 204),
        ):
            async with http.post(f"{url}/calls", data=body, headers=headers) as answered:
                assert answered.status == status
    assert office.messages == {"1": "+15550100009: Call me."}
    assert office.described({"call": {"caller": None, "turns": []}, "outcome": {"urgent": True}}) == (
        "URGENT unknown: said nothing"
    )
