"""Trial settings: changes for the next calls from the browser, without a restart, and as Python code afterwards.

A process has at most one trial. Calls by telephone never get it. `apply` and `with_model` are pure: they return the
agent and the endpoint of such a call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from phoneagent.agent.agent import Agent, Answer, Answerer, choose, choose_answer
from phoneagent.agent.call import Call
from phoneagent.agent.options import Turns, Voice
from phoneagent.agent.tools import Tool
from phoneagent.errors import DefinitionError
from phoneagent.model.endpoint import Endpoint
from phoneagent.protocol.providers import OPENAI_VOICES

MAX_INSTRUCTIONS_CHARS = 64_000
MAX_TOOLS_OFF = 128

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class TurnDetection(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """Turn detection, as in `Turns`; `type` is the Realtime API's name of `Turns.detection`."""

    type: Literal["server_vad", "semantic_vad", "manual"]
    threshold: float | None = None
    prefix_padding_ms: int | None = None
    silence_duration_ms: int | None = None
    idle_timeout_ms: int | None = None
    eagerness: Literal["auto", "low", "medium", "high"] | None = None

    def turns(self) -> Turns:
        """Return it as an agent's option.

        Raises:
            DefinitionError: a value cannot be used, or belongs to another kind of turn detection.
        """
        fields = {name: value for name in self.__struct_fields__[1:] if (value := getattr(self, name)) is not None}
        return Turns(detection=self.type, **fields)


class Trial(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """Changes to the agent; None keeps its own value. `tools_off` names tools, and MCP servers by their labels."""

    voice: _Name | None = None
    speed: float | None = None
    instructions: Annotated[str, msgspec.Meta(max_length=MAX_INSTRUCTIONS_CHARS)] | None = None
    model: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:/-]{1,100}\Z")] | None = None
    tools_off: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=MAX_TOOLS_OFF)] = ()
    turn_detection: TurnDetection | None = None


def tool_name(tool: object) -> str:
    """Return the name of a tool, or the label of an MCP server."""
    return tool.name if isinstance(tool, Tool) else str(getattr(tool, "label", ""))


def apply(agent: Agent, trial: Trial) -> Agent:
    """Return the agent with the trial's changes; the agents that it hands off to are unchanged.

    Raises:
        DefinitionError: a model would not accept the changed agent.
    """
    changes: dict[str, Any] = {}
    if trial.voice is not None or trial.speed is not None:
        own = voice_of(agent)
        changes["voice"] = Voice(trial.voice or own.name, own.speed if trial.speed is None else trial.speed)
    if trial.instructions is not None:
        changes["instructions"] = trial.instructions
    if trial.turn_detection is not None:
        changes["turns"] = trial.turn_detection.turns()
    if trial.tools_off:
        left = [each for each in agent.tools if tool_name(each) not in trial.tools_off]
        changes["tools"] = left
        if agent.tool_choice in trial.tools_off or (agent.tool_choice == "required" and not (left or agent.handoffs)):
            changes["tool_choice"] = "auto"
    return replace(agent, **changes)


def check(agent: Agent | None, endpoint: Endpoint, trial: Trial) -> None:
    """Refuse a trial that the model would refuse, or that changes nothing. `agent` is None if each call chooses one.

    Raises:
        DefinitionError: the message says what to change.
    """
    unknown = trial.voice is not None and not (trial.voice in OPENAI_VOICES or trial.voice.startswith("voice_"))
    if unknown and has_openai_voices(endpoint):
        voices = ", ".join(sorted(OPENAI_VOICES))
        raise DefinitionError(f"the model has no voice {trial.voice!r}: choose one of {voices}, or voice_… of yours")
    if trial.model is not None and with_model(endpoint, trial.model) is endpoint:
        raise DefinitionError("the endpoint's address names no model, so it cannot be changed here: leave model out")
    if trial.instructions is not None and not trial.instructions.strip():
        raise DefinitionError("the instructions are empty: write some, or leave them out for the agent's own")
    if agent is None:
        apply(Agent(instructions=""), trial)
        return
    known = [tool_name(each) for each in agent.tools]
    for name in trial.tools_off:
        if name not in known:
            names = ", ".join(known) or "it has none"
            raise DefinitionError(f"the agent has no tool {name!r} to switch off: choose among its tools ({names})")
    apply(agent, trial)


def has_openai_voices(endpoint: Endpoint) -> bool:
    """Tell whether an endpoint is known to have OpenAI's voices and no others."""
    return endpoint.host.endswith((".openai.com", ".azure.com"))


def with_model(endpoint: Endpoint, model: str) -> Endpoint:
    """Return the endpoint with another model; the same one if its URL names no model."""
    parts = urlsplit(endpoint.url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    if "model" not in dict(query):
        return endpoint
    changed = [(name, model if name == "model" else value) for name, value in query]
    return replace(endpoint, url=urlunsplit(parts._replace(query=urlencode(changed))))


def model_of(endpoint: Endpoint) -> str | None:
    """Return the model in an endpoint's URL."""
    query = dict(parse_qsl(urlsplit(endpoint.url).query))
    return query.get("model") or query.get("deployment")


def voice_of(agent: Agent) -> Voice:
    """Return an agent's voice, which may be given as just a name."""
    return agent.voice if isinstance(agent.voice, Voice) else Voice(agent.voice)


def as_python(agent: Agent | None, trial: Trial) -> str:
    """Return the arguments of `Agent(...)` that differ, as Python. A model is a setting, so it is a comment."""
    lines = []
    changed = apply(agent or Agent(instructions=""), trial)
    if trial.instructions is not None:
        lines.append(f"instructions={trial.instructions!r},")
    if trial.voice is not None or trial.speed is not None:
        voice = voice_of(changed)
        speed = "" if voice.speed is None else f", speed={voice.speed!r}"
        lines.append(f"voice=Voice({voice.name!r}{speed}),")
    if trial.turn_detection is not None:
        given = {"detection": trial.turn_detection.type} | {
            name: value for name, value in msgspec.to_builtins(trial.turn_detection).items() if name != "type"
        }
        lines.append(f"turns=Turns({', '.join(f'{name}={value!r}' for name, value in given.items())}),")
    if trial.tools_off:
        left = ", ".join(tool_name(each) for each in changed.tools)
        off = ", ".join(trial.tools_off)
        lines.append(f"tools=[{left}],  # without {off}" if agent is not None else f"# tools=[…] without {off}")
    if agent is not None and changed.tool_choice != agent.tool_choice:
        lines.append(f"tool_choice={changed.tool_choice!r},")
    begin = [] if trial.model is None else [f"# .env: OPENAI_MODEL={trial.model}"]
    return "\n".join([*begin, "agent = Agent(", *(f"    {line}" for line in lines), ")", ""])


class Trials:
    """The trial of this process, and the calls that get it: those for which `is_softphone` is true."""

    def __init__(self, is_softphone: Callable[[Call], bool]) -> None:
        self._is_softphone = is_softphone
        self.current: Trial | None = None

    def answerer(self, answerer: Answerer) -> Answerer:
        """Return an answerer that applies the trial to the agent of a call from the browser."""

        async def answer(call: Call) -> Answer:
            trial = self.current if self._is_softphone(call) else None
            return await choose_answer(answerer, call) if trial is None else apply(await choose(answerer, call), trial)

        return answer

    def endpoint(self, call: Call, endpoint: Endpoint) -> Endpoint:
        """Return the endpoint for a call, with the trial's model if it gets one."""
        trial = self.current if self._is_softphone(call) else None
        return endpoint if trial is None or trial.model is None else with_model(endpoint, trial.model)
