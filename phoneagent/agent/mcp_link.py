"""The connection to an MCP server, which all calls of this process share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import mcp

log = logging.getLogger("phoneagent.agent.mcp_link")

START_SECONDS = 30.0
"""How long a server may take to start; after that it is given up, and the next call starts it again."""

CLOSE_SECONDS = 5.0
"""How long a server may take to stop."""

Connect: TypeAlias = "Callable[[asyncio.Event], AbstractAsyncContextManager[mcp.Client]]"
"""Connects to a server; the event is set when the server ends the connection."""


class Link:
    """A connection held open by its own task: the `mcp` package requires the same task to open and close it.

    `name` is the server's. `describe` describes an error of the server for the log.
    """

    def __init__(self, name: str, connect: Connect, describe: Callable[[BaseException], str]) -> None:
        self._name = name
        self._connect = connect
        self._describe = describe
        self.loop = asyncio.get_running_loop()
        self._client: asyncio.Future[mcp.Client] = self.loop.create_future()
        self._ended = asyncio.Event()
        self._requests = 0
        self._retired = False
        self._task = asyncio.create_task(self._hold(), name=f"phoneagent mcp {name}")

    @property
    def over(self) -> bool:
        """Whether the connection has ended."""
        return self._ended.is_set() or self._task.done()

    @property
    def usable(self) -> bool:
        """Whether the connection takes new requests, in the running event loop."""
        return not (self.over or self._retired) and self.loop is asyncio.get_running_loop()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the connection open for a request, even if it is retired meanwhile."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._close_retired()

    def retire(self) -> None:
        """Take no new requests, and close the connection after those that run: they may be other calls'."""
        self._retired = True
        self._close_retired()

    def _close_retired(self) -> None:
        if self._retired and not self._requests:
            self._ended.set()

    async def client(self) -> mcp.Client:
        """Return the client as soon as it is connected; raise the error if connecting failed."""
        return await asyncio.shield(self._client)

    async def close(self) -> None:
        """Close the connection, whatever uses it, and wait up to CLOSE_SECONDS for it."""
        self._ended.set()
        if not self._client.done():
            self._task.cancel()
            self._closed()  # a task canceled before its first step does not do this
        await asyncio.wait([self._task], timeout=CLOSE_SECONDS)

    async def _hold(self) -> None:
        try:
            async with asyncio.timeout(START_SECONDS) as limit, self._connect(self._ended) as client:
                limit.reschedule(None)
                self._client.set_result(client)
                await self._ended.wait()
            log.info("the connection to the MCP server %s has ended", self._name)
        except Exception as error:  # noqa: BLE001 - a server may do anything; the caller of `client` gets the error
            if self._client.done():
                log.warning("the MCP server %s failed: %s", self._name, self._describe(error))
            else:
                self._fail(error)
        finally:
            if not self._client.done():
                self._closed()

    def _closed(self) -> None:
        self._fail(ConnectionAbortedError("the connection was closed before it was ready"))

    def _fail(self, error: Exception) -> None:
        self._client.set_exception(error)
        self._client.exception()  # marks it as retrieved: asyncio would log an error that is never awaited


@asynccontextmanager
async def watched(transport: Any, ended: asyncio.Event) -> AsyncIterator[Any]:
    """Open a transport, and set `ended` when the stream of the server's messages ends."""
    async with transport as (read, write):
        yield _Watched(read, ended), write


class _Watched:
    """The stream of a server's messages; it sets `ended` when the stream ends."""

    def __init__(self, stream: Any, ended: asyncio.Event) -> None:
        self._stream = stream
        self._ended = ended

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        return await self._stream.__anext__()

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        self._ended.set()
        done: bool | None = await self._stream.__aexit__(*error)
        return done
