"""Conferences: their members, when one starts, and when it is over."""

from __future__ import annotations

import asyncio

import pytest

from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.network import Network

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


def line(number: int) -> Line:
    return Line(call_sid=f"CA{number}", account_sid="AC1")


async def test_one_waits_with_music_for_the_other() -> None:
    network, first, second = Network(), line(1), line(2)
    waiting = asyncio.create_task(network.join("room", first, starts=True, ends=True))
    await asyncio.sleep(1)
    assert [each.verb for each in first.announcements] == ["Music"]
    assert first.announcements[0].ended_at is None
    talking = asyncio.create_task(network.join("room", second, starts=True, ends=True))
    await asyncio.sleep(1)
    assert first.announcements[0].ended_at is not None
    assert second.announcements == []
    ((_, conference),) = network.conferences
    assert (conference.members, conference.joined) == (["CA1", "CA2"], ["CA1", "CA2"])
    waiting.cancel()  # the first one hangs up
    await asyncio.wait({talking}, timeout=1)
    assert talking.done()
    assert (conference.members, conference.over.is_set()) == ([], True)


@pytest.mark.parametrize("starts", [(True, False), (False, True), (False, False)])
async def test_any_member_may_be_the_one_that_starts_it(starts: tuple[bool, bool]) -> None:
    network = Network()
    tasks = [
        asyncio.create_task(network.join("room", line(number), starts=each, ends=True))
        for number, each in enumerate(starts)
    ]
    await asyncio.sleep(1)
    assert network.conferences[0][1].started.is_set() is any(starts)
    for each in tasks:
        each.cancel()
    await asyncio.wait(tasks)


async def test_a_member_may_leave_without_ending_it_and_a_name_comes_again() -> None:
    network = Network()
    tasks = [
        asyncio.create_task(network.join("room", line(number), starts=number == 2, ends=False)) for number in range(3)
    ]
    await asyncio.sleep(1)
    ((_, conference),) = network.conferences
    assert conference.started.is_set()
    tasks[0].cancel()
    await asyncio.sleep(1)
    assert not conference.over.is_set()
    for each in tasks:
        each.cancel()
    await asyncio.wait(tasks)
    assert conference.over.is_set()
    again = asyncio.create_task(network.join("room", line(9), starts=True, ends=True))
    await asyncio.sleep(1)
    assert len(network.conferences) == 2
    again.cancel()
    await asyncio.wait({again})
