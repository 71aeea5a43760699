"""The liveness of a session's connection: whatever arrives is a sign of life."""

from __future__ import annotations

import asyncio
import math

from websockets.frames import Frame, Opcode
from websockets.protocol import Event

from phoneagent.model.tunnel import Connection

SILENT_SECONDS = 10.0
"""How long nothing at all may arrive, not a pong and not a byte, before a connection counts as lost. It is two
intervals of the pings, and short because a caller is waiting."""

LATE_SECONDS = 1.0
"""A look that is this much too late shows that the event loop was held up. Then our pings are late as well."""


class LivingConnection(Connection):
    """A connection that is dropped when nothing arrives anymore.

    The library's own limit is on pongs: a server that sends audio all the time and answers a ping late would lose the
    call.
    """

    _watching: asyncio.TimerHandle | None = None
    _heard_at = 0.0
    _look_at = math.inf
    _answers = False  # has answered a ping; the latency may be measured as 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._heard_at = self.loop.time()
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame) and event.opcode is Opcode.PONG:
            self._answers = True
        super().process_event(event)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watching is not None:
            self._watching.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Drop the connection if it has been silent for too long; otherwise look again when it could have been."""
        now = self.loop.time()
        if now >= self._look_at + LATE_SECONDS:
            self._heard_at = max(self._heard_at, now - SILENT_SECONDS / 2)  # the answer to the late ping may come
        self._look_at = self._heard_at + SILENT_SECONDS
        if not self._answers:  # silence says nothing yet: some servers answer no ping
            self._look_at = now + SILENT_SECONDS
        elif now >= self._look_at:
            self.transport.abort()
            return
        self._watching = self.loop.call_at(self._look_at, self._watch)
