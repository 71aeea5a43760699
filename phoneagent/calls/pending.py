"""Pending calls: the webhook was answered, and Twilio has not opened the media socket yet.

The agent is chosen and the model session opened in that time, so that the caller does not wait for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from phoneagent.agent.agent import Answer
from phoneagent.agent.call import Call
from phoneagent.calls.opening import Opening

log = logging.getLogger("phoneagent.calls.pending")

CLAIM_SECONDS = 10.0
"""How long a pending call, with its model session, waits for its media socket, and then for its stream to begin."""

LOOK_SECONDS = 1.0
"""How often a pending call checks whether its media socket came to another process; a router may choose any process."""


class PendingCall:
    """A call that waits for its media socket, usually with an opening that the webhook began.

    `elsewhere` returns whether the socket came to another process; it is None without records.
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
        self.answer: Answer | None = None
        """The answerer of the call, if it is known and no opening has it."""
        self.elsewhere = elsewhere
        self._registry = registry
        self._wait_anew()
        self._expiry = asyncio.create_task(self._expire())

    def expect_again(self, elsewhere: Callable[[], Awaitable[bool]] | None) -> None:
        """Expect another media socket: Twilio has requested the webhook again."""
        self.arrived, self.elsewhere = False, elsewhere
        self._wait_anew()

    def arrive(self) -> None:
        """Note that the media socket has come here, and is in its handshake."""
        self.arrived = True
        self._wait_anew()

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
        why = await self._end_of_waiting()
        del self._registry[self.call.sid]
        log.info("%s", why, extra={"call_sid": self.call.sid})
        await self._discard()

    async def _end_of_waiting(self) -> str:
        """Wait until the media socket is no longer expected, and return why."""
        loop = asyncio.get_running_loop()
        while (left := self._until - loop.time()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await asyncio.sleep(LOOK_SECONDS)
                    if not self.arrived and self.elsewhere is not None and await self.elsewhere():
                        return "the media socket came to another process"
        if self.arrived:
            return f"the media socket opened, but its stream did not begin within {CLAIM_SECONDS:g} s"
        return f"no media socket opened within {CLAIM_SECONDS:g} s of the webhook"

    def _wait_anew(self) -> None:
        self._until = asyncio.get_running_loop().time() + CLAIM_SECONDS

    async def _discard(self) -> None:
        if self.opening is not None:
            await self.opening.discard()
