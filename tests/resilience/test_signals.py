"""Signals at awkward moments."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.patience import HANG_SECONDS
from tests.resilience.callers import BROKEN, CALLBACK_LOST, HANDSHAKE_FAILED, Callers
from tests.resilience.conftest import Worlds
from tests.resilience.test_deploy import go_on, handed_over, nothing_lost

pytestmark = pytest.mark.anyio


async def test_before_the_first_call(world: Worlds) -> None:
    async with world() as w:
        first, second = w.cluster.processes
        await first.terminate()
        code, _ = await first.wait()
        assert code == 0
        assert [words.split()[0] for _, words in first.phases()] == ["no", "done"]  # there is nothing to wait for
        async with Callers(w.cluster, w.model, 1) as callers:
            await callers.enter(["silent"])
            assert callers.all[0].pids == [second.pid]
            await callers.leave()
        await nothing_lost(w, callers)


async def test_while_callers_are_being_put_through(world: Worlds) -> None:
    """Their webhook was answered by one process or the other, and their media socket goes round as well."""
    async with world(drain_seconds=3) as w:
        first, second = w.cluster.processes
        async with asyncio.timeout(HANG_SECONDS), Callers(w.cluster, w.model, 0) as callers:
            dialling = [asyncio.create_task(callers.dial(number)) for number in range(8)]
            await asyncio.sleep(0.15)  # not a condition: the signal is to come in the midst of it
            await first.terminate()
            await asyncio.gather(*dialling)
            code, _ = await first.wait()
            assert code == 0
            there = [caller.until(lambda c=caller: c.pids[-1:] == [second.pid], "it is up") for caller in callers.all]
            await asyncio.gather(*there)
            await callers.leave()
        await nothing_lost(w, callers, excused=[HANDSHAKE_FAILED])


async def test_during_the_greeting_and_twice(world: Worlds) -> None:
    async with world(drain_seconds=4) as w:
        first, second = w.cluster.processes
        second.in_rotation = False
        async with Callers(w.cluster, w.model, 1) as callers:
            await callers.enter(["telling", "greeting", "greeting"])
            second.in_rotation = True
            await first.terminate()
            await asyncio.sleep(1.2)  # a second signal after a while would cut the story short, if it did anything
            struck_at = first.struck_at
            first.send(signal.SIGTERM)
            code, _ = await first.wait()
            assert code == 0
            assert time.monotonic() - struck_at > 4, first.phases()
            await handed_over(callers.all)
            await go_on(callers.all, speak=["telling"])
            assert {caller.pids[-1] for caller in callers.all} == {second.pid}
            await callers.leave()
        await nothing_lost(w, callers)


async def test_an_impatient_person_stops_it_at_once_and_loses_no_call(world: Worlds) -> None:
    async with world(drain_seconds=60) as w:
        first, second = w.cluster.processes
        second.in_rotation = False
        async with Callers(w.cluster, w.model, 2) as callers:
            await callers.enter(["telling", "telling"])
            second.in_rotation = True
            ended = asyncio.create_task(first.wait())
            while not ended.done():  # one that comes less than a second after the first does not count
                first.send(signal.SIGINT)
                await asyncio.wait([ended], timeout=1.2)
            log = first.log.read_text()
            assert "interrupted again: stopping at once, 2 calls cut off" in log
            assert "handing over" not in log
            await go_on(callers.all)
            assert {caller.pids[-1] for caller in callers.all} == {second.pid}
            await callers.leave()
        await nothing_lost(w, callers, excused=[BROKEN, CALLBACK_LOST])
