"""Whole calls whose webhook goes to a server of the user's: what it gets, and that no call notices if it hangs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phoneagent import Agent, hang_up
from phoneagent.calls.afterwards import AT_ONCE, message_id
from phoneagent.events import CallEnded
from phoneagent.store import Store, afterwards
from tests.end_to_end.conftest import Worlds
from tests.receiver import HANG, SECRET, receiving

pytestmark = pytest.mark.anyio

AGENT = Agent(instructions="You are brief.", greeting="Hello!", tools=[hang_up])


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The date goes on as ever, while these calls skip time."""
    monkeypatch.setattr(afterwards, "SETTLE_SECONDS", 0.0)


async def test_a_call_is_delivered_as_it_is_recorded(world: Worlds, tmp_path: Path) -> None:
    async with (
        receiving() as there,
        Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store,
        world(AGENT, webhook_url=there.url, webhook_secret=SECRET, webhook_allow_private=True, store=store) as w,
    ):
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=300)
        await w.until(lambda: there.ids)
        record = await store.call(line.call_sid)
    assert record is not None
    assert there.ids == {message_id(line.call_sid): 1}
    assert there.verified[0]["data"]["call"] == json.loads(json.dumps(record.as_dict()))
    assert record.turns[0].text == "Hello!"


async def test_a_server_that_hangs_is_noticed_by_no_call(world: Worlds, tmp_path: Path) -> None:
    """More calls than it has requests at once: each is greeted and ends, and the app stops while the server hangs."""
    async with (
        receiving(HANG) as there,
        Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store,
        world(AGENT, webhook_url=there.url, webhook_secret=SECRET, webhook_allow_private=True, store=store) as w,
    ):
        for number in range(AT_ONCE + 2):
            async with w.phone().dial() as line:
                await line.wait_for_silence(ms=300)
            assert line.heard, number
            await w.until(lambda number=number: len(w.of(CallEnded)) == number + 1)
        await w.until(lambda: len(there.requests) >= AT_ONCE)
        assert there.ids == {}
