"""A WebSocket server on 127.0.0.1, up while its context is entered: the base of `Model` and `Helicone`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from phoneagent.sim.model.events import MAX_APPEND_BYTES

MAX_MESSAGE_BYTES = MAX_APPEND_BYTES * 4 // 3 + (1 << 20)


class LoopbackServer(ABC):
    """A server whose handshakes go to `_admit` and whose connections go to `_serve`.

    `not_running` is the message of the error that `origin` raises while the server does not run; `port` 0 takes a free
    one; `options` go to `websockets.serve`.
    """

    def __init__(self, *, not_running: str, port: int = 0, **options: Any) -> None:
        self._not_running = not_running
        self._port = port
        self._options = options
        self._server: Server | None = None

    @property
    def origin(self) -> str:
        """The server's address, `ws://127.0.0.1:PORT`. Only while it runs."""
        if self._server is None:
            raise RuntimeError(self._not_running)
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            self._port,
            process_request=self._admit,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            **self._options,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        self._server = None

    @abstractmethod
    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the answer that refuses a handshake, None to let it in."""

    @abstractmethod
    async def _serve(self, connection: ServerConnection) -> None:
        """Serve one connection to its end."""
