"""A call on its way: it was answered, and Twilio opens its media socket.

Meanwhile its agent is chosen and its model session opened, which saves the caller the wait.
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
"""How long a call that was answered counts, and its session waits, before its media socket comes."""

LOOK_SECONDS = 1.0
"""How often it is looked whether that came to another process: a router sends it to any."""


@dataclass(slots=True)
class Opening:
    """The choice of the agent who answers a call, and the model session that is opened for them.

    `route` has the endpoints in the order in which they are asked; whichever gave the latest session comes first.
    `session` is how the agent wants it, once that is known: in all of a media stream it is the same.
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
        """Make sure that nothing of it goes on or stays open."""
        tasks = [task for task in (self.model, self.agent) if task is not None]
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, ModelSession):
                await result.close()


class PendingCall:
    """A call that waits to be claimed by its media socket, as a rule with an opening that was begun at the webhook.

    `elsewhere` tells whether that socket has come to another process; None where there is none.
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
        """Its media socket has come here, and is in its handshake."""
        self.elsewhere = elsewhere
        self._registry = registry
        self._expiry = asyncio.create_task(self._expire())

    def claim(self) -> None:
        """Take it: from here on the call closes it."""
        self._expiry.cancel()
        del self._registry[self.call.sid]

    async def close(self) -> None:
        """Give it up."""
        self._expiry.cancel()
        self._registry.pop(self.call.sid, None)
        await self._discard()

    async def _expire(self) -> None:
        why = f"no media socket came within {CLAIM_SECONDS:g} s of the webhook"
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
