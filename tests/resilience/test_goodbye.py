"""A process that is killed while the agent says goodbye: the call is over, and nobody takes it up again."""

from __future__ import annotations

import asyncio

import pytest

from tests.resilience.callers import Callers
from tests.resilience.conftest import World, Worlds

pytestmark = pytest.mark.anyio


async def parting(w: World, call_sid: str) -> None:
    async with asyncio.timeout(20):
        while (step := (await w.store.standing(call_sid)).step) is None or step.kind != "hang_up":
            await asyncio.sleep(0.02)


async def test_a_call_whose_goodbye_is_cut_off_by_a_crash_is_over(world: Worlds) -> None:
    async with world() as w:
        first, second = w.cluster.processes
        second.in_rotation = False
        async with Callers(w.cluster, w.model, 2) as callers:
            await callers.enter(["silent", "silent"])
            second.in_rotation = True
            parts = [asyncio.create_task(caller.part()) for caller in callers.all]
            await asyncio.gather(*(parting(w, caller.sid) for caller in callers.all))
            assert all(caller.line.ended_by is None for caller in callers.all)
            first.kill()
            await first.wait()
            await asyncio.gather(*parts)
            for caller in callers.all:
                assert len(caller.line.streams) == 1, caller
                assert len(caller.sessions) == 1, caller
                async with asyncio.timeout(10):
                    while (record := await w.store.call(caller.sid)) is None or record.ended_at is None:
                        await asyncio.sleep(0.05)
                assert record.ended_by == "agent", record
