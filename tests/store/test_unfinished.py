"""Turns in progress: kept for the case of a crash, replaced at their end, and no burden on a database that is away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from phoneagent.bridge.steps import HangUp, Resume
from phoneagent.events import Turn
from phoneagent.store import Store, writer
from phoneagent.store.database import Database
from phoneagent.store.rows import RowBuilder
from tests.store.conftest import (
    CALLER,
    GREETING,
    OFFER,
    SID,
    WISH,
    Outage,
    ended,
    record_of,
    said,
    started,
    stores,
    until,
    written,
)
from tests.store.test_writer import GONE, fake, rows_of

pytestmark = pytest.mark.anyio
SOON = replace(OFFER, heard_text="We", start_ms=3600, end_ms=4000, heard_ms=400)
LATER = replace(OFFER, heard_text="We have one", start_ms=3610, end_ms=4800, heard_ms=1200)
WHOLE_OFFER = replace(OFFER, heard_text=OFFER.text, start_ms=3620, end_ms=6120, heard_ms=2500, interrupted=False)


async def test_what_was_heard_of_a_turn_in_progress_is_there_for_the_next_process(ready: str) -> None:
    async with stores(ready) as (first, second):
        first.tell(started())
        first.keep_unfinished(SID, "MZ1", [SOON], "answer")
        await first.flush()
        first.keep_unfinished(SID, "MZ1", [LATER])
        await first.flush()
        so_far = await second.so_far(SID)
        (turn,) = so_far.turns
        assert (turn.text, turn.heard_text, turn.interrupted) == (OFFER.text, "We have one", True)
        assert so_far.pending == (await second.standing(SID)).pending == "answer"


async def test_the_end_of_a_turn_replaces_what_was_kept_of_it(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        for turns in ([SOON], [LATER]):
            kept.keep_unfinished(SID, "MZ1", turns)
            await kept.flush()
        kept.tell(said(WHOLE_OFFER))
        assert (await record_of(kept)).turns == (WHOLE_OFFER,)
        kept.keep_unfinished(SID, "MZ1", [replace(WISH, text="", heard_text="")])
        kept.tell(said(WISH))  # in the same transaction
        assert (await record_of(kept)).turns == (WISH, WHOLE_OFFER)


async def test_the_record_of_a_call_that_did_not_come_back_has_its_last_words(ready: str) -> None:
    async with stores(ready) as (first, second):
        first.tell(started())
        first.tell(said(GREETING))
        first.keep_unfinished(SID, "MZ1", [LATER], "answer")
        await first.flush()
        assert await second.settle(SID, ended_by="caller", reason="the caller hung up")
        record = await record_of(second)
        assert record.turns == (GREETING, LATER)
        assert "pending" not in record.as_dict()


async def test_an_older_stream_does_not_change_what_is_open(ready: str) -> None:
    async with stores(ready) as (first, second):
        first.tell(started())
        first.keep_unfinished(SID, "MZ1", [], "answer")
        await first.flush()
        second.tell(started(stream_sid="MZ2", resumed=True))
        second.keep_unfinished(SID, "MZ2", [], "words")
        await second.flush()
        first.keep_unfinished(SID, "MZ1", [], "nothing")
        await first.flush()
        assert (await second.standing(SID)).pending == "words"


async def test_before_anything_is_kept_it_is_unknown_what_is_open(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        assert (await kept.standing(SID)).pending == (await kept.standing("CA9")).pending == "unknown"


async def test_a_step_has_its_own_word_on_what_is_open(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        kept.keep_unfinished(SID, "MZ1", [], "words")
        for step in (Resume(stream_sid="MZ1", pending="nothing", broke=False), HangUp(stream_sid="MZ1")):
            await kept.next_step(SID, step)
            standing = await kept.standing(SID)
            assert (standing.step, standing.pending) == (step, "words")


async def test_a_forgotten_call_is_not_recorded_again_by_what_is_being_said(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        await kept.forget(CALLER)
        kept.keep_unfinished(SID, "MZ1", [LATER], "answer")
        assert await kept.call(SID) is None


async def test_without_records_what_was_said_goes_with_the_call(ready: str) -> None:
    async with Store.from_url(ready, record_days=0) as kept:
        kept.tell(started())
        kept.keep_unfinished(SID, "MZ1", [LATER], "answer")
        await kept.flush()
        kept.tell(ended(transcript=(WHOLE_OFFER,)))
        assert await kept.call(SID) is None


async def test_all_calls_are_written_in_one_transaction(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sids = [f"CA{number:032x}" for number in range(60)]
    async with Store.from_url(ready) as kept:
        for sid in sids:
            kept.tell(started(sid))
        await kept.flush()
        transactions: list[object] = []
        write = Database.write

        async def counted(base: Database, work: Any) -> Any:
            transactions.append(work)
            return await write(base, work)

        monkeypatch.setattr(Database, "write", counted)
        for sid in sids:
            kept.keep_unfinished(sid, "MZ1", [SOON], "answer")
        await kept.flush()
        assert len(transactions) == 1
        assert {(await kept.standing(sid)).pending for sid in sids} == {"answer"}


async def test_during_an_outage_only_the_newest_words_wait(outage: Outage) -> None:
    async with Store.from_url(outage.url) as kept:
        kept.tell(started())
        await kept.flush()
        await outage.begin()
        for heard_ms in range(400, 1201, 4):
            kept.keep_unfinished(SID, "MZ1", [replace(LATER, heard_ms=heard_ms)], "answer")
            assert kept._writer.waiting <= 4
        await until(lambda: kept._writer._down)
        for heard_ms in range(1201, 1500):
            kept.keep_unfinished(SID, "MZ1", [replace(LATER, heard_ms=heard_ms)], "words")
            assert kept._writer.waiting <= 4
        await outage.end()
        await written(kept)
        (turn,) = (await kept.so_far(SID)).turns
        assert (turn.heard_ms, (await kept.standing(SID)).pending) == (1499, "words")


# --- the writer alone ---


def unfinished(turn: Turn) -> Any:
    return RowBuilder().unfinished(SID, "MZ1", [turn], None)


async def test_a_row_that_waits_is_replaced_and_one_that_is_being_written_is_not() -> None:
    base, target = fake()
    target.add(rows_of(started()))
    target.add(unfinished(SOON))
    target.add(unfinished(LATER))
    assert target.waiting == 3
    await target.flush()
    target.add(unfinished(WHOLE_OFFER))
    assert target.waiting == 1
    await target.flush()
    heard = [row["heard_ms"] for rows in base.transactions for row in rows if row["table"] == "turns"]
    assert heard == [LATER.heard_ms, WHOLE_OFFER.heard_ms]


async def test_the_memory_that_waits_is_counted_exactly() -> None:
    _, target = fake()
    target.add(unfinished(SOON))
    target.add(unfinished(replace(LATER, text="x" * 1000)))
    assert target._detail_bytes == sum(row.weight for row in target._detail)
    target.add(unfinished(replace(LATER, item_id="item_9")))
    assert target._detail_bytes == sum(row.weight for row in target._detail)
    await target.flush()
    assert (target._detail_bytes, target._newest) == (0, {})


async def test_it_is_written_at_once_but_not_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LINGER_SECONDS", "FIRST_RETRY_SECONDS"):
        monkeypatch.setattr(writer, name, 60.0)
    base, target = fake(None, GONE)
    target.add(unfinished(SOON), at_once=True)
    await until(lambda: base.tries == [1])
    target.add(unfinished(LATER), at_once=True)
    await until(lambda: base.tries == [1, 1])
    await until(lambda: target._down)
    target.add(unfinished(WHOLE_OFFER), at_once=True)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (base.tries, target.waiting) == ([1, 1], 1)
    await target.flush()
    assert base.tries == [1, 1, 1]
    await target.close(1)
