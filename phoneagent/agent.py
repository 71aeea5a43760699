"""The agent: who answers the phone, what it says first, how it listens, and what it can do."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .call import Call
from .errors import DefinitionError
from .options import Hearing, Limits, Turns, Voice
from .threads import run_in_thread
from .tools import Tool

Instructions: TypeAlias = str | Callable[[Call], str | Awaitable[str]]

TOOL_CHOICES = ("auto", "none", "required")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Who answers the phone.

    `instructions` may be a function of the call (today's date, the caller's name), plain or async. `greeting` is said
    first, word for word; without one the agent waits for the caller. The greeting is protected until it was heard,
    unless `greeting_interruptible`. With `barge_in=False` the agent is never interrupted; what the caller says
    meanwhile is answered afterwards.

    `tool_choice` is "auto", "none", "required" or the name of a tool. The last two hold for each response, also for the
    one that tells what a tool returned, so they rarely suit a call. `extra` is merged into the session configuration
    last, for what is newer than this package.
    """

    name: str = "agent"
    instructions: Instructions
    greeting: str | None = None
    voice: Voice | str = "marin"
    tools: Sequence[Tool] = ()
    tool_choice: str = "auto"
    greeting_interruptible: bool = False
    barge_in: bool = True
    turns: Turns = field(default_factory=Turns)
    hearing: Hearing = field(default_factory=Hearing)
    limits: Limits = field(default_factory=Limits)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names: set[str] = set()
        for each in self.tools:
            if not isinstance(each, Tool):
                raise DefinitionError(f"agent {self.name!r} has {each!r} among its tools: decorate it with @tool")
            if each.name in names:
                raise DefinitionError(f"agent {self.name!r} has two tools named {each.name!r}: rename one of them")
            names.add(each.name)
        if self.tool_choice not in (*TOOL_CHOICES, *names):
            choices = ", ".join(map(repr, (*TOOL_CHOICES, *sorted(names))))
            raise DefinitionError(f"agent {self.name!r} has tool_choice={self.tool_choice!r}: choose one of {choices}")
        for name, kind in (("turns", Turns), ("hearing", Hearing), ("limits", Limits), ("extra", Mapping)):
            if not isinstance(value := getattr(self, name), kind):
                raise DefinitionError(f"agent {self.name!r} has {name}={value!r}: make it a {kind.__name__}")
        if not isinstance(self.instructions, str) and not callable(self.instructions):
            raise DefinitionError(f"agent {self.name!r} has instructions that are neither text nor a function")
        _ = self._voice  # checked here rather than in the first call

    @property
    def _voice(self) -> Voice:
        return self.voice if isinstance(self.voice, Voice) else Voice(self.voice)

    def tool(self, name: str) -> Tool | None:
        """Return the tool of that name."""
        return next((each for each in self.tools if each.name == name), None)

    async def instructions_for(self, call: Call) -> str:
        """Return the instructions for a call; a function is asked, a plain one in a thread.

        Raises:
            DefinitionError: the function returns something else than text.
        """
        if isinstance(self.instructions, str):
            return self.instructions
        text = await _ask(self.instructions, call)
        if not isinstance(text, str):
            raise DefinitionError(f"agent {self.name!r} has instructions that return {type(text).__name__}, not text")
        return text

    def session(self, instructions: str, *, written: bool = False) -> dict[str, Any]:
        """Return the session configuration of the Realtime API, in GA's shape.

        With `written` it is for a conversation in writing: the model writes, and listens for no turns.
        """
        format_ = {"type": "audio/pcmu"}
        detection = self.turns.session(create_response=self.barge_in)
        hearing = {"format": format_, "turn_detection": detection, **self.hearing.session()}
        choice: Any = self.tool_choice
        if choice not in TOOL_CHOICES:
            choice = {"type": "function", "name": choice}
        session: dict[str, Any] = {
            "type": "realtime",
            "output_modalities": ["audio"],
            "instructions": instructions,
            "audio": {"input": hearing, "output": {"format": dict(format_), **self._voice.session()}},
            "tools": [each.definition() for each in self.tools],
            "tool_choice": choice,
            **self.limits.session(),
        }
        session = _merged(session, self.extra)
        if written:
            silent = {"output_modalities": ["text"], "audio": {"input": {"turn_detection": None}}}
            session = _merged(session, silent)
        return session

    def response(self, instructions: str | None, tools: Sequence[Tool] | None) -> dict[str, Any]:
        """Return the options of one response that has its own instructions or tools.

        Raises:
            DefinitionError: one of the tools is not this agent's.
        """
        options: dict[str, Any] = {} if instructions is None else {"instructions": instructions}
        if tools is not None:
            foreign = next((each for each in tools if each not in self.tools), None)
            if foreign is not None:
                name = getattr(foreign, "name", foreign)
                raise DefinitionError(f"agent {self.name!r} has no tool {name!r} to respond with: add it to its tools")
            options["tools"] = [each.definition() for each in tools]
        return options

    @property
    def turn_detection(self) -> Mapping[str, Any] | None:
        """What the session says of the caller's turns, `extra` included; None leaves them to your code."""
        found: Mapping[str, Any] | None = self.session("")["audio"]["input"]["turn_detection"]
        return found


Answerer: TypeAlias = Agent | Callable[[Call], Agent | Awaitable[Agent]]
"""Who answers: always the same agent, or a function, plain or async, that chooses one for each call."""


async def choose(answerer: Answerer, call: Call) -> Agent:
    """Return the agent that answers a call; a function is asked, a plain one in a thread.

    Raises:
        DefinitionError: the function returns something else than an agent.
    """
    if isinstance(answerer, Agent):
        return answerer
    agent = await _ask(answerer, call)
    if not isinstance(agent, Agent):
        raise DefinitionError(f"the function that chooses an agent returned {type(agent).__name__}: return an Agent")
    return agent


async def _ask(function: Callable[[Call], Any], call: Call) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(call)
    answer = await run_in_thread(function, call)
    return await answer if inspect.isawaitable(answer) else answer


def _merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in extra.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
