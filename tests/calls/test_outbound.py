"""The calls that an app makes, before and beside the call itself: what is refused, and what belongs to which row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Call, ConfigurationError, DefinitionError, TelephonyError
from phoneagent.calls import outbound as module
from phoneagent.calls.outbound import DIAL, MAX_CONTEXT_CHARS, Outbound
from phoneagent.errors import StoreError
from phoneagent.events import CallNotAnswered
from phoneagent.store import Store
from phoneagent.twilio.placing import OutgoingCalls

pytestmark = pytest.mark.anyio

OURS, ANNA, SID = "+15550100002", "+15550100009", "CA" + "a" * 32


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as made:
        yield made


@pytest.fixture
def outbound(store: Store) -> Outbound:
    return make(store)


def make(store: Store, caller_id: str | None = OURS, max_seconds: float = 600) -> Outbound:
    return Outbound(
        store.outbound,
        OutgoingCalls("AC1", "token", api_url="http://127.0.0.1:9"),
        claim=store.claim,
        url=lambda path, query: f"https://agent.example{path}?dial={query[DIAL]}",
        caller_id=caller_id,
        max_seconds=max_seconds,
        calls_per_second=0,
        barred=store.campaigns.barred,
    )


async def dial(outbound: Outbound, to: str = ANNA, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "agents": ["desk"],
        "agent": None,
        "context": None,
        "idempotency_key": None,
        "from_": None,
        "first": "callee",
        "on_machine": "talk",
        "message": None,
        "timeout": 30,
        "time_limit": None,
        **changes,
    }
    return await outbound.dial(to, **options)


def call(id: str | None, direction: str = "outbound-api") -> Call:
    parameters = {} if id is None else {DIAL: id}
    return Call(
        sid=SID, caller=OURS, called=ANNA, direction=direction, started_at=datetime.now(UTC), parameters=parameters
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"from_": "5550100002"},
        {"first": "nobody"},
        {"on_machine": "shout"},
        {"on_machine": "leave_message"},
        {"on_machine": "leave_message", "message": "  "},
        {"on_machine": "leave_message", "message": "x" * 1001},
        {"message": "Hello"},
        {"timeout": 4},
        {"timeout": 601},
        {"timeout": 30.0},
        {"time_limit": 0},
        {"time_limit": True},
        {"idempotency_key": ""},
        {"idempotency_key": 7},
        {"agent": "nobody"},
        {"context": {"x": object()}},
        {"context": {"x": float("nan")}},
        {"context": [1]},
        {"context": {"x": "y" * MAX_CONTEXT_CHARS}},
    ],
)
async def test_arguments_that_cannot_be_used_queue_nothing(
    outbound: Outbound, store: Store, changes: dict[str, Any]
) -> None:
    with pytest.raises(DefinitionError, match=r"^dial has "):
        await dial(outbound, **changes)
    assert store.empty


@pytest.mark.parametrize("number", ["911", "+1911", "+19005551234", "5550100009", ""])
async def test_numbers_that_are_never_called(outbound: Outbound, store: Store, number: str) -> None:
    with pytest.raises(TelephonyError, match="the number is not called: it"):
        await dial(outbound, number)
    assert store.empty


async def test_a_caller_id_is_needed(store: Store) -> None:
    with pytest.raises(ConfigurationError, match=r"^TWILIO_PHONE_NUMBER is missing: .*\(from\)$") as raised:
        await dial(make(store, None))
    assert "from_" not in str(raised.value)  # the command and the control API show this too
    assert (await dial(make(store, None), from_=OURS)).plan["from"] == OURS


async def test_a_key_is_one_call_s(outbound: Outbound) -> None:
    made = await dial(outbound, context={"a": (1, 2)}, idempotency_key="k")
    assert (await dial(outbound, context={"a": [1, 2]}, idempotency_key="k")).id == made.id
    assert (await dial(outbound, context={"a": [1, 2]}, idempotency_key="k", from_=OURS, time_limit=600)).id == made.id
    others = {"to": "+15550100008", "context": {"a": 3}, "timeout": 20, "from_": ANNA, "time_limit": 60}
    for changes in ({name: other} for name, other in others.items()):
        with pytest.raises(DefinitionError, match="another call"):
            await dial(outbound, **{"context": {"a": [1, 2]}, "idempotency_key": "k", **changes})


async def test_a_key_is_the_same_call_s_after_the_settings_have_changed(outbound: Outbound, store: Store) -> None:
    made = await dial(outbound, idempotency_key="k")
    after_a_deploy = make(store, "+15550100003", max_seconds=900)
    again = await dial(after_a_deploy, idempotency_key="k")
    assert (again.id, again.plan) == (made.id, made.plan)
    with pytest.raises(DefinitionError, match="another call"):
        await dial(after_a_deploy, idempotency_key="k", from_="+15550100003")


async def test_twilio_is_given_addresses_that_tell_which_call_it_is(outbound: Outbound) -> None:
    made = await dial(outbound, on_machine="hang_up")
    wanted = outbound._placing(made)
    assert wanted.url.startswith(f"https://agent.example/twilio/voice?dial={made.id}#")
    assert wanted.status_url.startswith(f"https://agent.example/twilio/status?dial={made.id}#")
    assert str(wanted.amd_url).startswith(f"https://agent.example/twilio/amd?dial={made.id}#")
    assert wanted.ring_seconds == 30
    assert outbound._placing(await dial(outbound)).amd_url is None


@pytest.mark.parametrize(
    ("given", "ours", "twilio"),
    [
        (None, 600, 660),
        (10, 10, 70),
        (14_300, 14_300, 14_360),
        (14_400, 14_340, 14_400),
        (14_401, 14_401, 14_461),
        (86_400, 86_340, 86_400),
    ],
)
async def test_twilio_s_time_limit_leaves_time_for_a_goodbye(
    outbound: Outbound, given: int | None, ours: int, twilio: int
) -> None:
    made = await dial(outbound, time_limit=given)
    assert made.plan["time_limit"] == (given or 600)
    answered = call(made.id)
    assert outbound.time_limit_of(answered) is None
    assert await outbound.attach(answered, answered=True)
    assert (outbound.time_limit_of(answered), outbound._placing(made).time_limit) == (ours, twilio)


async def test_a_call_is_known_again_in_any_process(outbound: Outbound, store: Store) -> None:
    made = await dial(outbound, context={"name": "Anna"}, agent="desk")
    for process in (outbound, make(store)):
        answered = call(made.id)
        assert await process.attach(answered, answered=True)
        assert answered.context == {"name": "Anna"}
        assert process.agent_of(answered) == "desk"
    for stranger in (call(None), call(made.id, "inbound")):
        assert await outbound.attach(stranger, answered=True) is None
        assert stranger.context == {}


async def test_a_database_that_hangs_or_fails_does_not_keep_the_callee_waiting(
    outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await dial(outbound, context={"name": "Anna"})
    monkeypatch.setattr(module, "ATTACH_SECONDS", 0.01)

    async def hangs(*_: Any) -> bool:
        await asyncio.Event().wait()
        return True

    async def fails(*_: Any) -> bool:
        raise StoreError("gone")

    for outage in (hangs, fails):
        monkeypatch.setattr(outbound._queue, "tell", outage)
        answered = call(made.id)
        assert await outbound.attach(answered, answered=True) is None
        assert answered.context == {}


async def test_a_second_ring_of_one_call_is_refused(outbound: Outbound) -> None:
    made = await dial(outbound)
    await outbound.tell({DIAL: made.id, "CallSid": SID, "CallStatus": "ringing"})
    second = call(made.id)
    second.sid = "CA" + "b" * 32
    assert await outbound.attach(second, answered=True) is False


async def test_a_call_that_is_turned_away_has_failed(
    outbound: Outbound, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = await dial(outbound)
    await outbound.turned_away(call(made.id), "draining")
    answered = call(made.id)
    assert await outbound.attach(answered, answered=True)
    await outbound.turned_away(answered, "draining")
    found = await outbound.get(made.id)
    assert found is not None
    assert (found.status, found.error) == ("failed", "turned away: draining")

    async def away(*_: Any) -> None:
        raise StoreError("the database is away")

    monkeypatch.setattr(store.outbound, "fail", away)
    assert await outbound.attach(answered)
    await outbound.turned_away(answered, "draining")
    assert "a call that was turned away counts as answered: the database is away" in caplog.text


async def test_a_call_whose_person_was_forgotten_while_it_rang_is_refused(outbound: Outbound, store: Store) -> None:
    made = await dial(outbound)
    await outbound.tell({DIAL: made.id, "CallSid": SID, "CallStatus": "ringing"})
    await store.forget(ANNA)
    assert await outbound.attach(call(made.id), answered=True) is False


async def test_reports_of_twilio_s(outbound: Outbound) -> None:
    made = await dial(outbound, on_machine="hang_up")
    for status in ("ringing", "odd", "completed"):
        await outbound.tell({DIAL: made.id, "CallSid": SID, "CallStatus": status})
    await outbound.amd({DIAL: made.id, "CallSid": SID, "AnsweredBy": "human" + "x" * 100})
    await outbound.amd({DIAL: made.id, "CallSid": SID})
    found = await outbound.get(made.id)
    assert found is not None
    assert (found.status, found.call_sid, found.answered_by) == ("completed", SID, "")
    assert outbound.screen(call(None), None) is None


async def test_a_report_that_is_not_recorded_is_taken_when_twilio_sends_it_again(
    outbound: Outbound, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[CallNotAnswered] = []
    overs: list[str] = []
    store.outbound.unanswered = events.append
    outbound.call_over = lambda: overs.append("over")
    made = await dial(outbound)
    assert await outbound.attach(call(made.id))
    busy = {DIAL: made.id, "CallSid": SID, "CallStatus": "busy"}

    async def away(*_: Any) -> Any:
        raise StoreError("the database is away")

    with monkeypatch.context() as outage:
        outage.setattr(store._database, "write", away)
        with pytest.raises(StoreError, match="away"):
            await outbound.tell(busy)
        assert (outbound._known, overs) == ({}, [])
    for _ in range(2):
        await outbound.tell(busy)
    found = await outbound.get(made.id)
    assert found is not None
    assert (found.status, [each.status for each in events], overs) == ("busy", ["busy"], ["over", "over"])


async def test_a_detection_that_is_not_recorded_counts_in_this_process_and_is_taken_when_it_comes_again(
    outbound: Outbound, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await dial(outbound, on_machine="hang_up")
    answered = call(made.id)
    assert await outbound.attach(answered, answered=True)
    screening = outbound.screen(answered, None)
    assert screening is not None
    detected = {DIAL: made.id, "CallSid": SID, "AnsweredBy": "human"}
    told: list[str] = []
    monkeypatch.setattr(screening, "amd", told.append)

    async def away(*_: Any) -> Any:
        raise StoreError("the database is away")

    with monkeypatch.context() as outage:
        outage.setattr(store._database, "write", away)
        with pytest.raises(StoreError, match="away"):
            await outbound.amd(detected)
    assert told == ["human"]
    await outbound.amd(detected)
    found = await outbound.get(made.id)
    assert found is not None
    assert found.answered_by == "human"
    outbound.over(answered, screening)
