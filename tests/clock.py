"""A clock that does not wait: it skips the time in which everything on the event loop only waits for a moment to come.

A call of twenty seconds between a phone, an app and a model on one event loop then takes as long as its computations.
Whatever is computed takes no time, or nearly none, so a busy machine makes no call late.

The date (`time.time()`, `datetime.now()`) goes on as ever: tests that hold it against the time of a call are marked
`real_time`, and so are those that hold the event loop up on purpose.
"""

from __future__ import annotations

import asyncio
import queue
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

_monotonic, _sleep = time.monotonic, time.sleep

GRACE_SECONDS = 0.0002
"""How long nothing must have come in, of real time, before time is skipped: the kernel delivers what is on loopback."""

MAX_SKIP_SECONDS = 0.02
"""The most that is skipped at once."""

BEGIN_SECONDS = 4096.0
"""Where the clock begins: not at the machine's uptime, so that sums round the same way on every machine."""

ROUNDING_SECONDS = 0.000001
"""How far two sums of the same times may be apart."""

PASS_SECONDS = 0.00001
"""What a pass of the event loop takes: a moment that lies closer than a rounding error would never come."""


class Clock:
    """The time of one event loop, and of whoever reads `time.monotonic()`, while that is replaced by `now`."""

    def __init__(self) -> None:
        self._now = BEGIN_SECONDS
        self._runs_since: float | None = None
        self._statements: list[_Statements] = []

    def now(self) -> float:
        since = self._runs_since
        return self._now if since is None else self._now + _monotonic() - since

    def advance(self, seconds: float) -> None:
        self._now += seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the clock run like any other."""
        self._runs_since = began = _monotonic()
        try:
            yield
        finally:
            self._now += _monotonic() - began
            self._runs_since = None

    def sqlite_queue(self) -> queue.SimpleQueue[Any]:
        """Return a queue for `aiosqlite`: while its thread has something to do, no time passes."""
        self._statements.append(_Statements())
        return self._statements[-1]

    def sqlite_works(self) -> bool:
        return any(each.given > each.done for each in self._statements)

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return an event loop that lives by this clock."""
        return _Loop(self)


class _Statements(queue.SimpleQueue[Any]):
    """What a thread of SQLite is given to do. The loop counts what it has given, the thread what it has done."""

    given = done = 0
    _doing = False

    def put_nowait(self, item: Any) -> None:
        self.given += 1
        super().put_nowait(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self.done += self._doing
        self._doing = True
        item = super().get(block, timeout)
        self.done += getattr(item[1], "__name__", "") == "close_and_stop"  # then it ends
        return item


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending = 0
        self._processes: list[asyncio.SubprocessTransport] = []
        self._idle_threads = set(threading.enumerate())
        super().__init__(_Selector(clock, self._others_work))

    def time(self) -> float:
        return self._clock.now()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        before = set(threading.enumerate())
        future = super().run_in_executor(executor, func, *args)
        self._idle_threads |= set(threading.enumerate()) - before
        self._pending += 1
        future.add_done_callback(self._done)
        return future

    async def _make_subprocess_transport(self, *args: Any, **kwargs: Any) -> asyncio.SubprocessTransport:
        transport: asyncio.SubprocessTransport = await super()._make_subprocess_transport(*args, **kwargs)  # type: ignore[misc]
        self._processes.append(transport)
        return transport

    def _done(self, future: Future[Any]) -> None:
        self._pending -= 1

    def _others_work(self) -> bool:
        """Whether a thread or a process of this loop may be at work, whose time cannot be skipped."""
        return (
            self._pending > 0
            or any(
                each not in self._idle_threads and "(_connection_worker_thread)" not in each.name
                for each in threading.enumerate()
            )
            or any(each.get_returncode() is None for each in self._processes)
        )


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock: Clock, others_work: Callable[[], bool]) -> None:
        super().__init__()
        self._clock = clock
        self._others_work = others_work

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._clock.advance(PASS_SECONDS)
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self._clock.sqlite_works():
            return super().select(min(timeout or 1, 0.05))
        if timeout is None:  # no moment is waited for
            return super().select(None)
        if self._others_work():
            with self._clock.running():
                return super().select(timeout)
        _sleep(GRACE_SECONDS)
        ready = super().select(0)
        if not ready:
            self._clock.advance(min(timeout, MAX_SKIP_SECONDS))
        return ready
