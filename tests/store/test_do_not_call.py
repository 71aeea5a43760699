"""The numbers that are never called: put on the list, taken off it, and kept when a person's records go."""

from __future__ import annotations

import pytest

from phoneagent.store import Store
from phoneagent.store.do_not_call import BATCH

pytestmark = pytest.mark.anyio

ANNA, BEN = "+12025550100", "+12025550101"


async def test_numbers_are_put_on_the_list_and_taken_off_it(ready: str) -> None:
    async with Store.from_url(ready) as store:
        never = store.campaigns.do_not_call
        await never.add([ANNA, ANNA])
        await never.add([ANNA])
        await never.add([])
        assert (await never.holds(ANNA), await never.holds(BEN)) == (True, False)
        await store.forget(ANNA)
        assert await never.holds(ANNA), "a person who is forgotten is not to be called again"
        assert (await never.remove(ANNA), await never.remove(ANNA), await never.holds(ANNA)) == (True, False, False)


async def test_a_long_list_is_added_in_batches(ready: str) -> None:
    async with Store.from_url(ready) as store:
        many = [f"+1202555{n:04}" for n in range(2 * BATCH + 1)]
        await store.campaigns.do_not_call.add(many)
        assert await store.campaigns.do_not_call.holds(many[-1])
