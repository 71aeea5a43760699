"""The feed of all processes: readers that come back elsewhere, outages, deletions, and a thousand readers.

Each `SharedFeed` with its store stands for a process of its own. `tests/resilience/test_events.py` has real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phoneagent.console import backlog, shared_feed
from phoneagent.console.backlog import MAX_AT_ONCE
from phoneagent.console.shared_feed import SharedFeed
from phoneagent.errors import StoreError
from phoneagent.events import CallNotAnswered, Event
from phoneagent.store import Store, event_log
from tests.console.test_feed import ENDED, HANDED_OVER, RETURNED, STARTED, TRANSFERRED, Reader, trouble
from tests.patience import HANG_SECONDS
from tests.store import conftest
from tests.store.conftest import Outage, until

pytestmark = pytest.mark.anyio
ready, outage = conftest.ready, conftest.outage
RESUMED = replace(STARTED, stream_sid="MZ2", resumed=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real_time)])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database. PostgreSQL is another process, whose time cannot be skipped."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/phoneagent.db"
        return
    async with conftest.new_schema() as found:
        yield found


class Process:
    """A process: its store and its feed."""

    def __init__(self, url: str, **options: Any) -> None:
        self.store = Store.from_url(url)
        assert self.store.events is not None
        self.log = self.store.events
        self.feed = SharedFeed(self.log, **options)

    def tell(self, *events: Event, stream_sid: str = "MZ1") -> None:
        for event in events:
            self.feed.tell(event, stream_sid)

    async def wrote(self, *events: Event, stream_sid: str = "MZ1") -> None:
        """Tell events, and wait until they are committed."""
        self.tell(*events, stream_sid=stream_sid)
        await self.log.flush()

    async def reader(self, call_sid: str | None = None, last_id: str | None = None, *, full: bool = False) -> Reader:
        stream = await self.feed.open(call_sid, last_id, full=full)
        assert not isinstance(stream, str), stream
        return Reader(stream)

    async def follows(self) -> None:
        """Wait until the log is being followed."""
        await until(lambda: self.feed._position is not None)

    async def close(self) -> None:
        self.feed.close()
        await self.store.close()


@asynccontextmanager
async def processes(url: str, count: int = 2, **options: Any) -> AsyncIterator[list[Process]]:
    made = [Process(url, **options) for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:
            await each.close()


# --- what a reader gets ---


async def test_a_reader_sees_the_calls_of_all_processes(ready: str) -> None:
    async with processes(ready) as (here, there):
        await here.wrote(trouble("before"))
        reader = await here.reader()
        first = asyncio.ensure_future(reader.whats(4))
        await here.follows()
        await there.wrote(trouble("theirs"))
        await here.wrote(trouble("ours"))
        here.tell(trouble("one"))
        there.tell(trouble("two"))
        assert sorted(await first) == ["one", "ours", "theirs", "two"]


async def test_a_reader_gets_what_comes_while_its_place_is_read(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with processes(ready) as (here, there):
        await here.wrote(trouble("before"))
        page, asked, answered = here.log.page, asyncio.Event(), asyncio.Event()

        async def slow_at_first(*given: Any, **options: Any) -> Any:
            if not asked.is_set():
                asked.set()
                await answered.wait()
            return await page(*given, **options)

        monkeypatch.setattr(here.log, "page", slow_at_first)
        first = asyncio.ensure_future((await here.reader()).whats(2))
        await here.follows()
        assert asked.is_set()
        await there.wrote(trouble("theirs"))
        answered.set()
        await there.wrote(trouble("more"))
        assert await first == ["theirs", "more"]


async def test_a_reader_that_knows_more_than_this_process_misses_nothing(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(ready) as (here, there):
        await here.wrote(trouble("before"))
        watching = asyncio.ensure_future((await here.reader()).whats(2))
        await here.follows()
        page, reads = here.log.page, asyncio.Event()

        async def slow(after: int, *given: Any, **options: Any) -> Any:
            if after != shared_feed.UNKNOWN:
                await reads.wait()
            return await page(after, *given, **options)

        monkeypatch.setattr(here.log, "page", slow)
        await there.wrote(trouble("theirs"))
        newest = (await there.log.page(shared_feed.UNKNOWN, 1)).newest
        got = asyncio.ensure_future((await here.reader(None, str(newest))).next())
        await asyncio.sleep(0.1)
        reads.set()
        await there.wrote(trouble("more"))
        assert (await got).get("what") == "more"
        assert await watching == ["theirs", "more"]


async def test_a_call_in_another_process_is_read_from_its_beginning_to_its_end(ready: str) -> None:
    async with processes(ready) as (here, there):
        await there.wrote(STARTED, trouble("one"), trouble("else", "CA2"))
        reader = await here.reader("CA1")
        started = await reader.next()
        assert (started["type"], started["caller"]) == ("call_started", "+1••••••01")
        assert await reader.whats(1) == ["one"]
        following = asyncio.ensure_future(reader.rest())
        await here.follows()
        there.tell(trouble("two"), ENDED)
        assert await following == ["trouble", "call_ended"]
        assert await here.feed.open("CA1", reader.last_id, full=False) == "over"
        assert await here.feed.open("CA9", None, full=False) == "unknown"
        again = await here.reader("CA1", full=True)
        assert (await again.next())["caller"] == "+15550100001"
        assert await again.rest() == ["trouble", "trouble", "call_ended"]


@pytest.mark.parametrize("call_sid", [None, "CA1"])
async def test_a_reader_that_is_cut_off_misses_nothing_at_another_process(ready: str, call_sid: str | None) -> None:
    async with processes(ready, 3) as (first, second, third):
        await first.wrote(STARTED)
        reader = await first.reader(call_sid, "0" if call_sid is None else None)
        begun = await reader.next()
        if begun["type"] == "missed":
            assert call_sid is None
        got = asyncio.ensure_future(reader.whats(2))
        await first.follows()
        first.tell(trouble("1"))
        await second.wrote(trouble("2"))
        seen = await got
        await first.close()
        await second.wrote(trouble("3"), trouble("4"))
        back = await third.reader(call_sid, reader.last_id)
        rest = asyncio.ensure_future(back.whats(5 - len(seen)))
        await third.follows()
        third.tell(trouble("5"))
        assert sorted(seen + await rest) == ["1", "2", "3", "4", "5"]


async def test_a_reader_that_is_far_behind_catches_up_in_pages(ready: str) -> None:
    count = 3 * MAX_AT_ONCE + 5
    async with processes(ready) as (here, there):
        await there.wrote(trouble("first"))
        newest = (await here.log.page(0, 1)).newest
        await there.wrote(*(trouble(str(number)) for number in range(count)))
        reader = await here.reader(None, str(newest))
        assert await reader.whats(count) == [str(number) for number in range(count)]
        await there.wrote(trouble("live"))
        assert await reader.whats(1) == ["live"]


async def test_a_reader_that_is_slow_gets_what_is_no_longer_in_memory(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_feed, "MAX_EVENTS", 3)
    async with processes(ready, 1) as (here,):
        reader, other = await here.reader(), await here.reader()
        waiting = asyncio.ensure_future(other.whats(40))
        first = asyncio.ensure_future(reader.whats(1))
        await here.follows()
        await until(lambda: len(here.feed.all.waiting) == 2)
        await here.wrote(trouble("0"))
        assert await first == ["0"]
        for number in range(1, 40):  # meanwhile it takes nothing
            await here.wrote(trouble(str(number)))
        assert here.feed.all.dropped < shared_feed.UNKNOWN
        assert await reader.whats(39) == [str(number) for number in range(1, 40)]
        assert await waiting == [str(number) for number in range(40)]


@pytest.mark.parametrize("last_id", ["abcd1234-7", "", "x", "-1", "1.5", "٣", "9" * 5000, "9" * 18, "0x10"])
@pytest.mark.parametrize("call_sid", [None, "CA1"])
async def test_an_id_that_is_none_of_the_log_s(tmp_path_url: str, last_id: str, call_sid: str | None) -> None:
    async with processes(tmp_path_url, 1) as (here,):
        await here.wrote(STARTED, trouble("one"))
        reader = await here.reader(call_sid, last_id)
        assert (await reader.next())["type"] == "missed"
        if call_sid is None:  # all that is kept would be a whole day
            waiting = asyncio.ensure_future(reader.whats(1))
            await here.follows()
            await until(lambda: here.feed.all.waiting)
            here.tell(trouble("two"))
            assert await waiting == ["two"]
        else:
            assert (await reader.next())["type"] == "call_started"
            assert await reader.whats(1) == ["one"]


@pytest.fixture
async def tmp_path_url(tmp_path: object) -> str:
    found = f"sqlite:///{tmp_path}/phoneagent.db"
    await conftest.upgrade(found)
    return found


async def test_a_reader_whose_events_were_deleted_gets_a_notice(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MAX_ROWS", 2)
    async with processes(ready, 1) as (here,):
        await here.wrote(STARTED, *(trouble(str(number)) for number in range(5)))
        ids = [event.id for event in (await here.log.page(0, 9)).events]
        await here.log.sweep()
        for last_id, call_sid in ((ids[0], None), (ids[0], "CA1"), (None, "CA1")):
            reader = await here.reader(call_sid, None if last_id is None else str(last_id))
            assert (await reader.next())["type"] == "missed"
            assert await reader.whats(2) == ["3", "4"]
        assert await (await here.reader(None, str(ids[4]))).whats(1) == ["4"]


async def test_a_call_that_goes_on_in_another_process_is_read_on(ready: str) -> None:
    async with processes(ready) as (first, second):
        await first.wrote(STARTED)
        reader = await first.reader("CA1")
        assert (await reader.next())["type"] == "call_started"
        rest = asyncio.ensure_future(reader.rest())
        await first.follows()
        await second.wrote(RESUMED, stream_sid="MZ2")
        await first.wrote(ENDED)  # the older stream's end is written late
        await second.wrote(trouble("two"), stream_sid="MZ2")
        await second.wrote(ENDED, stream_sid="MZ2")
        assert await rest == ["call_started", "call_ended", "trouble", "call_ended"]
        assert await first.feed.open("CA1", reader.last_id, full=False) == "over"


async def test_a_call_that_goes_on_here_is_not_over(ready: str) -> None:
    async with processes(ready) as (first, second):
        await first.wrote(STARTED, ENDED)
        newest = (await first.log.page(0, 1)).newest
        second.tell(RESUMED, stream_sid="MZ2")  # this is not written yet
        reader = await second.reader("CA1", str(newest))
        assert (await reader.next())["type"] == "call_started"


async def test_a_completed_transfer_ends_a_call_and_another_one_does_not(ready: str) -> None:
    async with processes(ready) as (here, there):
        await there.wrote(STARTED, HANDED_OVER, replace(TRANSFERRED, outcome="busy"))
        busy = (await here.log.page(shared_feed.UNKNOWN, 1)).newest
        assert not isinstance(await here.feed.open("CA1", str(busy), full=False), str)
        await there.wrote(RESUMED, replace(HANDED_OVER, at_ms=9), stream_sid="MZ2")
        reader = await here.reader("CA1", str(busy))
        assert [(await reader.next())["type"] for _ in range(2)] == ["call_started", "call_handed_over"]
        following = asyncio.ensure_future(reader.rest())
        await here.follows()
        await there.wrote(TRANSFERRED, stream_sid="MZ2")
        assert await following == ["call_transferred"]
        assert await here.feed.open("CA1", reader.last_id, full=False) == "over"


async def test_a_call_whose_record_has_ended_is_over_without_an_event(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(ready, keep_alive_seconds=0.01) as (here, there):
        there.store.tell(STARTED)
        await there.wrote(STARTED, HANDED_OVER)
        reader = await here.reader("CA1")
        assert [(await reader.next())["type"] for _ in range(2)] == ["call_started", "call_handed_over"]
        last_id = reader.last_id
        following = asyncio.ensure_future(reader.rest())
        await until(lambda: reader.comments > 2)
        await there.store.settle("CA1", ended_by="caller", reason="x")
        comments = reader.comments
        await until(lambda: reader.comments > comments + 2)  # events may still be on their way
        await there.wrote(trouble("late"))
        monkeypatch.setattr(event_log, "SETTLED_SECONDS", -1.0)
        assert await following == ["trouble"]
        assert await here.feed.open("CA1", reader.last_id, full=False) == "over"
        assert await (await here.reader("CA1", last_id)).rest() == ["trouble"]
        assert await (await here.reader("CA1")).rest() == ["call_started", "call_handed_over", "trouble"]


async def test_a_call_whose_line_broke_is_not_over_at_once(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with processes(ready, keep_alive_seconds=0.01) as (here, there):
        broken = replace(ENDED, ended_by="line")
        there.store.tell(STARTED)
        there.store.tell(broken)
        await there.store.flush()
        await there.wrote(STARTED, broken)
        newest = str((await here.log.page(shared_feed.UNKNOWN, 1)).newest)
        following = asyncio.ensure_future((await here.reader("CA1", newest)).rest())
        await here.follows()
        await there.wrote(RESUMED, stream_sid="MZ2")
        await there.wrote(replace(broken, ended_by="error"), stream_sid="MZ2")
        monkeypatch.setattr(event_log, "SETTLED_SECONDS", -1.0)
        assert await following == ["call_started", "call_ended"]
        assert await (await here.reader("CA1")).rest() == ["call_started", "call_ended"] * 2


async def test_what_others_missed_before_a_call_is_not_missed_in_it(ready: str) -> None:
    async with processes(ready) as (here, there):
        there.log.add("", "", event_log.MISSED, "")
        await there.wrote(trouble("else", "CA2"))
        before = str((await here.log.page(shared_feed.UNKNOWN, 1)).newest)
        late = SharedFeed(here.log)
        late.tell(replace(STARTED, call_sid="CA3"), "MZ3")  # it is not written yet
        live = Reader(await late.open("CA3", None, full=False))  # type: ignore[arg-type]
        first = asyncio.ensure_future(live.next())
        await here.log.flush()
        assert (await first)["type"] == "call_started"
        await there.wrote(STARTED, ENDED)
        for last_id in (None, before):
            assert await (await here.reader("CA1", last_id)).rest() == ["call_started", "call_ended"]
        late.close()


async def test_a_call_that_is_over_is_read_to_its_end_in_spite_of_an_outage(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_feed, "AWAY_SECONDS", 0.02)
    async with processes(ready) as (here, there):
        await there.wrote(STARTED, trouble("one"), ENDED)
        reader = await here.reader("CA1")
        page, away = here.log.page, True

        async def maybe(*arguments: int, call_sid: str | None = None) -> event_log.Page:
            if away:
                raise StoreError("it does not answer", retry=True)
            return await page(*arguments, call_sid=call_sid)

        monkeypatch.setattr(here.log, "page", maybe)
        rest = asyncio.ensure_future(reader.rest())
        await until(lambda: reader.comments > 1 or rest.done())
        away = False
        assert await rest == ["call_started", "trouble", "call_ended"]


async def test_readers_wait_for_a_silent_database_together(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_feed, "TRANSACTION_SECONDS", 0.02)
    async with processes(ready, 1) as (here,):
        asked, answers = asyncio.Event(), asyncio.Event()
        page = here.log.page

        async def silent(*arguments: int, call_sid: str | None = None) -> event_log.Page:
            asked.set()
            await answers.wait()
            return await page(*arguments, call_sid=call_sid)

        monkeypatch.setattr(here.log, "page", silent)
        first = asyncio.ensure_future(here.feed.open("CA1", None, full=False))
        await asked.wait()
        waiting = [here.feed.open("CA1", None, full=False) for _ in range(9)]
        async with asyncio.timeout(HANG_SECONDS):
            found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in found] == [StoreError] * 9
        answers.set()
        assert await first == "unknown"
        assert await here.feed.open("CA1", None, full=False) == "unknown"


async def test_a_call_that_was_never_placed_ends_no_other(ready: str) -> None:
    async with processes(ready) as (here, there):
        refused = CallNotAnswered(call_sid="", outbound_id="1", status="refused", error="x")
        await there.wrote(STARTED, refused, trouble("one"))
        reader = await here.reader("CA1")
        assert (await reader.next())["type"] == "call_started"
        assert await reader.whats(1) == ["one"]
        following = asyncio.ensure_future(reader.rest())
        await here.follows()
        await there.wrote(refused, trouble("two"), ENDED)
        assert await following == ["trouble", "call_ended"]


async def test_what_a_tool_returns_after_the_end_is_read_too(ready: str) -> None:
    async with processes(ready, 1) as (here,):
        await here.wrote(STARTED, ENDED)
        newest = (await here.log.page(0, 1)).newest
        await here.wrote(RETURNED)
        assert await (await here.reader("CA1", str(newest))).rest() == ["tool_returned"]


async def test_events_of_a_call_that_began_before_are_not_all(ready: str) -> None:
    async with processes(ready, 1) as (here,):
        await here.wrote(RESUMED, stream_sid="MZ2")
        reader = await here.reader("CA1")
        assert [(await reader.next())["type"] for _ in range(2)] == ["missed", "call_started"]


async def test_vitals_are_those_of_this_process(ready: str) -> None:
    async with processes(ready) as (here, there):
        await here.wrote(STARTED)
        assert here.feed.vitals("CA1") is not None
        assert there.feed.vitals("CA1") is None


async def test_an_event_that_cannot_be_encoded_harms_no_call(ready: str, caplog: pytest.LogCaptureFixture) -> None:
    async with processes(ready, 1) as (here,):
        await here.wrote(STARTED, replace(RETURNED, output="\ud800"), trouble("after"))
        assert "an event does not reach its readers: ToolReturned" in caplog.text
        reader = await here.reader("CA1")
        assert (await reader.next())["type"] == "call_started"
        assert await reader.whats(1) == ["after"]


# --- when the database is away ---


async def test_open_streams_outlive_an_outage(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "FIRST_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(event_log, "LAST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(shared_feed, "AWAY_SECONDS", 0.05)
    async with processes(outage.url, 1) as (here,):
        write, failures = here.log._write_batch, 0

        async def counted() -> StoreError | None:
            nonlocal failures
            failed = await write()
            failures += failed is not None
            return failed

        monkeypatch.setattr(here.log, "_write_batch", counted)
        reader = await here.reader()
        waiting = asyncio.ensure_future(reader.whats(3))
        await here.follows()
        await until(lambda: here.feed.all.waiting)  # the reader has found its place
        await outage.begin()
        here.tell(trouble("one"), trouble("two"))
        await until(lambda: failures > 1)
        assert not waiting.done()
        late = await here.reader()
        lately = asyncio.ensure_future(late.whats(2))
        await outage.end()
        here.tell(trouble("three"))
        assert await waiting == ["one", "two", "three"]
        assert (await lately)[-1] in ("two", "three")


async def test_a_stream_that_is_opened_meanwhile_begins_when_the_database_is_back(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_feed, "AWAY_SECONDS", 0.02)
    async with processes(ready, 1) as (here,):
        page, away = here.log.page, True

        async def maybe(*arguments: int, call_sid: str | None = None) -> event_log.Page:
            if away:
                raise StoreError("it does not answer", retry=True)
            return await page(*arguments, call_sid=call_sid)

        monkeypatch.setattr(here.log, "page", maybe)
        with pytest.raises(StoreError):
            await here.feed.open("CA1", None, full=False)
        reader = await here.reader()
        missed = asyncio.ensure_future(reader.next())
        await until(lambda: reader.comments > 1)
        away = False
        assert (await missed)["type"] == "missed", "what came in the meantime may be written before it looks"
        waiting = asyncio.ensure_future(reader.whats(1))
        await here.follows()
        await until(lambda: here.feed.all.waiting)
        here.tell(trouble("one"))
        assert await waiting == ["one"]


async def test_readers_are_told_of_events_that_were_dropped(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MAX_WAITING_BYTES", 1500)
    async with processes(outage.url, 1) as (here,):
        await here.wrote(STARTED)
        readers = [await here.reader("CA1"), await here.reader()]
        assert (await readers[0].next())["type"] == "call_started"
        waiting = [asyncio.ensure_future(each.next()) for each in readers]
        await here.follows()
        await until(lambda: here.feed.all.waiting and here.feed._calls["CA1"].waiting)  # both have found their places
        await outage.begin()
        here.tell(*(trouble(str(number)) for number in range(20)))
        await outage.end()
        for reader, found in zip(readers, await asyncio.gather(*waiting), strict=True):
            assert found["type"] == "missed"
            assert reader.last_id is not None  # it is an event of the log
            assert (await reader.whats(1))[0] in map(str, range(15, 20))


# --- many readers, and the end ---


async def test_a_thousand_readers_come_back_for_the_same_page(
    tmp_path_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "REST_SHARE", 1)  # on a busy machine, each write takes long, and so would each rest
    async with processes(tmp_path_url, 1) as (here,):
        await here.wrote(trouble("0"))
        newest = (await here.log.page(0, 1)).newest
        await here.wrote(trouble("1"), trouble("2"))
        reads = 0
        page = here.log.page

        async def counted(*arguments: int, call_sid: str | None = None) -> event_log.Page:
            nonlocal reads
            reads += 1
            return await page(*arguments, call_sid=call_sid)

        here.log.page = counted  # type: ignore[method-assign]
        readers = [await here.reader(None, str(newest)) for _ in range(1000)]
        waiting = [asyncio.ensure_future(each.whats(3)) for each in readers]
        await until(lambda: len(here.feed.all.waiting) == 1000)
        assert reads < 1100  # one for each to find its place, and a few for all
        here.tell(trouble("3"))
        assert await asyncio.gather(*waiting) == [["1", "2", "3"]] * 1000
        assert len(here.feed._pieces) <= shared_feed.MAX_PAGES


async def test_nothing_is_followed_without_readers(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_feed, "POLL_SECONDS", 0.01)
    async with processes(ready) as (here, there):
        await there.wrote(STARTED)
        stream = await here.feed.open("CA1", None, full=False)
        assert not isinstance(stream, str)
        reader = Reader(stream)
        assert (await reader.next())["type"] == "call_started"
        await here.follows()
        await stream.aclose()
        await until(lambda: here.feed._following is None or here.feed._following.done())
        assert (here.feed._position, here.feed._calls, here.feed._readers) == (None, {}, {})
        await there.wrote(trouble("meanwhile"))
        assert await (await here.reader("CA1", reader.last_id)).whats(1) == ["meanwhile"]


async def test_what_was_said_does_not_stay_in_memory_for_long(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_feed, "POLL_SECONDS", 0.01)
    async with processes(ready, 1) as (here,):
        reader = await here.reader()
        waiting = asyncio.ensure_future(reader.whats(1))
        await here.follows()
        await here.wrote(trouble("one"))
        assert await waiting == ["one"]
        monkeypatch.setattr(shared_feed, "KEEP_SECONDS", -60.0)
        await until(lambda: not here.feed.all.bytes)


async def test_a_server_that_stops_ends_its_streams_and_skips_nothing(ready: str) -> None:
    async with processes(ready) as (here, there):
        await there.wrote(STARTED, *(trouble(str(number)) for number in range(2 * MAX_AT_ONCE)))
        reader, idle = await here.reader("CA1"), await here.reader()
        resting = asyncio.ensure_future(idle.rest())
        assert (await reader.next())["type"] == "call_started"
        await until(lambda: here.feed.all.waiting)
        await here.follows()
        await there.wrote(trouble("live"))
        here.feed.close()
        assert await resting in ([], ["trouble"])
        seen = len(await reader.rest())
        back = await there.reader("CA1", reader.last_id)
        assert await back.whats(2 * MAX_AT_ONCE + 1 - seen) == [*map(str, range(seen, 2 * MAX_AT_ONCE)), "live"]
        late = await here.feed.open(None, None, full=False)
        assert not isinstance(late, str)
        assert await Reader(late).rest() == []
