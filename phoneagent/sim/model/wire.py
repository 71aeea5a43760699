"""The sending side of a connection to the simulated Realtime server: events in order, never waiting for the client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

from websockets.exceptions import ConnectionClosed

log = logging.getLogger(__name__)

MAX_OUTBOX_EVENTS = 10_000
"""How many events may wait for a slow client; beyond that the connection is cut."""


class EventSocket(Protocol):
    """A session's connection: from the WebSocket library, or a call by WebRTC."""

    @property
    def request(self) -> Any: ...
    @property
    def transport(self) -> Any: ...
    def __aiter__(self) -> AsyncIterator[str | bytes]: ...
    async def send(self, message: bytes, *, text: bool) -> None: ...
    async def close(self, code: int = 1000, reason: str = "") -> None: ...


class Wire:
    """A bounded queue of encoded events, and the connection to which they go."""

    def __init__(self, socket: EventSocket) -> None:
        self._socket = socket
        self._outbox: asyncio.Queue[bytes | tuple[int, str]] = asyncio.Queue(MAX_OUTBOX_EVENTS)
        self._stalled = False

    def put(self, event: bytes) -> None:
        """Queue an encoded event."""
        self._put(event)

    def close(self, code: int, reason: str) -> None:
        """Close the connection once everything in the queue is sent."""
        self._put((code, reason[:120]))

    def stall(self) -> None:
        """Send nothing from here on, but keep the connection open."""
        self._stalled = True

    async def drop(self, code: int | None) -> None:
        """Close the connection now with a code, or cut it without a close frame (None)."""
        if code is None:
            self.abort()
        else:
            await self._socket.close(code)

    def abort(self) -> None:
        """Cut the connection without a close frame."""
        self._socket.transport.abort()

    async def write(self) -> None:
        """Send the queue until the connection is closed."""
        while True:
            item = await self._outbox.get()
            try:
                if isinstance(item, tuple):
                    await self._socket.close(*item)
                elif not self._stalled:
                    await self._socket.send(item, text=True)
            except ConnectionClosed:
                return

    def _put(self, item: bytes | tuple[int, str]) -> None:
        try:
            self._outbox.put_nowait(item)
        except asyncio.QueueFull:
            log.warning("a client of the simulated model reads too slowly: %d events waited for it", MAX_OUTBOX_EVENTS)
            self.abort()
