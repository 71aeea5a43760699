"""Readers of events: what they cost the app while calls go on, in which callers interrupt again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import cast

from benchmarks.load import Load
from benchmarks.process import Usage
from benchmarks.results import ReaderCost
from benchmarks.subject import API_TOKEN, Running

OPEN_SECONDS = 60.0
PAIRS = 3
"""How often the app is measured without readers and with them, in turn."""


class Reader(asyncio.Protocol):
    """A client of `GET /events`, which counts what it gets."""

    def __init__(self) -> None:
        self.events = 0
        self.begun = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport
        self._end = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport.write(
            f"GET /events HTTP/1.1\r\nHost: benchmark\r\nAuthorization: Bearer {API_TOKEN}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if not self.begun.done() and data.startswith(b"HTTP/1.1 200"):
            self.begun.set_result(None)
        mark = b"\nevent: "
        data = self._end + data
        self.events += data.count(mark)
        self._end = data[1 - len(mark) :]  # a mark may come in two pieces

    def connection_lost(self, error: Exception | None) -> None:
        if not self.begun.done():
            self.begun.set_exception(ConnectionError("a reader of events was refused"))

    def close(self) -> None:
        """Read no more."""
        self._transport.abort()


@dataclass(frozen=True, slots=True)
class _Measured:
    usage: float
    """CPU-ms of the app per second."""
    events: Sequence[int]
    """How many each reader got."""


async def measure(load: Load, running: Running, readers: int, seconds: float) -> ReaderCost:
    """Measure the app without readers and with them, in turn; medians count.

    Raises:
        ConnectionError: a reader was refused.
    """
    without, with_them = [], []
    for _ in range(PAIRS):
        without.append(await _window(load, running, 0, seconds))
        with_them.append(await _window(load, running, readers, seconds))
    events = [count for window in with_them for count in window.events]
    return ReaderCost(
        readers=readers,
        calls=len(load.calls),
        without_ms=median(window.usage for window in without),
        with_ms=median(window.usage for window in with_them),
        events_per_second=sum(events) / len(events) / seconds,
        uneven=max(max(window.events) - min(window.events) for window in with_them),
    )


async def _window(load: Load, running: Running, number: int, seconds: float) -> _Measured:
    loop = asyncio.get_running_loop()
    host, port = running.address
    readers: list[Reader] = []
    talk = loop.create_task(_talk(load))
    try:
        for _ in range(number):
            _, reader = await loop.create_connection(Reader, host, port)
            readers.append(reader)
        async with asyncio.timeout(OPEN_SECONDS):
            await asyncio.gather(*(reader.begun for reader in readers))
        before: Usage = running.usage()
        counts, began = [reader.events for reader in readers], loop.time()
        await asyncio.sleep(seconds)
        used = (running.usage().bridge_ms - before.bridge_ms) / (loop.time() - began)
        return _Measured(used, [reader.events - count for reader, count in zip(readers, counts, strict=True)])
    finally:
        for reader in readers:
            reader.close()
        talk.cancel()
        with suppress(asyncio.CancelledError):
            await talk


async def _talk(load: Load) -> None:
    while True:
        await load.barge_in(1)
