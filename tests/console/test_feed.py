"""The feed of events: what is kept, what a reader gets that comes, goes and comes back, and when readers are woken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from phoneagent.console import backlog as backlog_module
from phoneagent.console import feed as feed_module
from phoneagent.console.backlog import MAX_AT_ONCE, WOKEN_AT_ONCE, Backlog
from phoneagent.console.feed import Feed
from phoneagent.events import (
    CallEnded,
    CallHandedOver,
    CallStarted,
    CallTransferred,
    Event,
    OutcomeFilled,
    ToolReturned,
    Trouble,
)
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
STARTED = CallStarted(call_sid="CA1", stream_sid="MZ1", caller="+15550100001", called=None, direction="inbound")
ENDED = CallEnded(call_sid="CA1", ended_by="caller", reason="x", duration_ms=9, transcript=())
TRANSFERRED = CallTransferred(call_sid="CA1", to_name="billing", outcome="completed")
HANDED_OVER = CallHandedOver(call_sid="CA1", at_ms=5, reason="x")
RETURNED = ToolReturned(call_sid="CA1", at_ms=5, call_id="c1", name="book", output="ok", ms=12)


def trouble(what: str, call_sid: str = "CA1") -> Trouble:
    return Trouble(call_sid=call_sid, at_ms=1, what=what)


def told(*events: Event, **options: Any) -> Feed:
    feed = Feed(**options)
    for event in events:
        feed.tell(event, "MZ1")
    return feed


class Reader:
    """A client of a stream: it remembers the last id, and returns each event's name with what is telling of it."""

    def __init__(self, stream: AsyncGenerator[bytes]) -> None:
        self._stream = stream
        self._blocks: list[str] = []
        self.last_id: str | None = None
        self.comments = 0

    async def next(self) -> dict[str, Any]:
        """Return the data of the next event; StopAsyncIteration at the end of the stream."""
        async with asyncio.timeout(HANG_SECONDS):
            while True:
                while self._blocks:
                    fields = dict(line.split(":", 1) for line in self._blocks.pop(0).splitlines())
                    self.last_id = fields.get("id", self.last_id or "").strip() or None
                    self.comments += "" in fields
                    if "data" in fields:
                        data: dict[str, Any] = json.loads(fields["data"])
                        assert data["type"] == fields["event"].strip()
                        return data
                self._blocks = (await anext(self._stream)).decode().split("\n\n")[:-1]

    async def whats(self, count: int) -> list[str]:
        return [(await self.next())["what"] for _ in range(count)]

    async def rest(self) -> list[str]:
        """Return the names of the events until the end of the stream."""
        names = []
        while True:
            try:
                names.append((await self.next())["type"])
            except StopAsyncIteration:
                return names


def reader_of(feed: Feed, backlog: Backlog | None, last_id: str | None = None, **options: Any) -> Reader:
    assert backlog is not None
    return Reader(feed.read(backlog, feed.position(backlog, last_id), **options))


# --- what a reader gets ---


async def test_a_reader_of_a_call_gets_it_from_its_beginning_to_its_end() -> None:
    feed = told(STARTED, trouble("one"), trouble("else", "CA2"))
    reader = reader_of(feed, feed.call("CA1"))
    started = await reader.next()
    assert (started["type"], started["caller"]) == ("call_started", "+1••••••01")
    assert await reader.whats(1) == ["one"]
    feed.tell(trouble("two"), "MZ1")
    assert await reader.whats(1) == ["two"]
    feed.tell(ENDED, "MZ1")
    assert await reader.rest() == ["call_ended"]


async def test_a_reader_of_all_begins_now() -> None:
    feed = told(STARTED, trouble("before"))
    reader = reader_of(feed, feed.all)
    waiting = asyncio.ensure_future(reader.whats(2))
    await asyncio.sleep(0)
    feed.tell(trouble("one"), "MZ1")
    feed.tell(trouble("two", "CA2"), "MZ2")
    assert await waiting == ["one", "two"]


async def test_whole_numbers_are_for_the_reader_that_asks() -> None:
    feed = told(STARTED)
    assert (await reader_of(feed, feed.call("CA1"), full=True).next())["caller"] == "+15550100001"


