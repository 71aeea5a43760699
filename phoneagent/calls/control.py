"""What a `Call` in the user's hands does to its session, from any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from phoneagent.agent.agent import Agent
from phoneagent.agent.call import ToolDefinition
from phoneagent.bridge.asked import Asked
from phoneagent.bridge.history import Role
from phoneagent.errors import DefinitionError


class Conversation(Protocol):
    """The sans-I/O machine of a call, or of a conversation in writing."""

    @property
    def asked(self) -> Asked: ...
    def say(self, text: str, now: float) -> bool: ...
    def add(self, text: str, role: Role, now: float) -> bool: ...
    def interrupt(self, now: float) -> None: ...
    def hang_up(self, now: float, *, goodbye: bool = True) -> None: ...
    def handle_timer(self, now: float) -> None: ...


class Control:
    """Passes on what is asked for: at once in the call's own loop, else as soon as that gets to it.

    `agent` tells who has the call now; with `manual` the user's code takes the turns; `flush` writes what the
    conversation then has.
    """

    def __init__(
        self,
        conversation: Conversation,
        agent: Callable[[], Agent],
        *,
        manual: bool,
        flush: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._conversation = conversation
        self._agent = agent
        self._manual = manual
        self._flush = flush
        self._loop = loop

    def say(self, text: str) -> None:
        self._do(lambda talk, now: talk.say(text, now))

    def interrupt(self) -> None:
        self._do(lambda talk, now: talk.interrupt(now))

    def hang_up(self, *, goodbye: bool) -> None:
        self._do(lambda talk, now: talk.hang_up(now, goodbye=goodbye))

    def add(self, text: str, role: Role) -> None:
        self._do(lambda talk, now: talk.add(text, role, now))

    def respond(self, instructions: str | None, tools: Sequence[ToolDefinition] | None) -> None:
        options = self._agent().response(instructions, tools)
        self._do(lambda talk, now: talk.asked.respond(options))

    def commit(self) -> None:
        self._by_hand("commit")
        self._do(lambda talk, now: talk.asked.commit())

    def clear(self) -> None:
        self._by_hand("clear")
        self._do(lambda talk, now: talk.asked.clear())

    def _by_hand(self, what: str) -> None:
        if not self._manual:
            raise DefinitionError(
                f"call.{what} is for turns that your code takes: give the agent who answers "
                'turns=Turns(detection="manual"), or leave it to the model'
            )

    def _do(self, act: Callable[[Conversation, float], object]) -> None:
        def run() -> None:
            now = self._loop.time()
            act(self._conversation, now)
            self._conversation.handle_timer(now)  # what was asked for may be possible at once
            self._flush()

        try:
            inside = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            inside = False
        if inside:
            run()
        else:
            self._loop.call_soon_threadsafe(run)
