"""The watchers of calls, and their cost for the app: readers of its events, or a browser (`console_page`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import TypeAlias, cast

from benchmarks.load import Load
from benchmarks.process import Usage
from benchmarks.results import WatchCost
from benchmarks.subject import API_TOKEN, Running

OPEN_SECONDS = 60.0
PAIRS = 3
"""How many times the app is measured without and with watchers, in turn."""

Address: TypeAlias = tuple[str, int]

Counts: TypeAlias = Callable[[], Sequence[int]]
"""Returns how many events each watcher has got so far."""


@dataclass(frozen=True, slots=True)
class Watchers:
    """A kind of watchers."""

    name: str
    open: Callable[[Address, int], AbstractAsyncContextManager[Counts]]
    """Watches the app at an address, which has this many calls, while its context lasts. Raises `ConnectionError`."""
    instead: Callable[[Address, int], AbstractAsyncContextManager[Counts]] = lambda address, calls: nullcontext(list)
    """What runs while the app is measured without the watchers."""
    rests: Sequence[float] = (0.0,)
    """How many seconds each call continues between two turns of the caller, in rotation.

    Without a rest, each turn interrupts the agent, and events make up most of the activity.
    """
    answer_seconds: float | None = None
    """How long the agent's answers are. None: each continues until it is interrupted."""


class Reader(asyncio.Protocol):
    """A client of `GET /events`, which counts the events that it gets."""

    def __init__(self) -> None:
        self.events = 0
        self.begun = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._end = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        opened = self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        opened.write(f"GET /events HTTP/1.1\r\nHost: benchmark\r\nAuthorization: Bearer {API_TOKEN}\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        if not self.begun.done() and data.startswith(b"HTTP/1.1 200"):
            self.begun.set_result(None)
        mark = b"\nevent: "
        data = self._end + data
        self.events += data.count(mark)
        self._end = data[1 - len(mark) :]  # a mark may arrive in two pieces

    def connection_lost(self, error: Exception | None) -> None:
        if not self.begun.done():
            self.begun.set_exception(ConnectionError("a reader of events was refused"))

    def close(self) -> None:
        """Stop reading."""
        if self._transport is not None:
            self._transport.abort()


def readers(number: int) -> Watchers:
    """Return this many readers of `GET /events`."""

    @asynccontextmanager
    async def read(address: Address, calls: int) -> AsyncIterator[Counts]:
        loop = asyncio.get_running_loop()
        opened = [Reader() for _ in range(number)]
        made = iter(opened)
        try:
            for _ in opened:
                await loop.create_connection(made.__next__, *address)
            async with asyncio.timeout(OPEN_SECONDS):
                await asyncio.gather(*(each.begun for each in opened))
            yield lambda: [each.events for each in opened]
        finally:
            for each in opened:
                each.close()

    return Watchers(f"{number} readers of events", read)


@dataclass(frozen=True, slots=True)
class _Measured:
    usage: float
    """CPU-ms of the app per second."""
    events: Sequence[int]
    """How many events each watcher got."""


async def measure(load: Load, running: Running, watchers: Watchers, seconds: float) -> WatchCost:
    """Measure the app without watchers and with them, in turn; medians count.

    Raises:
        ConnectionError: a watcher was refused.
    """
    talk = asyncio.create_task(_talk(load, watchers))
    without: list[_Measured] = []
    with_them: list[_Measured] = []
    try:
        for _ in range(PAIRS):
            for kind, windows in ((watchers.instead, without), (watchers.open, with_them)):
                async with kind(running.address, len(load.calls)) as counts:
                    windows.append(await _window(running, counts, seconds))
    finally:
        talk.cancel()
        with suppress(asyncio.CancelledError):
            await talk
        load.limit_answers(None)
    events = [count for window in with_them for count in window.events]
    return WatchCost(
        watchers=watchers.name,
        calls=len(load.calls),
        without_ms=median(window.usage for window in without),
        with_ms=median(window.usage for window in with_them),
        events_per_second=sum(events) / len(events) / seconds if events else None,
        uneven=max((max(window.events) - min(window.events) for window in with_them if window.events), default=0),
    )


async def _window(running: Running, counts: Counts, seconds: float) -> _Measured:
    loop = asyncio.get_running_loop()
    before: Usage = running.usage()
    had, began = counts(), loop.time()
    await asyncio.sleep(seconds)
    used = (running.usage().bridge_ms - before.bridge_ms) / (loop.time() - began)
    return _Measured(used, [now - then for now, then in zip(counts(), had, strict=True)])


async def _talk(load: Load, watchers: Watchers) -> None:
    load.limit_answers(watchers.answer_seconds)
    for rest_seconds in cycle(watchers.rests):
        await load.barge_in(1)
        await asyncio.sleep(rest_seconds)
