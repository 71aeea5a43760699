"""Ending a process without cutting a caller off.

uvicorn closes every WebSocket at once when it is told to stop. So there are phases before that: take no new calls · let
the live ones go on · hand over each at its first quiet moment · hand over the rest · stop. A call that is handed over
loses its media stream; Twilio comes back for it, and another process goes on.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from phoneagent.server import PhoneApp

log = logging.getLogger("phoneagent.drain")

QUIET_SECONDS = 10.0
"""So long before the end, calls are handed over at the first moment at which nobody speaks or waits."""

SPREAD_SECONDS = 2.0
"""Over so long the rest is handed over: the next process shall not get all of them in one moment."""

EXIT_SECONDS = 1.0
"""How long the last of them may take to be gone, and the tools that still run: their calls have gone on."""

GRACE_SECONDS = 0.3
"""How long, after that, a request may take that is just being answered; whoever asked asks again."""

PARTING_SECONDS = 8.0
"""How long before the end calls that cannot be handed over are asked to say goodbye."""

INSIST_SECONDS = 1.0
"""A second Ctrl-C counts from so long after the first: a nervous finger is not a decision."""


class Server(uvicorn.Server):
    """uvicorn with signals of its own: SIGTERM and SIGINT drain the app, within `drain_seconds`, and then stop.

    Further SIGTERMs change nothing, platforms send several. A second SIGINT, at least a second after the first, stops
    at once.
    """

    ends_process = False
    """Whether nothing comes after this server. Then a late SIGTERM is ignored, rather than spoiling a good end."""

    def __init__(self, config: uvicorn.Config, app: PhoneApp, drain_seconds: float) -> None:
        config.timeout_graceful_shutdown = GRACE_SECONDS  # type: ignore[assignment]  # it may be less than a second
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
                late = each == signal.SIGTERM and self.ends_process
                signal.signal(each, signal.SIG_IGN if late else handler)

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
            await drain(self._app, self._drain_seconds)
        finally:
            self.should_exit = True


async def drain(app: PhoneApp, seconds: float) -> None:
    """Wait until no call lives here, for `seconds` and a little more; what is left then was cut off."""
    app.draining = True
    log.info("draining: no new calls; %d live ones have %g s", len(app.calls), seconds)
    begun = time.monotonic()

    def none_left() -> bool:
        return not app.calls and not app.coming and not app.unfinished

    async def wait(until_seconds: float) -> bool:
        return await _until(none_left, begun + until_seconds)

    if not app.hands_over:
        if not await wait(seconds - PARTING_SECONDS):
            log.info("draining: asking %d calls to end", len(app.calls))
            for call in list(app.calls.values()):
                call.hang_up()
            await wait(seconds)
    elif not await wait(seconds - QUIET_SECONDS):
        log.info("draining: handing over %d calls, each when nobody speaks", len(app.calls))
        app.hand_over("this process ends")
        if not await wait(seconds):
            left = list(app.calls)
            log.info("draining: handing over the last %d calls", len(left))
            for number, call_sid in enumerate(left):
                await wait(seconds + SPREAD_SECONDS * number / len(left))
                app.hand_over_now(call_sid, "this process ends")
            await _until(lambda: not app.unfinished, time.monotonic() + EXIT_SECONDS)
    if app.calls:
        log.warning("draining: %d calls are cut off", len(app.calls))
    log.info("draining: done")


async def _until(condition: Callable[[], bool], moment: float) -> bool:
    """Wait for a condition that nothing announces, until `moment` of the monotonic clock; return whether it holds."""
    while not condition() and time.monotonic() < moment:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return condition()
