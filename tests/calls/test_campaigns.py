"""Campaigns of an app: started, started twice, resumed, stopped, refused; and what moves them on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from phoneagent.calls import campaigns as module
from phoneagent.calls.campaigns import Campaigns, report
from phoneagent.calls.dialer import MAX_WAIT_SECONDS
from phoneagent.errors import ConfigurationError, DefinitionError, StoreError
from phoneagent.store import Store
from phoneagent.store.rows import now
from phoneagent.store.schema import campaigns as table
from phoneagent.store.schema import outbound_calls
from tests.calls.test_outbound import make as make_outbound

pytestmark = pytest.mark.anyio

ANNA, BEN, CLEO = "+12025550100", "+12025550101", "+12025550102"
ROWS = [{"to": ANNA, "name": "Anna"}, {"to": BEN, "name": "Ben"}]
ALWAYS: dict[str, Any] = {"hours": "00:00-24:00", "days": "mon-sun", "calls_per_second": 0}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as made:
        yield made


@pytest.fixture
def campaigns(store: Store) -> Campaigns:
    return make(store)


def make(store: Store, caller_id: str | None = "+15550100002", **options: Any) -> Campaigns:
    return Campaigns(store.campaigns, make_outbound(store, caller_id), agents=["desk"], **options)


async def queued(store: Store) -> list[str]:
    found = []
    while (call := await store.outbound.take()) is not None:
        found.append(call.to)
    return found


# --- starting ---


async def test_a_campaign_queues_the_calls_of_its_list_with_their_context(store: Store, campaigns: Campaigns) -> None:
    found = await campaigns.start("visits", ROWS, agent="desk", at_once=2, **ALWAYS)
    assert (found.name, found.state, found.numbers) == ("visits", "running", {"waiting": 2})
    await campaigns.step()
    call = await store.outbound.take()
    assert call is not None
    assert (call.to, call.plan["context"], call.plan["agent"], call.plan["amd"]) == (
        ANNA,
        {"name": "Anna"},
        "desk",
        True,
    )
    assert await campaigns.step() <= module.LOOK_SECONDS, "the calls are looked at"
    assert await queued(store) == [BEN]


async def test_a_file_is_read_and_what_is_wrong_with_it_is_in_the_report(
    store: Store, campaigns: Campaigns, tmp_path: Path
) -> None:
    path = tmp_path / "visits.csv"
    path.write_text(f"\ufeffto;name\n{ANNA};Anna\nanna;x\n{ANNA};again\n+15550100009;unknown zone\n{BEN};Ben\n")
    seen: list[tuple[int, int]] = []
    found = await campaigns.start("visits", path, told=lambda *counts: seen.append(counts), **ALWAYS)
    assert found.numbers == {"waiting": 2, "skipped": 3}
    assert seen == [(5, 0), (5, 5)]
    lines = [each async for each in report(store.campaigns.calls, found.id)]
    assert [(each.position, each.state) for each in lines] == [
        (2, "waiting"),
        (3, "skipped"),
        (4, "skipped"),
        (5, "skipped"),
        (6, "waiting"),
    ]
    assert "line 2" in str(lines[2].reason)
    assert "time_zone" in str(lines[3].reason)


async def test_a_strict_list_is_refused_as_a_whole(store: Store, campaigns: Campaigns, tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    path.write_text("to\n" + f"{ANNA}\n" + "x\n" * 50)
    with pytest.raises(DefinitionError, match="nothing is called") as refused:
        await campaigns.start("visits", path, strict=True, **ALWAYS)
    lines = str(refused.value).splitlines()
    assert (lines[1].startswith("line 3: "), len(lines)) == (True, 1 + module.MAX_PROBLEMS)
    assert await campaigns.latest() == []
    for strict in (True, False):
        assert (await campaigns.start("fine", ROWS, strict=strict, **ALWAYS)).total == 2


async def test_the_numbers_of_other_countries_take_a_region(campaigns: Campaigns) -> None:
    found = await campaigns.start("visits", [{"to": "(202) 555-0100"}], region="US", **ALWAYS)
    assert [each.to for each in await campaigns.page(found.id)] == [ANNA]


async def test_a_list_is_not_called_before_its_start_nor_at_night(store: Store, campaigns: Campaigns) -> None:
    start_at = now() + timedelta(days=30)
    found = await campaigns.start("later", ROWS, start_at=start_at, **ALWAYS)
    (first, _) = await campaigns.page(found.id)
    assert first.due_at is not None
    assert first.due_at >= start_at
    assert await campaigns.step() == module.IDLE_SECONDS
    assert await queued(store) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": ""}, "needs a name"),
        ({"name": "x" * 200}, "needs a name"),
        ({"name": "a\nb"}, "needs a name"),
        ({"calls": []}, "no numbers"),
        ({"calls": [{"name": "Anna"}]}, "row 1"),
        ({"agent": "nobody"}, "the campaign has agent='nobody'"),
        ({"on_machine": "leave_message"}, "the campaign has a message"),
        ({"from_": "5550100"}, "the campaign has a from_"),
        ({"hours": "always"}, "hours"),
        ({"region": "Narnia"}, "not a region"),
        ({"do_not_call": [BEN, "x"]}, "number 2 of the do-not-call list"),
    ],
)
async def test_what_cannot_be_started_is_named_and_nothing_is_stored(
    campaigns: Campaigns, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DefinitionError, match=words):
        await campaigns.start(**{"name": "visits", "calls": ROWS, **ALWAYS, **options})
    assert await campaigns.latest() == []


async def test_without_a_number_to_call_from_nothing_is_started(store: Store) -> None:
    with pytest.raises(ConfigurationError, match="TWILIO_PHONE_NUMBER"):
        await make(store, None).start("visits", ROWS)
    assert (await make(store, None).start("visits", ROWS, from_="+15550100002", **ALWAYS)).total == 2


# --- twice ---


async def test_the_same_list_under_the_same_name_is_the_same_campaign(store: Store, campaigns: Campaigns) -> None:
    first = await campaigns.start("visits", ROWS, **ALWAYS)
    await campaigns.step()
    assert len(await queued(store)) == 2
    again = await make(store).start("visits", ROWS, **ALWAYS)
    assert (again.id, again.numbers) == (first.id, {"calling": 2})
    await campaigns.step()
    assert await queued(store) == []
    for changed in ({"calls": ROWS[:1]}, {"calls": [{**ROWS[0], "name": "Ann"}, ROWS[1]]}, {"attempts": 2}):
        with pytest.raises(DefinitionError, match="choose another name"):
            await campaigns.start(**{"name": "visits", "calls": ROWS, **ALWAYS, **changed})
    assert (await campaigns.start("other", ROWS, **ALWAYS)).id != first.id


async def test_a_start_that_broke_off_is_completed_by_the_next_one(
    store: Store, campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 1)
    fill, filled = type(store.campaigns).fill, 0

    async def breaks(self: Any, id: str, calls: Any) -> None:
        nonlocal filled
        filled += 1
        if filled == 2:
            raise StoreError("the database is gone")
        await fill(self, id, calls)

    monkeypatch.setattr(type(store.campaigns), "fill", breaks)
    with pytest.raises(StoreError):
        await campaigns.start("visits", ROWS, **ALWAYS)
    await campaigns.step()
    assert await queued(store) == [], "half a list is not called"
    found = await campaigns.start("visits", ROWS, **ALWAYS)
    assert (found.state, found.numbers) == ("running", {"waiting": 2})


# --- stopping ---


async def test_a_stopped_campaign_calls_no_more_until_it_is_started_again(store: Store, campaigns: Campaigns) -> None:
    await campaigns.start("visits", ROWS, **ALWAYS)
    await campaigns.step()
    found = await campaigns.stop("visits")
    assert found is not None
    assert (found.state, found.numbers) == ("stopped", {"waiting": 2})
    await campaigns.step()
    assert await queued(store) == []
    again = await campaigns.start("visits", ROWS, **ALWAYS)
    assert (again.id, again.state, again.ended_at) == (found.id, "running", None)
    await campaigns.step()
    assert await queued(store) == [ANNA, BEN]
    assert await campaigns.stop("none") is None
    assert await campaigns.get("none") is None


# --- never called ---


async def test_a_number_that_is_never_called_is_given_up(store: Store, campaigns: Campaigns) -> None:
    found = await campaigns.start("visits", ROWS, do_not_call=[" +1 202-555-0100"], **ALWAYS)
    await campaigns.step()
    assert await queued(store) == [BEN]
    (anna, _) = await campaigns.page(found.id)
    assert (anna.state, anna.reason) == ("given_up", "it is on the do-not-call list")
    await campaigns.never_call([CLEO])
    assert await store.campaigns.do_not_call.holds(CLEO)


# --- moving on ---


async def test_a_process_that_drains_moves_nothing_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    draining = True
    campaigns = make(store)
    await campaigns.start("visits", ROWS, **ALWAYS)
    steps: list[int] = []

    async def step() -> float:
        steps.append(1)
        raise RuntimeError("once is enough")

    monkeypatch.setattr(campaigns, "step", step)
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    looked = asyncio.Semaphore(0)

    def drains() -> bool:
        looked.release()
        return draining

    monkeypatch.setattr(campaigns, "_draining", drains)
    running = asyncio.create_task(campaigns.run())
    for _ in range(3):
        await looked.acquire()
    assert steps == []
    draining = False
    with pytest.raises(RuntimeError):
        await running


async def test_a_call_that_no_process_placed_for_an_hour_is_no_attempt(store: Store, campaigns: Campaigns) -> None:
    """The machine was stopped overnight, with a call in the queue."""
    found = await campaigns.start("visits", [{"to": ANNA}], attempts=1, **ALWAYS)
    await campaigns.step()

    async def age(connection: Any) -> None:
        created_at = now() - timedelta(seconds=MAX_WAIT_SECONDS + 1)
        await connection.execute(sa.update(outbound_calls).values(created_at=created_at))

    await store._database.write(age)
    assert await make_outbound(store).dialer.step()
    (anna,) = await campaigns.page(found.id)
    assert (anna.state, anna.attempts) == ("waiting", 0)
    await campaigns.step()
    (anna,) = await campaigns.page(found.id)
    assert (anna.state, anna.attempts) == ("calling", 1)
    assert await queued(store) == [ANNA]


async def test_a_campaign_of_another_version_stands_still_and_the_others_go_on(
    store: Store, campaigns: Campaigns, caplog: pytest.LogCaptureFixture
) -> None:
    odd = await campaigns.start("odd", ROWS, **ALWAYS)

    async def write(connection: Any) -> None:
        change = sa.update(table).where(table.c.id == odd.id)
        await connection.execute(change.values(plan={"rules": {"speed": 9}}))

    await store._database.write(write)
    await campaigns.start("visits", [{"to": CLEO}], **ALWAYS)
    with caplog.at_level(logging.ERROR):
        await campaigns.step()
    assert await queued(store) == [CLEO]
    assert "another version" in caplog.text


async def test_a_campaign_whose_agent_is_gone_stands_still_and_says_so_once(
    store: Store, campaigns: Campaigns, caplog: pytest.LogCaptureFixture
) -> None:
    await campaigns.start("visits", ROWS, agent="desk", **ALWAYS)
    newer = Campaigns(store.campaigns, make_outbound(store), agents=["billing"])
    await newer.step()
    await newer.step()
    assert await queued(store) == []
    assert [record.message for record in caplog.records if "'desk'" in record.message] == [caplog.records[0].message]
    await campaigns.step()
    assert await queued(store) == [ANNA, BEN]


async def test_a_campaign_that_the_database_refuses_does_not_stop_the_others(
    store: Store, campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = await campaigns.start("odd", ROWS, **ALWAYS)
    await campaigns.start("visits", [{"to": CLEO}], **ALWAYS)
    move = campaigns._rows.move

    async def refuse(id: str, how: Any) -> Any:
        if id == odd.id:
            raise StoreError("a value is refused", retry=False)
        return await move(id, how)

    monkeypatch.setattr(campaigns._rows, "move", refuse)
    await campaigns.step()
    assert await queued(store) == [CLEO]


async def test_a_pace_is_waited_for(store: Store, campaigns: Campaigns) -> None:
    await campaigns.start("visits", ROWS, **{**ALWAYS, "calls_per_second": 4})
    assert 0 < await campaigns.step() <= 0.25
    assert await queued(store) == [ANNA]


async def test_a_database_that_does_not_answer_is_told_once_and_asked_again(
    campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.Semaphore(0)

    async def gone(self: Any) -> Any:
        asked.release()
        raise StoreError("it does not answer")

    monkeypatch.setattr(type(campaigns._rows), "active", gone)
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.001)
    running = asyncio.create_task(campaigns.run())
    for _ in range(3):
        await asked.acquire()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert caplog.text.count("campaigns are paused") == 1


async def test_no_number_is_in_a_log_or_a_repr(
    campaigns: Campaigns, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.DEBUG, "phoneagent"):
        found = await campaigns.start("visits", [*ROWS, {"to": "+19005551234"}], **ALWAYS)
        await campaigns.step()
    shown = caplog.text + repr(found) + repr(await campaigns.page(found.id)) + repr(campaigns)
    assert all(number not in shown for number in (ANNA, BEN, "+19005551234", "+15550100002"))
    assert found.created_at <= datetime.now(UTC)
