"""What a user writes: an agent, its tools, and the call that a tool gets in its hands."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import re
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeAlias, overload

import pydantic
import pydantic_core

from .errors import DefinitionError, ToolError
from .threads import run_in_thread

log = logging.getLogger("phoneagent.tools")

TOOL_SECONDS = 20.0
"""How long a tool may take, unless it says otherwise."""

MAX_ARGUMENTS_CHARS = 256 * 1024
MAX_OUTPUT_CHARS = 64 * 1024
"""More than this is not an answer a model can use."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


# --- the call, as tools and hooks see it ----------------------------------------------------------------------------


class CallControl(Protocol):
    """What can be done to a live call; the session brings it."""

    def say(self, text: str) -> None: ...
    def interrupt(self) -> None: ...
    def hang_up(self, *, goodbye: bool) -> None: ...


@dataclass(slots=True, eq=False, kw_only=True)
class Call:
    """A live call. Its methods may be called from anywhere, also from a tool's thread, and never block.

    `caller` and `called` are what the telephone network says: E.164 as a rule, but None, a SIP address or a word like
    "anonymous" occur. `direction` is Twilio's: "inbound", "outbound-api" or "outbound-dial". `state` is yours.
    """

    sid: str
    caller: str | None = field(repr=False)
    called: str | None = field(repr=False)
    direction: str
    started_at: datetime
    state: dict[str, Any] = field(default_factory=dict, repr=False)
    _control: CallControl | None = field(default=None, repr=False)

    @property
    def party(self) -> str | None:
        """The other side's number: the caller's, or of a call that we made, the called one's."""
        return self.called if self.direction.startswith("outbound") else self.caller

    def say(self, text: str) -> None:
        """Let the agent say exactly `text` as soon as it may. Does nothing when the call is over or about to end."""
        if self._control is not None:
            self._control.say(_sendable(text))

    def interrupt(self) -> None:
        """Stop what the agent is saying, as if the caller had begun to speak."""
        if self._control is not None:
            self._control.interrupt()

    def hang_up(self, *, goodbye: bool = True) -> None:
        """End the call after what is being said was heard.

        With `goodbye` the agent then says one, unless a tool hangs up and the model said something as it called it.
        """
        if self._control is not None:
            self._control.hang_up(goodbye=goodbye)

    def attach(self, control: CallControl | None) -> None:
        """Connect this handle with its live call, or (None) part them."""
        self._control = control


# --- tools ----------------------------------------------------------------------------------------------------------

Handler: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call. Made by `@tool`, or by hand from a name, a JSON schema and a handler.

    A handler made by hand is called with the arguments as one dict, and with the call as `call` if it takes one.
    `timeout` is in seconds.
    """

    name: str
    description: str
    parameters: Mapping[str, Any] = field(repr=False)
    handler: Handler = field(repr=False)
    timeout: float = TOOL_SECONDS
    model: type[pydantic.BaseModel] | None = field(default=None, repr=False)
    call_parameter: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DefinitionError(
                f"tool name {self.name!r} cannot be used: 1 to 64 letters, digits, _ and - are allowed"
            )
        if self.timeout <= 0:
            raise DefinitionError(f"tool {self.name!r} has timeout={self.timeout}: it must be above 0 seconds")
        if self.model is None and self.call_parameter is None and "call" in _parameters_of(self.handler, self.name):
            object.__setattr__(self, "call_parameter", "call")

    def definition(self) -> dict[str, Any]:
        """Return the tool as the Realtime API takes it."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }

    async def run(self, call: Call, arguments: str) -> str:
        """Run the tool with the model's JSON. Whatever happens becomes an answer to the model; nothing is raised."""
        try:
            positional, named = self._arguments(call, arguments)
            async with asyncio.timeout(self.timeout):
                return self._output(await self._invoke(positional, named))
        except ToolError as error:
            return _failure(str(error))
        except TimeoutError:
            log.warning("tool %s took longer than %g s", self.name, self.timeout, extra={"call_sid": call.sid})
            return _failure(f"{self.name} took longer than {self.timeout:g} s; its outcome is unknown")
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # the process ends
            log.warning("tool %s was cancelled from inside", self.name, extra={"call_sid": call.sid})
            return _failure(f"{self.name} failed")
        except (Exception, SystemExit):  # whatever a user's function raises: the model is told, the log has the rest
            log.exception("tool %s failed", self.name, extra={"call_sid": call.sid})
            return _failure(f"{self.name} failed")

    def _arguments(self, call: Call, arguments: str) -> tuple[list[Any], dict[str, Any]]:
        if len(arguments) > MAX_ARGUMENTS_CHARS:
            raise ToolError(f"the arguments are too long: {len(arguments)} of {MAX_ARGUMENTS_CHARS} characters")
        named: dict[str, Any] = {} if self.call_parameter is None else {self.call_parameter: call}
        try:
            if self.model is None:
                given = pydantic_core.from_json(arguments or "{}")
                if not isinstance(given, dict):
                    raise ToolError("the arguments must be a JSON object")
                return [given], named
            checked = self.model.model_validate_json(arguments or "{}")
        except pydantic.ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors())
            raise ToolError(f"bad arguments: {problems}") from None
        except ValueError as error:
            raise ToolError(f"the arguments are not JSON: {error}") from None
        return [], {**named, **{key: getattr(checked, key) for key in type(checked).model_fields}}

    async def _invoke(self, positional: list[Any], named: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self.handler):
            return await self.handler(*positional, **named)
        result = await run_in_thread(functools.partial(self.handler, *positional, **named))
        return await result if inspect.isawaitable(result) else result

    def _output(self, value: Any) -> str:
        try:
            output = _sendable(value) if isinstance(value, str) else pydantic_core.to_json(value).decode()
        except pydantic_core.PydanticSerializationError as error:
            log.error("tool %s returned something that is not JSON: %s", self.name, error)
            return _failure(f"{self.name} returned something that cannot be written as JSON")
        if len(output) > MAX_OUTPUT_CHARS:
            log.error("tool %s returned %d characters, the limit is %d", self.name, len(output), MAX_OUTPUT_CHARS)
            return _failure(f"{self.name} returned too much: {len(output)} of {MAX_OUTPUT_CHARS} characters")
        return output


