"""The agent that answers the phone: its instructions, its voice, its tools and its hand-offs."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, get_args

from phoneagent.agent.call import Call, ToolDefinition, is_text, sendable
from phoneagent.agent.handoffs import check_once, hand_off_tool
from phoneagent.agent.mcp import LocalMcpServer, McpServer
from phoneagent.agent.mcp_link import START_SECONDS
from phoneagent.agent.options import Hearing, Limits, Recording, Turns, Voice
from phoneagent.agent.outcome import check_outcome
from phoneagent.agent.tools import Tool
from phoneagent.agent.transcriber import Transcriber
from phoneagent.bridge.policy import Interruption, KeysMode, Silence
from phoneagent.bridge.scripts import begin_of_tokens, tokens_of
from phoneagent.errors import DefinitionError
from phoneagent.usercode import call_user, signature_problem

Guardrail: TypeAlias = Callable[[Call, str], "str | Awaitable[str | None] | None"]
"""A function of the call and of the answer's text so far; it returns None, or what the agent should say instead."""

Instructions: TypeAlias = str | Callable[[Call], str | Awaitable[str]]
"""An agent's instructions, or a function that writes them for a call."""

log = logging.getLogger("phoneagent.agent.agent")

TOOL_CHOICES = ("auto", "none", "required")

MAX_TOOLS = 128
"""The Realtime API refuses a session with more."""

MAX_TOKENS = 16_384
"""The Realtime API refuses a session whose instructions and tools have more. Their number is estimated."""

MAX_NAME_CHARS = 200
"""The model reads the name in the agent's hand-off tool."""

