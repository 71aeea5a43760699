"""The control of a live call by user code (`Call`), from any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from phoneagent.agent.agent import Agent
from phoneagent.agent.call import ToolDefinition
from phoneagent.bridge.caller import PushToTalk
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.history import Role
from phoneagent.errors import DefinitionError


class Talk(Protocol):
    """The sans-I/O machine of a call (`Bridge`), or of a conversation in writing (`Chat`)."""

    @property
    def conversation(self) -> Conversation: ...
    @property
    def push_to_talk(self) -> PushToTalk: ...
    def interrupt(self, now: float) -> None: ...
    def hang_up(self, now: float, *, goodbye: bool = True) -> None: ...
    def move_on(self, now: float) -> None: ...


class Control:
    """The control of one call: what is asked for happens at once in the call's own loop, else as soon as that runs it.

    `agent` returns the agent that has the call now; with `manual` the user's code marks the turns; `flush` writes what
    there is to write then.
    """

    def __init__(
        self,
        talk: Talk,
        agent: Callable[[], Agent],
        *,
        manual: bool,
        flush: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._talk = talk
        self._agent = agent
        self._manual = manual
        self._flush = flush
        self._loop = loop

    def say(self, text: str) -> None:
        self._do(lambda talk, now: talk.conversation.say(text))

    def interrupt(self) -> None:
        self._do(lambda talk, now: talk.interrupt(now))

    def hang_up(self, *, goodbye: bool) -> None:
        self._do(lambda talk, now: talk.hang_up(now, goodbye=goodbye))

    def add(self, text: str, role: Role) -> None:
        self._do(lambda talk, now: talk.conversation.add(text, role, now))

    def respond(self, instructions: str | None, tools: Sequence[ToolDefinition] | None) -> None:
        options = self._agent().response(instructions, tools)
        self._do(lambda talk, now: talk.conversation.respond(options))

    def commit(self) -> None:
        self._by_hand("commit")
        self._do(lambda talk, now: talk.push_to_talk.commit())

    def clear(self) -> None:
        self._by_hand("clear")
        self._do(lambda talk, now: talk.push_to_talk.clear())

    def _by_hand(self, what: str) -> None:
        if not self._manual:
            raise DefinitionError(
                f"call.{what} is for turns that your code marks: give the agent that answers "
                'turns=Turns(detection="manual"), or leave turns to the model'
            )

    def _do(self, act: Callable[[Talk, float], object]) -> None:
        def run() -> None:
            now = self._loop.time()
            act(self._talk, now)
            self._talk.move_on(now)  # what was asked for may be possible at once
            self._flush()

        try:
            inside = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            inside = False
        if inside:
            run()
        else:
            self._loop.call_soon_threadsafe(run)
