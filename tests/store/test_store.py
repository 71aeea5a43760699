"""Records of calls, and the journal, on both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from phoneagent.bridge.steps import HangUp, Resume
from phoneagent.errors import StoreError
from phoneagent.store import Store, engines
from tests.patience import HANG_SECONDS
from tests.store.conftest import (
    CALLER,
    GREETING,
    OFFER,
    RETURNED,
    SID,
    TOOL,
    WHOLE,
    WISH,
    Outage,
    ended,
    said,
    started,
    stores,
    until,
    written,
)

pytestmark = pytest.mark.anyio


async def test_another_process_reads_it_while_the_call_goes_on(ready: str) -> None:
    async with stores(ready) as (ours, theirs):
        ours.tell(started())
        ours.tell(said(GREETING))
        async with asyncio.timeout(HANG_SECONDS):
            while (record := await theirs.call(SID)) is None or not record.turns:
                await asyncio.sleep(0.02)
        assert record.ended_by is None
        assert record.duration_ms is None


async def test_duplicates_change_nothing(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        for event in WHOLE:
            kept.tell(event)
        once = await kept.call(SID)
        for event in [*WHOLE, *WHOLE]:
            kept.tell(event)
            await kept.flush()
        assert await kept.call(SID) == once


async def test_the_order_in_which_facts_arrive_changes_nothing(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        for event in reversed(WHOLE):
            kept.tell(event)
            await kept.flush()
        record = await kept.call(SID)
        assert record is not None
        assert [turn.text for turn in record.turns] == [GREETING.text, WISH.text, OFFER.text]
        assert [(tool.arguments, tool.output, tool.ms) for tool in record.tools] == [('{"guests":4}', "Booked", 50)]
        assert (record.caller, record.ended_by) == (CALLER, "agent")


async def test_a_resumed_call_is_one_record_on_one_clock(ready: str) -> None:
    async with stores(ready) as (first, second):
        first.tell(started())
        first.tell(said(GREETING))
        await first.flush()
        before = await first.call(SID)
        second.tell(started(stream_sid="MZ2", resumed=True))  # another process; its model numbers items from 1 as well
        second.tell(said(replace(WISH, item_id="item_1", start_ms=100, end_ms=900)))
        second.tell(ended(duration_ms=5000))
        record = await second.call(SID)
        assert before is not None
        assert record is not None
        assert [turn.text for turn in record.turns] == [GREETING.text, WISH.text]
        assert record.turns[1].start_ms >= 0
        assert (record.started_at, record.stream_sid) == (before.started_at, "MZ2")
        assert record.duration_ms is not None
        assert record.duration_ms >= 5000
        first.tell(started())  # a late duplicate does not open it again
        await first.flush()
        again = await second.call(SID)
        assert again is not None
        assert again.ended_by == "agent"


async def test_a_text_that_came_late_is_in_the_record(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        kept.tell(said(replace(GREETING, text="", heard_text="")))
        await kept.flush()
        kept.tell(ended(transcript=(GREETING,)))
        record = await kept.call(SID)
        assert record is not None
        assert record.turns == (GREETING,)


async def test_text_that_no_database_takes_is_cleaned(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started(caller="+1\x00555\ud800"))
        kept.tell(said(replace(GREETING, text="a\x00b\udfffc 😀", heard_text="")))
        record = await kept.call(SID)
        assert record is not None
        assert record.caller == "+1555?"
        assert record.turns[0].text == "ab?c 😀"


async def test_an_event_outside_of_a_loop_is_reported_and_does_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Store.from_url(f"sqlite:///{tmp_path}/phoneagent.db")
    await asyncio.to_thread(kept.tell, started())
    assert "an event was not recorded: CallStarted" in caplog.text
    await kept.close()


async def test_a_tool_that_started_is_known_to_others_before_it_runs(ready: str) -> None:
    async with stores(ready) as (ours, theirs):
        ours.tell(started())
        await ours.tool_started(SID, "call_1", "book", '{"guests":4}')
        record = await theirs.call(SID)
        assert record is not None
        assert [(tool.call_id, tool.name, tool.output) for tool in record.tools] == [("call_1", "book", None)]
        ours.tell(TOOL)
        ours.tell(RETURNED)
        record = await ours.call(SID)
        assert record is not None
        assert [(tool.call_id, tool.output) for tool in record.tools] == [("call_1", "Booked")]


async def test_the_next_step_is_known_to_others(ready: str) -> None:
    async with stores(ready) as (ours, theirs):
        await ours.next_step(SID, Resume(stream_sid="MZ1", pending="answer", broke=False))
        step = (await theirs.standing(SID)).step
        assert step == Resume(stream_sid="MZ1", pending="answer", broke=False)
        await theirs.next_step(SID, HangUp())
        assert (await ours.standing(SID)).step == HangUp()
        assert (await ours.standing("CA0")).step is None


async def test_a_next_step_that_could_not_be_written_never_is(outage: Outage) -> None:
    async with Store.from_url(outage.url) as kept:
        kept.tell(started())
        await kept.flush()
        await outage.begin()
        with pytest.raises(StoreError):
            await kept.next_step(SID, HangUp())
        await outage.end()
        kept.tell(ended())
        await kept.flush()
        assert (await kept.standing(SID)).step is None


async def test_a_next_step_that_the_call_did_not_wait_for_is_not_written(
    outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    if outage.is_sqlite:
        monkeypatch.setattr(engines, "BUSY_SECONDS", 5.0)
    async with Store.from_url(outage.url) as kept:
        await kept.next_step(SID, HangUp())
        await outage.hold()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await kept.next_step(SID, Resume())
        await outage.end()
        await until(lambda: not kept._database._at_work)
        assert (await kept.standing(SID)).step == HangUp()


async def test_a_tool_whose_start_could_not_be_written_says_so_and_is_written_later(outage: Outage) -> None:
    async with Store.from_url(outage.url) as kept:
        kept.tell(started())
        await kept.flush()
        await outage.begin()
        with pytest.raises(StoreError):
            await kept.tool_started(SID, "call_1", "book", "{}")
        await outage.end()
        await written(kept)
        record = await kept.call(SID)
        assert record is not None
        assert [tool.call_id for tool in record.tools] == ["call_1"]


async def test_an_end_from_elsewhere_closes_only_what_is_open(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        assert not await kept.settle(SID, ended_by="caller", reason="completed")
        assert await kept.call(SID) is None
        kept.tell(started())
        assert await kept.settle(SID, ended_by="caller", reason="completed")
        assert not await kept.settle(SID, ended_by="error", reason="failed")
        record = await kept.call(SID)
        assert record is not None
        assert (record.ended_by, record.reason) == ("caller", "completed")
        kept.tell(ended())  # the session knows better
        record = await kept.call(SID)
        assert record is not None
        assert record.ended_by == "agent"


async def test_many_calls_at_once_from_several_processes_are_no_trouble(ready: str) -> None:
    async def answer(kept: Store, number: int) -> bool:
        kept.tell(started(f"CA{number:032x}"))
        taken = await kept.claim(f"token {number}", 60)
        await kept.tool_started(f"CA{number:032x}", "call_1", "book", "{}")
        await kept.next_step(f"CA{number:032x}", HangUp())
        return taken

    async with stores(ready, 3) as several:
        taken = await asyncio.gather(*(answer(kept, number) for number in range(30) for kept in several))
        assert sum(taken) == 30
        for kept in several:
            await kept.flush()
        assert len(await several[0].calls()) == 30


async def test_a_name_is_claimed_once_by_all_processes(ready: str) -> None:
    async with stores(ready, 3) as several:
        taken = await asyncio.gather(*(each.claim("token", 60) for each in several for _ in range(3)))
        assert sorted(taken) == [False] * 8 + [True]
        assert await several[0].claim("expired", -1)
        assert await several[1].claim("expired", 60)
        assert not await several[2].claim("expired", 60)
