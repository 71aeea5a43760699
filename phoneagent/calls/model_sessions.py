"""The model's side of a live call: one session at a time, and another one if it is lost.

The bridge decides whether another session is worth opening; this module opens it, reads it, and gives it up.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Never, Protocol

from phoneagent.bridge.bridge import Bridge
from phoneagent.errors import EndpointError, EndpointUnreachable
from phoneagent.protocol import realtime
from phoneagent.protocol.session_object import expires_at_of

log = logging.getLogger("phoneagent.calls.model_sessions")


class ModelSocket(Protocol):
    """A configured model session."""

    dropped: Any
    effective: Mapping[str, Any]

    @property
    def writable(self) -> bool: ...
    def write(self, messages: Iterable[realtime.ToModel]) -> None: ...
    async def read(self, take: Callable[[bytes], None], resumed: Callable[[], None]) -> Never: ...
    def decode(self, raw: bytes) -> realtime.FromModel: ...
    async def close(self) -> None: ...
    def abort(self) -> None: ...


class ModelSessions:
    """The sessions of one call.

    `open_model(elsewhere)` opens a session; `elsewhere` asks for an endpoint other than the previous session's.
    `prepare` configures a new session for the active agent, `take` gets each event, undecoded, and `flush` writes the
    waiting output. `resumed` runs when a session's socket is writable again.
    """

    def __init__(
        self,
        bridge: Bridge,
        open_model: Callable[[bool], Awaitable[ModelSocket]],
        *,
        prepare: Callable[[], Awaitable[None]],
        take: Callable[[ModelSocket, bytes], None],
        flush: Callable[[], None],
        resumed: Callable[[], None],
        watch: Callable[[asyncio.Task[Any]], asyncio.Task[Any]],
    ) -> None:
        self._bridge = bridge
        self._open_model = open_model
        self._prepare = prepare
        self._take = take
        self._flush = flush
        self._resumed = resumed
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Task[ModelSocket | None] | None = None
        self._elsewhere = False
        self._told: set[str] = set()
        self.current: ModelSocket | None = None
        """The session in use, or the one used last."""

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks that run besides `run`."""
        return [] if self._next is None else [self._next]

    async def run(self) -> None:
        """Hold a session, and open another one if it is lost, as long as the bridge finds that worthwhile."""
        while True:
            try:
                self.current = model = await self._open()
                lost = await self._hold(model)
            except EndpointUnreachable as error:
                lost = str(error)
            except EndpointError as error:  # every endpoint would say the same again
                self._bridge.model_lost(self._loop.time(), str(error))
                self._flush()
                return
            going_on = self._bridge.model_away(self._loop.time(), lost)
            self._flush()
            if not going_on:
                return
            if self._next is None:
                # One cause may end the sessions of all calls at once, so a random delay spreads their attempts.
                await asyncio.sleep(self._bridge.renewal.pause_seconds(self._loop.time(), random.random()))  # noqa: S311

    def open_next(self) -> None:
        """Open the next session while the present one is in use."""
        if self._next is None:
            self._next = self._watch(asyncio.create_task(self._open_beside()))

    def renew(self, *, elsewhere: bool) -> None:
        """Give up the present session; with `elsewhere` the next one is at another endpoint."""
        self._elsewhere = elsewhere
        if self.current is not None:
            self.current.abort()  # this ends its reader

    async def _open(self) -> ModelSocket:
        coming, self._next = self._next, None
        elsewhere, self._elsewhere = self._elsewhere, False
        if coming is not None and (model := await coming) is not None:
            if not elsewhere:
                return model
            model.abort()  # it is at the endpoint to be avoided
        return await self._open_model(elsewhere)

    async def _open_beside(self) -> ModelSocket | None:
        model: ModelSocket | None = None
        try:
            model = await self._open_model(False)
        except EndpointError as error:
            self._bridge.reporter.trouble(f"the next model session did not open: {error}", self._loop.time())
            self._next = None
        self._bridge.renewal.next_opened(self._loop.time(), ready=model is not None)
        self._flush()
        return model

    async def _hold(self, model: ModelSocket) -> str:
        """Give a new session to the bridge, and read it to its end; return why it ended."""
        now = self._loop.time()
        for refused in model.dropped:
            if refused not in self._told:  # the next session is usually at the same server, which refuses this again
                self._told.add(refused)
                self._bridge.reporter.trouble(f"the session runs without {refused}", now)
        self._bridge.model_opened(model.effective, now)
        self._flush()
        await self._prepare()
        expires_at = expires_at_of(model.effective)
        self._bridge.model_connected(self._loop.time(), None if expires_at is None else expires_at - time.time())
        self._flush()
        try:
            await model.read(partial(self._take, model), self._resumed)
        except EndpointUnreachable as error:
            return str(error)
        except EndpointError as error:
            # The server ended the session; the next attempt shows whether it accepts another one.
            self._elsewhere = True
            return str(error)
        finally:
            model.abort()