def _failure(message: str) -> str:
    return pydantic_core.to_json({"error": _sendable(message)}).decode()


def _sendable(text: str) -> str:
    """Return text without lone surrogates (decoding with "surrogateescape" leaves some), which no socket takes."""
    return text.encode("utf-8", "replace").decode()


def _parameters_of(handler: Handler, name: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(handler).parameters
    except (TypeError, ValueError):
        raise DefinitionError(f"tool {name!r} has a handler that cannot be called: {handler!r}") from None


def _from_function(function: Handler, name: str | None, description: str | None, timeout: float) -> Tool:
    name = name or function.__name__
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise DefinitionError(f"tool {name!r} has a type hint that cannot be resolved: {error}") from None
    call_parameter = None
    fields: dict[str, Any] = {}
    for parameter in _parameters_of(function, name).values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DefinitionError(
                f"tool {name!r} has parameter {parameter.name!r}: only named parameters can be filled"
            )
        hint = hints.get(parameter.name, Any)
        if hint is Call:
            call_parameter = parameter.name
            continue
        fields[parameter.name] = (hint, ... if parameter.default is parameter.empty else parameter.default)
    try:
        model = pydantic.create_model(name, __config__=pydantic.ConfigDict(extra="forbid"), **fields)
        schema = model.model_json_schema()
    except (pydantic.errors.PydanticUserError, NameError) as error:
        raise DefinitionError(f"tool {name!r} has parameters that JSON cannot carry: {error}") from None
    schema.pop("title", None)
    for property_ in schema.get("properties", {}).values():
        property_.pop("title", None)
    return Tool(
        name=name,
        description=description or inspect.getdoc(function) or "",
        parameters=schema,
        handler=function,
        timeout=timeout,
        model=model,
        call_parameter=call_parameter,
    )


@overload
def tool(function: Handler, /) -> Tool: ...
@overload
def tool(
    *, name: str | None = None, description: str | None = None, timeout: float = TOOL_SECONDS
) -> Callable[[Handler], Tool]: ...
def tool(
    function: Handler | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float = TOOL_SECONDS,
) -> Tool | Callable[[Handler], Tool]:
    """Make a function a tool that the model may call.

    The JSON schema comes from the signature (annotate as for pydantic), the description from the docstring. A parameter
    annotated `Call` gets the live call and is not in the schema. Plain functions run in a thread. `timeout` is in
    seconds. What the function returns is given to the model: a string as it is, everything else as JSON. Raise
    `ToolError` to tell the model what went wrong; any other exception is logged, and the model learns that it failed.

    Raises:
        DefinitionError: the signature cannot be turned into a schema.
    """

    def make(function: Handler) -> Tool:
        return _from_function(function, name, description, timeout)

    return make if function is None else make(function)


@tool
async def hang_up(call: Call) -> str:
    """End the phone call. Say goodbye in the same breath; the line is cut once the caller has heard it."""
    call.hang_up()
    return "The call ends as soon as the caller has heard your goodbye."


# --- the agent ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """How the model finds the end of the caller's turn: voice activity detection on the server.

    `threshold` is 0 to 1 (higher for noisy lines); `prefix_padding_ms` of audio before the detected start belong to
    the turn; after `silence_duration_ms` without speech it is over.
    """

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500


Instructions: TypeAlias = str | Callable[[Call], str | Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Who answers the phone.

    `instructions` may be a function of the call (today's date, the caller's name), plain or async. `greeting` is said
    first, word for word; without one the agent waits for the caller. The greeting is protected until it was heard,
    unless `greeting_interruptible`. With `barge_in=False` the agent is never interrupted; what the caller says
    meanwhile is answered afterwards. `language` (ISO 639-1) helps the recogniser that writes the transcript. `extra` is
    merged into the session configuration last, for what is newer than this package.
    """

    name: str = "agent"
    instructions: Instructions
    greeting: str | None = None
    voice: str = "marin"
    tools: Sequence[Tool] = ()
    greeting_interruptible: bool = False
    barge_in: bool = True
    turns: Turns = Turns()
    language: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names: set[str] = set()
        for each in self.tools:
            if not isinstance(each, Tool):
                raise DefinitionError(f"agent {self.name!r} has {each!r} among its tools: decorate it with @tool")
            if each.name in names:
                raise DefinitionError(f"agent {self.name!r} has two tools named {each.name!r}: rename one of them")
            names.add(each.name)

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
            "tools": [each.definition() for each in self.tools],
            "tool_choice": "auto",
        }
        return _merged(session, self.extra)


def _merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in extra.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
