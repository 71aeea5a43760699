"""After a call: the outcome and then the webhook, each tried again with a bound, and no process does a step twice."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel

from phoneagent import Agent
from phoneagent.agent import outcome
from phoneagent.calls import afterwards as module
from phoneagent.calls import delivery
from phoneagent.calls.afterwards import OUTCOME_RETRY_SECONDS, RETRY_SECONDS, Outbox, call_ended, message_id
from phoneagent.calls.delivery import Receiver
from phoneagent.errors import PhoneAgentError, StoreError
from phoneagent.store import Store
from phoneagent.store.afterwards import DELIVER, DELIVERED, DONE, FAILED, OUTCOME, Afterwards
from phoneagent.store.rows import now
from phoneagent.store.schema import afterwards
from tests.patience import HANG_SECONDS
from tests.receiver import HANG, SECRET, TAKEN, answer, as_json, called, receiving
from tests.store.conftest import CALLED, CALLER, SID, WHOLE, ended, record_of, started, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as made:
        yield made


OTHER = "CA" + "2" * 32


class Note(BaseModel):
    text: str


class Filling:
    """Fills in outcomes, after some failures."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.filled: list[str] = []
        self.given_up: list[tuple[str, str]] = []

    async def fill(self, call_sid: str) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.filled.append(call_sid)

    async def give_up(self, call_sid: str, reason: str) -> None:
        self.given_up.append((call_sid, reason))


