"""The queue of calls that an app makes, in both databases: taken once, placed once, never going back."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from phoneagent.events import CallNotAnswered
from phoneagent.store import Store, outbound
from phoneagent.store.afterwards import DONE, OUTCOME
from phoneagent.store.outbound import OutboundCalls
from phoneagent.store.rows import now
from phoneagent.store.schema import outbound_calls
from tests.store.conftest import ended, started
from tests.store.test_afterwards import later as make_due

pytestmark = pytest.mark.anyio

ANNA, BEN = "+15550100009", "+15550100008"
SID, OTHER = "CA" + "a" * 32, "CA" + "b" * 32


async def later(store: Store, **changes: Any) -> None:
    """Let the time of every lease pass."""

    async def write(connection: Any) -> None:
        await connection.execute(sa.update(outbound_calls).values({"due_at": now() - timedelta(seconds=1), **changes}))

    await store._database.write(write)


async def test_a_call_is_queued_taken_and_placed(ready: str) -> None:
    async with Store.from_url(ready) as store:
        queue = store.outbound
        added = await queue.add(ANNA, {"context": {"name": "Anna"}})
        assert (added.status, added.over, added.plan) == ("queued", False, {"context": {"name": "Anna"}})
        assert ANNA not in repr(added)
        taken = await queue.take()
        assert taken is not None
        assert (taken.id, taken.asked_at) == (added.id, None)
        assert await queue.take() is None
        assert await queue.asking(added.id, 1)
        assert await queue.placed(added.id, SID, certain=True)
        assert not await queue.asking(added.id, 1), "it is placed"
        for status in ("ringing", "initiated", "in-progress", "ringing", "completed", "in-progress", "busy"):
            assert await queue.tell(added.id, SID, status)
        found = await queue.get(added.id)
        assert found is not None
        assert (found.status, found.call_sid, found.over) == ("completed", SID, True)
        assert not await queue.tell(added.id, OTHER, "ringing"), "another call with the same id is a second ring"
        assert await queue.get("none") is None
        assert not await queue.tell("none", SID, "ringing")


async def test_one_key_is_one_call(ready: str) -> None:
    async with Store.from_url(ready) as store, Store.from_url(ready) as other:
        adding = [queue.add(ANNA, {}, "visit-7") for queue in (store.outbound, other.outbound) for _ in range(10)]
        assert len({call.id for call in await asyncio.gather(*adding)}) == 1
        assert (await store.outbound.add(ANNA, {}, "visit-8")).id != (await store.outbound.add(ANNA, {})).id


async def test_several_processes_share_a_queue_and_none_takes_a_call_twice(ready: str) -> None:
    stores = [Store.from_url(ready) for _ in range(3)]
    ids = {(await stores[0].outbound.add(f"+1555010{number:04}", {})).id for number in range(12)}
    taken: list[str] = []

    async def work(queue: OutboundCalls) -> None:
        while (call := await queue.take()) is not None:
            taken.append(call.id)

    await asyncio.gather(*(work(store.outbound) for store in stores for _ in range(2)))
    assert Counter(taken) == Counter(ids)
    for store in stores:
        await store.close()


async def test_what_a_process_has_taken_and_lost_is_taken_again_with_what_is_known(ready: str) -> None:
    async with Store.from_url(ready) as store:
        queue = store.outbound
        added = await queue.add(ANNA, {})
        await queue.take()
        await queue.asking(added.id, 1)
        await later(store)
        again = await queue.take()
        assert again is not None
        assert (again.asked_at is not None, again.attempts) == (True, 1)
        await queue.again(added.id, 2, after_seconds=0, error="no answer", asked=True, counts=True)
        third = await queue.take()
        assert third is not None
        assert third.asked_at is not None
        await queue.again(added.id, 3, after_seconds=60, error="busy", asked=False, counts=True)
        assert await queue.take() is None, "it is not due yet"
        await later(store)
        fourth = await queue.take()
        assert fourth is not None
        assert fourth.asked_at is None
        await queue.refuse(added.id, "the number is not valid")
        found = await queue.get(added.id)
        assert found is not None
        assert (found.status, found.over, found.error) == ("refused", True, "the number is not valid")


async def test_a_report_of_twilio_s_outweighs_what_was_found_among_other_calls(ready: str) -> None:
    async with Store.from_url(ready) as store:
        queue = store.outbound
        first, second = await queue.add(ANNA, {}), await queue.add(ANNA, {})
        await queue.take()
        await queue.take()
        assert await queue.placed(first.id, SID, certain=False)
        assert not await queue.placed(second.id, SID, certain=False), "two rows cannot have one call"
        assert await queue.unknown([SID, OTHER]) == [OTHER]
        assert await queue.tell(second.id, SID, "ringing")
        found = await queue.get(first.id)
        assert found is not None
        assert (found.call_sid, found.status) == (None, "queued")


async def test_what_is_known_of_the_answering_party(ready: str) -> None:
    async with Store.from_url(ready) as store:
        queue = store.outbound
        added = await queue.add(ANNA, {})
        await queue.tell(added.id, SID, "in-progress")
        await queue.answered_by(added.id, OTHER, "human")
        await queue.answered_by(added.id, SID, "machine_end_beep")
        for left in (False, True):
            await queue.decided(added.id, "machine", left)
            found = await queue.get(added.id)
            assert found is not None
            assert (found.answered_by, found.decided, found.message_left) == ("machine_end_beep", "machine", left)


async def test_an_answered_call_that_was_turned_away_has_failed_whatever_twilio_reports(ready: str) -> None:
    told: list[CallNotAnswered] = []
    async with Store.from_url(ready) as store:
        queue = store.outbound
        queue.unanswered = told.append
        made = await queue.add(ANNA, {})
        await queue.tell(made.id, SID, "in-progress")
        await queue.fail(made.id, OTHER, "another call with the same id")
        for _ in range(2):
            await queue.fail(made.id, SID, "turned away: draining")
        await queue.tell(made.id, SID, "completed")
        found = await queue.get(made.id)
        assert found is not None
        assert (found.status, found.error, found.over) == ("failed", "turned away: draining", True)
    assert told == [CallNotAnswered(call_sid=SID, outbound_id=made.id, status="failed", error="turned away: draining")]


async def test_a_call_of_which_nothing_is_heard_is_taken_by_one_process_at_a_time(ready: str) -> None:
    async with Store.from_url(ready) as store, Store.from_url(ready) as other:
        silent, reported, over = [await store.outbound.add(ANNA, {}) for _ in range(3)]
        assert await store.outbound.take_silent() is None, "none was placed"
        for each, sid, status in ((silent, SID, "ringing"), (reported, OTHER, "initiated"), (over, "CA1", "completed")):
            await store.outbound.tell(each.id, sid, status)
        assert await store.outbound.take_silent() is None, "each was just reported"
        await later(store)
        await store.outbound.tell(reported.id, OTHER, "ringing")
        taken = [await each.outbound.take_silent() for each in (store, other)]
        assert [each and each.id for each in taken] == [silent.id, None]
        await later(store)
        assert await other.outbound.take_silent() is not None, "it is asked for again later"


async def test_calls_are_forgotten_with_the_records(ready: str) -> None:
    async with Store.from_url(ready, record_days=0) as store:
        anna, ben = (
            await store.outbound.add(ANNA, {"context": {"why": "a visit"}}, "key"),
            await store.outbound.add(BEN, {}),
        )
        await store.outbound.tell(anna.id, SID, "completed")
        await store.sweep()
        kept = await store.outbound.get(anna.id)
        assert kept is not None, "the key is still needed"
        assert (kept.to, kept.plan, kept.idempotency_key) == ("", {}, "key")
        await later(store, ended_at=now() - timedelta(days=2))
        await store.sweep()
        assert await store.outbound.get(anna.id) is None
        carl = await store.outbound.add(BEN, {})
        assert await store.forget(BEN) == 0, "there was no record"
        assert (await store.outbound.get(ben.id), await store.outbound.get(carl.id)) == (None, None)
    assert outbound.LEASE_SECONDS > 30


async def test_the_context_of_a_call_is_kept_while_its_outcome_is_open(ready: str) -> None:
    async with Store.from_url(ready, record_days=0) as store:
        store.afterwards.first = lambda had: OUTCOME
        made = await store.outbound.add(ANNA, {"context": {"clinic": "north"}})
        other = await store.outbound.add(BEN, {"context": {"clinic": "south"}})
        store.tell(started(SID))
        store.tell(ended(SID, ended_by="caller", duration_ms=0))
        await store.flush()
        await store.outbound.tell(made.id, SID, "completed")
        await store.outbound.tell(other.id, OTHER, "busy")
        await later(store, ended_at=now() - timedelta(days=2))
        await store.sweep()
        kept = await store.outbound.get(made.id)
        assert kept is not None
        assert (kept.to, kept.plan) == (ANNA, {"context": {"clinic": "north"}})
        assert await store.outbound.get(other.id) is None
        await make_due(store)
        step = await store.afterwards.take()
        assert step is not None
        await store.afterwards.finish(step, DONE)
        await store.sweep()
        assert (await store.call(SID), await store.outbound.get(made.id)) == (None, None)


async def test_a_process_that_was_slower_than_its_lease_has_lost_the_call(ready: str) -> None:
    async with Store.from_url(ready) as store:
        queue = store.outbound
        added = await queue.add(ANNA, {})
        assert await queue.take() is not None
        await later(store)
        assert await queue.take() is not None  # another process
        assert not await queue.asking(added.id, 1)
        await queue.again(added.id, 1, after_seconds=0, error="x", asked=False, counts=False)
        assert await queue.asking(added.id, 2)


async def test_an_attempt_that_does_not_count_gives_a_slow_process_nothing_back(ready: str) -> None:
    async with Store.from_url(ready) as store:
        queue = store.outbound
        added = await queue.add(ANNA, {})
        assert await queue.take() is not None  # a process that is slower than its lease
        for _ in range(3):
            await later(store)
            taken = await queue.take()
            assert taken is not None
            assert taken.attempts == 1
            assert not await queue.asking(added.id, 1), "the call is another process's"
            assert await queue.asking(added.id, 2)
            await queue.again(added.id, 2, after_seconds=0, error="busy", asked=False, counts=False)
            assert not await queue.asking(added.id, 1), "it is nobody's"
            assert not await queue.asking(added.id, 2)


@pytest.mark.parametrize("status", ["busy", "no-answer", "failed", "canceled"])
async def test_a_call_that_was_not_answered_is_told_once_by_one_process(ready: str, status: str) -> None:
    told: list[CallNotAnswered] = []
    async with Store.from_url(ready) as store, Store.from_url(ready) as other:
        for each in (store, other):
            each.outbound.unanswered = told.append
        made = await store.outbound.add(ANNA, {})
        await store.outbound.tell(made.id, SID, "ringing")
        reports = [each.outbound.tell(made.id, SID, status) for each in (store, other) for _ in range(5)]
        assert all(await asyncio.gather(*reports))
        assert not await other.outbound.tell(made.id, OTHER, status), "another call with the same id"
    assert told == [CallNotAnswered(call_sid=SID, outbound_id=made.id, status=status)]  # type: ignore[arg-type]
    assert ANNA not in repr(told)


async def test_a_call_that_was_given_up_follows_what_twilio_reports_of_it(ready: str) -> None:
    told: list[CallNotAnswered] = []
    async with Store.from_url(ready) as store:
        queue = store.outbound
        queue.unanswered = told.append
        made = await queue.add(ANNA, {})
        await queue.take()
        await queue.asking(made.id, 1)
        await queue.refuse(made.id, "whether it was placed is unknown", asked=True)
        for status in ("ringing", "in-progress", "completed"):
            assert await queue.tell(made.id, SID, status)
            found = await queue.get(made.id)
            assert found is not None
            assert (found.status, found.error) == (status, None)
            assert (found.over, found.ended_at is not None) == (status == "completed", status == "completed")
        assert await queue.tell(made.id, SID, "ringing"), "which comes late"
        assert (await queue.get(made.id)) == found
        busy = await queue.add(BEN, {})
        await queue.refuse(busy.id, "whether it was placed is unknown", asked=True)
        assert await queue.tell(busy.id, OTHER, "busy")
    assert [each.status for each in told] == ["refused", "refused"], "each is told once"


async def test_a_call_that_was_refused_is_told_once_and_an_answered_one_never(ready: str) -> None:
    told: list[CallNotAnswered] = []
    async with Store.from_url(ready) as store:
        store.outbound.unanswered = told.append
        made, answered = await store.outbound.add(ANNA, {}), await store.outbound.add(ANNA, {})
        for _ in range(2):
            await store.outbound.refuse(made.id, "no such country")
        for status in ("in-progress", "failed", "completed"):
            await store.outbound.tell(answered.id, SID, status)
    assert told == [CallNotAnswered(call_sid="", outbound_id=made.id, status="refused", error="no such country")]
