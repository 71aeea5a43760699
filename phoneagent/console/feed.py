"""The feed: the latest events of this process's calls, in memory. With a database, `shared_feed` is used instead."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from phoneagent.console.backlog import KEEP_ALIVE_SECONDS, Alarm, Backlog
from phoneagent.console.encoding import MISSED, RETRY, body_of, encode, server_sent
from phoneagent.console.vitals import LiveVitals, Vitals
from phoneagent.events import CallEnded, CallStarted, Event, OutcomeFilled

log = logging.getLogger("phoneagent.console")

MAX_EVENTS = 20_000
MAX_BYTES = 16 * 1024 * 1024
"""The limits of the events kept for all calls together."""

MAX_CALL_EVENTS = 2000
MAX_CALL_BYTES = 1024 * 1024
"""The limits of the events kept for one call: about an hour of talk."""

MAX_CALLS_BYTES = 32 * 1024 * 1024
"""The limit of all events kept for single calls. The call whose last event is the oldest is dropped first."""

KEEP_SECONDS = 300.0
"""How long the events of a call are kept after its end: for readers that reconnect, not as a record."""

MAX_DIGITS = 18
"""The maximum length of an event's number."""

Opened: TypeAlias = AsyncGenerator[bytes] | Literal["unknown", "over"]
"""The stream of a reader; or "unknown": there are no events of the call; or "over": the reader has had them all, and
the call is over."""


class Feed:
    """The events of all calls of a process. `tell` observes them; readers read `all` or the backlog of one call."""

    def __init__(self, *, keep_alive_seconds: float = KEEP_ALIVE_SECONDS) -> None:
        self._keep_alive_seconds = keep_alive_seconds
        self._process = secrets.token_hex(4)  # another process starts counting from the beginning
        self._number = 0
        self.all = Backlog(MAX_EVENTS, MAX_BYTES)
        self._calls: OrderedDict[str, Backlog] = OrderedDict()
        self._calls_bytes = 0
        self._vitals = LiveVitals()
        self._alarm = Alarm()

    # --- events ---

    def tell(self, event: Event, stream_sid: str) -> None:
        """Keep an event for the readers. Never waits and never raises."""
        try:
            self._vitals.note(event, stream_sid)
            body = body_of(event, datetime.now(UTC))
            if body is None:
                return
            number = self._number + 1
            encoded = encode(body, number, f"{self._process}-{number}", stream_sid)
            backlog = self._backlog_of(event)
            self._number = number
            self.all.add(encoded)
            self._calls_bytes -= backlog.bytes
            backlog.add(encoded)
            self._calls_bytes += backlog.bytes
            late = isinstance(event, OutcomeFilled) and self._vitals.get(event.call_sid) is None
            if isinstance(event, CallStarted):
                backlog.ended = False
            elif encoded.ends or late or isinstance(event, CallEnded):  # a tool may return after the call is over
                backlog.ended = True
            self._forget_idle()
            self._alarm.wake(self.all, backlog)
            if backlog.ended:
                asyncio.get_running_loop().call_later(KEEP_SECONDS, self._forget, event.call_sid, number)
        except Exception:  # an observer must not harm the call that it observes
            log.exception("an event does not reach its readers: %s", type(event).__name__)

    def vitals(self, call_sid: str) -> Vitals | None:
        """Return what is known about a live call."""
        return self._vitals.get(call_sid)

    def call(self, call_sid: str) -> Backlog | None:
        """Return the events of a call; None if this process has had none recently."""
        return self._calls.get(call_sid)

    def _backlog_of(self, event: Event) -> Backlog:
        backlog = self._calls.get(event.call_sid)
        if backlog is None:
            is_new = isinstance(event, CallStarted) and not event.resumed
            backlog = Backlog(MAX_CALL_EVENTS, MAX_CALL_BYTES, dropped=0 if is_new else self._number)
            self._calls[event.call_sid] = backlog
        self._calls.move_to_end(event.call_sid)
        return backlog

    def _forget(self, call_sid: str, number: int) -> None:
        """Drop the events of a call that ended with that number, unless it has continued; and all older ones."""
        self.all.drop(number)
        backlog = self._calls.get(call_sid)
        if backlog is not None and backlog.ended:
            self._calls_bytes -= self._calls.pop(call_sid).bytes

    def _forget_idle(self) -> None:
        while self._calls_bytes > MAX_CALLS_BYTES:
            _, idle = self._calls.popitem(last=False)
            self._calls_bytes -= idle.bytes
            idle.ended = True
            self._alarm.note(idle)

    # --- readers ---

    async def open(self, call_sid: str | None, event_id: str | None, *, full: bool) -> Opened:
        """Return a stream of the events of a call, or of all, for a reader whose last event had that id."""
        backlog = self.all if call_sid is None else self.call(call_sid)
        if backlog is None:
            return "unknown"
        after = self.position(backlog, event_id)
        if backlog is not self.all and backlog.ended and after is not None and not backlog.after(after):
            return "over"
        return self.read(backlog, after, full=full)

    def position(self, backlog: Backlog, event_id: str | None) -> int | None:
        """Return the number to read on from; None if some of the following events are no longer here.

        `event_id` is the last one that the reader had. Without it, `all` begins now, and a call with its first event.
        """
        if event_id is None:
            number = self._number if backlog is self.all else 0
        else:
            process, _, digits = event_id.partition("-")
            if process != self._process or not (digits.isascii() and digits.isdigit()) or len(digits) > MAX_DIGITS:
                return None
            number = int(digits)
        return number if backlog.dropped <= number <= self._number else None

    async def read(self, backlog: Backlog, after: int | None, *, full: bool = False) -> AsyncGenerator[bytes]:
        """Yield the events after number `after`, as they come, until there are no more or the reader is too slow.

        `after` is None for a reader that has missed some: it gets a `missed` event, and then everything that is here.
        """
        yield RETRY
        if after is None:
            yield server_sent("missed", MISSED)
            after = backlog.dropped
        while after >= backlog.dropped:  # else it was too slow: it reconnects with its last id
            if found := backlog.after(after):
                after = found[-1].number
                yield found.text(full=full)
            elif backlog.ended:
                return
            elif not await backlog.wait(self._keep_alive_seconds):
                yield b":\n\n"

    def close(self) -> None:
        """End all streams, because the server stops. Their readers reconnect to the next process."""
        self._alarm.close()
        for backlog in (self.all, *self._calls.values()):
            backlog.end()
