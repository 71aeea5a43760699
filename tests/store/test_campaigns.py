"""Campaigns in both databases: each number called once at a time, never more than allowed, and nothing lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from phoneagent.errors import DefinitionError
from phoneagent.store import Store, database
from phoneagent.store.campaign_moves import CAMPAIGN, NOT_AFTER, Move
from phoneagent.store.campaign_records import Campaign, CampaignCall, Dial, End, Moved, NewCall, Step, WaitUntil
from phoneagent.store.database import Database
from phoneagent.store.rows import now
from phoneagent.store.schema import calls, campaign_calls, campaigns, outbound_calls

pytestmark = pytest.mark.anyio

NUMBERS = [f"+1202555{n:04}" for n in range(12)]
LATER = timedelta(hours=1)


def after_call(call: CampaignCall) -> Step:
    """Call again after everything but an answer, twice."""
    if call.result == "completed":
        return End("finished", "answered")
    return End("given_up", "too often") if call.attempts >= 2 else WaitUntil(now() + LATER, "again")


def before_call(call: CampaignCall, barred: bool) -> Step:
    return End("given_up", "barred") if barred else Dial(now() + LATER)


def how(**changes: Any) -> Move:
    options: dict[str, Any] = {
        "after_call": after_call,
        "before_call": before_call,
        "dial": {"from": "+15550100002"},
        "at_once": 3,
        "calls_per_second": 0,
        "lost_after": LATER,
        "moment": now(),
    }
    return Move(**(options | changes))


async def made(store: Store, numbers: list[str] = NUMBERS, name: str = "visits") -> Campaign:
    campaign = await store.campaigns.begin(name, "digest", {"rules": {}})
    listed = [NewCall(position=n, to=each, context={"n": n}, due_at=now()) for n, each in enumerate(numbers, 2)]
    await store.campaigns.fill(campaign.id, listed)
    await store.campaigns.run(campaign.id)
    return campaign


async def move(store: Store, campaign: Campaign, **changes: Any) -> Moved:
    moved = await store.campaigns.move(campaign.id, how(**changes))
    assert moved is not None
    return moved


async def queue_of(store: Store) -> list[Any]:
    async def read(connection: Any) -> list[Any]:
        return list(await connection.execute(sa.select(outbound_calls).order_by(outbound_calls.c.idempotency_key)))

    return await store._database.read(read)


async def end(store: Store, status: str = "completed", **values: Any) -> None:
    """End the calls that are queued."""

    async def write(connection: Any) -> None:
        queued = sa.update(outbound_calls).where(outbound_calls.c.status == "queued")
        await connection.execute(queued.values({"status": status, "ended_at": now(), **values}))

    await store._database.write(write)


async def counts(store: Store, campaign: Campaign) -> tuple[str, dict[str, int]]:
    found = await store.campaigns.find(campaign.id)
    assert found is not None
    return found.state, dict(found.numbers)


async def test_as_many_numbers_are_called_at_once_as_may_be_until_all_have_been(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await made(store)
        assert (await move(store, campaign)).started == 3
        assert await move(store, campaign) == Moved(0, 3, None, False)
        rows = await queue_of(store)
        assert [row.idempotency_key for row in rows] == [f"campaign/{campaign.id}/{n}/1" for n in (2, 3, 4)]
        assert [row.plan["context"] for row in rows] == [{"n": 2}, {"n": 3}, {"n": 4}]
        assert {row.plan[CAMPAIGN] for row in rows} == {campaign.id}
        for _ in range(4):
            assert await counts(store, campaign) != ("done", {"finished": 12})
            await end(store)
            await move(store, campaign)
        assert await counts(store, campaign) == ("done", {"finished": 12})
        assert await store.campaigns.active() == []
        assert await store.campaigns.move(campaign.id, how()) is None
        assert Counter(row.called for row in await queue_of(store)) == Counter(NUMBERS)


async def test_a_call_that_is_no_campaign_s_is_placed_before_those_that_are(ready: str) -> None:
    async with Store.from_url(ready) as store:
        await move(store, await made(store))
        alone = await store.outbound.add("+12025559999", {})
        taken = [await store.outbound.take() for _ in range(4)]
        assert [each and each.to for each in taken] == [alone.to, *NUMBERS[:3]]
        assert await store.outbound.take() is None


async def test_several_processes_never_call_more_than_allowed(ready: str) -> None:
    stores = [Store.from_url(ready) for _ in range(3)]
    campaign = await made(stores[0])

    async def work(store: Store) -> None:
        while (await counts(store, campaign))[0] == "running":
            await store.campaigns.move(campaign.id, how())
            rows = await queue_of(store)
            assert sum(row.status == "queued" for row in rows) <= 3
            await end(store)

    await asyncio.gather(*(work(store) for store in stores for _ in range(2)))
    assert await counts(stores[0], campaign) == ("done", {"finished": 12})
    assert Counter(row.called for row in await queue_of(stores[0])) == Counter(NUMBERS)
    for store in stores:
        await store.close()


async def test_a_number_that_was_busy_waits_and_is_called_again_with_another_key(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await made(store, NUMBERS[:1])
        await move(store, campaign)
        await end(store, "busy")
        moved = await move(store, campaign)
        assert (moved.started, moved.calling) == (0, 0)
        assert moved.next_at is not None
        assert moved.next_at > now()
        (call,) = await store.campaigns.calls(campaign.id)
        assert (call.state, call.attempts, call.result, call.reason) == ("waiting", 1, "busy", "again")
        await move(store, campaign, moment=now() + 2 * LATER)
        assert [row.idempotency_key[-2:] for row in await queue_of(store)] == ["/1", "/2"]
        await end(store, "no-answer")
        await move(store, campaign)
        (call,) = await store.campaigns.calls(campaign.id)
        assert (call.state, call.attempts, call.result, call.reason) == ("given_up", 2, "no-answer", "too often")
        found = await store.campaigns.find("visits")
        assert found is not None
        assert (found.state, found.results) == ("done", {"no-answer": 1})


@pytest.mark.parametrize(
    ("values", "result"),
    [
        ({"status": "completed"}, "completed"),
        ({"status": "completed", "decided": "person", "answered_by": "machine_end_beep"}, "completed"),
        ({"status": "completed", "decided": "machine"}, "machine"),
        ({"status": "completed", "decided": "machine", "message_left": False}, "machine"),
        ({"status": "completed", "decided": "machine", "message_left": True}, "message-left"),
        ({"status": "completed", "answered_by": "machine_end_beep"}, "machine"),
        ({"status": "completed", "answered_by": "human"}, "completed"),
        ({"status": "completed", "decided": "fax"}, "fax"),
        ({"status": "completed", "decided": "menu"}, "completed"),
        ({"status": "refused", "error": "why"}, "refused"),
        ({"status": "canceled"}, "canceled"),
    ],
)
async def test_the_result_of_a_call_is_its_status_and_what_answered(
    ready: str, values: dict[str, Any], result: str
) -> None:
    async with Store.from_url(ready) as store:
        campaign = await made(store, NUMBERS[:1])
        await move(store, campaign)
        await end(store, **values)
        seen: list[CampaignCall] = []

        def after(call: CampaignCall) -> Step:
            seen.append(call)
            return End("finished", "x")

        await move(store, campaign, after_call=after)
        assert [(each.result, each.reason) for each in seen] == [(result, values.get("error"))]


async def test_a_call_whose_end_is_never_reported_is_given_up(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await made(store, NUMBERS[:1])
        await move(store, campaign)
        await end(store, "ringing", asked_at=now() - LATER, ended_at=None)
        assert (await move(store, campaign, lost_after=2 * LATER)).calling == 1
        seen: list[str | None] = []

        def after(call: CampaignCall) -> Step:
            seen.append(call.result)
            return End("given_up", "lost")

        await move(store, campaign, after_call=after)
        assert seen == ["unknown"]


async def test_a_call_that_may_have_been_placed_waits_for_a_report_and_is_then_given_up(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await made(store, NUMBERS[:2])
        await move(store, campaign)
        for sid in ("CA1", None):
            taken = await store.outbound.take()
            assert taken is not None
            assert await store.outbound.asking(taken.id, 1)
            await store.outbound.refuse(taken.id, "whether it was placed is unknown", asked=True)
            if sid is not None:
                assert await store.outbound.tell(taken.id, sid, "ringing")
                assert (await move(store, campaign)).calling == 2
                assert await store.outbound.tell(taken.id, sid, "completed")
        seen: list[tuple[str | None, str | None]] = []

        def after(call: CampaignCall) -> Step:
            seen.append((call.result, call.reason))
            return End("given_up", "over")

        assert (await move(store, campaign, after_call=after)).calling == 1
        assert seen == [("completed", None)]
        await move(store, campaign, after_call=after, moment=now() + 2 * LATER)
        assert seen[1:] == [("maybe-placed", "whether it was placed is unknown")]


async def test_a_call_that_was_given_up_is_not_placed_any_more(ready: str) -> None:
    """A process died between `asked_at` and its request, and no other one was there for longer than a call takes."""
    async with Store.from_url(ready) as store:
        campaign = await made(store, NUMBERS[:2])
        await move(store, campaign, at_once=1)
        taken = await store.outbound.take()
        assert taken is not None
        assert await store.outbound.asking(taken.id, 1)
        assert await store.campaigns.barred(taken) is None
        later = {"moment": now() + 2 * LATER, "after_call": lambda call: End("given_up", "lost")}
        await move(store, campaign, at_once=1, **later)
        assert "given it up" in str(await store.campaigns.barred(taken))


async def test_there_is_a_pace_over_all_processes(ready: str) -> None:
    async with Store.from_url(ready) as one, Store.from_url(ready) as other:
        campaign = await made(one)
        moment = now()
        paced: dict[str, Any] = {"calls_per_second": 2, "at_once": 10}
        first = await move(one, campaign, moment=moment, **paced)
        assert (first.started, first.next_at) == (1, moment + timedelta(seconds=0.5))
        assert (await move(other, campaign, moment=moment + timedelta(seconds=0.4), **paced)).started == 0
        assert (await move(other, campaign, moment=moment + timedelta(seconds=0.5), **paced)).started == 1
        assert (await move(one, campaign, moment=moment + timedelta(seconds=30), **paced)).started == 1, (
            "no catching up"
        )


async def test_numbers_that_are_not_due_are_moved_out_of_the_way_in_batches(ready: str) -> None:
    many = [f"+1202556{n:04}" for n in range(250)]
    tomorrow = now() + timedelta(days=1)
    async with Store.from_url(ready) as store:
        campaign = await made(store, many)
        closed: dict[str, Any] = {"before_call": lambda call, barred: WaitUntil(tomorrow, "closed")}
        assert [(await move(store, campaign, **closed)).more for _ in range(3)] == [True, True, False]
        assert (await move(store, campaign, **closed)).next_at == tomorrow


async def test_a_number_on_the_do_not_call_list_is_known_before_the_call_and_at_the_last_moment(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await made(store, NUMBERS[:3])
        await store.campaigns.do_not_call.add([NUMBERS[0]])
        await move(store, campaign)
        assert [row.called for row in await queue_of(store)] == NUMBERS[1:3]
        taken = await store.outbound.take()
        assert taken is not None
        assert await store.campaigns.barred(taken) is None
        await store.campaigns.do_not_call.add([taken.to])
        assert await store.campaigns.barred(taken) == "its number is on the do-not-call list"
        assert not await store.outbound.asking(taken.id, taken.attempts + 1), "it is no longer to be placed"
        await move(store, campaign)
        states = {each.to: each.state for each in await store.campaigns.calls(campaign.id)}
        assert (states[NUMBERS[0]], states[taken.to]) == ("given_up", "given_up")
        assert Counter(states.values()) == {"given_up": 2, "calling": 1}
        other = await store.outbound.add(NUMBERS[0], {})
        assert await store.campaigns.barred(other) == "its number is on the do-not-call list", "dial calls it no more"
        await store.campaigns.do_not_call.add(["+442079460000"])
        other = await store.outbound.add("+4402079460000", {})
        assert await store.campaigns.barred(other) == "its number is on the do-not-call list", "in another spelling"


async def test_a_call_that_comes_too_late_goes_back_to_its_campaign_if_it_has_one(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await made(store, NUMBERS[:2])
        await move(store, campaign)
        alone = await store.outbound.add(NUMBERS[2], {})
        first, second = [each for _ in range(3) if (each := await store.outbound.take()) and each.id != alone.id]
        assert await store.outbound.asking(second.id, 1)
        for each in (first, second, alone):
            assert await store.campaigns.barred(each, "it waited too long") == "it waited too long"
        waiting, calling = await store.campaigns.calls(campaign.id)
        assert (waiting.to, waiting.state, waiting.attempts) == (first.to, "waiting", 0)
        assert (calling.to, calling.state, calling.attempts) == (second.to, "calling", 1), "Twilio was asked for it"
        assert {row.id for row in await queue_of(store)} == {second.id, alone.id}


async def test_a_call_that_waited_past_the_hours_goes_back_to_its_campaign(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await made(store, NUMBERS[:1])
        await move(store, campaign, before_call=lambda call, barred: Dial(now() - LATER))
        taken = await store.outbound.take()
        assert taken is not None
        assert taken.plan[NOT_AFTER] < now().isoformat()
        assert await store.campaigns.barred(taken) == "the calling hours are over"
        (call,) = await store.campaigns.calls(campaign.id)
        assert (call.state, call.attempts) == ("waiting", 0)
        assert await queue_of(store) == []
        await move(store, campaign)
        assert [row.idempotency_key for row in await queue_of(store)] == [f"campaign/{campaign.id}/2/1"]


async def test_a_stop_withdraws_what_is_queued_and_lets_the_rest_go_on(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await made(store)
        await move(store, campaign)
        placed, taken = await store.outbound.take(), await store.outbound.take()
        assert placed is not None
        assert taken is not None
        assert await store.outbound.asking(placed.id, 1)
        await store.campaigns.stop(campaign.id)
        assert await counts(store, campaign) == ("stopping", {"calling": 1, "waiting": 11})
        assert not await store.outbound.asking(taken.id, 1), "another process had taken it"
        assert await store.campaigns.barred(placed) == "its campaign was stopped", "unless it is placed already"
        assert [row.id for row in await queue_of(store)] == [placed.id]
        assert await move(store, campaign) == Moved(0, 1, None, False)
        await store.outbound.tell(placed.id, "CA" + "a" * 32, "busy")
        await move(store, campaign)
        assert await counts(store, campaign) == ("stopped", {"waiting": 12})
        await store.campaigns.stop(campaign.id)
        assert (await counts(store, campaign))[0] == "stopped"
        await store.campaigns.run(campaign.id)
        assert (await counts(store, campaign))[0] == "running"
        assert (await move(store, campaign)).started == 3


async def test_a_campaign_is_known_by_its_name_and_another_list_is_refused(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await made(store)
        again = await store.campaigns.begin("visits", "digest", {})
        assert (again.id, again.state) == (campaign.id, "running")
        with pytest.raises(DefinitionError, match="choose another name"):
            await store.campaigns.begin("visits", "other", {})
        first = await store.campaigns.begin("half", "one", {})
        await store.campaigns.fill(first.id, [NewCall(position=2, to=NUMBERS[0], due_at=now())])
        second = await store.campaigns.begin("half", "two", {})
        assert first.id != second.id, "nothing of the first was called, so it is replaced"
        assert await store.campaigns.calls(first.id) == []
        assert [each.name for each in await store.campaigns.latest(1)] == ["half"]


async def test_a_list_that_was_half_written_is_completed(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await store.campaigns.begin("visits", "digest", {})
        listed = [NewCall(position=n, to=each, due_at=now()) for n, each in enumerate(NUMBERS, 2)]
        await store.campaigns.fill(campaign.id, listed[:5])
        await store.campaigns.fill(campaign.id, [])
        assert await store.campaigns.move(campaign.id, how()) is None, "it is not called before it is complete"
        again = await store.campaigns.begin("visits", "digest", {})
        assert (again.id, again.state) == (campaign.id, "loading")
        await store.campaigns.fill(again.id, listed)
        assert [each.to for each in await store.campaigns.calls(again.id, limit=50)] == NUMBERS
        assert [each.position for each in await store.campaigns.calls(again.id, after=10, limit=2)] == [11, 12]


async def test_a_list_that_is_stopped_while_it_is_written_is_not_called_and_starts_over(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await store.campaigns.begin("visits", "digest", {})
        listed = [NewCall(position=n, to=each, due_at=now()) for n, each in enumerate(NUMBERS, 2)]
        await store.campaigns.fill(campaign.id, listed[:5])
        await store.campaigns.stop(campaign.id)
        with pytest.raises(DefinitionError, match="was stopped"):
            await store.campaigns.fill(campaign.id, listed[5:])
        await store.campaigns.run(campaign.id)
        stopped = await store.campaigns.find(campaign.id)
        assert stopped is not None
        assert (stopped.state, stopped.total) == ("stopped", 0)
        again = await store.campaigns.begin("visits", "digest", {})
        assert again.state == "loading", "the whole list is written"


async def test_a_list_whose_name_another_list_took_leaves_no_numbers(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await store.campaigns.begin("visits", "digest", {})
        await store.campaigns.begin("visits", "another", {})
        with pytest.raises(DefinitionError, match="another list"):
            await store.campaigns.fill(campaign.id, [NewCall(position=2, to=NUMBERS[0], due_at=now())])
        assert await store.campaigns.calls(campaign.id) == []


async def test_a_call_that_is_forgotten_while_it_goes_on_takes_its_number_off_the_list(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await made(store, NUMBERS[:2])
        await move(store, campaign)
        (first, second) = await queue_of(store)
        await store.outbound.tell(first.id, "CA" + "c" * 32, "in-progress")
        await store.forget("CA" + "c" * 32)
        assert [each.to for each in await store.campaigns.calls(campaign.id)] == [second.called]


async def test_without_records_a_stopped_campaign_keeps_the_numbers_that_it_may_yet_call(ready: str) -> None:
    async with Store.from_url(ready, record_days=0) as store:
        campaign = await made(store, NUMBERS[:2])
        await store.campaigns.stop(campaign.id)
        await store.sweep()
        await store.campaigns.run(campaign.id)
        await move(store, campaign)
        assert [each.called for each in await queue_of(store)] == NUMBERS[:2]


@pytest.mark.parametrize("by", ["number", "sid"])
async def test_a_person_who_is_forgotten_is_on_no_list_and_is_called_no_more(ready: str, by: str) -> None:
    sid = "CA" + "b" * 32
    async with Store.from_url(ready) as store:
        campaign = await made(store, NUMBERS[:2])
        await move(store, campaign)
        await end(store, call_sid=None)
        (first, _) = await queue_of(store)
        await store.outbound.tell(first.id, sid, "completed")
        await move(store, campaign)
        await store.forget(first.called if by == "number" else sid)
        assert [each.to for each in await store.campaigns.calls(campaign.id)] == [
            number for number in NUMBERS[:2] if number != first.called
        ]


@pytest.mark.parametrize(("days", "left"), [(90, "all"), (10, "nothing"), (0, "nothing")])
async def test_old_campaigns_are_deleted_as_records_are(ready: str, days: int, left: str) -> None:
    async with Store.from_url(ready, record_days=days) as store:
        campaign = await made(store, NUMBERS[:1])
        await ended(store, campaign, now() - timedelta(days=20))
        await store.sweep()
        assert bool(await store.campaigns.find(campaign.id)) is (left == "all")
        assert bool(await store.campaigns.calls(campaign.id)) is (left == "all")


async def test_without_records_the_numbers_go_at_once_and_the_report_within_a_day(ready: str) -> None:
    async with Store.from_url(ready, record_days=0) as store:
        campaign, running = await made(store, NUMBERS[:1]), await made(store, NUMBERS[:1], "other")
        await ended(store, campaign, now() - timedelta(minutes=1))
        await store.sweep()
        assert [(each.to, each.context) for each in await store.campaigns.calls(campaign.id)] == [("", {})]
        assert [each.to for each in await store.campaigns.calls(running.id)] == NUMBERS[:1]


async def test_the_outcome_of_the_last_call_is_in_the_report(ready: str) -> None:
    sid = "CA" + "c" * 32
    async with Store.from_url(ready) as store:
        campaign = await made(store, NUMBERS[:1])
        await move(store, campaign)
        await end(store, call_sid=sid)
        await move(store, campaign)
        row = {"sid": sid, "stream_sid": "MZ1", "direction": "outbound-api", "started_at": now()}

        async def write(connection: Any) -> None:
            await connection.execute(sa.insert(calls).values({**row, "outcome": {"coming": True}}))

        await store._database.write(write)
        assert [each.outcome for each in await store.campaigns.calls(campaign.id)] == [{"coming": True}]


async def test_a_list_that_was_never_completed_is_deleted_too(ready: str) -> None:
    async with Store.from_url(ready, record_days=1) as store:
        half = await store.campaigns.begin("half", "digest", {})

        async def write(connection: Any) -> None:
            await connection.execute(sa.update(campaigns).values(created_at=now() - timedelta(days=2)))

        await store._database.write(write)
        await store.sweep()
        assert await store.campaigns.find(half.id) is None


async def test_an_id_comes_before_another_campaign_s_name(ready: str) -> None:
    async with Store.from_url(ready) as store:
        first = await made(store, NUMBERS[:1])
        await made(store, NUMBERS[:1], first.id)
        found = await store.campaigns.find(first.id)
        assert found is not None
        assert found.name == "visits"


async def test_a_file_of_an_older_release_is_brought_up_to_date(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    base = Database(url)
    await base._transaction(base.writing, 60, lambda it: it.run_sync(partial(database._upgrade, revision="0012")))
    await base.close()
    async with Store.from_url(url) as store:
        assert await store.campaigns.active() == []
        assert await store.campaigns.active() == []


async def ended(store: Store, campaign: Campaign, moment: datetime) -> None:
    async def write(connection: Any) -> None:
        change = sa.update(campaigns).where(campaigns.c.id == campaign.id)
        await connection.execute(change.values(state="done", ended_at=moment))
        await connection.execute(sa.update(campaign_calls).values(state="finished"))

    await store._database.write(write)


async def test_without_a_database_there_are_no_campaigns(tmp_path: Any) -> None:
    async with Store.from_url(f"sqlite:///{tmp_path}/none.db") as store:
        assert await store.campaigns.active() == []
        assert await store.campaigns.find("x") is None
        assert await store.campaigns.latest(5) == []
        assert not await store.campaigns.do_not_call.holds(NUMBERS[0])
