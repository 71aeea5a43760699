"""What was being said when a process was killed: the next session knows it up to a second before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aiohttp
import pytest

from phoneagent.events import Turn
from tests.resilience.callers import STORY, Caller, Callers
from tests.resilience.cluster import Process
from tests.resilience.conftest import World, Worlds

pytestmark = pytest.mark.anyio

DURABLE_SECONDS = 1.0

TOLERANCE_MS = 60
"""How far the estimate of what was heard may fall behind the phone: two frames, and the way of a mark."""


async def hear_some(caller: Caller) -> None:
    """Wait until some words of the story were heard more than a second ago."""
    since_ms = caller.line.speech[-1].end_ms
    await caller.until(lambda: caller.heard_ms(since_ms) > 3000, "some of the story was heard")


async def lateness(w: World, process: Process, enough: asyncio.Event) -> float:
    """Ask a process for its health, and write to the database, until that is enough; return the longest time it took.

    It is in seconds. A busy machine lets both the calls and the phones wait as long.
    """
    most = 0.0
    await w.store.claim("lateness", 0)  # to connect takes longer
    async with aiohttp.ClientSession() as http:
        while not (most and enough.is_set()):
            asked_at = time.monotonic()
            async with http.get(f"http://127.0.0.1:{process.port}/healthz") as answer:
                assert answer.status == 200
            await w.store.claim("lateness", 0)
            most = max(most, time.monotonic() - asked_at)
            await asyncio.sleep(0.02)
    return most


def story_heard_ms(caller: Caller, before_seconds: float) -> float:
    """How much of the story the caller had heard so long before the kill, as the phone knows it."""
    began = caller.line.streams[0]
    moment_ms = began.start_ms + (caller.killed_at[-1] - before_seconds - began.started_at) * 1000
    since_ms = caller.line.speech[-1].end_ms
    return sum(
        max(0.0, min(span.end_ms, moment_ms) - max(span.start_ms, since_ms)) for span in caller.line.heard_during(began)
    )


async def story_turn(w: World, caller: Caller) -> Turn:
    """Return what is recorded of the story when it was told first: the next session may begin it again."""
    record = await w.store.call(caller.sid)
    assert record is not None
    return next(turn for turn in record.turns if turn.role == "agent" and turn.text.startswith(STORY[:10]))


async def test_thirty_agents_that_are_killed_while_they_speak_know_what_was_heard(
    world: Worlds, measured: Callable[[str], None]
) -> None:
    async with world() as w:
        first, second = w.cluster.processes
        second.in_rotation = False
        async with Callers(w.cluster, w.model, 30) as callers:
            await callers.enter(["telling"] * 30)
            enough = asyncio.Event()
            watch = asyncio.create_task(lateness(w, first, enough))
            await asyncio.gather(*(hear_some(caller) for caller in callers.all))
            enough.set()
            late_seconds = await watch
            told = [caller.sessions[-1].audio_items[-1] for caller in callers.all]
            second.in_rotation = True
            struck = callers.in_process(first.pid)
            first.kill()
            for caller in struck:
                caller.killed_at.append(first.struck_at)
            await first.wait()
            assert len(struck) == 30
            await asyncio.gather(*(caller.come_back(expect_voice=True) for caller in struck))
            behind_ms = []
            for caller, item in zip(callers.all, told, strict=True):
                turn, least_ms = await story_turn(w, caller), story_heard_ms(caller, DURABLE_SECONDS + 3 * late_seconds)
                assert turn.interrupted
                most_ms = story_heard_ms(caller, 0)
                late_ms = 20 + 1000 * late_seconds  # the phone may be late as well
                assert least_ms - TOLERANCE_MS <= turn.heard_ms <= most_ms + late_ms, (caller, turn, least_ms, most_ms)
                behind_ms.append(most_ms - turn.heard_ms)
                words = item.text_until(round(least_ms)).rstrip("…").rpartition(" ")[0]  # the last may be half heard
                assert words or late_seconds > 0.3, (caller, least_ms)
                assert turn.heard_text.startswith(words), (caller, turn, words)
                *history, (_, anchor) = caller.sessions[-1].told
                assert ("assistant", turn.heard_text) in history, (caller, history)
                quoted = anchor.partition("has heard this much: ")[2].partition("\n")[0]  # of a long text, the end
                assert quoted, (caller, anchor)
                assert turn.heard_text.endswith(quoted.removeprefix("…")), (caller, anchor)
            behind_ms.sort()
            measured(
                f"SIGKILL while 30 agents speak: known up to {behind_ms[15]:.0f} ms before it (median),\n"
                f"{behind_ms[-1]:.0f} ms at most; an answer and a write took {1000 * late_seconds:.0f} ms at most"
            )
            await callers.leave()
