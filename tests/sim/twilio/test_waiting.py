"""Waiting for something on a call: what wakes it, what ends it, and how it says so."""

from __future__ import annotations

import asyncio
import time

import pytest

from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.waiting import Waiting

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


async def test_what_is_there_is_not_waited_for_even_after_the_call():
    waiting = Waiting()
    waiting.end("caller")
    await waiting.until(lambda: 0, 1, "it happened")


async def test_a_change_wakes_all_that_wait():
    waiting, happened = Waiting(), False
    looks: list[str] = []

    def missing(name: str) -> float | None:
        looks.append(name)
        return 0 if happened else None

    tasks = [asyncio.create_task(waiting.until(lambda: missing("a"), 5, "it happened"))]
    tasks.append(asyncio.create_task(waiting.until(lambda: missing("b"), 5, "it happened")))
    await asyncio.sleep(1)
    assert looks == ["a", "b"]
    waiting.note()  # something else has changed
    await asyncio.sleep(1)
    assert looks == ["a", "b"] * 2
    happened = True
    waiting.note()
    await asyncio.gather(*tasks)


async def test_it_looks_again_once_the_seconds_are_over():
    began = time.monotonic()
    await Waiting().until(lambda: max(began + 3 - time.monotonic(), 0), 5, "it happened")
    assert 3 <= time.monotonic() - began < 3.5


async def test_the_end_of_the_call_ends_it():
    waiting = Waiting()
    task = asyncio.create_task(waiting.until(lambda: None, 5, "a clear came"))
    await asyncio.sleep(1)
    waiting.end("agent")
    with pytest.raises(CallFailed, match=r"^the call ended \(by agent\) before a clear came$"):
        await task
    with pytest.raises(CallFailed, match="by agent"):
        await waiting.until(lambda: 3, 5, "a clear came")


async def test_its_time_is_limited():
    with pytest.raises(TimeoutError, match=r"^2.5 s passed before a clear came$"):
        await Waiting().until(lambda: None, 2.5, "a clear came")
