"""A media socket over ASGI messages, under any server.

In most servers, `send` does not wait while the other side keeps up. A task for each would cost more than the write,
fifty times a second for each call. So the writing coroutine is run in place, and gets a task only if it has to wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect


class AsgiSocket:
    """An accepted WebSocket. What is written while it is not `writable` waits here, in order."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        # A send may continue in a task, so all of them run in their own context.
        self._context = contextvars.copy_context()
        self._unsent: deque[bytes] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._resumed: Callable[[], None] | None = None
        self._fault: BaseException | None = None

    @property
    def writable(self) -> bool:
        """Whether nothing waits to be sent."""
        return self._sending is None

    def write(self, texts: Iterable[bytes]) -> None:
        """Write text messages.

        Raises:
            OSError: the socket is closed.
        """
        if self._fault is not None:  # the task failed unexpectedly
            raise self._fault
        self._unsent.extend(texts)
        while self._sending is None and self._unsent:
            sending = self._send(self._unsent.popleft())
            try:
                waiting = self._context.run(sending.send, None)
            except StopIteration:
                continue
            self._sending = asyncio.create_task(self._finish(sending, waiting), context=self._context)
            # A task that is canceled before its first step never reaches `sending`, which must be closed anyway.
            self._sending.add_done_callback(partial(self._finished, sending))

    async def read(self, take: Callable[[str | bytes], None], resumed: Callable[[], None]) -> None:
        """Pass each message to `take`, binary ones as bytes, until the socket is closed."""
        self._resumed = resumed
        try:
            while (frame := await self._websocket.receive())["type"] != "websocket.disconnect":
                text = frame.get("text")
                take(frame.get("bytes", b"") if text is None else text)
        finally:
            self._resumed = None
            if self._sending is not None:  # the call is over: unsent messages are useless
                self._sending.cancel()

    async def _send(self, text: bytes) -> None:
        try:
            await self._websocket.send({"type": "websocket.send", "text": text.decode()})
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionError("the media socket is closed") from error

    async def _finish(self, sending: Coroutine[Any, Any, None], waiting: Any) -> None:
        with suppress(OSError):  # the reader learns that the socket is closed
            await _resume(sending, waiting)
            while self._unsent:
                await self._send(self._unsent.popleft())

    def _finished(self, sending: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
        sending.close()
        self._sending = None
        self._fault = None if task.cancelled() else task.exception()
        if self._resumed is not None:
            self._resumed()


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, None], waiting: Any) -> Generator[Any, Any, None]:
    """Resume a coroutine that was run up to its first wait, for `waiting`."""
    while True:
        error: BaseException | None = None
        value: Any = None
        try:
            value = yield waiting
        except BaseException as raised:  # noqa: BLE001 - it is the coroutine's, a cancellation too
            error = raised
        try:
            waiting = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration:
            return
