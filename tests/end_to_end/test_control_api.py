"""A whole call as another program sees it over HTTP: while it is live, as it happens, and afterwards."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from phoneagent import Agent, CallEnded, tool
from phoneagent.sim.speech import Murmur
from phoneagent.store import Store
from tests.end_to_end.conftest import Worlds
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
TOKEN = {"Authorization": "Bearer let-me-in"}


@tool
async def book(guests: int) -> str:
    """Book a table."""
    return f"Booked for {guests}."


async def test_a_call_is_listed_followed_and_read_afterwards(world: Worlds, tmp_path: Path) -> None:
    agent = Agent(name="host", instructions="x", greeting="Chez Nous, good evening!", tools=[book])
    script = '[[turn]]\ncall = "book"\narguments = { guests = 4 }\nthen = "Your table is booked."'
    async with (
        Store.from_url(f"sqlite:///{tmp_path / 'calls.db'}") as store,
        world(agent, script, store=store, api_token=SecretStr("let-me-in")) as w,
        aiohttp.ClientSession(w.url, headers=TOKEN) as http,
    ):

        async def read(path: str) -> Any:
            async with http.get(path) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

        async with w.phone(caller="+15550100077").dial() as line:
            (live,) = (await read("/calls"))["calls"]
            assert (live["state"], live["agent"], live["caller"]) == ("live", "host", "+1••••••77")
            assert live["floor"] in ("agent", "thinking", "open")
            sid = live["call_sid"]
            events = await http.get(f"/calls/{sid}/events")
            await line.wait_for_silence(ms=300)
            await line.say(Murmur().render("A table for four, please."))
            await line.wait_for_silence(ms=300)
        async with asyncio.timeout(HANG_SECONDS):
            lines = (await events.text()).splitlines()  # the stream ends with the call
        told = [json.loads(each.removeprefix("data: ")) for each in lines if each.startswith("data: ")]
        names = [each["type"] for each in told]
        assert (names[0], names[-1]) == ("call_started", "call_ended")
        assert names.index("tool_called") < names.index("tool_returned")
        heard = [each["turn"]["heard_text"] for each in told if each["type"] == "turn_ended"]
        assert heard[0] == "Chez Nous, good evening!"
        await w.until(lambda: w.of(CallEnded) and not w.app.calls)
        past = await read(f"/calls/{sid}?numbers=full")
        assert (past["state"], past["caller"], past["ended_by"]) == ("ended", "+15550100077", "caller")
        assert [turn["heard_text"] for turn in past["record"]["turns"]] == heard
        assert [each["output"] for each in past["record"]["tool_calls"]] == ["Booked for 4."]
        assert [each["call_sid"] for each in (await read("/calls?state=ended"))["calls"]] == [sid]
        assert (await read("/calls?state=live"))["calls"] == []
        await store.flush()
