"""Readers of events whose process is killed: they come back to another one with their last id, and miss nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aiohttp
import pytest

from tests.resilience.callers import Callers
from tests.resilience.cluster import Process
from tests.resilience.conftest import Worlds

pytestmark = pytest.mark.anyio
TOKEN = "let-me-in"


class Reader:
    """A client of a stream of events, as `EventSource` is one: it remembers the last id."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.events: list[tuple[int, str]] = []
        self.begun = asyncio.Event()
        self.over = False

    async def follow(self, process: Process) -> None:
        """Read until the stream ends, for whatever reason."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        if self.events:
            headers["Last-Event-ID"] = str(self.events[-1][0])
        number = 0
        url = f"http://127.0.0.1:{process.port}{self._path}"
        with suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
                assert answer.status in (200, 204), answer.status
                self.over = answer.status == 204
                async for line in answer.content:
                    name, _, value = line.decode().strip().partition(": ")
                    if name == "retry":
                        self.begun.set()
                    elif name == "id":
                        number = int(value)
                    elif name == "event":
                        self.events.append((number, value))

    def count(self, name: str) -> int:
        return sum(event == name for _, event in self.events)

    async def until(self, name: str, count: int) -> None:
        """Wait until it has had so many events of a name."""
        while self.count(name) < count:
            await asyncio.sleep(0.01)


async def test_readers_of_a_process_that_is_killed_go_on_at_another_one(both: Worlds) -> None:
    async with both(PHONEAGENT_API_TOKEN=TOKEN) as w, asyncio.timeout(120):
        first, second = w.cluster.processes
        second.in_rotation = False
        everything, elsewhere = Reader("/events"), Reader("/events")
        following, theirs = asyncio.create_task(everything.follow(first)), asyncio.create_task(elsewhere.follow(second))
        await everything.begun.wait()
        await elsewhere.begun.wait()
        async with Callers(w.cluster, w.model, 0) as callers:
            await callers.enter(["greeting"] * 3)
            one = Reader(f"/calls/{callers.all[0].sid}/events")
            of_call = asyncio.create_task(one.follow(first))
            await everything.until("call_started", 3)
            await one.until("call_started", 1)
            second.in_rotation = True
            first.kill()
            for caller in callers.all:
                caller.killed_at.append(first.struck_at)
            await first.wait()
            await asyncio.gather(following, of_call)
            await asyncio.gather(*(caller.come_back(expect_voice=True) for caller in callers.all))
            following, of_call = (asyncio.create_task(each.follow(second)) for each in (everything, one))
            await everything.until("call_started", 6)
            await callers.leave()
            await asyncio.gather(*(each.until("call_ended", 3) for each in (everything, elsewhere)), of_call)
        await one.follow(second)
        assert one.over
        assert w.store.events is not None
        for each, call_sid in ((everything, None), (one, callers.all[0].sid)):
            log = (await w.store.events.page(each.events[0][0] - 1, 1000, call_sid=call_sid)).events
            assert each.events == [(event.id, event.type) for event in log][: len(each.events)]
            assert len(log) - len(each.events) <= 1, log[-2:]  # what comes after the end of the last call
        assert (one.events[0][1], one.events[-1][1]) == ("call_started", "call_ended")
        assert "missed" not in {name for each in (everything, elsewhere, one) for _, name in each.events}
        for task in (following, theirs):
            task.cancel()
        await asyncio.gather(following, theirs, return_exceptions=True)
