"""The writer of one side of a call: at once, without a task, for as long as its socket takes everything.

Most writes never wait. A task for each would cost more than the write, fifty times a second for each call; so the
coroutine that writes is run where it stands, and gets a task only if it has to wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SocketWriter(Generic[T]):
    """One side's writer. `take` returns the next message at a moment of the loop's clock, and `send` writes it.

    What is not taken yet stays where it is. A `send` that raises `closed` ends the writing quietly: the side's reader
    knows better how it ended. All sends run in one context of the writer's own, also one that goes on in a task. They
    must not put `asyncio.timeout` around a wait, because their first part runs in the task that calls `write`.
    """

    def __init__(
        self,
        take: Callable[[float], T | None],
        send: Callable[[T], Coroutine[Any, Any, None]],
        *,
        closed: type[Exception],
        watch: Callable[[asyncio.Task[None]], asyncio.Task[None]],
    ) -> None:
        self._take = take
        self._send = send
        self._closed = closed
        self._watch = watch
        self._context = contextvars.copy_context()
        self.task: asyncio.Task[None] | None = None
        """What waits for the socket, if anything."""

    def write(self, now: float) -> int:
        """Write what there is, unless an earlier write still waits. Never waits; returns how many were written."""
        if self.task is not None:
            if not self.task.done():
                return 0
            self.task = None
        written = 0
        try:
            while (message := self._take(now)) is not None:
                sending = self._send(message)
                try:
                    waiting = self._context.run(sending.send, None)
                except StopIteration:
                    written += 1
                    continue
                self.task = self._watch(asyncio.create_task(self._finish(sending, waiting), context=self._context))
                # A task that is cancelled before its first step never reaches `sending`, which must be closed anyway.
                self.task.add_done_callback(partial(_close, sending))
                break
        except self._closed:
            pass
        except Exception as error:  # noqa: BLE001 - it is the call's fault, and not that of the code which flushed
            self.task = self._watch(asyncio.create_task(_fail(error)))
        return written

    async def _finish(self, sending: Coroutine[Any, Any, None], waiting: Any) -> None:
        try:
            await _resume(sending, waiting)
            time = asyncio.get_running_loop().time
            while (message := self._take(time())) is not None:
                await self._send(message)
        except self._closed:
            pass


def _close(sending: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
    sending.close()


async def _fail(error: Exception) -> None:
    raise error


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, None], waiting: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that was run up to its first wait, for what it waits for."""
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
