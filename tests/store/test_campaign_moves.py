"""A move in one transaction: if it fails in the middle, nothing of it has happened. The rest is in test_campaigns."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.store import Store, campaign_moves
from phoneagent.store.campaign_records import CampaignCall, Dial, Step
from phoneagent.store.rows import now
from tests.store.conftest import stores
from tests.store.test_campaigns import LATER, NUMBERS, counts, how, made, move, queue_of

pytestmark = pytest.mark.anyio


async def test_a_move_that_fails_in_the_middle_has_queued_nothing(ready: str) -> None:
    seen: list[str] = []

    def breaks(call: CampaignCall, barred: bool) -> Step:
        seen.append(call.to)
        if len(seen) == 3:
            raise RuntimeError("a fault")
        return Dial(now() + LATER)

    async with Store.from_url(ready) as store:
        campaign = await made(store)
        with pytest.raises(RuntimeError, match="a fault"):
            await store.campaigns.move(campaign.id, how(before_call=breaks))
        assert seen == NUMBERS[:3]
        assert await queue_of(store) == []
        assert await counts(store, campaign) == ("running", {"waiting": 12})
        assert (await move(store, campaign)).started == 3


async def test_an_attempt_that_is_in_the_queue_already_is_not_queued_again(ready: str) -> None:
    async with Store.from_url(ready) as store:
        campaign = await made(store, NUMBERS[:1])
        known = await store.outbound.add(NUMBERS[0], {}, f"campaign/{campaign.id}/2/1")
        await move(store, campaign)
        assert [row.id for row in await queue_of(store)] == [known.id]


async def test_a_person_who_is_forgotten_during_a_move_is_not_called(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, forgetting = campaign_moves.listed, list[asyncio.Task[int]]()
    async with stores(ready) as (store, other):
        campaign = await made(store, NUMBERS[:2])

        async def listed(connection: AsyncConnection, wanted: Collection[str]) -> set[str]:
            forgetting.append(asyncio.create_task(other.forget(NUMBERS[0])))
            await asyncio.wait(forgetting, timeout=0.3)  # it is done, or waits for the end of the move
            return await look(connection, wanted)

        monkeypatch.setattr(campaign_moves, "listed", listed)
        await move(store, campaign)
        await asyncio.gather(*forgetting)
        assert [row.called for row in await queue_of(store)] == NUMBERS[1:2]
