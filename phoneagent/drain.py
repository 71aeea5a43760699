"""Draining: how a process stops without cutting callers off.

uvicorn closes every WebSocket at once when it stops. A drain comes before that, in phases: take no new calls · let live
calls continue · hand each over at its first quiet moment · hand over the rest · stop. When a call is handed over, its
media stream is closed; Twilio then asks how the call continues, and another process answers.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from phoneagent.errors.values import counted
from phoneagent.server import PhoneApp

log = logging.getLogger("phoneagent.drain")

QUIET_SECONDS = 10.0
"""How long before the end the hand-over of quiet calls begins: each call is handed over once neither side
is speaking or waiting."""

SPREAD_SECONDS = 2.0
"""How long the hand-over of the other calls takes: spread out, to spare the next process a burst."""

EXIT_SECONDS = 2.0
"""How long the last calls may take to close after their hand-over, and how long running tools may continue."""

GRACE_SECONDS = 0.3
"""How long a request in progress may still take after the drain; its client has to send it again."""

PARTING_SECONDS = 8.0
"""How long before the end the agents of calls that cannot be handed over say goodbye and hang up."""

INSIST_SECONDS = 1.0
"""How long after the first Ctrl-C a second one counts; an earlier one is taken for an accident."""


class Server(uvicorn.Server):
    """A uvicorn server that handles signals: SIGTERM or SIGINT drains the app within `drain_seconds`, then stops it.

    Further SIGTERMs change nothing, because platforms send several. A second SIGINT, at least INSIST_SECONDS after the
    first, stops at once.
    """

    ends_process = False
    """Whether the process ends after this server. Then a late SIGTERM is ignored: it would make the exit a failure."""

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
        """Handle a signal that came at `now`, in seconds."""
        if number == signal.SIGINT:
            if self._interrupted_at is not None and now - self._interrupted_at >= INSIST_SECONDS:
                log.warning("interrupted again: stopping at once, %s cut off", counted(len(self._app.calls), "call"))
                self.should_exit = self.force_exit = True
                return
            if self._interrupted_at is None and self._app.calls:
                log.info("interrupted: waiting for the calls to end; press Ctrl-C again to stop at once")
            self._interrupted_at = self._interrupted_at or now
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.end_streams()
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn then skips the app's shutdown: its task would be canceled, with a traceback
            with suppress(TimeoutError):
                async with asyncio.timeout(EXIT_SECONDS):
                    await self.lifespan.shutdown()

    async def _drain(self) -> None:
        try:
            await drain(self._app, self._drain_seconds)
        finally:
            self.should_exit = True


async def drain(app: PhoneApp, seconds: float) -> None:
    """Wait until the app has no calls, for `seconds` and a little more at most. Calls left then are cut off."""
    app.draining = True
    log.info("draining: no new calls; %s may go on for %g s", counted(len(app.calls), "live call"), seconds)
    begun = time.monotonic()

    def nothing_left() -> bool:
        return not app.calls and not app.coming and not app.unfinished

    async def wait(until_seconds: float) -> bool:
        return await _until(nothing_left, begun + until_seconds)

    if not app.hands_over:
        if not await wait(seconds - PARTING_SECONDS):
            log.info("draining: asking %s to say goodbye", counted(len(app.calls), "call"))
            asked: set[str] = set()

            def all_parted() -> bool:  # a call may yet come: its webhook was answered before
                for call_sid, call in list(app.calls.items()):
                    if call_sid not in asked:
                        asked.add(call_sid)
                        call.hang_up()
                return nothing_left()

            await _until(all_parted, begun + seconds)
    elif not await wait(seconds - QUIET_SECONDS):
        log.info("draining: handing over %s, each when it is quiet", counted(len(app.calls), "call"))
        app.hand_over("this process ends")
        if not await wait(seconds):
            left = list(app.calls)
            log.info("draining: handing over the last %s now", counted(len(left), "call"))
            for number, call_sid in enumerate(left):
                await wait(seconds + SPREAD_SECONDS * number / len(left))
                app.hand_over_now(call_sid, "this process ends")
            await _until(lambda: not app.unfinished, time.monotonic() + EXIT_SECONDS)
    if app.calls:
        log.warning("draining: %s cut off", counted(len(app.calls), "call"))
    log.info("draining: done")


async def _until(condition: Callable[[], bool], moment: float) -> bool:
    """Wait for a condition until `moment` of the monotonic clock; return whether it holds.

    This polls because nothing signals the condition.
    """
    while not condition() and time.monotonic() < moment:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return condition()
