"""The agent: who answers the phone, what it says first, how it listens, and what it can do."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .call import Call
from .errors import DefinitionError
from .handoffs import hand_off_tool, name_of, team_of
from .mcp import START_SECONDS, LocalMcpServer, McpServer
from .threads import run_in_thread
from .tools import Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """How the model finds the end of the caller's turn: voice activity detection on the server.

    `threshold` is 0 to 1 (higher for noisy lines); `prefix_padding_ms` of audio before the detected start belong to
    the turn; after `silence_duration_ms` without speech it is over.
    """

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500


Guardrail: TypeAlias = Callable[[Call, str], "str | Awaitable[str | None] | None"]
"""Gets the call and what the agent has said so far in its answer; returns None, or what it is to say instead."""

Instructions: TypeAlias = str | Callable[[Call], str | Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Who answers the phone.

    `instructions` may be a function of the call (today's date, the caller's name), plain or async. `greeting` is said
    first, word for word; without one the agent waits for the caller. The greeting is protected until it was heard,
    unless `greeting_interruptible`. With `barge_in=False` the agent is never interrupted; what the caller says
    meanwhile is answered afterwards. `handoffs` are the agents to whom it may hand a call, or their names.
    `guardrail` is shown the text of each answer as it comes: if it returns a text, the agent is interrupted and says
    that instead. It is not shown what the agent is told to say word for word.
    `language` (ISO 639-1) helps the recogniser that writes the transcript. `extra` is merged into the session
    configuration last, for what is newer than this package.
    """

    name: str = "agent"
    instructions: Instructions
    greeting: str | None = None
    voice: str = "marin"
    tools: Sequence[Tool | McpServer | LocalMcpServer] = ()
    handoffs: Sequence[Agent | str] = ()
    guardrail: Guardrail | None = None
    greeting_interruptible: bool = False
    barge_in: bool = True
    turns: Turns = Turns()
    language: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in self.tools:
            if not isinstance(each, Tool | McpServer | LocalMcpServer):
                raise DefinitionError(f"agent {self.name!r} has {each!r} among its tools: decorate it with @tool")
        for member in self.handoffs:
            if not isinstance(member, Agent | str) or name_of(member) == self.name:
                raise DefinitionError(f"agent {self.name!r} hands off to {member!r}: name another agent")
        team_of(self)  # no two of one name
        names: set[str] = set()
        tools = [each.name for each in self.tools if isinstance(each, Tool)]
        tools += [hand_off_tool(name_of(member)).name for member in self.handoffs]
        for name in (*tools, *(each.label for each in self._hosted)):
            if name in names:
                raise DefinitionError(f"agent {self.name!r} has two tools named {name!r}: rename one of them")
            names.add(name)

    @property
    def all_tools(self) -> tuple[Tool, ...]:
        """What the model may call here: the tools, those that hand a call over, and those of local MCP servers.

        A tool of an MCP server that has another one's name is left out.
        """
        tools = {each.name: each for each in self.tools if isinstance(each, Tool)}
        tools |= {each.name: each for each in map(hand_off_tool, map(name_of, self.handoffs))}
        for server in self._local:
            tools = {each.name: each for each in server.tools} | tools
        return tuple(tools.values())

    @property
    def _hosted(self) -> list[McpServer]:
        return [each for each in self.tools if isinstance(each, McpServer)]

    @property
    def _local(self) -> list[LocalMcpServer]:
        return [each for each in self.tools if isinstance(each, LocalMcpServer)]

    def tool(self, name: str) -> Tool | None:
        """Return the tool of that name."""
        return next((each for each in self.all_tools if each.name == name), None)

    async def open(self) -> None:
        """Start the local MCP servers, also of those it may hand a call to: the first call finds them up."""
        await asyncio.gather(*(server.ready(START_SECONDS) for server in self._servers()))

    async def close(self) -> None:
        """End them."""
        await asyncio.gather(*(server.close() for server in self._servers()))

    def _servers(self) -> list[LocalMcpServer]:
        return list({id(each): each for member in team_of(self).values() for each in member._local}.values())

    async def instructions_for(self, call: Call) -> str:
        """Return the instructions for a call; a function is asked, a plain one in a thread.

        Then the tools of local MCP servers are known too, of those that are up within `mcp.READY_SECONDS`.

        Raises:
            DefinitionError: the function returns something else than text.
        """
        await asyncio.gather(*(server.ready() for server in self._local))
        if isinstance(self.instructions, str):
            return self.instructions
        if inspect.iscoroutinefunction(self.instructions):
            text = await self.instructions(call)
        else:
            text = await run_in_thread(self.instructions, call)
            text = await text if inspect.isawaitable(text) else text
        if not isinstance(text, str):
            raise DefinitionError(f"agent {self.name!r} has instructions that return {type(text).__name__}, not text")
        return text

    def session(self, instructions: str) -> dict[str, Any]:
        """Return the session configuration of the Realtime API, in GA's shape."""
        turn_detection = {
            "type": "server_vad",
            "threshold": self.turns.threshold,
            "prefix_padding_ms": self.turns.prefix_padding_ms,
            "silence_duration_ms": self.turns.silence_duration_ms,
            "create_response": self.barge_in,
            "interrupt_response": False,
        }
        hearing: dict[str, Any] = {"format": {"type": "audio/pcmu"}, "turn_detection": turn_detection}
        if self.language is not None:
            hearing["transcription"] = {"language": self.language}
        session: dict[str, Any] = {
            "type": "realtime",
            "output_modalities": ["audio"],
            "instructions": instructions,
            "audio": {"input": hearing, "output": {"format": {"type": "audio/pcmu"}, "voice": self.voice}},
            "tools": [each.definition() for each in self.all_tools] + [each.definition() for each in self._hosted],
            "tool_choice": "auto",
        }
        return _merged(session, self.extra)


def _merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in extra.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
