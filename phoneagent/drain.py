"""Ending a process without cutting a caller off.

uvicorn closes every WebSocket at once when it is told to stop. So the process is stopped in phases, before uvicorn is
told: take no new calls · let the live ones go on · ask what is left to say goodbye · then stop.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from .agent import Call
from .server import PhoneApp

log = logging.getLogger("phoneagent.drain")

PARTING_SECONDS = 8.0
"""How long before the end the calls that still live are asked to say goodbye."""

INSIST_SECONDS = 1.0
"""A second Ctrl-C counts from so long after the first: a nervous finger is not a decision."""


class Server(uvicorn.Server):
    """uvicorn with signals of its own: SIGTERM and SIGINT drain the app, within `drain_seconds`, and then stop.

    Further SIGTERMs change nothing, platforms send several. A second SIGINT, at least a second after the first, stops
    at once.
    """

    def __init__(self, config: uvicorn.Config, app: PhoneApp, drain_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._draining: asyncio.Task[None] | None = None
        self._interrupted_at: float | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def handle(number: int, frame: Any) -> None:
            loop.call_soon_threadsafe(self.handle_signal, number, time.monotonic())

        before = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_signal(self, number: int, now: float) -> None:
        """Take a signal that came at `now`, in seconds."""
        if number == signal.SIGINT:
            if self._interrupted_at is not None and now - self._interrupted_at >= INSIST_SECONDS:
                log.warning("interrupted again: stopping at once, %d calls are cut off", len(self._app.calls))
                self.should_exit = self.force_exit = True
                return
            self._interrupted_at = self._interrupted_at or now
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            self._app.draining = True
            await drain(self._app.calls, self._drain_seconds, coming=lambda: self._app.coming)
        finally:
            self.should_exit = True


async def drain(calls: Mapping[str, Call], seconds: float, *, coming: Callable[[], int] = lambda: 0) -> None:
    """Wait until no call lives, for `seconds` at most; in the end ask those that are left to say goodbye.

    `coming` tells how many calls were answered and have no media socket yet.
    """
    log.info("draining: no new calls; %d live ones have %g s", len(calls), seconds)
    if not await _none_left(calls, coming, max(0.0, seconds - PARTING_SECONDS)):
        log.info("draining: asking %d calls to end", len(calls))
        for call in list(calls.values()):
            call.hang_up()
        if not await _none_left(calls, coming, min(seconds, PARTING_SECONDS)):
            log.warning("draining: %d calls are cut off", len(calls))
    log.info("draining: done")


async def _none_left(calls: Mapping[str, Call], coming: Callable[[], int], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while (calls or coming()) and time.monotonic() < until:  # noqa: ASYNC110 - nothing announces the end of the last call
        await asyncio.sleep(0.05)
    return not calls and not coming()