_SHAPE: dict[str, type | tuple[type, ...]] = {
    "audio": Mapping,
    "audio.input": Mapping,
    "audio.input.turn_detection": (Mapping, type(None)),
    "audio.output": Mapping,
    "instructions": str,
    "tools": list,
}
"""What `extra` must not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent that answers the phone.

    `instructions` may be a function of the call (today's date, the caller's name), plain or async. Instructions and
    tools together may have about 16,000 tokens: longer text is refused here, and what a function returns is cut.

    `greeting` is said first, word for word; without one the agent waits for the caller. The caller cannot interrupt the
    greeting unless `greeting_interruptible`. With `barge_in=False` the caller never interrupts the agent; what they say
    is answered afterwards. Pass an `Interruption` instead to choose which speech interrupts.

    With `keys="tell"`, the model learns which keys the caller presses, and answers; "ignore" leaves them to your hooks.
    The model never learns keys that are gathered (`call.gather`).

    `silence` is how long the caller may hear nothing; None uses the app's settings.

    `recording` records the calls that this agent answers, if the setting RECORD_AUDIO says where.

    `handoffs` are the agents that this one may hand a call to, or their names.

    `guardrail` sees the text of each answer as it arrives. If it returns a text, the agent is interrupted and says that
    text instead. It does not see text that the agent is told to say word for word.

    `tool_choice` is "auto", "none", "required" or the name of a tool. The last two apply to every response, including
    the one that reports what a tool returned, so they rarely suit a call.

    `outcome` is a type, such as a pydantic model: after the call, the model fills it in from the transcript.

    `extra` is merged into the session configuration last: use it for options that are newer than this package.

    Raises:
        DefinitionError: an option has the wrong type, a function has the wrong signature, two tools have the same name,
            or the Realtime API would refuse the session.
    """

    name: str = "agent"
    instructions: Instructions
    greeting: str | None = None
    voice: Voice | str = "marin"
    tools: Sequence[Tool | McpServer | LocalMcpServer] = ()
    tool_choice: str = "auto"
    handoffs: Sequence[Agent | str] = ()
    guardrail: Guardrail | None = None
    greeting_interruptible: bool = False
    barge_in: bool | Interruption = True
    keys: KeysMode = "tell"
    silence: Silence | None = None
    recording: Recording | None = None
    turns: Turns = field(default_factory=Turns)
    hearing: Hearing = field(default_factory=Hearing)
    limits: Limits = field(default_factory=Limits)
    outcome: type[Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a mistake here, where it was written, rather than in every call."""
        self._check_values()
        self._check_functions()
        for each in self.tools:
            if not isinstance(each, Tool | McpServer | LocalMcpServer):
                raise DefinitionError(f"agent {self.name!r} has {_named(each)} among its tools: {_as_tool(each)}")
        for member in self.handoffs:
            if not isinstance(member, Agent) and not _is_name(member):
                raise DefinitionError(f"agent {self.name!r} hands off to {member!r}: name another agent")
            if name_of(member) == self.name:
                raise DefinitionError(f"agent {self.name!r} hands off to itself: name another agent")
        team_of(self)  # it raises if two agents share a name
        names: set[str] = set()
        tools = [each.name for each in self.tools if isinstance(each, Tool)]
        tools += [hand_off_tool(name_of(member)).name for member in self.handoffs]
        for name in (*tools, *(each.label for each in self._hosted)):
            if name in names:
                raise DefinitionError(f"agent {self.name!r} has two tools named {name!r}: rename one of them")
            names.add(name)
        if len(names) > MAX_TOOLS:
            raise DefinitionError(f"agent {self.name!r} has {len(names)} tools: keep at most {MAX_TOOLS}")
        if self.tool_choice not in (choices := (*TOOL_CHOICES, *tools)):
            known = ", ".join(map(repr, choices))
            raise DefinitionError(f"agent {self.name!r} has tool_choice={self.tool_choice!r}: choose one of {known}")
        if self.tool_choice == "required" and not self.tools and not self.handoffs:
            raise DefinitionError(f"agent {self.name!r} has tool_choice='required' and no tools: write 'auto'")
        self._check_session()

    def _check_values(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise DefinitionError(f"an agent has name={self.name!r}: write text that is not empty")
        if len(self.name) > MAX_NAME_CHARS:
            raise DefinitionError(f"an agent has a name of {len(self.name)} characters: keep to {MAX_NAME_CHARS}")
        if not isinstance(self.instructions, str) and not callable(self.instructions):
            raise DefinitionError(
                f"agent {self.name!r} has instructions={self.instructions!r}: write text, or a function that returns it"
            )
        if not isinstance(self.greeting, str | None) or (self.greeting and not self.greeting.strip()):
            raise DefinitionError(f"agent {self.name!r} has greeting={self.greeting!r}: write text, or None")
        for name in ("name", "greeting", "instructions"):
            if isinstance(text := getattr(self, name), str) and sendable(text) != text:
                raise DefinitionError(f"agent {self.name!r} has a lone surrogate in its {name}: decode it as UTF-8")
        for name in ("tools", "handoffs"):
            if not isinstance(value := getattr(self, name), Sequence) or isinstance(value, str):
                one = getattr(value, "name", "...")
                raise DefinitionError(f"agent {self.name!r}: {name} must be a list: write {name}=[{one}]")
        if not isinstance(self.barge_in, bool | Interruption):
            raise DefinitionError(
                f"agent {self.name!r} has barge_in={self.barge_in!r}: write True, False or an Interruption"
            )
        if self.keys not in (modes := get_args(KeysMode)):
            raise DefinitionError(f"agent {self.name!r} has keys={self.keys!r}: choose {' or '.join(map(repr, modes))}")
        if not isinstance(self.silence, Silence | None):
            raise DefinitionError(f"agent {self.name!r} has silence={self.silence!r}: make it a Silence")
        if not isinstance(self.recording, Recording | None):
            raise DefinitionError(f"agent {self.name!r} has recording={self.recording!r}: make it a Recording")
        check_outcome(self.name, self.outcome)
        for name, kind in (("turns", Turns), ("hearing", Hearing), ("limits", Limits), ("extra", Mapping)):
            if not isinstance(value := getattr(self, name), kind):
                raise DefinitionError(f"agent {self.name!r} has {name}={value!r}: make it a {kind.__name__}")
        try:
            json.dumps(dict(self.extra), ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise DefinitionError(f"agent {self.name!r} has an `extra` that is not JSON: {error}") from None
        _ = self._voice

    def _check_functions(self) -> None:
        """Refuse functions that would fail in every call."""
        if callable(self.instructions) and (problem := signature_problem(self.instructions, "call")) is not None:
            raise DefinitionError(f"agent {self.name!r} has an instructions function that {problem}")
        if self.guardrail is None:
            return
        if not callable(self.guardrail):
            raise DefinitionError(f"agent {self.name!r} has guardrail={self.guardrail!r}: pass a function, or None")
        if (problem := signature_problem(self.guardrail, "call", "text")) is not None:
            raise DefinitionError(f"agent {self.name!r} has a guardrail that {problem}")

    def _check_session(self) -> None:
        """Refuse a session that no server accepts, including `extra`. Local MCP servers add their tools later."""
        fixed = self.instructions if isinstance(self.instructions, str) else ""
        session = self.session(fixed)
        for path, kinds in _SHAPE.items():
            node: Any = session
            for key in path.split("."):
                node = node.get(key)
            if not isinstance(node, kinds):
                raise DefinitionError(f"agent {self.name!r} has an `extra` that makes {path} {node!r}: leave that out")
        tools = json.dumps(session["tools"], ensure_ascii=False)
        if (tokens := _instructions_tokens(session["instructions"]) + tokens_of(tools)) > MAX_TOKENS:
            raise DefinitionError(
                f"agent {self.name!r} has instructions and tools of about {tokens} tokens, and the Realtime API takes "
                f"{MAX_TOKENS}: shorten them, or let a tool return the long texts"
            )

    @property
    def _voice(self) -> Voice:
        return self.voice if isinstance(self.voice, Voice) else Voice(self.voice)

    @property
    def all_tools(self) -> tuple[Tool, ...]:
        """The functions that the model may call: the agent's tools, its hand-offs, and the tools of local MCP servers.

        The agent's own tools take precedence: a tool of an MCP server is left out if its name is taken, or if the
        session has no room for it.
        """
        return tuple(self._offer()[0].values())

    def _offer(self) -> tuple[dict[str, Tool], dict[LocalMcpServer, list[str]]]:
        """Return the tools by name, and for each MCP server the tools left out, with the reason."""
        tools = {each.name: each for each in self.tools if isinstance(each, Tool)}
        tools |= {each.name: each for each in map(hand_off_tool, map(name_of, self.handoffs))}
        fixed = _instructions_tokens(self.instructions) if isinstance(self.instructions, str) else MAX_TOKENS // 2
        room = MAX_TOKENS - fixed - sum(each.tokens for each in tools.values())
        left_out: dict[LocalMcpServer, list[str]] = {}
        for server in self._local:
            for each in server.tools:
                if each.name in tools:
                    left_out.setdefault(server, []).append(f"{each.name} (another tool has that name)")
                elif len(tools) + len(self._hosted) >= MAX_TOOLS or each.tokens > room:
                    left_out.setdefault(server, []).append(f"{each.name} (the session has no room for it)")
                else:
                    tools[each.name] = each
                    room -= each.tokens
        return tools, left_out

    @property
    def _hosted(self) -> list[McpServer]:
        return [each for each in self.tools if isinstance(each, McpServer)]

    @property
    def _local(self) -> list[LocalMcpServer]:
        return [each for each in self.tools if isinstance(each, LocalMcpServer)]

    def tool(self, name: str) -> Tool | None:
        """Return the tool with that name, or None."""
        return self._offer()[0].get(name)

    async def open(self) -> None:
        """Start the local MCP servers of this agent and of its team, so that the first call does not wait for them."""
        await asyncio.gather(*(server.ready(START_SECONDS) for server in self._servers()))

    async def close(self) -> None:
        """Stop the local MCP servers of this agent and of its team."""
        await asyncio.gather(*(server.close() for server in self._servers()))

    def _servers(self) -> list[LocalMcpServer]:
        return list({id(each): each for member in team_of(self).values() for each in member._local}.values())

    async def instructions_for(self, call: Call) -> str:
        """Return the instructions for a call. A plain function runs in a thread.

        This also waits up to `mcp.READY_SECONDS` for the local MCP servers, so `all_tools` has their tools afterwards.

        Raises:
            DefinitionError: the function returned something other than text.
        """
        await asyncio.gather(*(server.ready() for server in self._local))
        for server, left_out in self._offer()[1].items():
            server.tell(f"agent {self.name!r} goes without some of its tools: {', '.join(left_out)}")
        if isinstance(self.instructions, str):
            return self.instructions
        text = await call_user(self.instructions, call)
        if not isinstance(text, str):
            kind = type(text).__name__
            raise DefinitionError(f"agent {self.name!r} has an instructions function that returned {kind}: return text")
        room = MAX_TOKENS - sum(each.tokens for each in self.all_tools)
        return _fitted(sendable(text), room, f"agent {self.name!r} has an instructions function that returned", call)

    def session(self, instructions: str, *, written: bool = False) -> dict[str, Any]:
        """Return the session configuration of the Realtime API, in GA's shape.

        With `written` the conversation is in text: the model writes, and turn detection is off.
        """
        format_ = {"type": "audio/pcmu"}
        detection = self.turns.session(create_response=self.interruption.server_may_answer)
        hearing = {"format": format_, "turn_detection": detection, **self.hearing.session()}
        choice: Any = self.tool_choice
        if choice not in TOOL_CHOICES:
            choice = {"type": "function", "name": choice}
        session: dict[str, Any] = {
            "type": "realtime",
            "output_modalities": ["audio"],
            "instructions": instructions,
            "audio": {"input": hearing, "output": {"format": dict(format_), **self._voice.session()}},
            "tools": [each.definition() for each in self.all_tools] + [each.definition() for each in self._hosted],
            "tool_choice": choice,
            **self.limits.session(),
        }
        session = _merged(session, self.extra)
        silent = {"output_modalities": ["text"], "audio": {"input": {"turn_detection": None}}}
        return _merged(session, silent) if written else session

    def response(self, instructions: str | None, tools: Sequence[ToolDefinition] | None) -> dict[str, Any]:
        """Return the options of a single response that has its own instructions or tools.

        Raises:
            DefinitionError: the agent does not have one of the tools.
        """
        options: dict[str, Any] = {} if instructions is None else {"instructions": instructions}
        if tools is not None:
            foreign = next((each for each in tools if each not in self.all_tools), None)
            if foreign is not None:
                name = getattr(foreign, "name", foreign)
                raise DefinitionError(f"agent {self.name!r} has no tool {name!r} to respond with: add it to its tools")
            options["tools"] = [each.definition() for each in tools]
        return options

    @property
    def interruption(self) -> Interruption:
        """Which speech stops the agent: `barge_in` and `greeting_interruptible` as one value.

        The languages of back-channels default to those of `hearing`. Without a recognizer, there is no transcript to
        wait for.
        """
        given = self.barge_in if isinstance(self.barge_in, Interruption) else Interruption(enabled=self.barge_in)
        return replace(
            given,
            greeting=given.greeting or self.greeting_interruptible,
            languages=given.languages or self.hearing.languages,
            words_ms=0 if self.hearing.transcription_models == () else given.words_ms,
        )

    @property
    def turn_detection(self) -> Mapping[str, Any] | None:
        """The session's turn detection, `extra` included; None if your code decides where turns end."""
        found: Mapping[str, Any] | None = self.session("")["audio"]["input"]["turn_detection"]
        return found


@functools.lru_cache(maxsize=64)
def _instructions_tokens(text: str) -> int:
    """Count a text's tokens. Cached, because each tool call asks again."""
    return tokens_of(text)


def _fitted(text: str, room: int, who: str, call: Call) -> str:
    """Return text that fits into a session. Longer text is cut and logged, because it must not end the call."""
    if (tokens := tokens_of(text)) <= room:
        return text
    message = "%s about %d tokens: the model gets the first %d, because the Realtime API takes no more"
    log.error(message, who, tokens, room, extra={"call_sid": call.sid})
    return begin_of_tokens(text, room)


def _as_tool(something: object) -> str:
    """Return how to make it a tool."""
    return "decorate it with @tool" if callable(something) else "name the function itself, decorated with @tool"


def _named(thing: object) -> str:
    return f"the function {thing.__name__}" if inspect.isfunction(thing) else repr(thing)


def _is_name(value: object) -> bool:
    return is_text(value) and bool(value.strip()) and len(value) <= MAX_NAME_CHARS


def name_of(member: Agent | str) -> str:
    """Return the name of a member of `Agent.handoffs`."""
    return member if isinstance(member, str) else member.name


def team_of(agent: Agent) -> dict[str, Agent]:
    """Return every agent that a call answered by this one can reach through hand-offs, by name.

    Raises:
        DefinitionError: two of the agents have the same name.
    """
    team = {agent.name: agent}
    to_visit: list[Agent] = [agent]
    while to_visit:
        for member in to_visit.pop().handoffs:
            if isinstance(member, str):
                continue
            if team.setdefault(member.name, member) is not member:
                raise DefinitionError(f"two agents are named {member.name!r}: give one of them another name")
            to_visit.append(member)
    return team


def check_handoffs(agent: Agent) -> None:
    """Check that every agent a call can reach exists, and that no tool with `once` shares its name.

    Raises:
        DefinitionError: an agent hands off to a name that no agent has; or two agents, or such tools, have one name.
    """
    team = team_of(agent)
    check_once((each.name, each.tools) for each in team.values())
    for each in team.values():
        for name in map(name_of, each.handoffs):
            if name not in team:
                known = ", ".join(sorted(map(repr, team)))
                raise DefinitionError(
                    f"agent {each.name!r} hands off to {name!r}, and no agent has that name: use one of {known}, or "
                    "pass the agent itself"
                )


Answer: TypeAlias = Agent | Transcriber
"""What answers a call: an agent, or a transcriber that connects it to another person."""

Answerer: TypeAlias = Answer | Callable[[Call], Answer | Awaitable[Answer]]
"""What answers every call, or a function, plain or async, that chooses it for each call."""


async def choose_answer(answerer: Answerer, call: Call) -> Answer:
    """Return what answers a call. A plain function runs in a thread.

    Raises:
        DefinitionError: the function returned something other than an answer, or the agent's hand-offs are wrong.
    """
    if isinstance(answerer, Agent | Transcriber):
        return answerer
    answer: object = await call_user(answerer, call)
    if isinstance(answer, Agent):
        check_handoffs(answer)
    elif not isinstance(answer, Transcriber):
        raise DefinitionError(f"the function that chooses an agent returned {type(answer).__name__}: return an Agent")
    return answer


async def choose(answerer: Answerer, call: Call) -> Agent:
    """Return the agent that answers a call, where only an agent can answer.

    Raises:
        DefinitionError: a transcriber answers it, or the function failed as in `choose_answer`.
    """
    answer = await choose_answer(answerer, call)
    if isinstance(answer, Transcriber):
        raise DefinitionError("a Transcriber answers here, and this needs an agent: call with `phoneagent sim call`")
    return answer


def _merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in extra.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
