"""Several workers behind one port are processes like any others: they share nothing but the database."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.resilience.callers import HANDSHAKE_FAILED, Callers
from tests.resilience.conftest import Worlds
from tests.resilience.test_deploy import deploy, go_on, nothing_lost

pytestmark = pytest.mark.anyio


async def test_the_other_worker_resumes_the_calls_of_one_that_is_killed(world: Worlds) -> None:
    async with world(count=1, WEB_CONCURRENCY="2") as w:
        async with Callers(w.cluster, w.model, 6) as callers:
            await callers.enter(["telling", "silent"] * 3)
            victim = callers.all[0].pids[-1]
            struck = callers.in_process(victim)
            assert victim != w.cluster.processes[0].pid, "serve answers in the parent: it takes no WEB_CONCURRENCY"
            os.kill(victim, signal.SIGKILL)
            for caller in struck:
                caller.killed_at.append(time.monotonic())
            await go_on(struck)
            assert victim not in {caller.pids[-1] for caller in callers.all}
            await callers.leave()
        await nothing_lost(w, callers)


async def test_all_workers_drain(world: Worlds) -> None:
    async with world(WEB_CONCURRENCY="2", drain_seconds=3) as w:
        first, second = w.cluster.processes
        second.in_rotation = False
        async with Callers(w.cluster, w.model, 6) as callers:
            await callers.enter(["telling", "silent"] * 3)
            second.in_rotation = True
            before = {caller.pids[-1] for caller in callers.all}
            await deploy(callers, first, w.cluster)
            await go_on(callers.all, speak=["telling"])
            assert before.isdisjoint(caller.pids[-1] for caller in callers.all)
            await callers.leave()
        # a socket may come to the one worker that is just gone: Twilio asks `action` then
        await nothing_lost(w, callers, excused=[HANDSHAKE_FAILED])
