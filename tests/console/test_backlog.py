"""The backlog that readers share: its bounds, the pieces that are read of it, and the readers that are woken."""

from __future__ import annotations

import asyncio

import pytest

from phoneagent.console import backlog as backlog_module
from phoneagent.console.api import MAX_READERS
from phoneagent.console.backlog import MAX_AT_ONCE, MAX_BYTES_AT_ONCE, Alarm, Backlog, piece
from phoneagent.console.encoding import Encoded
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio


def event(number: int, size: int = 10) -> Encoded:
    return Encoded(number, b"m" * size, b"f" * size)


def filled(*numbers: int, max_events: int = 1000, max_bytes: int = 10**6) -> Backlog:
    made = Backlog(max_events, max_bytes)
    for number in numbers:
        made.add(event(number))
    return made


def numbers(events: list[Encoded]) -> list[int]:
    return [each.number for each in events]


@pytest.mark.parametrize("bounds", [{"max_events": 2}, {"max_bytes": 20}])
def test_the_oldest_go_when_there_are_too_many(bounds: dict[str, int]) -> None:
    backlog = filled(3, 7, 12, 20, **bounds)
    assert (numbers(backlog.after(0)), backlog.dropped, backlog.bytes) == ([12, 20], 7, 20)


def test_events_are_read_on_from_a_number_that_need_not_be_there() -> None:
    backlog = filled(3, 7, 12)
    assert [numbers(backlog.after(each)) for each in (0, 3, 5, 12, 99)] == [[3, 7, 12], [7, 12], [7, 12], [], []]


def test_readers_at_the_same_place_share_what_is_written() -> None:
    backlog = filled(3, 7)
    first = backlog.after(0)
    assert backlog.after(0) is first
    assert first.text(full=True) is first.text(full=True)
    assert (first.text(full=True), first.text(full=False)) == (b"f" * 20, b"m" * 20)
    assert numbers(backlog.after(3)) == [7]
    backlog.add(event(9))
    assert numbers(backlog.after(3)) == [7, 9]
    backlog.drop(3)
    assert numbers(backlog.after(0)) == [7, 9]


def test_events_are_dropped_up_to_a_number() -> None:
    backlog = filled(3, 7, 12)
    backlog.drop(8)
    assert (numbers(backlog.after(0)), backlog.dropped, backlog.bytes) == ([12], 7, 10)


def test_a_piece_is_bounded_in_number_and_size_and_is_never_empty() -> None:
    assert len(piece(event(number) for number in range(2 * MAX_AT_ONCE))) == MAX_AT_ONCE
    half = MAX_BYTES_AT_ONCE // 2
    assert numbers(piece(event(number, half) for number in range(5))) == [0, 1]
    assert numbers(piece(event(number, 3 * half) for number in range(5))) == [0]
    assert piece([]) == []


async def test_a_reader_waits_until_it_is_woken_or_for_some_time() -> None:
    backlog, alarm = filled(1), Alarm()
    assert not await backlog.wait(0.001)
    waiting = asyncio.ensure_future(backlog.wait(3600))
    await asyncio.sleep(0)
    alarm.wake(backlog)
    async with asyncio.timeout(HANG_SECONDS):
        assert await waiting
        while not alarm.idle:
            await asyncio.sleep(0)
    assert backlog.waiting == set()


async def test_the_end_wakes_all_readers_at_once() -> None:
    backlog = filled(1)
    waiting = [asyncio.ensure_future(backlog.wait(3600)) for _ in range(20)]
    await asyncio.sleep(0)
    backlog.end()
    async with asyncio.timeout(HANG_SECONDS):
        assert all(await asyncio.gather(*waiting))
    assert backlog.ended


async def test_nothing_is_woken_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "REST_SECONDS", 3600)
    backlog, alarm = filled(1), Alarm()
    alarm.wake(backlog)
    assert alarm.idle  # nothing waits
    waiting = asyncio.ensure_future(backlog.wait(3600))
    await asyncio.sleep(0)
    alarm.wake(backlog)
    assert not alarm.idle
    alarm.close()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


def test_readers_that_take_nothing_have_little_memory_of_their_own() -> None:
    assert MAX_READERS * MAX_BYTES_AT_ONCE <= 128 * 1024 * 1024


async def test_readers_that_a_round_has_not_reached_end_with_it() -> None:
    backlog, alarm = filled(0), Alarm()
    readers = [asyncio.create_task(backlog.wait(HANG_SECONDS)) for _ in range(12)]
    await asyncio.sleep(0)
    alarm.wake(backlog)
    await asyncio.sleep(0)  # the round has begun
    alarm.close()
    backlog.end()
    async with asyncio.timeout(HANG_SECONDS / 2):
        assert await asyncio.gather(*readers) == [True] * 12
