"""Outcomes in the database: each is written once, and what it cost is part of the call's cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from phoneagent.errors import StoreError
from phoneagent.events import Cost, Usage
from phoneagent.store import Store
from phoneagent.store.outcomes import Spent
from phoneagent.store.schema import usage
from tests.patience import HANG_SECONDS
from tests.store.conftest import BROKEN, SID, WHOLE, Outage, a_moment, ended, record_of, rows_left, started, stores

pytestmark = pytest.mark.anyio
SPENT = Spent("small", Usage(text_in=100, text_out=10), Cost(Decimal("0.5")))
OUTCOME = {"booked": True, "guests": 4, "note": "été \0 \\u0000", "days": [], "none": None}


@pytest.fixture
async def kept(ready: str) -> AsyncIterator[Store]:
    async with Store.from_url(ready) as made:
        for event in WHOLE:
            made.tell(event, stream_sid="MZ1")
        await made.flush()
        yield made


async def test_the_record_has_the_outcome_and_its_cost(kept: Store) -> None:
    before = await record_of(kept)
    assert (before.outcome, before.outcome_error) == (None, None)
    assert await kept.outcomes.write(SID, "MZ1", OUTCOME, None, [SPENT, SPENT])
    record = await record_of(kept)
    assert record.outcome == OUTCOME
    assert record.outcome_error is None
    assert before.cost is not None
    assert record.cost == Cost(before.cost.usd + 1, before.cost.at_least)
    (small,) = [each for each in record.usage if each.model == "small"]
    assert (small.usage, small.cost) == (Usage(text_in=200, text_out=20), Cost(Decimal(1)))
    (listed,) = await kept.calls()
    assert (listed.outcome, listed.cost) == (OUTCOME, record.cost)
    assert "booked" not in repr(record)
    assert record.as_dict()["outcome"] == OUTCOME


async def test_only_the_first_one_counts(kept: Store) -> None:
    assert await kept.outcomes.write(SID, "MZ1", None, "no \0 answer")
    assert not await kept.outcomes.write(SID, "MZ1", OUTCOME, None)
    assert not await kept.outcomes.write(SID, "MZ1", None, "again")
    record = await record_of(kept)
    assert (record.outcome, record.outcome_error) == (None, "no  answer")


async def test_processes_that_write_at_once_lose_neither_outcome_nor_cost(kept: Store, ready: str) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        async for _ in _several(kept, ready):
            pass
    record = await record_of(kept)
    (small,) = [each for each in record.usage if each.model == "small"]
    assert small.usage.text_in == 400


async def _several(kept: Store, url: str) -> AsyncIterator[None]:
    async with stores(url, 3) as others:
        written = await asyncio.gather(
            *(
                each.outcomes.write(SID, "MZ1", {"by": number}, None, [SPENT])
                for number, each in enumerate([kept, *others])
            )
        )
        assert sorted(written) == [False, False, False, True]
        yield


async def test_an_attempt_that_came_to_nothing_has_its_cost(kept: Store) -> None:
    before = await record_of(kept)
    await kept.outcomes.charge(SID, [])
    await kept.outcomes.charge(SID, [SPENT])
    await kept.outcomes.charge(SID, [SPENT])
    record = await record_of(kept)
    assert before.cost is not None
    assert record.cost is not None
    assert record.cost.usd == before.cost.usd + 1
    assert (record.outcome, record.outcome_error) == (None, None)


async def test_nothing_is_written_of_a_call_that_was_forgotten(kept: Store) -> None:
    assert await kept.forget(SID) == 1
    assert not await kept.outcomes.write(SID, "MZ1", OUTCOME, None, [SPENT])
    await kept.outcomes.charge(SID, [SPENT])
    assert await kept.call(SID) is None
    assert await rows_left(kept, usage) == []


@pytest.mark.parametrize(("outcome", "error"), [(OUTCOME, None), (None, "no answer")])
async def test_a_call_that_goes_on_after_all_gets_another_one(
    ready: str, outcome: dict[str, Any] | None, error: str | None
) -> None:
    async with Store.from_url(ready) as made:
        for event in (started(), BROKEN):
            made.tell(event, stream_sid="MZ1")
        await made.flush()
        assert await made.outcomes.write(SID, "MZ1", outcome, error, [SPENT])
        made.tell(started(stream_sid="MZ2", resumed=True), stream_sid="MZ2")
        record = await record_of(made)
        assert (record.ended_at, record.outcome, record.outcome_error) == (None, None, None)
        assert record.cost is not None
        made.tell(ended(), stream_sid="MZ2")
        await made.flush()
        assert await made.outcomes.write(SID, "MZ2", {"guests": 5}, None)
        assert (await record_of(made)).outcome == {"guests": 5}


async def test_the_first_part_of_a_call_that_came_back_is_not_the_whole_call(ready: str) -> None:
    async with Store.from_url(ready) as made:
        for event in (started(), ended(ended_by="caller", duration_ms=0)):
            made.tell(event, stream_sid="MZ1")
        await made.flush()
        await a_moment()
        made.tell(started(stream_sid="MZ2", resumed=True), stream_sid="MZ2")
        await made.flush()
        assert not await made.outcomes.write(SID, "MZ1", OUTCOME, None, [SPENT]), "it is live"
        made.tell(ended(), stream_sid="MZ2")
        await made.flush()
        assert not await made.outcomes.write(SID, "MZ1", None, "no answer")
        record = await record_of(made)
        assert (record.outcome, record.outcome_error, record.cost) == (None, None, SPENT.cost)
        assert await made.outcomes.write(SID, "MZ2", OUTCOME, None)


async def test_a_call_that_is_only_reported_again_keeps_it(kept: Store) -> None:
    assert await kept.outcomes.write(SID, "MZ1", OUTCOME, None)
    kept.tell(started(), stream_sid="MZ1")
    kept.tell(ended(), stream_sid="MZ1")
    assert (await record_of(kept)).outcome == OUTCOME


async def test_forgetting_a_call_forgets_its_outcome(kept: Store) -> None:
    assert await kept.outcomes.write(SID, "MZ1", OUTCOME, None, [SPENT])
    assert await kept.forget(SID) == 1
    assert await rows_left(kept, usage) == []


async def test_a_database_that_is_away_is_told(outage: Outage) -> None:
    async with Store.from_url(outage.url) as made:
        for event in WHOLE:
            made.tell(event, stream_sid="MZ1")
        await made.flush()
        await outage.begin()
        with pytest.raises(StoreError):
            await made.outcomes.write(SID, "MZ1", OUTCOME, None, [SPENT])
        await outage.end()
        assert await made.outcomes.write(SID, "MZ1", OUTCOME, None, [SPENT])