async def test_a_reader_that_comes_back_misses_nothing_and_gets_nothing_twice() -> None:
    feed = told(STARTED)
    first = reader_of(feed, feed.all, feed_id(feed, 1))
    feed.tell(trouble("one"), "MZ1")
    assert await first.whats(1) == ["one"]
    for what in ("two", "three"):
        feed.tell(trouble(what), "MZ1")
    assert await reader_of(feed, feed.all, first.last_id).whats(2) == ["two", "three"]
    assert await reader_of(feed, feed.call("CA1"), first.last_id).whats(2) == ["two", "three"]


def feed_id(feed: Feed, number: int) -> str:
    return f"{feed._process}-{number}"


@pytest.mark.parametrize(
    "last_id", ["other-1", "", "x", "-", "1", "{}-", "{}--1", "{}-1.5", "{}-99", "{}-٣", "{}-" + "9" * 5000]
)
async def test_an_id_that_is_not_ours_brings_all_that_is_kept_and_says_so(last_id: str) -> None:
    feed = told(trouble("one"), trouble("two"))
    reader = reader_of(feed, feed.all, last_id.format(feed._process))
    assert (await reader.next())["type"] == "missed"
    assert reader.last_id is None
    assert await reader.whats(2) == ["one", "two"]


async def test_a_reader_that_was_away_for_too_long_is_told_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_CALL_EVENTS", 3)
    feed = told(STARTED, *(trouble(str(number)) for number in range(5)))
    for last_id in (feed_id(feed, 2), None):
        reader = reader_of(feed, feed.call("CA1"), last_id)
        assert (await reader.next())["type"] == "missed"
        assert await reader.whats(3) == ["2", "3", "4"]
    assert await reader_of(feed, feed.call("CA1"), feed_id(feed, 3)).whats(3) == ["2", "3", "4"]  # just in time


async def test_a_reader_that_is_too_slow_is_dropped_and_can_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_CALL_EVENTS", 3)
    feed = told(STARTED)
    reader = reader_of(feed, feed.call("CA1"))
    assert (await reader.next())["type"] == "call_started"
    for number in range(5):  # meanwhile it takes nothing
        feed.tell(trouble(str(number)), "MZ1")
    assert await reader.rest() == []
    again = reader_of(feed, feed.call("CA1"), reader.last_id)
    assert (await again.next())["type"] == "missed"
    assert await again.whats(3) == ["2", "3", "4"]


async def test_many_events_come_in_pieces() -> None:
    feed = told(STARTED, *(trouble(str(number)) for number in range(2 * MAX_AT_ONCE)), ENDED)
    backlog = feed.call("CA1")
    assert backlog is not None
    chunks = [chunk async for chunk in feed.read(backlog, 0)]
    assert [chunk.count(b"data:") for chunk in chunks] == [0, MAX_AT_ONCE, MAX_AT_ONCE, 2]


async def test_a_silent_stream_is_kept_alive_by_comments() -> None:
    feed = told(STARTED, keep_alive_seconds=0.001)
    backlog = feed.call("CA1")
    assert backlog is not None
    async with aclosing(feed.read(backlog, 1)) as stream, asyncio.timeout(HANG_SECONDS):
        assert [await anext(stream) for _ in range(3)] == [b"retry: 2000\n\n", b":\n\n", b":\n\n"]
    assert backlog.waiting == set()


async def test_a_call_that_goes_on_in_another_stream_is_read_on() -> None:
    feed = told(STARTED, ENDED, replace(STARTED, stream_sid="MZ2", resumed=True))
    reader = reader_of(feed, feed.call("CA1"))
    assert [(await reader.next())["type"] for _ in range(3)] == ["call_started", "call_ended", "call_started"]
    feed.tell(HANDED_OVER, "MZ2")
    feed.tell(ENDED, "MZ2")
    assert await reader.rest() == ["call_handed_over", "call_ended"]


async def test_a_broken_line_ends_a_stream_where_only_memory_has_the_call() -> None:
    feed = told(STARTED, replace(ENDED, ended_by="line"))
    assert await reader_of(feed, feed.call("CA1")).rest() == ["call_started", "call_ended"]


