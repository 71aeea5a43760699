"""Connections through an HTTP proxy: two places where websockets (16 and 17) would log a traceback for a proxy fault.

Neither fault is lost: `connect` raises it as well.
"""

from __future__ import annotations

from websockets.asyncio import client


class Connection(client.ClientConnection):
    """A connection that may be lost before it is made, which happens if TLS fails behind a proxy."""

    def connection_lost(self, exc: Exception | None) -> None:
        if hasattr(self, "recv_messages"):
            super().connection_lost(exc)


class ProxyConnection(client.HTTPProxyConnection):
    """A connection to a proxy that may close before it answers: then the end is reported twice."""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.reader.eof:
            super().connection_lost(exc)


client.HTTPProxyConnection = ProxyConnection  # type: ignore[misc]  # `connect` takes no class for it
