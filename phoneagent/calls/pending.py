"""Pending calls: the webhook was answered, and Twilio has not opened the media socket yet.

Meanwhile the agent is chosen and the model session opened, so that the caller does not wait for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from phoneagent.agent.agent import Agent
from phoneagent.agent.call import Call
from phoneagent.model.connection import Endpoint, ModelSession

log = logging.getLogger("phoneagent.calls.pending")

CLAIM_SECONDS = 10.0
"""How long a pending call, with its model session, waits for its media socket."""

LOOK_SECONDS = 1.0
"""How often a pending call checks whether its media socket came to another process; a router may choose any process."""


@dataclass(slots=True)
class Opening:
    """The agent of a call, while it is chosen, and the call's model session, while it is opened.

    `route` has the endpoints in the order in which they are tried; the endpoint of the latest session comes first.
    `session` is the agent's session configuration, None until it is known; it stays the same for the media stream.
    """

    agent: asyncio.Task[Agent]
    route: deque[Endpoint]
    session: Mapping[str, Any] | None = None
    model: asyncio.Task[ModelSession] | None = None

    async def latest(self) -> ModelSession:
        """Return the model session that was opened last."""
        assert self.model is not None
        return await self.model

    async def discard(self) -> None:
        """Cancel what is not finished, and close the model session if it was opened."""
        tasks = [task for task in (self.model, self.agent) if task is not None]
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, ModelSession):
                await result.close()


class PendingCall:
    """A call that waits for its media socket, usually with an opening that the webhook began.

    `elsewhere` returns whether the socket came to another process; None if no record tells.
    """

    def __init__(
        self,
        call: Call,
        opening: Opening | None,
        registry: dict[str, PendingCall],
        elsewhere: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self.call = call
        self.opening = opening
        self.arrived = False
        """Whether the media socket has come here and is in its handshake."""
        self.elsewhere = elsewhere
        self._registry = registry
        self._expiry = asyncio.create_task(self._expire())

    def claim(self) -> None:
        """Hand the opening over to the call's media socket, which closes it from now on."""
        self._expiry.cancel()
        del self._registry[self.call.sid]

    async def close(self) -> None:
        """Stop waiting, and discard the opening."""
        self._expiry.cancel()
        self._registry.pop(self.call.sid, None)
        await self._discard()

    async def _expire(self) -> None:
        why = f"no media socket opened within {CLAIM_SECONDS:g} s of the webhook"
        with suppress(TimeoutError):
            async with asyncio.timeout(CLAIM_SECONDS):
                await self._until_elsewhere()
                why = "the media socket came to another process"
        del self._registry[self.call.sid]
        log.info("%s", why, extra={"call_sid": self.call.sid})
        await self._discard()

    async def _until_elsewhere(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self.arrived and self.elsewhere is not None and await self.elsewhere():
                return

    async def _discard(self) -> None:
        if self.opening is not None:
            await self.opening.discard()
