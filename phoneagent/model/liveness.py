"""The liveness of a session's connection: whatever arrives is a sign of life."""

from __future__ import annotations

import asyncio

from phoneagent.model.tunnel import Connection

SILENT_SECONDS = 10.0
"""How long nothing at all may arrive, not a pong and not a byte, before a connection counts as lost. It is two
intervals of the pings, and short because a caller is waiting."""


class LivingConnection(Connection):
    """A connection that is dropped when nothing arrives anymore.

    The library's own limit is on pongs: a server that sends audio all the time and answers a ping late would lose the
    call.
    """

    _watching: asyncio.TimerHandle | None = None
    _heard_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._heard_at = self.loop.time()
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watching is not None:
            self._watching.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Drop the connection if it has been silent for too long; otherwise look again when it could have been."""
        silent_at = self._heard_at + SILENT_SECONDS
        if not self.latency:  # it has answered no ping yet, so silence says nothing: some servers answer none
            self._watching = self.loop.call_later(SILENT_SECONDS, self._watch)
        elif self.loop.time() >= silent_at:
            self.transport.abort()
        else:
            self._watching = self.loop.call_at(silent_at, self._watch)
