"""A move in one transaction: if it fails in the middle, nothing of it has happened. The rest is in test_campaigns."""

from __future__ import annotations

import pytest

from phoneagent.store import Store
from phoneagent.store.campaign_records import CampaignCall, Dial, Step
from phoneagent.store.rows import now
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
