"""The parts of an app: what calling out needs, and the task that places the calls."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from phoneagent import Agent, Call, ConfigurationError, DefinitionError, PhoneApp, Transcriber
from phoneagent.events import CallStarted
from phoneagent.sim import TwilioRest
from phoneagent.store import Store
from phoneagent.twilio import VOICE_PATH, twiml
from tests.end_to_end.conftest import ACCOUNT_SID, AUTH_TOKEN, settings
from tests.patience import HANG_SECONDS
from tests.receiver import SECRET

pytestmark = pytest.mark.anyio

OURS, ANNA = "+15550100002", "+15550100009"


async def test_an_app_without_records_or_without_twilio_makes_no_calls(tmp_path: Path) -> None:
    apps = [
        PhoneApp(Agent(instructions="x"), settings=settings(twilio_phone_number=OURS)),
        PhoneApp(
            Agent(instructions="x"),
            settings=settings(insecure=True),
            store=Store.from_url(f"sqlite:///{tmp_path}/x.db"),
        ),
    ]
    for app in apps:
        with pytest.raises(ConfigurationError, match="database"):
            await app.dial(ANNA)
        await app.stop_dialing()


async def test_calls_are_placed_without_a_lifespan(tmp_path: Path) -> None:
    async with TwilioRest(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN) as rest:
        rest.add_number(OURS)
        given = settings(twilio_api_url=rest.url, twilio_phone_number=OURS, calls_per_second=0)
        store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
        app = PhoneApp(Agent(instructions="x", name="desk"), settings=given, store=store)
        made = await app.dial(ANNA, agent="desk")
        async with asyncio.timeout(HANG_SECONDS):
            while (found := await app.outbound_call(made.id)) is None or found.status != "placed":
                await asyncio.sleep(0.01)
        assert list(rest.calls) == [found.call_sid]
        assert await app.outbound_call("0" * 32) is None
        await app.stop_dialing()
        assert rest.violations == []


async def test_a_function_that_chooses_the_agent_chooses_by_the_context(tmp_path: Path) -> None:
    given = settings(twilio_phone_number=OURS, twilio_api_url="http://127.0.0.1:9")
    app = PhoneApp(lambda call: Agent(), settings=given, store=Store.from_url(f"sqlite:///{tmp_path}/calls.db"))
    with pytest.raises(DefinitionError, match="function"):
        await app.dial(ANNA, agent="desk")
    await app.stop_dialing()


@pytest.mark.parametrize("token", [None, "a-long-random-text"])
async def test_a_call_is_made_by_the_agent_it_names_also_with_a_console(tmp_path: Path, token: str | None) -> None:
    given = settings(twilio_phone_number=OURS, twilio_api_url="http://127.0.0.1:9", api_token=token)
    desk = Agent(name="desk", instructions="x")
    front = Agent(name="front", instructions="x", handoffs=[desk])
    app = PhoneApp(front, settings=given, store=Store.from_url(f"sqlite:///{tmp_path}/calls.db"))
    made = await app.dial(ANNA, agent="desk")
    call = Call(
        sid="CA" + "1" * 32,
        caller=OURS,
        called=ANNA,
        direction="outbound-api",
        started_at=datetime.now(UTC),
        parameters={"dial": made.id},
    )
    assert app._parts.outbound is not None
    assert await app._parts.outbound.attach(call)
    assert app._parts.calls._answerer_of(call) is desk
    assert await app._parts._choose_again(call) is desk
    await app.stop_dialing()


async def test_a_person_who_is_forgotten_while_the_telephone_rings_gets_no_agent(tmp_path: Path) -> None:
    given = settings(twilio_phone_number=OURS, twilio_api_url="http://127.0.0.1:9")
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store:
        app = PhoneApp(Agent(instructions="x"), settings=given, store=store)
        made = await app.dial(ANNA)
        answered = {"CallSid": "CA" + "1" * 32, "CallStatus": "in-progress", "Direction": "outbound-api"}
        form = {**answered, "From": OURS, "To": ANNA, "dial": made.id}
        await store.forget(ANNA)
        assert await app._parts.webhooks.respond(VOICE_PATH, form) == twiml.hang_up()
        await app.stop_dialing()


async def test_what_answered_a_call_is_chosen_again_by_its_context(tmp_path: Path) -> None:
    given = settings(twilio_phone_number=OURS, twilio_api_url="http://127.0.0.1:9")

    async def choose(call: Call) -> Agent:
        return Agent(name=call.context["team"], instructions="x")

    app = PhoneApp(choose, settings=given, store=Store.from_url(f"sqlite:///{tmp_path}/calls.db"))
    made = await app.dial(ANNA, context={"team": "sales"})
    call = Call(
        sid="CA" + "1" * 32,
        caller=OURS,
        called=ANNA,
        direction="outbound-api",
        started_at=datetime.now(UTC),
        parameters={"dial": made.id},
    )
    answer = await app._parts._choose_again(call)
    assert isinstance(answer, Agent)
    assert answer.name == "sales"
    await app.stop_dialing()


async def test_outcomes_need_a_database(tmp_path: Path) -> None:
    assert PhoneApp(Agent(instructions="x"), settings=settings())._parts.outcomes is None
    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    app = PhoneApp(Agent(instructions="x"), settings=settings(), store=store)
    assert app._parts.outcomes is not None
    await app._parts.close()


# --- after a call -----------------------------------------------------------------------------------------------------


class Note(BaseModel):
    text: str


@pytest.mark.parametrize(
    ("agent", "url", "expected"),
    [
        (Agent(instructions="x"), False, None),
        (Agent(instructions="x"), True, (True, False)),
        (Agent(instructions="x", outcome=Note), False, (False, True)),
        (Agent(instructions="x", handoffs=[Agent(name="other", instructions="y", outcome=Note)]), True, (True, True)),
        (lambda call: Agent(instructions="x"), False, (False, True)),
        (Transcriber(dial="+15550100009"), True, (True, False)),
    ],
    ids=["nothing", "a receiver", "an outcome", "both", "a function", "a transcriber"],
)
async def test_what_an_app_does_after_a_call(
    agent: Any, url: bool, expected: tuple[bool, bool] | None, tmp_path: Path
) -> None:
    hook = {"webhook_url": "https://office.example/", "webhook_secret": SECRET} if url else {}
    app = PhoneApp(agent, settings=settings(**hook), store=Store.from_url(f"sqlite:///{tmp_path}/calls.db"))
    outbox = app._parts.outbox
    found = None if outbox is None else (outbox._receiver is not None, outbox._outcomes is not None)
    assert found == expected
    await app.stop_dialing()


async def test_a_receiver_needs_records() -> None:
    app = PhoneApp(
        Agent(instructions="x"), settings=settings(webhook_url="https://office.example/", webhook_secret=SECRET)
    )
    with pytest.raises(ConfigurationError, match="WEBHOOK_URL needs call records"):
        app.check()


async def test_recordings_know_which_calls_were_forgotten(tmp_path: Path) -> None:
    sid = "CA" + "1" * 32
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store:
        app = PhoneApp(Agent(instructions="x"), settings=settings(record_audio=str(tmp_path / "audio")), store=store)
        recordings = app._parts.recordings
        assert recordings is not None
        assert not await recordings.forgotten(sid)
        store.tell(CallStarted(call_sid=sid, stream_sid="MZ1", caller=ANNA, called=OURS, direction="inbound"))
        await store.forget(sid)
        assert await recordings.forgotten(sid)
