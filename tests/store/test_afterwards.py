"""What is to be done after a call, in both databases: a row with each end, its steps, and nothing twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from phoneagent.store import Store
from phoneagent.store.afterwards import DELIVER, DELIVERED, DONE, FAILED, OUTCOME, Afterwards
from phoneagent.store.database import Database
from phoneagent.store.forgetting import MAX_CALL_SECONDS
from phoneagent.store.rows import now
from phoneagent.store.schema import afterwards, calls
from tests.patience import HANG_SECONDS
from tests.store.conftest import BROKEN, CALLER, GREETING, SID, WHOLE, a_moment, ended, rows_left, said, started, stores

pytestmark = pytest.mark.anyio

OTHER = "CA" + "2" * 32


def wanted(store: Store) -> Store:
    """Let something be done about the calls that end."""
    store.afterwards.first = lambda had: OUTCOME
    return store


async def later(store: Store, seconds: float = 3600) -> None:
    """Let time pass for each row."""

    async def write(connection: Any) -> None:
        for row in (await connection.execute(sa.select(afterwards))).all():
            values = {"due_at": row.due_at - timedelta(seconds=seconds)}
            await connection.execute(sa.update(afterwards).where(afterwards.c.call_sid == row.call_sid).values(values))

    await store._database.write(write)


async def end(store: Store, *sids: str, **changes: Any) -> None:
    for number, sid in enumerate(sids):
        store.tell(started(sid, stream_sid=f"MZ{number}"))
        store.tell(ended(sid, **changes))
    await store.flush()


async def taken(store: Store) -> Afterwards:
    found = await store.afterwards.take()
    assert found is not None
    return found


async def due_in(store: Store, sid: str = SID) -> float:
    found = await store.afterwards.get(sid)
    assert found is not None
    return (found.due_at - now()).total_seconds()


SETTLE_SECONDS = 30.0


@pytest.fixture(autouse=True)
def settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a machine stops for between a write and a look at what it wrote."""
    monkeypatch.setattr("phoneagent.store.afterwards.SETTLE_SECONDS", SETTLE_SECONDS)


async def test_the_row_comes_with_the_end(ready: str) -> None:
    async with wanted(Store.from_url(ready)) as store:
        for event in WHOLE[:-1]:
            store.tell(event)
        await store.flush()
        assert await store.afterwards.get(SID) is None, "the call is live"
        store.tell(WHOLE[-1])
        await store.flush()
        found = await store.afterwards.get(SID)
        assert found is not None
        assert (found.state, found.attempts, found.problem, found.done_at) == (OUTCOME, 0, None, None)
        assert await store.afterwards.take() is None, "its last details may still come"
        assert 0 < await due_in(store) <= SETTLE_SECONDS
        await later(store)
        assert (await taken(store)).call_sid == SID


async def test_where_nothing_is_wanted_there_is_no_row(ready: str) -> None:
    async with Store.from_url(ready) as store:
        await end(store, SID)
        await store.settle(SID, ended_by="caller", reason="completed")
        assert await rows_left(store, afterwards) == []


