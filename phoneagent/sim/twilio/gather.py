"""The verb `<Gather>`: keys that a caller presses without a media stream, while a prompt plays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from phoneagent.sim.twilio.twiml import Verb

DEFAULT_SECONDS = 5.0


class Gathering:
    """The keys of one Gather, from its attributes."""

    def __init__(self, attributes: Mapping[str, str]) -> None:
        self._most = int(attributes.get("numDigits", "0"))
        self._finish = attributes.get("finishOnKey", "#")
        self._seconds = float(attributes.get("timeout", DEFAULT_SECONDS))
        self._pressed = asyncio.Event()
        self._complete = False
        self.digits = ""

    def press(self, digit: str) -> None:
        """Take a key."""
        if self._complete:
            return
        self._complete = digit == self._finish
        if not self._complete:
            self.digits += digit
            self._complete = 0 < self._most <= len(self.digits)
        self._pressed.set()

    async def collect(self, prompt: Awaitable[None]) -> str:
        """Return the digits: all of them, or those before the caller paused for too long.

        The first key ends the `prompt`. The timeout counts from its end.
        """
        saying = asyncio.ensure_future(prompt)
        waiting = asyncio.create_task(self._pressed.wait())
        try:
            await asyncio.wait({saying, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if saying.done():
                saying.result()
        finally:
            saying.cancel()
            waiting.cancel()
            await asyncio.wait({saying, waiting})
        while not self._complete:
            try:
                async with asyncio.timeout(self._seconds):
                    await self._pressed.wait()
            except TimeoutError:
                break
            self._pressed.clear()
        return self.digits


class Keypad(Protocol):
    """A line whose keys go to a Gather."""

    gathering: Gathering | None


async def carry_out(line: Keypad, verb: Verb, announce: Callable[[Verb], Awaitable[None]]) -> str:
    """Carry out a Gather, and return the digits; `announce` carries out a Say or Play."""

    async def prompt() -> None:
        for child in verb.children:
            if child.name == "Pause":
                await asyncio.sleep(float(child.attributes.get("length", "1")))
            else:
                await announce(child)

    line.gathering = gathering = Gathering(verb.attributes)
    try:
        return await gathering.collect(prompt())
    finally:
        line.gathering = None