async def test_a_completed_transfer_ends_a_call_and_another_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "KEEP_SECONDS", 0.0)
    feed = told(STARTED, HANDED_OVER, replace(TRANSFERRED, outcome="busy"), replace(STARTED, resumed=True), HANDED_OVER)
    backlog = feed.call("CA1")
    assert backlog is not None
    assert not backlog.ended
    reader = reader_of(feed, backlog)
    feed.tell(TRANSFERRED, "MZ1")
    assert (await reader.rest())[-1] == "call_transferred"
    async with asyncio.timeout(HANG_SECONDS):
        while feed.call("CA1") is not None:
            await asyncio.sleep(0)


async def test_a_tool_that_outlives_its_call_does_not_open_it_again() -> None:
    feed = told(STARTED, ENDED, RETURNED)
    assert await reader_of(feed, feed.call("CA1")).rest() == ["call_started", "call_ended", "tool_returned"]


async def test_an_outcome_comes_after_the_end_and_opens_no_call_again() -> None:
    filled = OutcomeFilled(call_sid="CA1", agent="host", outcome={"guests": 4})
    feed = told(STARTED, ENDED, filled)
    assert await reader_of(feed, feed.call("CA1")).rest() == ["call_started", "call_ended", "outcome_filled"]
    elsewhere = told(filled)
    assert (await reader_of(elsewhere, elsewhere.call("CA1")).rest())[-1] == "outcome_filled"
    going_on = told(STARTED, ENDED, replace(STARTED, resumed=True), filled)
    backlog = going_on.call("CA1")
    assert backlog is not None
    assert not backlog.ended


async def test_a_call_that_came_from_another_process_has_a_beginning_that_is_not_here() -> None:
    feed = told(trouble("else", "CA2"), replace(STARTED, resumed=True))
    reader = reader_of(feed, feed.call("CA1"))
    assert [(await reader.next())["type"] for _ in range(2)] == ["missed", "call_started"]
    assert feed.call("CA9") is None


async def test_a_server_that_stops_ends_its_streams() -> None:
    feed = told(STARTED)
    readers = [reader_of(feed, backlog) for backlog in (feed.call("CA1"), feed.all)]
    waiting = [asyncio.ensure_future(reader.rest()) for reader in readers]
    backlog = feed.call("CA1")
    assert backlog is not None
    async with asyncio.timeout(HANG_SECONDS):
        while not (backlog.waiting and feed.all.waiting):
            await asyncio.sleep(0)
        feed.close()
        assert await asyncio.gather(*waiting) == [["call_started"], []]


# --- what is kept ---


async def test_what_is_kept_of_all_calls_is_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_EVENTS", 4)
    feed = told(STARTED, *(trouble(str(number)) for number in range(9)))
    reader = reader_of(feed, feed.all, feed_id(feed, 6))
    assert await reader.whats(4) == ["5", "6", "7", "8"]
    backlog = Backlog(10**9, feed.all.bytes)
    for _ in range(3):
        for event in feed.all.after(0):
            backlog.add(event)
    assert backlog.bytes == feed.all.bytes
    assert len(backlog.after(0)) == 4


async def test_the_call_that_was_idle_for_the_longest_time_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = told(trouble("one", "CA1"), trouble("two", "CA2"), trouble("three", "CA1"))
    monkeypatch.setattr(feed_module, "MAX_CALLS_BYTES", feed._calls_bytes)
    reader = reader_of(feed, feed.call("CA2"))
    assert (await reader.next())["type"] == "missed"
    assert await reader.whats(1) == ["two"]
    waiting = asyncio.ensure_future(reader.rest())
    await asyncio.sleep(0)
    feed.tell(trouble("4", "CA3"), "MZ1")
    assert feed.call("CA2") is None
    assert feed.call("CA1") is not None
    assert await waiting == []
    assert feed._calls_bytes == sum(backlog.bytes for backlog in feed._calls.values())


async def test_what_was_said_is_not_kept_long_after_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "KEEP_SECONDS", 0.0)
    feed = told(STARTED, replace(STARTED, call_sid="CA2"), ENDED, RETURNED, replace(ENDED, call_sid="CA2"))
    feed.tell(replace(STARTED, call_sid="CA2", resumed=True), "MZ2")  # it goes on
    async with asyncio.timeout(HANG_SECONDS):
        while feed.call("CA1") is not None:
            await asyncio.sleep(0)
        while len(feed.all.after(0)) > 1:
            await asyncio.sleep(0)
    (kept,) = feed.all.after(0)
    assert b"call_started" in kept.full
    backlog = feed.call("CA2")
    assert backlog is not None
    assert len(backlog.after(0)) == 3
    assert feed._calls_bytes == backlog.bytes
    assert (await reader_of(feed, feed.all, feed_id(feed, 2)).next())["type"] == "missed"


