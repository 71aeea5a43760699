"""The status callbacks of one call: delivered one after another, while the call goes on."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime

from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.quirks import Quirks
from phoneagent.sim.twilio.webhook import Web


@dataclass(frozen=True, slots=True)
class _Callback:
    url: str
    fields: Mapping[str, str] = field(repr=False)
    method: str
    token: str


@dataclass(slots=True)
class Callbacks:
    """Delivers the status callbacks of a call. A failed delivery is a violation; the call continues."""

    line: Line
    web: Web
    quirks: Quirks
    _sequence: int = 0
    _held: list[_Callback] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    def post_stream(self, url: str, method: str, sid: str, name: str, event: str, error: str | None = None) -> None:
        """Report an event of a stream: stream-started, stream-stopped or stream-error."""
        now = time.time_ns()
        stamp = datetime.fromtimestamp(now // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{now % 10**9:09d}Z"
        fields = {
            "AccountSid": self.line.account_sid,
            "CallSid": self.line.call_sid,
            "StreamSid": sid,
            "StreamName": name,
            "StreamEvent": event,
            "Timestamp": stamp,
        }
        if error is not None:
            fields["StreamError"] = error
        self.post(url, fields, method)

    def post_status(self, url: str, fields: Mapping[str, str], status: str, method: str, seconds: int | None) -> None:
        """Report an event of the call: its status, and at the end the `seconds` since it was answered."""
        more = {
            "CallStatus": status,
            "Timestamp": format_datetime(datetime.now(UTC)),
            "CallbackSource": "call-progress-events",
            "SequenceNumber": str(self._sequence),
        }
        if seconds is not None:
            more |= {"CallDuration": str(seconds), "Duration": str(math.ceil(seconds / 60))}  # billed minutes
        self._sequence += 1
        self.post(url, {**fields, **more}, method)

    def post(self, url: str, fields: Mapping[str, str], method: str) -> None:
        """Deliver one callback."""
        callback = _Callback(url, fields, method, str(uuid.uuid4()))
        if self.quirks.callbacks_reversed:
            self._held.append(callback)
        else:
            self._deliver(callback)

    async def finish(self) -> None:
        """Deliver the remaining callbacks: the call is over."""
        try:
            while self._held:
                self._deliver(self._held.pop())
            await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()

    def _deliver(self, callback: _Callback) -> None:
        async def deliver() -> None:
            async with self._one_at_a_time:
                for _ in range(2 if self.quirks.callbacks_twice else 1):
                    try:
                        await self.web.request(callback.url, callback.fields, callback.method, token=callback.token)
                    except CallFailed as failure:
                        self.line.report(f"{failure} (status callback)")

        self._tasks.add(asyncio.create_task(deliver()))
