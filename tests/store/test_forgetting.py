"""What is to be forgotten is gone: on request, by its age, and at the end of the call."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from phoneagent.bridge.steps import HangUp
from phoneagent.store import Store, forgetting, rows, schema, store
from tests.patience import HANG_SECONDS
from tests.store.conftest import (
    CALLED,
    CALLER,
    GREETING,
    OFFER,
    RETURNED,
    SID,
    WHOLE,
    WISH,
    Outage,
    a_moment,
    contents,
    ended,
    rows_left,
    said,
    started,
    stores,
    until,
)

pytestmark = pytest.mark.anyio


async def test_a_call_is_forgotten_with_all_that_hangs_on_it(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        other = "CA" + "2" * 32
        for event in WHOLE:
            kept.tell(event)
        kept.tell(started(other))
        await kept.next_step(SID, HangUp())
        assert await kept.forget(SID) == 1
        assert await kept.forget(SID) == 0
        assert await kept.call(SID) is None
        assert (await kept.standing(SID)).step is None
        assert [record.call_sid for record in await kept.calls()] == [other]
        assert await rows_left(kept, schema.turns, schema.tools, schema.answers) == []


async def test_a_web_call_is_forgotten_by_its_id(ready: str) -> None:
    web, other = "WC" + "0a" * 16, "WC" + "0b" * 16
    async with stores(ready) as (ours, theirs):
        for sid in (web, other):
            ours.tell(started(sid, caller=None, called=None, direction="web"))
            ours.tell(said(GREETING, sid))
        await ours.flush()
        assert await theirs.forget(web) == 1
        ours.tell(said(WISH, web))  # it is live
        ours.tell(ended(web))
        assert [record.call_sid for record in await ours.calls()] == [other]
        assert {row.call_sid for row in await rows_left(ours, schema.turns, schema.streams)} == {other}


async def test_a_number_is_forgotten_where_it_is_the_person_s(ready: str) -> None:
    inbound, outbound, ours, older, nobody = (f"CA{number:032x}" for number in range(5))
    async with Store.from_url(ready) as kept:
        kept.tell(started(inbound))
        kept.tell(started(outbound, caller=CALLED, called=CALLER, direction="outbound-api"))
        kept.tell(started(ours, caller="+4930123456", called=CALLER))  # called, but by somebody else
        kept.tell(started(older, caller="sip:anna@pbx.example:5060"))
        kept.tell(started(nobody, caller=None))
        assert await kept.forget(" +33 (1) 23-45.67 89 ") == 2
        assert await kept.forget("sip:anna@pbx.example:5060") == 1
        assert await kept.forget("anonymous") == 0
        assert {record.call_sid for record in await kept.calls()} == {ours, nobody}


async def test_a_live_call_that_is_forgotten_stays_so(ready: str) -> None:
    async with stores(ready) as (ours, theirs):
        ours.tell(started())
        ours.tell(said(GREETING))
        await ours.flush()
        assert await theirs.forget(SID) == 1
        for event in WHOLE[2:]:
            ours.tell(event)
        assert await ours.call(SID) is None
        assert await ours.forgotten(SID)
        assert not await ours.forgotten("CA" + "2" * 32)


@pytest.mark.parametrize("by", [SID, CALLER])
async def test_a_call_is_marked_before_it_is_deleted_and_found_until_then(ready: str, by: str) -> None:
    async with stores(ready) as (ours, theirs):
        ours.tell(started())
        await ours.flush()
        for _ in range(2):
            ((sid, began),) = await theirs.begin_forgetting(by)
            assert await ours.forgotten(SID)
            record = await ours.call(SID)
            assert record is not None
            assert (sid, began) == (SID, record.started_at)
        assert await theirs.forget(by) == 1
        assert await theirs.begin_forgetting(by) == []


@pytest.mark.parametrize("by", [SID, CALLER])
async def test_a_call_that_is_forgotten_while_it_rings_is_not_recorded(ready: str, by: str) -> None:
    async with Store.from_url(ready) as kept:
        made = await kept.outbound.add(CALLER, {})
        await kept.outbound.tell(made.id, SID, "ringing")
        assert await kept.forget(by) == 0
        assert await kept.outbound.get(made.id) is None
        assert await kept.forgotten(SID)
        kept.tell(started(caller=CALLED, called=CALLER, direction="outbound-api"))
        assert await kept.call(SID) is None


async def test_a_call_that_was_answered_is_marked_once_and_one_that_is_over_not_at_all(ready: str) -> None:
    answered, over = SID, "CA" + "2" * 32
    async with Store.from_url(ready) as kept:
        for sid, status in ((answered, "in-progress"), (over, "busy")):
            made = await kept.outbound.add(CALLER, {})
            await kept.outbound.tell(made.id, sid, status)
        kept.tell(started(answered, caller=CALLED, called=CALLER, direction="outbound-api"))
        assert await kept.forget(CALLER) == 1
        assert [await kept.forgotten(sid) for sid in (answered, over)] == [True, False]


async def test_without_a_database_nothing_was_forgotten(tmp_path: Path) -> None:
    async with Store.from_url(f"sqlite:///{tmp_path}/none.db") as kept:
        assert not await kept.forgotten(SID)
        assert await kept.begin_forgetting(SID) == []
        assert kept.empty


@pytest.mark.parametrize("by", [SID, CALLER])
async def test_a_forgotten_call_stays_so_when_it_goes_on_elsewhere(ready: str, by: str) -> None:
    async with stores(ready, 3) as (first, second, third):
        first.tell(started(stream_sid="MZ1"), stream_sid="MZ1")
        first.tell(said(GREETING))
        await first.flush()
        assert await third.forget(by) == 1
        other = "CA" + "2" * 32
        for resumed in (started(stream_sid="MZ2", resumed=True), started(other, stream_sid="MZ3", resumed=True)):
            second.tell(resumed, stream_sid=resumed.stream_sid)
        second.tell(said(WISH), stream_sid="MZ2")
        first.tell(ended(ended_by="line"), stream_sid="MZ1")
        first.tell(started(stream_sid="MZ1"))  # late, and told twice
        second.tell(ended(), stream_sid="MZ2")
        third.tell(ended(), stream_sid="MZ4")  # of a stream whose start it has not seen
        for kept in (first, second, third):
            await kept.flush()
        assert [record.call_sid for record in await third.calls()] == [other]
        assert {row.call_sid for row in await rows_left(third, schema.turns, schema.streams)} == {other}


async def test_a_call_that_is_over_for_long_is_forgotten_without_a_trace(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        await kept.flush()
        await a_moment()
        monkeypatch.setattr(forgetting, "MAX_CALL_SECONDS", 0.001)
        assert await kept.forget(SID) == 1
        assert await rows_left(kept, schema.claims) == []


async def test_that_a_call_was_forgotten_is_itself_forgotten(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        assert await kept.forget(SID) == 1
        assert len(await rows_left(kept, schema.claims)) == 1
        kept.tell(started())
        assert await kept.forget(SID) == 0
        await kept.sweep()
        assert len(await rows_left(kept, schema.claims)) == 1
        past = sa.update(schema.claims).values(until=rows.now() - timedelta(seconds=1))
        await kept._database.write(lambda connection: connection.execute(past))
        await kept.sweep()
        assert await rows_left(kept, schema.claims) == []


async def test_what_is_forgotten_is_no_longer_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "phoneagent.db"
    async with Store.from_url(f"sqlite:///{path}") as kept:
        for event in WHOLE:
            kept.tell(event)
        await kept.flush()
        assert any(OFFER.text.encode() in content for content in contents(tmp_path))
        await kept.forget(CALLER)
        await until(lambda: contents(tmp_path) == [path.read_bytes()])  # its log is gone, although the store is open
    for content in contents(tmp_path):
        assert OFFER.text.encode() not in content
        assert CALLER.encode() not in content


async def test_with_record_days_0_nothing_is_left_after_the_call(ready: str) -> None:
    async with Store.from_url(ready, record_days=0) as kept:
        for event in WHOLE[:-1]:
            kept.tell(event)
        assert await kept.call(SID) is not None
        await kept.next_step(SID, HangUp())
        kept.tell(WHOLE[-1])
        assert await kept.call(SID) is None
        kept.tell(RETURNED)  # a tool that was slower than its call
        kept.tell(WHOLE[-1])
        assert await kept.calls() == []
        assert (await kept.standing(SID)).step == HangUp()  # Twilio is going to ask for it
        kept.tell(started())
        assert await kept.settle(SID, ended_by="caller", reason="completed")
        assert await kept.calls() == []


async def test_old_records_are_swept(ready: str) -> None:
    live, old = f"CA{1:032x}", f"CA{2:032x}"
    async with Store.from_url(ready) as kept:
        kept.tell(started(live))
        kept.tell(started(old))
        kept.tell(ended(old, duration_ms=1))
        await kept.claim("token", -1)
        await kept.flush()
        assert await kept.sweep() == 0
        await a_moment()
        assert await kept.sweep(days=0) == 1
        assert [record.call_sid for record in await kept.calls()] == [live]
        assert await rows_left(kept, schema.claims) == []


async def test_a_call_that_never_reported_its_end_is_closed(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "MAX_CALL_SECONDS", -1.0)
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        kept.tell(said(WISH))
        await kept.flush()
        await kept.sweep()
        record = await kept.call(SID)
        assert record is not None
        assert (record.ended_by, record.duration_ms) == ("error", WISH.start_ms)


async def test_sweeps_happen_by_themselves_and_survive_an_outage(
    outage: Outage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "phoneagent.store")
    monkeypatch.setattr(store, "FIRST_SWEEP_SECONDS", 0.0)
    monkeypatch.setattr(store, "SWEEP_SECONDS", 0.02)
    async with Store.from_url(outage.url, record_days=1) as kept:
        kept.tell(started())
        await kept.flush()
        await outage.begin()
        await until(lambda: "old records were not deleted" in caplog.text)
        await outage.end()
        kept.tell(ended())
        await kept.flush()
        long_ago = sa.update(schema.calls).values(ended_at=rows.now() - timedelta(days=2))
        await kept._database.write(lambda connection: connection.execute(long_ago))
        async with asyncio.timeout(HANG_SECONDS):  # the sweep that deletes it may tell of a part that failed instead
            while await kept.calls():
                await asyncio.sleep(0.005)
