"""What a `Call` in the user's hands does to its session, from any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from .agent import Agent
from .errors import DefinitionError
from .protocol.bridge import Bridge
from .tools import Tool


class Control:
    """Passes on what is asked for: at once in the call's own loop, else as soon as that gets to it.

    `agent` tells who answers now; `flush` writes what the bridge then has.
    """

    def __init__(
        self,
        bridge: Bridge,
        agent: Callable[[], Agent],
        *,
        flush: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._bridge = bridge
        self._agent = agent
        self._flush = flush
        self._loop = loop

    def say(self, text: str) -> None:
        self._do(lambda bridge, now: bridge.say(text, now))

    def interrupt(self) -> None:
        self._do(lambda bridge, now: bridge.interrupt(now))

    def hang_up(self, *, goodbye: bool) -> None:
        self._do(lambda bridge, now: bridge.hang_up(now, goodbye=goodbye))

    def add(self, text: str, role: str) -> None:
        self._do(lambda bridge, now: bridge.asked.add(text, role))

    def respond(self, instructions: str | None, tools: Sequence[Tool] | None) -> None:
        options = self._agent().response(instructions, tools)
        self._do(lambda bridge, now: bridge.asked.respond(options))

    def commit(self) -> None:
        self._by_hand("commit")
        self._do(lambda bridge, now: bridge.asked.commit())

    def clear(self) -> None:
        self._by_hand("clear")
        self._do(lambda bridge, now: bridge.asked.clear())

    def _by_hand(self, what: str) -> None:
        agent = self._agent()
        if agent.turn_detection is not None:
            raise DefinitionError(
                f"call.{what} is for turns that your code takes: give agent {agent.name!r} "
                'turns=Turns(detection="manual"), or leave it to the model'
            )

    def _do(self, act: Callable[[Bridge, float], object]) -> None:
        def run() -> None:
            now = self._loop.time()
            act(self._bridge, now)
            self._bridge.handle_timer(now)  # what was asked for may be possible at once
            self._flush()

        try:
            inside = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            inside = False
        if inside:
            run()
        else:
            self._loop.call_soon_threadsafe(run)
