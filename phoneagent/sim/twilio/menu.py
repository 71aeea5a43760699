"""A menu at the far end of a call (an IVR): it speaks, and follows the keys that it hears in the agent's audio.

    bank = Menu("For cards, press one. For loans, press two.", {"2": Menu("You have reached loans.")})
    async with phone.answer() as line:
        keys = await bank.answer(line)

Real menus are impatient and hear only tones. So is this one: it takes a key even while it speaks, repeats itself
after a wrong key or none, and gives up after three attempts.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from phoneagent.sim.speech import Murmur, Voice
from phoneagent.sim.tones import ToneEar
from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.line import Line

PATIENCE_SECONDS = 8.0
"""How long a menu waits for a key after its last word."""

MAX_ATTEMPTS = 3
"""How often a menu speaks before it gives up."""

LISTEN_SECONDS = 0.02
"""Audio is listened to in pieces of this length."""


@dataclass(frozen=True, slots=True)
class Menu:
    """A level of a menu: its text, and where each key leads. One without `options` is the end of a path."""

    prompt: str
    options: Mapping[str, Menu] = field(default_factory=dict)

    async def answer(
        self, line: Line, *, voice: Voice | None = None, patience_seconds: float = PATIENCE_SECONDS
    ) -> str:
        """Act as this menu on a call until a path has reached its end, and return the keys that led there.

        Raises:
            CallFailed: the call ended earlier, or no key led anywhere after three attempts.
        """
        voice, keys, way, node = voice or Murmur(pitch_hz=140), _Keys(line), "", self
        while node.options:
            for _ in range(MAX_ATTEMPTS):
                key = await node._ask(line, keys, voice, patience_seconds)
                if key in node.options:
                    break
            else:
                raise CallFailed(f"the menu {node.prompt!r} heard none of its keys; the keys so far: {way or 'none'}")
            way, node = way + key, node.options[key]
        await line.say(voice.render(node.prompt), node.prompt)
        return way

    async def _ask(self, line: Line, keys: _Keys, voice: Voice, patience_seconds: float) -> str:
        """Say this level's text, and return the key that was pressed; "" for none."""
        saying = asyncio.create_task(line.say(voice.render(self.prompt), self.prompt))
        try:
            until = math.inf
            while time.monotonic() < until:
                if key := keys.next():
                    return key
                if saying.done() and until == math.inf:
                    until = time.monotonic() + patience_seconds
                await asyncio.sleep(LISTEN_SECONDS)
            return ""
        finally:
            saying.cancel()  # a key stops it
            (said,) = await asyncio.gather(saying, return_exceptions=True)
            if isinstance(said, CallFailed) or line.ended_by is not None:
                raise CallFailed(f"the call ended (by {line.ended_by}) before the menu {self.prompt!r} heard a key")


class _Keys:
    """The keys that the far end hears as the audio is played there."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._ear = ToneEar()
        self._position = 0
        self._heard: deque[str] = deque()

    def next(self) -> str:
        """Return the next key that was heard; "" if there is none yet."""
        for span in self._line.heard:
            if span.stream_end > self._position:
                piece = self._line.received[max(span.stream_start, self._position) : span.stream_end]
                self._position = span.stream_end
                self._heard.extend(self._ear.hear(bytes(piece)))
        return self._heard.popleft() if self._heard else ""
