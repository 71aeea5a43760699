"""Requests and sockets of an ASGI app, without a server and without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tests.patience import HANG_SECONDS

LOOPBACK = ("127.0.0.1", 40_000)


@dataclass
class Answer:
    """What an app answered."""

    status: int
    headers: dict[str, str]
    text: str


def scope(
    kind: str, path: str, *, query: str = "", headers: Mapping[str, str] | None = None, client: Any = LOOPBACK
) -> dict[str, Any]:
    """Return the scope of a request ("http") or of a socket ("websocket")."""
    given = {"host": "127.0.0.1:8000", **(headers or {})}
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": client,
        "server": ("127.0.0.1", 8000),
    }


async def request(
    app: Any,
    method: str,
    path: str,
    *,
    form: Mapping[str, str] | None = None,
    body: bytes | None = None,
    **options: Any,
) -> Answer:
    """Send a request, and return the answer."""
    content = urlencode(form or {}).encode() if body is None else body
    sent: list[dict[str, Any]] = []

    received = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not received:
            await asyncio.Event().wait()  # the client stays; a stream looks for that
        return received.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async with asyncio.timeout(HANG_SECONDS):
        await app({**scope("http", path, **options), "method": method}, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(each.get("body", b"") for each in sent[1:]).decode())


@dataclass
class Socket:
    """The client's side of a WebSocket: what it sends is put here beforehand, and what the app sends is kept."""

    texts: list[str] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    _connected: bool = False

    async def receive(self) -> dict[str, Any]:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        if self.texts:
            return {"type": "websocket.receive", "text": self.texts.pop(0)}
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def did(self) -> list[str]:
        """What the app did, by kind: accept, send, close."""
        return [message["type"].removeprefix("websocket.") for message in self.sent]