async def test_an_event_that_cannot_be_encoded_harms_no_call(caplog: pytest.LogCaptureFixture) -> None:
    feed = told(STARTED, replace(RETURNED, output="\ud800"), trouble("after"))
    assert "an event does not reach its readers: ToolReturned" in caplog.text
    reader = reader_of(feed, feed.call("CA1"))
    assert (await reader.next())["type"] == "call_started"
    assert await reader.whats(1) == ["after"]


# --- when readers are woken ---


async def test_an_event_wakes_no_reader_at_once_and_later_only_a_few_in_each_pass() -> None:
    feed, count = told(STARTED), 5 * WOKEN_AT_ONCE
    woken_in_pass: list[int] = []
    passes = 0

    async def follow() -> None:
        reader = reader_of(feed, feed.all)
        assert await reader.whats(1) == ["news"]
        woken_in_pass.append(passes)

    async with asyncio.timeout(HANG_SECONDS), asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(follow())
        while len(feed.all.waiting) < count:
            await asyncio.sleep(0)
        feed.tell(trouble("news"), "MZ1")
        assert len(feed.all.waiting) == count  # nothing has run for it yet
        while len(woken_in_pass) < count:
            passes += 1
            await asyncio.sleep(0)
    assert max(woken_in_pass.count(each) for each in set(woken_in_pass)) <= WOKEN_AT_ONCE


async def test_readers_rest_between_two_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "REST_SECONDS", 3600)
    feed, count = told(STARTED), 3 * WOKEN_AT_ONCE
    got: list[str] = []

    async def follow() -> None:
        reader = reader_of(feed, feed.all)
        for _ in range(2):
            got.extend(await reader.whats(1))

    followers = [asyncio.ensure_future(follow()) for _ in range(count)]
    async with asyncio.timeout(HANG_SECONDS):
        while len(feed.all.waiting) < count:
            await asyncio.sleep(0)
        feed.tell(trouble("one"), "MZ1")
        while not (got and feed.all.waiting):
            await asyncio.sleep(0)
        early = len(feed.all.waiting)  # these have the first already, while others are still to be woken for it
        assert early < count
        feed.tell(trouble("two"), "MZ1")
        while got.count("one") < count:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert (len(feed.all.waiting), got.count("two")) == (early, count - early)
        feed.close()
        await asyncio.gather(*followers)
    assert got.count("two") == count  # what is there is read before a stream ends


async def test_readers_of_another_call_sleep_on() -> None:
    feed = told(STARTED, replace(STARTED, call_sid="CA2"))
    one, other = (feed.call(sid) for sid in ("CA1", "CA2"))
    readers = [asyncio.ensure_future(reader_of(feed, each, feed_id(feed, 2)).next()) for each in (one, other)]
    assert one is not None
    assert other is not None
    async with asyncio.timeout(HANG_SECONDS):
        while not (one.waiting and other.waiting):
            await asyncio.sleep(0)
        (asleep,) = other.waiting
        feed.tell(trouble("news"), "MZ1")
        assert (await readers[0])["what"] == "news"
    assert other.waiting == {asleep}
    readers[1].cancel()
    await asyncio.gather(*readers, return_exceptions=True)


async def test_news_that_come_while_the_readers_rest_are_not_lost() -> None:
    feed = told(STARTED)
    reader = reader_of(feed, feed.all)
    waiting = asyncio.ensure_future(reader.whats(3))
    async with asyncio.timeout(HANG_SECONDS):
        for what in ("one", "two", "three"):
            while not feed.all.waiting:
                await asyncio.sleep(0)
            feed.tell(trouble(what), "MZ1")
        assert await waiting == ["one", "two", "three"]
        while not feed._alarm.idle:
            await asyncio.sleep(0)
    feed.tell(trouble("without readers"), "MZ1")
    assert feed._alarm.idle
