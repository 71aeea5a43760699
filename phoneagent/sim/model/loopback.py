"""A WebSocket server on 127.0.0.1, up while its context is entered: the base of `Model` and `Helicone`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from phoneagent.sim.model.certificate import Certificate
from phoneagent.sim.model.events import MAX_APPEND_BYTES

MAX_MESSAGE_BYTES = MAX_APPEND_BYTES * 4 // 3 + (1 << 20)


class LoopbackServer(ABC):
    """A server whose handshakes go to `_admit` and whose connections go to `_serve`.

    `not_running` is the message of the error that `origin` raises while the server does not run; `port` 0 takes a free
    one; `tls` makes a certificate for the time it runs; `options` go to `websockets.serve`.
    """

    def __init__(self, *, not_running: str, port: int = 0, tls: bool = False, **options: Any) -> None:
        self.certificate: Path | None = None
        """With `tls`, the file that clients have to trust. Only while it runs."""
        self._tls = tls
        self._made: Certificate | None = None
        self._not_running = not_running
        self._port = port
        self._options = options
        self._server: Server | None = None

    @property
    def origin(self) -> str:
        """The server's address, `ws://127.0.0.1:PORT`, with `tls` `wss://`. Only while it runs."""
        if self._server is None:
            raise RuntimeError(self._not_running)
        return f"{'wss' if self._tls else 'ws'}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        if self._tls:
            self._made = await asyncio.to_thread(Certificate)
            self.certificate = self._made.path
        try:
            self._server = await self._start()
        except OSError:
            self._forget_certificate()
            raise
        return self

    async def _start(self) -> Server:
        return await serve(
            self._serve,
            "127.0.0.1",
            self._port,
            process_request=self._admit,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            ssl=self._made.context if self._made else None,
            **self._options,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        self._server = None
        self._forget_certificate()

    def _forget_certificate(self) -> None:
        if self._made is not None:
            self._made.delete()
            self._made = self.certificate = None

    @abstractmethod
    def _admit(self, connection: ServerConnection, request: Request) -> Response | Awaitable[Response | None] | None:
        """Return the answer that refuses a handshake, None to let it in."""

    @abstractmethod
    async def _serve(self, connection: ServerConnection) -> None:
        """Serve one connection to its end."""
