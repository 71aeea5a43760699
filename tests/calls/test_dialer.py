"""The dialer against the REST API: whatever is lost on the way, each call rings once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from phoneagent.calls import dialer as dialer_module
from phoneagent.calls.dialer import MAX_ATTEMPTS, MAX_WAIT_SECONDS, Dialer
from phoneagent.errors import TelephonyError
from phoneagent.sim import TwilioRest
from phoneagent.store import Store
from phoneagent.store.records import OutboundCall
from phoneagent.store.rows import now
from phoneagent.store.schema import outbound_calls
from phoneagent.twilio.placing import MaybePlaced, OutgoingCalls, Placing
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

ACCOUNT, TOKEN = "AC" + "1" * 32, "the-auth-token"
OURS, ANNA = "+15550100002", "+15550100009"


@pytest.fixture
async def rest() -> AsyncIterator[TwilioRest]:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as api:
        api.add_number(OURS)
        yield api


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as made:
        yield made


def placing(call: OutboundCall) -> Placing:
    url = f"https://agent.example/twilio/voice?dial={call.id}"
    return Placing(
        to=call.to, from_=call.plan["from"], url=url, status_url=url, amd_url=None, ring_seconds=30, time_limit=60
    )


def make(store: Store, rest: TwilioRest, token: str = TOKEN, **options: Any) -> Dialer:
    twilio = OutgoingCalls(ACCOUNT, token, api_url=rest.url, backoff_seconds=0.001)
    options = {"calls_per_second": 0, "settle_seconds": 0, **options}
    return Dialer(store.outbound, twilio, placing=placing, claim=store.claim, **options)


async def due(store: Store, **changes: Any) -> None:
    """Let the time pass until each call is due."""

    async def write(connection: Any) -> None:
        values = {"due_at": now() - timedelta(seconds=1), **changes}
        await connection.execute(sa.update(outbound_calls).values(values))

    await store._database.write(write)


async def state(store: Store, id: str) -> OutboundCall:
    found = await store.outbound.get(id)
    assert found is not None
    return found


async def test_one_key_and_a_hundred_tries_against_an_api_that_loses_answers_ring_once(
    store: Store, rest: TwilioRest
) -> None:
    """Each try asks with the same key, and each process that places it dies or loses the answer."""
    made = await store.outbound.add(ANNA, {"from": OURS}, "visit-7")
    rest.lose_answers(times=1000)
    for _ in range(100):
        assert (await store.outbound.add(ANNA, {"from": OURS}, "visit-7")).id == made.id
        await make(store, rest).step()
        await due(store)
    assert len(rest.calls) == 1
    assert (await state(store, made.id)).call_sid == next(iter(rest.calls))


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
async def test_many_keys_each_ring_once_while_every_so_many_answers_are_lost(
    store: Store, rest: TwilioRest, lost: int
) -> None:
    numbers = [f"+155501{number:05}" for number in range(25)]
    for number in numbers:
        await store.outbound.add(number, {"from": OURS}, number)
    for round in range(60):
        if lost and round % (lost + 1) == 0:
            rest.lose_answers()
        elif lost:
            rest.fail_next((429, 500, 503)[round % 3])
        if not await make(store, rest).step():
            break
        await due(store)
    rest._lost, _ = 0, rest._failures.clear()
    while await make(store, rest).step():
        await due(store)
    assert Counter(call["to"] for call in rest.calls.values()) == Counter(numbers)


@pytest.mark.parametrize(
    "step", ["queued", "taken", "about to ask", "asked", "asked, and the answer is lost", "placed"]
)
async def test_a_process_may_die_at_each_step_and_the_call_rings_once(
    store: Store, rest: TwilioRest, step: str
) -> None:
    """What the process that dies has done by then is done by hand; another process goes on from there."""
    made = await store.outbound.add(ANNA, {"from": OURS})
    steps = ["queued", "taken", "about to ask", "asked", "asked, and the answer is lost", "placed"].index(step)
    twilio = OutgoingCalls(ACCOUNT, TOKEN, api_url=rest.url)
    if steps >= 1:
        assert await store.outbound.take() is not None
    if steps >= 2:
        assert await store.outbound.asking(made.id, 1)
    if step == "asked, and the answer is lost":
        rest.lose_answers()
        with pytest.raises(MaybePlaced):
            await twilio.place(placing(made))
    elif steps >= 3:
        sid = await twilio.place(placing(made))
        if step == "placed":
            await store.outbound.placed(made.id, sid, certain=True)
    for _ in range(3):
        await due(store)
        await make(store, rest).step()
    assert len(rest.calls) == 1
    found = await state(store, made.id)
    assert (found.status, found.call_sid) == ("placed", next(iter(rest.calls)))


async def test_a_call_that_is_not_in_the_list_yet_is_waited_for(store: Store, rest: TwilioRest) -> None:
    made = await store.outbound.add(ANNA, {"from": OURS})
    rest.lose_answers()
    await make(store, rest).step()
    hidden = dict(rest.calls)
    rest.calls.clear()
    await due(store)
    await make(store, rest, settle_seconds=60).step()
    assert "not in Twilio's list" in str((await state(store, made.id)).error)
    rest.calls.update(hidden)
    await due(store)
    await make(store, rest, settle_seconds=60).step()
    assert ((await state(store, made.id)).status, len(rest.calls)) == ("placed", 1)


async def test_a_request_that_never_arrived_is_made_again_once_that_is_certain(store: Store, rest: TwilioRest) -> None:
    made = await store.outbound.add(ANNA, {"from": OURS})
    rest.fail_next(500)
    await make(store, rest).step()
    assert (await state(store, made.id)).status == "queued"
    await due(store)
    await make(store, rest).step()
    assert ((await state(store, made.id)).status, len(rest.calls)) == ("placed", 1)


@pytest.mark.parametrize(
    ("token", "number", "words"),
    [("wrong", OURS, "TWILIO_AUTH_TOKEN"), (TOKEN, "+15550100077", "caller ID"), (TOKEN, "", "caller ID|refused")],
)
async def test_what_is_refused_is_not_tried_again(
    store: Store, rest: TwilioRest, token: str, number: str, words: str
) -> None:
    made = await store.outbound.add(ANNA, {"from": number})
    await make(store, rest, token).step()
    found = await state(store, made.id)
    assert found.status == "refused"
    assert any(word in str(found.error) for word in words.split("|"))
    await due(store)
    assert not await make(store, rest).step()
    assert not rest.calls


async def test_a_call_that_cannot_be_looked_for_is_given_up_and_known_to_be_unclear(
    store: Store, rest: TwilioRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any) -> Any:
        raise TelephonyError("HTTP 503", code=0, retry=True)

    made = await store.outbound.add(ANNA, {"from": OURS})
    rest.lose_answers()
    monkeypatch.setattr(OutgoingCalls, "find", fails)
    for _ in range(2 * MAX_ATTEMPTS + 2):
        await make(store, rest).step()
        await due(store)
    found = await state(store, made.id)
    assert (found.status, found.attempts) == ("queued", 1), "to look for a call is no attempt to place it"
    await due(store, asked_at=now() - timedelta(seconds=MAX_WAIT_SECONDS + 1))
    await make(store, rest).step()
    found = await state(store, made.id)
    assert (found.status, found.error) == ("refused", "whether it was placed is unknown: HTTP 503")
    assert found.asked_at is not None
    refused = await store.outbound.add(ANNA, {"from": "+15550100077"})
    await make(store, rest).step()
    assert (await state(store, refused.id)).asked_at is None, "Twilio has answered"


async def test_a_call_that_twilio_has_no_room_for_waits_until_it_is_too_late(store: Store, rest: TwilioRest) -> None:
    rest.fail_next(429, times=3 * MAX_ATTEMPTS)
    busy = await store.outbound.add(ANNA, {"from": OURS})
    for _ in range(3 * MAX_ATTEMPTS):
        await make(store, rest).step()
        await due(store)
    found = await state(store, busy.id)
    assert (found.status, found.attempts, found.asked_at) == ("queued", 0, None)
    await due(store, created_at=now() - timedelta(seconds=MAX_WAIT_SECONDS + 1))
    await make(store, rest).step()
    found = await state(store, busy.id)
    assert found.status == "refused"
    assert str(found.error).startswith("it waited longer than 60 minutes: Twilio received too many requests")
    assert not rest.calls


@pytest.mark.parametrize("status", ["busy", "no-answer", "completed", "canceled"])
async def test_twilio_is_asked_what_became_of_a_call_whose_end_was_not_reported(
    store: Store, rest: TwilioRest, status: str
) -> None:
    """No process was running when Twilio reported it, and Twilio reports it for 15 s only."""
    overs: list[str] = []
    made = await store.outbound.add(ANNA, {"from": OURS})
    dialer = make(store, rest, over=lambda: overs.append("over"))
    assert await dialer.step()
    assert not await dialer.check(), "it was placed just now"
    (sid,) = rest.calls
    for current in ("queued", "ringing", "in-progress"):
        rest.calls[sid]["status"] = current
        await due(store)
        assert await dialer.check()
        assert not await dialer.check(), "it is asked for again later"
    assert ((await state(store, made.id)).status, overs) == ("placed", [])
    rest.calls[sid]["status"] = status
    await due(store)
    rest.fail_next(503, times=10)
    assert await dialer.check()
    assert not (await state(store, made.id)).over
    rest._failures.clear()
    await due(store)
    assert await dialer.check()
    assert ((await state(store, made.id)).status, overs) == (status, ["over"])
    await due(store)
    assert not await dialer.check()


async def test_the_delay_grows_with_the_wait() -> None:
    waits = [0.0, 10.0, 100.0, 1000.0]
    delays = [dialer_module._delay(now() - timedelta(seconds=wait)) for wait in waits]
    assert delays == [2.0, pytest.approx(5.0, abs=0.1), pytest.approx(50.0, abs=0.1), 60.0]


async def test_what_cannot_be_placed_is_given_up(
    store: Store, rest: TwilioRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def is_lost(*_: Any) -> str:
        nonlocal asked
        asked += 1
        raise MaybePlaced("HTTP 500")

    lost = await store.outbound.add(ANNA, {"from": OURS})
    with monkeypatch.context() as outage:
        outage.setattr(OutgoingCalls, "place", is_lost)
        for _ in range(MAX_ATTEMPTS + 2):
            await make(store, rest).step()
            await due(store)
    assert asked == MAX_ATTEMPTS
    assert (await state(store, lost.id)).error == f"given up after {MAX_ATTEMPTS} attempts: HTTP 500"
    old = await store.outbound.add(ANNA, {"from": OURS})
    odd = await store.outbound.add(ANNA, {})
    await due(store, created_at=now() - timedelta(seconds=MAX_WAIT_SECONDS + 1))
    while await make(store, rest).step():
        pass
    assert "60 minutes" in str((await state(store, old.id)).error)
    assert "another version" in str((await state(store, odd.id)).error)
    assert not rest.calls


async def test_two_dialers_place_each_call_once_at_the_account_s_pace(store: Store, rest: TwilioRest) -> None:
    for number in range(6):
        await store.outbound.add(f"+1555010000{number}", {"from": OURS})
    claimed: list[str] = []

    async def claim(name: str, seconds: float) -> bool:
        free = await store.claim(name, seconds)
        if free:
            claimed.append(name)
        return free

    dialers = [make(store, rest, calls_per_second=20) for _ in range(2)]
    for each in dialers:
        each._claim = claim
    running = [asyncio.create_task(each.run()) for each in dialers]
    async with asyncio.timeout(HANG_SECONDS):
        while len(rest.calls) < 6:
            await asyncio.sleep(0.02)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert len(claimed) == len(set(claimed)) == 6
    assert len({call["to"] for call in rest.calls.values()}) == 6


async def test_a_dialer_survives_a_database_that_is_gone(
    store: Store, rest: TwilioRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer_module, "POLL_SECONDS", 0.01)
    made = await store.outbound.add(ANNA, {"from": OURS})
    dialer = make(store, rest)
    take, failures = store.outbound.take, 0

    class Queue:
        def __getattr__(self, name: str) -> Any:
            return getattr(store.outbound, name)

        async def take(self) -> Any:
            nonlocal failures
            if failures < 3:
                failures += 1
                raise (ValueError("a bug") if failures == 2 else dialer_module.StoreError("gone"))
            return await take()

    dialer._queue = Queue()  # type: ignore[assignment]
    running = asyncio.create_task(dialer.run())
    async with asyncio.timeout(HANG_SECONDS):
        while not rest.calls:
            await asyncio.sleep(0.01)
    running.cancel()
    assert (failures, (await state(store, made.id)).attempts) == (3, 1)


async def test_a_call_that_is_barred_at_the_last_moment_is_not_asked_for(store: Store, rest: TwilioRest) -> None:
    seen: list[str] = []

    async def barred(call: OutboundCall, late: str | None) -> str | None:
        seen.append(call.id)
        return "its number is on the do-not-call list" if len(seen) == 1 else late

    dialer = make(store, rest, barred=barred)
    first, second = [await store.outbound.add(ANNA, {"from": OURS}) for _ in range(2)]
    assert await dialer.step()
    assert await dialer.step()
    assert sorted(seen) == sorted([first.id, second.id])
    found = await store.outbound.get(seen[0])
    assert found is not None
    assert (found.status, found.error, found.asked_at) == ("refused", "its number is on the do-not-call list", None)
    assert len(rest.calls) == 1


async def test_a_call_that_has_waited_too_long_takes_no_turn_and_is_left_to_what_bars_it(
    store: Store, rest: TwilioRest
) -> None:
    lates: list[str | None] = []

    async def barred(call: OutboundCall, late: str | None) -> str | None:
        lates.append(late)
        return late

    dialer = make(store, rest, barred=barred, calls_per_second=0.001)  # a second turn would be long in coming
    old = [await store.outbound.add(ANNA, {"from": OURS}) for _ in range(2)]
    await due(store, created_at=now() - timedelta(seconds=MAX_WAIT_SECONDS + 1))
    async with asyncio.timeout(HANG_SECONDS):
        while await dialer.step():
            pass
    assert lates == ["it waited longer than 60 minutes"] * 2
    assert [(await state(store, each.id)).error for each in old] == lates
