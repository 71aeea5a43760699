"""A call's agent and model session on their way: begun at the webhook, while Twilio opens the media socket.

That saves the caller the wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from .agent import Agent
from .call import Call
from .endpoint import Endpoint, ModelSession

log = logging.getLogger("phoneagent.prepared")

CLAIM_SECONDS = 10.0
"""How long such a session waits for its media socket."""


@dataclass(slots=True)
class Opening:
    """The choice of the agent who answers a call, and the model session that is opened for them.

    `route` has the endpoints in the order in which they are asked; whichever gave the latest session comes first.
    """

    agent: asyncio.Task[Agent]
    model: asyncio.Task[ModelSession]
    route: deque[Endpoint]

    async def discard(self) -> None:
        """Make sure that nothing of it goes on or stays open."""
        self.model.cancel()
        self.agent.cancel()
        result, _ = await asyncio.gather(self.model, self.agent, return_exceptions=True)
        if isinstance(result, ModelSession):
            await result.close()


class Prepared:
    """An opening that was begun at the webhook and waits to be claimed by the call's media socket."""

    def __init__(self, call: Call, opening: Opening, registry: dict[str, Prepared]) -> None:
        self.call = call
        self.opening = opening
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
        await self.opening.discard()

    async def _expire(self) -> None:
        await asyncio.sleep(CLAIM_SECONDS)
        del self._registry[self.call.sid]
        log.info("no media socket came within %g s of the webhook", CLAIM_SECONDS, extra={"call_sid": self.call.sid})
        await self.opening.discard()