@pytest.mark.parametrize("kept", [0, 90])
async def test_the_row_is_in_the_transaction_of_the_end(ready: str, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """A process that dies with the transaction half done leaves neither; what it wrote is both."""
    async with wanted(Store.from_url(ready, record_days=kept)) as store:
        store.tell(started())
        await store.flush()
        inserting = store.afterwards._insert

        async def die(*args: Any, **options: Any) -> None:
            await inserting(*args, **options)
            raise OSError("the process is killed here")

        monkeypatch.setattr(store.afterwards, "_insert", die)
        store.tell(ended())
        with pytest.raises(Exception, match="killed"):
            await store.flush()
        async with Store.from_url(ready) as other:
            assert await rows_left(other, afterwards) == []
            record = await other.call(SID)
            assert record is not None
            assert record.ended_at is None
        monkeypatch.setattr(store.afterwards, "_insert", inserting)
        await store.flush()
        assert len(await rows_left(store, afterwards)) == 1


async def test_a_call_whose_process_died_gets_its_row_when_it_is_settled(ready: str) -> None:
    async with wanted(Store.from_url(ready)) as store:
        store.tell(started())
        assert await store.settle(SID, ended_by="caller", reason="completed")
        assert await due_in(store) <= SETTLE_SECONDS
        await later(store)
        assert (await taken(store)).state == OUTCOME
        assert not await store.settle(SID, ended_by="caller", reason="completed"), "Twilio reports it twice"
        assert await store.afterwards.take() is None


async def test_a_call_whose_end_was_never_reported_gets_its_row_when_it_is_swept(ready: str) -> None:
    async with wanted(Store.from_url(ready)) as store:
        store.tell(started())
        await store.flush()
        long_ago = now() - timedelta(seconds=MAX_CALL_SECONDS + 60)

        async def age(connection: Any) -> None:
            await connection.execute(sa.update(calls).values(started_at=long_ago))

        await store._database.write(age)
        await store.sweep()
        await later(store)
        assert (await taken(store)).call_sid == SID


async def test_a_broken_line_waits_for_the_call_to_go_on(ready: str) -> None:
    async with wanted(Store.from_url(ready)) as store:
        store.tell(started())
        store.tell(BROKEN)
        await store.flush()
        assert 50 < await due_in(store) <= 60
        store.tell(started(stream_sid="MZ2", resumed=True))
        await store.flush()
        await later(store)
        assert await store.afterwards.take() is None, "the call goes on"
        assert await store.afterwards.next_due() is None
        store.tell(ended())
        await store.flush()
        assert 0 < await due_in(store) <= SETTLE_SECONDS
        await later(store)
        assert (await taken(store)).attempts == 1


async def test_a_call_that_goes_on_in_the_middle_of_a_step_starts_over_at_its_end(ready: str) -> None:
    async with wanted(Store.from_url(ready)) as store:
        store.tell(started())
        store.tell(BROKEN)
        await store.flush()
        await later(store)
        await store.afterwards.filled(await taken(store))
        delivering = await taken(store)
        store.tell(started(stream_sid="MZ2", resumed=True))
        await store.flush()
        assert await store.afterwards.get(SID) is None
        store.tell(ended())
        await store.flush()
        await store.afterwards.finish(delivering, DELIVERED)  # of the record before
        found = await store.afterwards.get(SID)
        assert found is not None
        assert (found.state, found.attempts) == (OUTCOME, 0)


async def test_a_step_of_the_first_part_of_a_call_does_not_change_the_same_step_of_the_whole(ready: str) -> None:
    async with wanted(Store.from_url(ready)) as store:
        store.tell(started())
        store.tell(BROKEN)
        await store.flush()
        await later(store)
        stale = await taken(store)
        await a_moment()
        store.tell(started(stream_sid="MZ2", resumed=True))
        store.tell(ended())
        await store.flush()
        await later(store)
        step = await taken(store)
        assert (step.state, step.attempts) == (stale.state, stale.attempts)
        held = await store.afterwards.get(SID)
        await store.afterwards.again(stale, 0, "no endpoint")
        await store.afterwards.filled(stale)
        await store.afterwards.finish(stale, FAILED)
        assert await store.afterwards.get(SID) == held
        await store.afterwards.filled(step)
        assert (await taken(store)).state == DELIVER


@pytest.mark.parametrize("state", [DELIVERED, FAILED, DONE])
async def test_a_call_that_comes_back_after_all_was_done_starts_over_at_its_end(ready: str, state: str) -> None:
    """Other TwiML had the call, and its stream was stopped, so it was taken for ended."""
    async with wanted(Store.from_url(ready)) as store:
        await end(store, SID, ended_by="caller", reason="the media stream was stopped", duration_ms=0)
        await later(store)
        await store.afterwards.finish(await taken(store), state)
        store.tell(started(stream_sid="MZ1", resumed=True))
        await store.flush()
        assert await store.afterwards.get(SID) is None, "the call is live"
        store.tell(ended())
        await store.flush()
        await later(store)
        again = await taken(store)
        assert (again.state, again.attempts, again.problem) == (OUTCOME, 1, None)


async def test_a_broken_line_that_twilio_reports_as_over_waits_no_longer(ready: str) -> None:
    async with wanted(Store.from_url(ready)) as store:
        store.tell(started())
        store.tell(BROKEN)
        await store.settle(SID, ended_by="caller", reason="completed")
        assert await due_in(store) <= SETTLE_SECONDS


async def test_an_end_that_is_reported_again_later_starts_nothing(ready: str) -> None:
    async with wanted(Store.from_url(ready)) as store:
        await end(store, SID)
        await later(store)
        await store.afterwards.finish(await taken(store), DONE)
        store.tell(ended())
        await store.settle(SID, ended_by="caller", reason="completed")
        found = await store.afterwards.get(SID)
        assert found is not None
        assert found.state == DONE


async def test_the_steps_and_their_leases(ready: str) -> None:
    async with wanted(Store.from_url(ready)) as store:
        rows = store.afterwards
        await end(store, SID)
        await later(store)
        first = await taken(store)
        assert await rows.take() is None, "it is taken"
        await later(store)
        second = await taken(store)
        assert (first.attempts, second.attempts) == (1, 2)
        await rows.filled(first)  # its lease was over
        assert (await rows.get(SID)) == replace(second, due_at=(await rows.get(SID)).due_at)  # type: ignore[union-attr]
        await rows.again(second, 30, "no\0t now")
        found = await rows.get(SID)
        assert found is not None
        assert (found.state, found.problem) == (OUTCOME, "not now")
        assert 20 < await due_in(store) <= 30
        await rows.again(second, 300, "not now")
        await rows.hold(second)  # which was on its way
        assert await due_in(store) > 290
        await later(store)
        await rows.filled(await taken(store))
        delivering = await taken(store)
        assert (delivering.state, delivering.attempts, delivering.problem) == (DELIVER, 1, None)
        await later(store, 25)
        await rows.hold(delivering)
        assert 20 < await due_in(store) <= 30
        await rows.finish(delivering, DELIVERED)
        found = await rows.get(SID)
        assert found is not None
        assert (found.state, found.attempts) == (DELIVERED, 1)
        assert found.done_at is not None
        await later(store)
        assert await rows.take() is None
        assert await rows.next_due() is None


async def test_processes_share_the_steps_and_none_takes_one_twice(ready: str) -> None:
    sids = [f"CA{number:032x}" for number in range(12)]
    async with stores(ready, 3) as made:
        await end(wanted(made[0]), *sids)
        await later(made[0])
        seen: list[str] = []

        async def work(store: Store) -> None:
            while (step := await store.afterwards.take()) is not None:
                seen.append(step.call_sid)

        await asyncio.gather(*(work(store) for store in made for _ in range(2)))
        assert Counter(seen) == Counter(sids)


async def test_what_failed_is_sent_again_when_it_is_asked_for(ready: str) -> None:
    async with wanted(Store.from_url(ready)) as store:
        rows = store.afterwards
        await end(store, SID, OTHER)
        for _ in range(2):
            await later(store)
            await rows.filled(await taken(store))
        for state in (FAILED, DELIVERED):
            await rows.finish(await taken(store), state, "HTTP 500" if state == FAILED else None)
        assert await rows.send_again() == 1, "what was delivered is not sent again"
        failed = await taken(store)
        assert (failed.state, failed.attempts, failed.problem) == (DELIVER, 1, None)
        await rows.finish(failed, DELIVERED)
        assert await rows.send_again() == 0
        assert await rows.send_again(SID) == 1
        assert (await taken(store)).call_sid == SID
        assert await rows.send_again("CA" + "9" * 32) == 0


async def test_a_call_from_before_there_was_a_receiver_is_sent_when_it_is_asked_for(ready: str) -> None:
    async with Store.from_url(ready) as store:
        await end(store, SID)
        store.tell(started(OTHER))
        await store.flush()
        assert await store.afterwards.send_again(OTHER) == 0, "it is live"
        assert await store.afterwards.send_again(SID) == 1
        assert (await taken(store)).state == DELIVER


async def test_sending_again_does_not_leave_the_outcome_out(ready: str) -> None:
    async with wanted(Store.from_url(ready)) as store:
        await end(store, SID)
        assert await store.afterwards.send_again(SID) == 1
        assert (await taken(store)).state == OUTCOME


async def test_without_records_a_call_is_kept_until_it_is_delivered(ready: str) -> None:
    async with wanted(Store.from_url(ready, record_days=0)) as store:
        store.tell(started())
        store.tell(said(GREETING))
        store.tell(ended(duration_ms=0))
        await store.settle(SID, ended_by="caller", reason="completed")
        assert await store.sweep() == 0
        record = await store.call(SID)
        assert record is not None
        assert [turn.text for turn in record.turns] == [GREETING.text]
        await later(store)
        await store.afterwards.filled(await taken(store))
        await store.afterwards.finish(await taken(store), DELIVERED)
        assert await store.sweep() == 1
        assert await rows_left(store, calls, afterwards) == []


async def test_a_call_that_nothing_is_done_about_any_more_is_not_kept_forever(ready: str) -> None:
    async with wanted(Store.from_url(ready, record_days=0)) as store:
        await end(store, SID, duration_ms=0)

        async def age(connection: Any) -> None:
            await connection.execute(sa.update(afterwards).values(created_at=now() - timedelta(days=8)))

        await store._database.write(age)
        assert await store.sweep() == 1


@pytest.mark.parametrize("what", [SID, CALLER])
async def test_a_forgotten_call_is_not_delivered(ready: str, what: str) -> None:
    async with wanted(Store.from_url(ready)) as store:
        await end(store, SID)
        await later(store)
        step = await taken(store)
        assert await store.forget(what) == 1
        assert await rows_left(store, afterwards) == []
        await store.afterwards.again(step, 5, "it is still being sent")
        store.tell(ended())
        await store.flush()
        assert await rows_left(store, afterwards) == []


async def test_there_may_be_no_database_yet(url: str) -> None:
    rows = Store.from_url(url).afterwards
    if Database(url).path is not None:
        assert (await rows.take(), await rows.next_due(), await rows.get(SID)) == (None, None, None)


async def test_the_listener_is_called_when_the_step_is_due(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phoneagent.store.afterwards.SETTLE_SECONDS", 0.1)  # nothing here must happen before it is due
    async with Store.from_url(ready) as store:
        woken = asyncio.Event()
        wanted(store).afterwards.wake = woken.set
        await end(store, SID)
        async with asyncio.timeout(HANG_SECONDS):
            await woken.wait()
            while await store.afterwards.take() is None:
                await asyncio.sleep(0.01)
