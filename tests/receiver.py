"""A server of a user that receives webhooks: it verifies them as anyone would, and can be as odd as servers are."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

SECRET = "whsec_MfKQ9r8GKYqTwUPD8ITPZio2xLaw36MqKYvbSHWs4Qo="
HANG = b""
"""The answer of a server that takes a request, and never says anything."""

TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    """Return the bytes of an answer."""
    head = [f"HTTP/1.1 {status} So", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


@dataclass
class Receiver:
    """Answers each request with what `answers` returns, given how many requests there were before it."""

    answers: Callable[[int], bytes]
    secret: str = SECRET
    verified: list[dict[str, Any]] = field(default_factory=list)
    """The bodies that were signed rightly, in order."""
    ids: Counter[str] = field(default_factory=Counter)
    """How often each id was taken: answered with 2xx."""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    forged: int = 0
    port: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?key=of-the-query"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(headers["content-length"]))
        said = self.answers(len(self.requests))
        self.requests.append((head[0], headers, body))
        try:
            self.verified.append(Webhook(self.secret).verify(body, headers))
        except (WebhookVerificationError, ValueError):
            self.forged += 1
        if said.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2")):
            self.ids[headers["webhook-id"]] += 1
        self.came.set()
        if said == HANG:
            await reader.read()  # until the other side gives up
        writer.write(said)
        await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        await reader.read()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def receiving(
    answers: Callable[[int], bytes] | bytes = TAKEN, *, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Run a receiver on this machine."""
    made = Receiver(answers if callable(answers) else lambda _: answers)
    server = await asyncio.start_server(made.serve, "127.0.0.1", port, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.end()


def called(body: dict[str, Any]) -> str:
    """Return the CallSid that a webhook is about."""
    return str(body["data"]["call"]["call_sid"])


def as_json(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)
    return found
