"""The log of a call's messages over HTTP: `GET /calls/{sid}/log`, in pages, and as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from phoneagent.calls.messages import MAX_MESSAGES, PAGE, Message
from phoneagent.console.body import JSON
from phoneagent.console.operations import Number, Operation, Operations
from phoneagent.console.problems import Problem

MAX_NUMBER = 10**12
"""More messages than any call has."""

MAX_WAIT_SECONDS = 20

LOOK_SECONDS = 0.25
"""How often to check for awaited messages. They come a hundred times a second, so waking up for each costs more."""

MAX_WAITING = 100
"""How many requests may wait at once; others are answered with the messages so far."""

AFTER = Number("after", 0, MAX_NUMBER, 0, "only messages after the one of this number")
LIMIT = Number("limit", 1, PAGE, PAGE, "how many messages")
WAIT = Number("wait", 0, MAX_WAIT_SECONDS, 0, "how many seconds to wait for a message, if there is none yet")

_OFF = "messages are not kept: start the server with `phoneagent serve --log-messages`, or use `phoneagent dev`"
_NO_MESSAGES = "this process keeps no messages of such a call: GET /calls?state=live lists the calls that it has"


class MessageLog(Protocol):
    """The latest messages of one call."""

    number: int
    dropped: int

    def after(self, number: int, limit: int) -> list[Message]: ...


class MessageLogs(Protocol):
    """The logs by CallSid."""

    def get(self, call_sid: str) -> MessageLog | None: ...


Messages: TypeAlias = Callable[[], MessageLogs | None]


class LogPage(msgspec.Struct, frozen=True):
    """Messages of a call, oldest first, and the number to continue after. `missed`: some before these are no longer
    kept."""

    messages: Sequence[Message]
    next: int
    missed: bool


class MessagePages:
    """The pages of the logs that `messages` returns, if there are any."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._waiting = 0

    def operations(self) -> Operations:
        """Return the operations by path and method."""
        summary = f"Show the latest messages of a call, up to {MAX_MESSAGES}"
        operation = Operation(self._show, summary, (AFTER, LIMIT, WAIT), result=LogPage, problems=(404,))
        return {"/calls/{sid}/log": {"GET": operation}}

    async def _show(self, request: Request) -> Response:
        after, limit, wait = AFTER.read(request), LIMIT.read(request), WAIT.read(request)
        logs = self._messages()
        if logs is None:
            return Problem(404, _OFF)
        log = logs.get(request.path_params["sid"])
        if log is None:
            return Problem(404, _NO_MESSAGES)
        if wait and self._waiting < MAX_WAITING:
            await self._wait(log, after, wait)
        found = log.after(after, limit)
        page = LogPage(found, found[-1].number if found else min(after, log.number), after < log.dropped)
        return Response(msgspec.json.encode(page), headers={"Cache-Control": "no-store"}, media_type=JSON)

    async def _wait(self, log: MessageLog, after: int, seconds: int) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds):
                while log.number <= after:  # noqa: ASYNC110 - a future for each message would cost more
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1
