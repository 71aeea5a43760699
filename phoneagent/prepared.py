"""Model sessions that are opened at the webhook, while Twilio opens the media socket: they save the caller the wait."""

from __future__ import annotations

import asyncio
import logging

from .call import Call
from .endpoint import ModelSession

log = logging.getLogger("phoneagent.prepared")

CLAIM_SECONDS = 10.0
"""How long such a session waits for its media socket."""


async def discard(opening: asyncio.Task[ModelSession]) -> None:
    """Make sure that a session that was being opened does not stay open."""
    opening.cancel()
    (result,) = await asyncio.gather(opening, return_exceptions=True)
    if isinstance(result, ModelSession):
        await result.close()


class Prepared:
    """A model session that was opened at the webhook and waits to be claimed by the call's media socket."""

    def __init__(self, call: Call, opening: asyncio.Task[ModelSession], registry: dict[str, Prepared]) -> None:
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
        await discard(self.opening)

    async def _expire(self) -> None:
        await asyncio.sleep(CLAIM_SECONDS)
        del self._registry[self.call.sid]
        log.info("no media socket came within %g s of the webhook", CLAIM_SECONDS, extra={"call_sid": self.call.sid})
        await discard(self.opening)
