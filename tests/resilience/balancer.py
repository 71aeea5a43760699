"""A platform's router: connections go round the processes that take them, and die with the process they went to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

NOBODY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
"""What a router says when no process takes a connection."""


class _End(asyncio.Protocol):
    """One end of a connection that goes through; what it reads is written to the other end."""

    def __init__(self, made: Callable[[_End], None] | None = None) -> None:
        self.other: _End | None = None
        self.transport: asyncio.Transport
        self._made = made
        self.connecting = made is not None
        self.early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._made is not None:
            transport.pause_reading()
            self._made(self)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
        elif self.connecting:  # Python 3.11 reads on after a pause in connection_made
            self.early += data
        else:  # it has asked, and there is nobody to answer
            self.transport.write(NOBODY)
            self.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and error is not None:
            self.other.transport.abort()
        elif self.other is not None:
            self.other.transport.close()


class Balancer:
    """Listens on `url` and passes each connection to the next of `ports()` that takes it.

    Like any router below HTTP it does not look at requests: a connection that is kept alive stays with its process.
    """

    def __init__(self, ports: Callable[[], Sequence[int]]) -> None:
        self._ports = ports
        self._turn = 0
        self._ends: set[_End] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _End(self._take), "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for end in self._ends:
            end.transport.abort()
        await asyncio.sleep(0)

    def _take(self, near: _End) -> None:
        self._ends.add(near)
        task = asyncio.create_task(self._connect(near))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, near: _End) -> None:
        self._turn += 1
        ports, turn = list(self._ports()), self._turn
        loop = asyncio.get_running_loop()
        for index in range(len(ports)):
            with suppress(OSError):
                _, far = await loop.create_connection(_End, "127.0.0.1", ports[(turn + index) % len(ports)])
                near.other, far.other = far, near
                self._ends = {end for end in self._ends if not end.transport.is_closing()} | {far}
                if near.transport.is_closing():
                    far.transport.close()
                break
        near.connecting = False
        if not near.transport.is_closing():
            if near.early:
                near.data_received(bytes(near.early))
            near.transport.resume_reading()
