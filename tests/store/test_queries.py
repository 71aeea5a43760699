"""What is read back of a call: its record, its cost, and where it stands."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from phoneagent.bridge.steps import HangUp, Resume
from phoneagent.events import CallTransferred, Cost, Pause
from phoneagent.store import (
    MessageRecord,
    RecordingRecord,
    SoFar,
    Standing,
    Store,
    UsageRecord,
    queries,
    schema,
)
from tests.store.conftest import (
    BROKEN,
    CALLED,
    CALLER,
    FACT,
    GREETING,
    HEARD,
    OFFER,
    RECORDED,
    RECORDING,
    RETURNED,
    SID,
    TOOL,
    USED,
    WHOLE,
    WISH,
    a_moment,
    contents,
    record_of,
    rows_left,
    said,
    started,
    stores,
)

pytestmark = pytest.mark.anyio
START = datetime(2026, 11, 20, 19, 30, tzinfo=UTC)


async def test_a_record_has_the_transfers_by_name_and_outcome(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(WHOLE[0])
        kept.tell(CallTransferred(call_sid=SID, to_name="billing", outcome="busy", warm=True))
        await kept.flush()
        kept.tell(CallTransferred(call_sid=SID, to_name="sales", outcome="completed"))
        record = await kept.call(SID)
        assert record is not None
        first, second = record.transfers
        assert (first.to_name, first.outcome, first.warm) == ("billing", "busy", True)
        assert (second.to_name, second.outcome, second.warm) == ("sales", "completed", False)
        assert record.as_dict()["transfers"][0] == {
            "at_ms": first.at_ms, "to_name": "billing", "outcome": "busy", "warm": True,
        }  # fmt: skip
        await kept.forget(SID)
        assert await rows_left(kept, schema.call_transfers) == []


async def test_a_call_is_recorded_as_it_happened(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        for event in WHOLE:
            kept.tell(event)
        record = await kept.call(SID)
        assert record is not None
        assert (record.caller, record.called, record.direction, record.stream_sid) == (CALLER, CALLED, "inbound", "MZ1")
        assert (record.ended_by, record.reason, record.duration_ms) == ("agent", "the goodbye was heard", 9000)
        assert record.turns == (GREETING, WISH, OFFER)
        assert record.messages == (MessageRecord(role="system", text="A regular.", at_ms=1200),)
        assert [(tool.name, tool.arguments, tool.output, tool.at_ms, tool.ms) for tool in record.tools] == [
            ("book", '{"guests":4}', "Booked", 3100, 50)
        ]
        assert [(answer.at_ms, answer.latency_ms) for answer in record.answers] == [(3600, 600)]
        assert record.cost == HEARD.total
        assert record.usage == (
            UsageRecord(model="gpt-realtime-2.1", usage=USED.usage, cost=USED.cost),
            UsageRecord(model="house-recogniser", usage=HEARD.usage, cost=HEARD.cost),
        )
        assert record.latency_ms(0.5) == record.latency_ms(0.95) == 600
        assert CALLER not in repr(record)
        assert GREETING.text not in repr(record)
        (listed,) = await kept.calls()
        assert (listed.call_sid, listed.started_at, listed.duration_ms) == (SID, record.started_at, 9000)
        assert listed.cost == record.cost
        assert listed.as_dict()["cost"] == {"usd": "0.008160001", "at_least": True}


async def test_the_cost_of_all_streams_of_a_call_is_added_up(ready: str) -> None:
    async with stores(ready) as (first, second):
        first.tell(started())
        first.tell(started("CA2"))
        first.tell(USED)
        await first.flush()
        second.tell(started(stream_sid="MZ2", resumed=True))
        second.tell(replace(USED, model="gpt-realtime-mini"))  # the first report of its stream as well
        second.tell(replace(USED, number=2))
        record = await second.call(SID)
        assert record is not None
        assert record.cost == Cost(3 * USED.cost.usd)
        assert {used.model: used.usage.audio_out for used in record.usage} == {
            "gpt-realtime-2.1": 140,
            "gpt-realtime-mini": 70,
        }
        assert {each.call_sid: each.cost for each in await second.calls()} == {SID: record.cost, "CA2": None}
        assert await second.forget(SID) == 1
        assert await rows_left(second, schema.usage) == []


async def test_the_latest_calls_are_listed_first(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        for number in range(4):
            kept.tell(started(f"CA{number:032x}"))
            await a_moment()
        assert [record.call_sid[-1] for record in await kept.calls(3)] == ["3", "2", "1"]


async def test_the_list_of_calls_goes_on_after_any_of_them(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        for number in range(6):  # some of them in the same millisecond
            kept.tell(started(f"CA{number}"))
        whole = await kept.calls()
        assert len(whole) == 6
        for index, record in enumerate(whole):
            assert await kept.calls(after=(record.started_at, record.call_sid)) == whole[index + 1 :]
        assert await kept.calls(1, after=(whole[0].started_at, whole[0].call_sid)) == whole[1:2]
        sids = [record.call_sid for record in whole]
        assert [each.call_sid for each in await kept.calls(without=sids[:3])] == sids[3:]


async def test_calls_that_are_over_and_calls_that_are_not(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        for event in WHOLE:
            kept.tell(event)
        kept.tell(started("CA2"))
        for ended, sids in ((True, [SID]), (False, ["CA2"])):
            assert [each.call_sid for each in await kept.calls(ended=ended)] == sids
        assert {each.call_sid for each in await kept.calls()} == {SID, "CA2"}


async def test_where_a_call_stands_is_known_without_all_of_it(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        assert await kept.standing(SID) == Standing()
        assert await kept.so_far(SID) == SoFar()
        step = Resume(stream_sid="MZ1", pending="answer")
        await kept.next_step(SID, step)
        assert await kept.standing(SID) == Standing(step=step)
        for event in (started(), said(GREETING), TOOL, RETURNED, BROKEN):
            kept.tell(event)
        kept.tell(started("CA" + "2" * 32, stream_sid="MZ9"))
        await kept.next_step("CA" + "2" * 32, HangUp())
        record = await record_of(kept)
        standing = Standing(stream_sid="MZ1", started_at=record.started_at, ended_by="line", step=step)
        assert await kept.standing(SID) == standing
        so_far = await kept.so_far(SID)
        assert (so_far.stream_sid, so_far.started_at, so_far.ended_by, so_far.step) == (
            standing.stream_sid,
            standing.started_at,
            standing.ended_by,
            standing.step,
        )
        assert (so_far.turns, so_far.tools) == (record.turns, record.tools)
        assert len(so_far.turns) == len(so_far.tools) == 1


async def test_a_call_stands_nowhere_while_there_is_no_database(tmp_path: Path) -> None:
    async with Store.from_url(f"sqlite:///{tmp_path}/phoneagent.db") as kept:
        assert (await kept.standing(SID), await kept.so_far(SID)) == (Standing(), SoFar())
    assert contents(tmp_path) == []


async def test_what_was_said_and_done_so_far_has_messages_and_cost(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        for event in (started(), FACT, USED, HEARD):
            kept.tell(event)
        so_far = await kept.so_far(SID)
        assert so_far.messages == (MessageRecord(role="system", text="A regular.", at_ms=1200),)
        assert so_far.cost == HEARD.total


async def test_costs_of_more_calls_than_one_statement_takes(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MAX_PARAMETERS", 2)
    sids = [f"CA{number:032x}" for number in range(5)]
    async with Store.from_url(ready) as kept:
        for sid in sids:
            kept.tell(started(sid))
            kept.tell(replace(USED, call_sid=sid))
        assert {each.call_sid: each.cost for each in await kept.calls()} == dict.fromkeys(sids, USED.cost)


async def test_a_call_that_is_not_recorded_is_none(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        assert await kept.call("CA" + "2" * 32) is None


async def test_the_pauses_of_a_turn_are_on_the_call_s_clock(ready: str) -> None:
    pauses = (Pause(start_ms=500, end_ms=900, cause="echo"), Pause(start_ms=1000, end_ms=1310, cause="backchannel"))
    paused = replace(GREETING, end_ms=2230, pauses=pauses)
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        kept.tell(said(paused))
        record = await kept.call(SID)
        assert record is not None
        assert record.turns == (paused,)
        assert record.as_dict()["turns"][0]["pauses"][1] == {"start_ms": 1000, "end_ms": 1310, "cause": "backchannel"}


async def test_the_record_tells_how_the_recording_stands(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started(), stream_sid="MZ1")
        assert (await record_of(kept)).recording is None
        assert (await record_of(kept)).as_dict()["recording"] is None
        kept.tell(RECORDING, stream_sid="MZ1")
        assert (await kept.so_far(SID)).recording == RecordingRecord(
            status="in-progress", where="/recordings/day/CA1", complete=True, duration_ms=None
        )
        kept.tell(replace(started(), stream_sid="MZ2", resumed=True))
        kept.tell(RECORDED, stream_sid="MZ1")  # its stream is not the latest any more
        assert (await kept.calls())[0].recording == (await kept.so_far(SID)).recording
        kept.tell(RECORDED, stream_sid="MZ2")
        assert (await record_of(kept)).as_dict()["recording"] == {
            "status": "completed", "where": "/recordings/day/CA1", "complete": False, "duration_ms": 9080
        }  # fmt: skip


async def test_the_calls_of_a_person_are_found_as_they_are_forgotten(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started(), stream_sid="MZ1")
        (found,) = await kept.begin_forgetting(SID)
        assert found == ((await record_of(kept)).call_sid, (await record_of(kept)).started_at)
        assert await kept.begin_forgetting((await record_of(kept)).caller or "") == [found]
        assert await kept.begin_forgetting((await record_of(kept)).called or "") == []