@pytest.fixture(autouse=True)
def an_agent_with_an_outcome(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether this process has an agent with an outcome; a test may change it."""
    has = [True]
    monkeypatch.setattr(module, "any_outcome", lambda: has[0])
    return has


def make(store: Store, url: str | None = None, **options: Any) -> Outbox:
    receiver = None if url is None else Receiver(url, [SECRET], allow_private=True)
    return Outbox(store, receiver=receiver, **options)


async def end(store: Store, *sids: str) -> None:
    for number, sid in enumerate(sids or [SID]):
        for event in WHOLE if not sids else (started(sid, stream_sid=f"MZ{number}"), ended(sid)):
            store.tell(event)
    await store.flush()


async def later(store: Store) -> None:
    """Let the time pass until each step is due."""

    async def write(connection: Any) -> None:
        await connection.execute(sa.update(afterwards).values(due_at=now() - timedelta(seconds=1)))

    await store._database.write(write)


async def step(store: Store, outbox: Outbox) -> Afterwards:
    """Do the next step, and return what is written down of it then."""
    await later(store)
    taken = await store.afterwards.take()
    assert taken is not None
    await outbox.do(taken)
    found = await store.afterwards.get(taken.call_sid)
    assert found is not None
    return found


async def state(store: Store, sid: str = SID) -> Afterwards:
    found = await store.afterwards.get(sid)
    assert found is not None
    return found


@asynccontextmanager
async def running(outbox: Outbox) -> AsyncIterator[None]:
    outbox.wake()
    yield
    await outbox.close()


async def test_a_call_is_delivered_with_its_record(store: Store) -> None:
    async with receiving() as there:
        outbox = make(store, there.url)
        await end(store)
        assert (await state(store)).state == DELIVER
        found = await step(store, outbox)
        assert (found.state, found.attempts, found.problem) == (DELIVERED, 1, None)
        assert there.ids == {message_id(SID): 1}
    (body,) = there.verified
    record = (await record_of(store)).as_dict()
    assert body == {
        "type": "call.ended",
        "timestamp": record["ended_at"],
        "data": {
            "call": json.loads(json.dumps(record)),
            "outcome": None,
            "outcome_error": None,
            "cost": record["cost"],
        },
    }
    assert (body["data"]["call"]["caller"], body["data"]["call"]["called"]) == (CALLER, CALLED)
    assert "by the window" in body["data"]["call"]["turns"][2]["text"]


async def test_the_body_is_the_same_at_each_attempt_and_so_is_the_id(store: Store) -> None:
    async with receiving(lambda before: answer(500) if before < 2 else TAKEN) as there:
        outbox = make(store, there.url)
        await end(store)
        while (await step(store, outbox)).state != DELIVERED:
            pass
    assert len({(headers["webhook-id"], body) for _, headers, body in there.requests}) == 1
    assert len(there.verified) == 3


@pytest.mark.parametrize("delivers", [True, False])
async def test_a_call_that_comes_back_gets_another_outcome_and_another_webhook(store: Store, delivers: bool) -> None:
    """Other TwiML had the call for a while. A receiver drops an id that it has seen, so the second one differs."""
    async with receiving() as there:
        outbox = make(store, there.url if delivers else None, outcomes=(filling := Filling()))
        for number, stream_sid in enumerate(("MZ1", "MZ2", "MZ3"), 1):
            store.tell(started(stream_sid=stream_sid, resumed=number > 1))
            store.tell(ended(ended_by="caller", duration_ms=0))
            await store.flush()
            while (await step(store, outbox)).state not in (DELIVERED, DONE):
                pass
            assert filling.filled == [SID] * number
        ids = [message_id(SID), f"{message_id(SID)}_MZ2", f"{message_id(SID)}_MZ3"]
        assert there.ids == (dict.fromkeys(ids, 1) if delivers else {})


async def test_an_outcome_comes_before_the_delivery(store: Store) -> None:
    async with receiving() as there:
        filling = Filling(PhoneAgentError("the endpoint is busy"))
        outbox = make(store, there.url, outcomes=filling)
        await end(store)
        found = await step(store, outbox)
        assert (found.state, found.problem, there.requests) == (OUTCOME, "the endpoint is busy", [])
        assert (found.due_at - now()).total_seconds() <= OUTCOME_RETRY_SECONDS[0]
        assert (await step(store, outbox)).state == DELIVER
        assert filling.filled == [SID]
        assert (await step(store, outbox)).state == DELIVERED


async def test_an_outcome_that_cannot_be_filled_in_is_given_up_and_the_webhook_goes(store: Store) -> None:
    async with receiving() as there:
        failures = [PhoneAgentError("no endpoint"), *[KeyError("+15550100009")] * len(OUTCOME_RETRY_SECONDS)]
        filling = Filling(*failures)
        outbox = make(store, there.url, outcomes=filling)
        await end(store)
        for _ in OUTCOME_RETRY_SECONDS:
            assert (await step(store, outbox)).state == OUTCOME
        assert (await step(store, outbox)).state == DELIVER
        assert filling.given_up == [(SID, "KeyError")], "the words of others may hold a number"
        assert (await step(store, outbox)).state == DELIVERED


async def test_without_a_receiver_the_outcome_is_all(store: Store) -> None:
    outbox = make(store, outcomes=Filling())
    await end(store)
    await step(store, outbox)
    assert (await step(store, outbox)).state == DONE


async def test_what_is_first_done_about_a_call(store: Store, an_agent_with_an_outcome: list[bool]) -> None:
    first = store.afterwards.first
    assert first(True) is None
    for has, outcomes, url, expected, elsewhere in (
        (True, Filling(), "http://127.0.0.1:9/", OUTCOME, OUTCOME),
        (True, Filling(), None, OUTCOME, OUTCOME),
        (False, Filling(), "http://127.0.0.1:9/", DELIVER, OUTCOME),
        (False, Filling(), None, None, OUTCOME),
        (True, None, "http://127.0.0.1:9/", DELIVER, DELIVER),
    ):
        an_agent_with_an_outcome[0] = has
        make(store, url, outcomes=outcomes)
        assert (store.afterwards.first(True), store.afterwards.first(False)) == (expected, elsewhere)


def test_an_outcome_is_possible_once_an_agent_has_one() -> None:
    outcome._form.cache_clear()
    Agent(instructions="x")
    assert not outcome.any_outcome()
    Agent(instructions="x", outcome=Note)
    assert outcome.any_outcome()


async def test_the_times_between_attempts_and_their_end(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async with receiving(answer(500)) as there:
        outbox = make(store, there.url)
        await end(store)
        for seconds in RETRY_SECONDS:
            began = now()
            found = await step(store, outbox)
            assert found.state == DELIVER
            assert began <= found.due_at - timedelta(seconds=seconds) <= now()
            assert "HTTP 500" in str(found.problem)
        found = await step(store, outbox)
        assert (found.state, found.attempts) == (FAILED, len(RETRY_SECONDS) + 1)
        assert len(there.requests) == len(RETRY_SECONDS) + 1
    assert f"`phoneagent calls --resend {SID}` sends it again" in caplog.text
    assert CALLER not in caplog.text
    assert "of-the-query" not in caplog.text


async def test_a_step_that_never_comes_to_its_end_is_given_up(store: Store) -> None:
    """Something in it ends each process that takes it."""
    async with receiving() as there:
        filling = Filling()
        outbox = make(store, there.url, outcomes=filling)
        await end(store)
        for _ in range(len(OUTCOME_RETRY_SECONDS) + 1):
            await later(store)
            await store.afterwards.take()
        assert (await step(store, outbox)).state == DELIVER
        assert (filling.filled, [sid for sid, _ in filling.given_up]) == ([], [SID])
        for _ in range(len(RETRY_SECONDS) + 1):
            await later(store)
            await store.afterwards.take()
        found = await step(store, outbox)
        assert (found.state, found.problem) == (FAILED, "it was tried 10 times, and what became of it is unknown")
        assert there.requests == []


async def test_an_outcome_that_cannot_be_given_up_now_is_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> None:
        raise PhoneAgentError("the database does not answer")

    filling = Filling(*[PhoneAgentError("no endpoint")] * (len(OUTCOME_RETRY_SECONDS) + 1))
    monkeypatch.setattr(filling, "give_up", fail)
    outbox = make(store, outcomes=filling)
    await end(store)
    for _ in range(len(OUTCOME_RETRY_SECONDS) + 1):
        assert (await step(store, outbox)).state == OUTCOME
    assert "will be retried: the database does not answer" in caplog.text
    assert "internal error" not in caplog.text


async def test_an_app_whose_agents_have_no_outcome_writes_nothing_down(
    store: Store, an_agent_with_an_outcome: list[bool]
) -> None:
    an_agent_with_an_outcome[0] = False
    filling = Filling()
    async with running(outbox := make(store, outcomes=filling)):
        await end(store)
        outbox.wake()
        await outbox._begin()
        assert await store.afterwards.get(SID) is None
        an_agent_with_an_outcome[0] = True
        await end(store, OTHER)
        await later(store)
        outbox.wake()
        await until(lambda: filling.filled == [OTHER])


async def test_a_process_that_has_defined_no_outcome_yet_fills_in_those_of_one_that_died(
    store: Store, an_agent_with_an_outcome: list[bool]
) -> None:
    """A function defines the agents, call by call. One process dies after a hang-up, the other one in mid-call."""
    outbox = make(store, outcomes=(filling := Filling()))
    await end(store, OTHER)
    store.tell(started())
    await store.flush()
    an_agent_with_an_outcome[0] = False
    assert await store.settle(SID, ended_by="caller", reason="completed")
    async with running(outbox):
        await later(store)
        outbox.wake()
        await until(lambda: sorted(filling.filled) == sorted([SID, OTHER]))
    assert not await store.settle(OTHER, ended_by="caller", reason="completed")


async def test_a_hanging_receiver_delays_no_outcome(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "ATTEMPT_SECONDS", 3600.0)
    async with receiving(HANG) as there:
        outbox = make(store, there.url, outcomes=(filling := Filling()))
        async with running(outbox):
            await end(store, *(f"CA{number:032x}" for number in range(12)))
            await later(store)
            outbox.wake()
            await until(lambda: len(there.requests) == module.AT_ONCE and len(filling.filled) == 12)
            await end(store, OTHER)
            outbox.wake()
            await until(lambda: OTHER in filling.filled)
            assert len(there.requests) == module.AT_ONCE, "each of them still hangs"
            for task in outbox._busy:
                task.cancel()


async def test_gone_is_gone(store: Store) -> None:
    async with receiving(answer(410)) as there:
        outbox = make(store, there.url)
        await end(store)
        assert (await step(store, outbox)).state == FAILED
        assert len(there.requests) == 1


async def test_a_busy_receiver_chooses_when(store: Store) -> None:
    async with receiving(answer(429, "Retry-After: 4000")) as there:
        outbox = make(store, there.url)
        await end(store)
        found = await step(store, outbox)
        assert 3990 < (found.due_at - now()).total_seconds() <= 4000


async def test_a_receiver_that_is_busy_for_seconds_only_is_not_given_up_within_a_minute(store: Store) -> None:
    async with receiving(answer(429, "Retry-After: 1")) as there:
        outbox = make(store, there.url)
        await end(store)
        for seconds in RETRY_SECONDS:
            began = now()
            found = await step(store, outbox)
            assert began <= found.due_at - timedelta(seconds=seconds) <= now()


async def test_what_failed_is_sent_again_with_the_same_id(store: Store) -> None:
    async with receiving(lambda before: answer(410) if before == 0 else TAKEN) as there:
        outbox = make(store, there.url)
        await end(store)
        assert (await step(store, outbox)).state == FAILED
        assert await store.afterwards.send_again() == 1
        assert (await step(store, outbox)).state == DELIVERED
        assert len({headers["webhook-id"] for _, headers, _ in there.requests}) == 1


async def test_a_call_that_is_forgotten_meanwhile_is_not_delivered(store: Store) -> None:
    async with receiving() as there:
        outbox = make(store, there.url)
        await end(store)
        await later(store)
        taken = await store.afterwards.take()
        assert taken is not None
        await store.forget(SID)
        await outbox.do(taken)
        assert there.requests == []


async def test_a_step_that_cannot_be_written_down_is_taken_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> None:
        raise StoreError("the database does not answer")

    async with receiving() as there:
        outbox = make(store, there.url)
        await end(store)
        monkeypatch.setattr(store.afterwards, "finish", fail)
        assert (await step(store, outbox)).state == DELIVER
        assert "will be retried: the database does not answer" in caplog.text
        monkeypatch.undo()
        assert (await step(store, outbox)).state == DELIVERED
        assert there.ids == {message_id(SID): 2}, "the receiver tells by the id"


async def test_a_fault_of_our_own_ends_one_step(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = make(store, "http://127.0.0.1:9/hook")
    await end(store)
    monkeypatch.setattr(module, "call_ended", lambda record: 1 / 0)
    assert (await step(store, outbox)).state == DELIVER
    assert "internal error" in caplog.text


async def test_a_long_step_is_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD_SECONDS", 0.01)
    held: list[str] = []

    async def hold(step: Afterwards) -> None:
        held.append(step.call_sid)
        raise StoreError("not now")

    monkeypatch.setattr(store.afterwards, "hold", hold)
    async with receiving(HANG) as there:
        outbox = make(store, there.url)
        await end(store)
        await later(store)
        taken = await store.afterwards.take()
        assert taken is not None
        task = asyncio.create_task(outbox.do(taken))
        await until(lambda: len(held) > 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- the loop ---------------------------------------------------------------------------------------------------------


async def test_calls_that_end_are_delivered_by_themselves(store: Store) -> None:
    sids = [f"CA{number:032x}" for number in range(30)]
    async with receiving() as there, running(make(store, there.url)):
        await end(store, *sids)
        await until(lambda: len(there.ids) == len(sids))
        async with asyncio.timeout(HANG_SECONDS):
            while await store.afterwards.next_due() is not None:
                await asyncio.sleep(0.01)
        assert {(await state(store, sid)).state for sid in sids} == {DELIVERED}
    assert set(there.ids.values()) == {1}
    assert {called(as_json(body)) for _, _, body in there.requests} == set(sids)


async def test_what_another_process_left_is_found_at_the_start(store: Store) -> None:
    make(store, "http://127.0.0.1:9/hook")
    await end(store)
    async with receiving() as there:
        outbox = make(store, there.url)
        await later(store)
        async with running(outbox):
            await until(lambda: there.ids)


async def test_a_hanging_receiver_has_few_requests_at_once_and_is_left_at_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    async with receiving(HANG) as there:
        async with running(make(store, there.url)):
            await end(store, *(f"CA{number:032x}" for number in range(12)))
            await later(store)
            await until(lambda: len(there.requests) == module.AT_ONCE)
            assert await store.afterwards.next_due() is not None
        assert len(there.requests) == module.AT_ONCE
    async with receiving() as there:
        await later(store)
        async with running(make(store, there.url)):
            await until(lambda: len(there.ids) == 12)
    assert set(there.ids.values()) == {1}, "another process goes on where this one was stopped"


async def test_a_delivery_that_was_begun_may_end_when_the_process_does(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = asyncio.Event()
    async with receiving() as there:
        outbox = make(store, there.url)
        delivering = outbox._receiver
        assert delivering is not None
        deliver = delivering.deliver
        begun = asyncio.Event()

        async def slowly(message: Any) -> int:
            begun.set()
            await answers.wait()
            return await deliver(message)

        delivering.deliver = slowly  # type: ignore[method-assign]
        await end(store)
        await later(store)
        outbox.wake()
        await begun.wait()
        monkeypatch.setattr(module, "CLOSE_SECONDS", HANG_SECONDS)
        closing = asyncio.create_task(outbox.close())
        await asyncio.sleep(0)
        answers.set()
        await closing
    assert (await state(store)).state == DELIVERED


async def test_a_draining_process_begins_nothing(store: Store) -> None:
    draining = True
    async with receiving() as there, running(outbox := make(store, there.url, draining=lambda: draining)):
        await end(store)
        await later(store)
        outbox.wake()
        for _ in range(20):
            await asyncio.sleep(0)
        assert (await state(store)).attempts == 0
        draining = False
        outbox.wake()
        await until(lambda: there.ids)
    outbox.wake()
    assert outbox._running is not None
    assert outbox._running.done(), "it is closed"


async def test_a_database_that_is_away_is_logged_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    faults: list[Callable[[], Exception]] = [lambda: StoreError("it does not answer")] * 3 + [lambda: KeyError("bug")]
    take = store.afterwards.take

    async def fail(states: list[str]) -> Afterwards | None:
        if faults:
            raise faults.pop(0)()
        return await take(states)

    monkeypatch.setattr(store.afterwards, "take", fail)
    caplog.set_level(logging.WARNING)
    async with receiving() as there, running(make(store, there.url)):
        await end(store)
        await later(store)
        await until(lambda: there.ids)
    assert caplog.text.count("no webhook is sent for now: it does not answer") == 1
    assert "internal error" in caplog.text


async def test_the_body_is_json_of_the_whole_record(store: Store) -> None:
    await end(store)
    record = await record_of(store)
    assert as_json(call_ended(record))["data"]["call"]["call_sid"] == SID
