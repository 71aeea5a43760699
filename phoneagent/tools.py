"""Tools: functions that the model may call, and what becomes of their arguments and their outputs."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import re
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias, overload

import pydantic
import pydantic_core

from .call import Call, sendable
from .errors import DefinitionError, ToolError
from .threads import run_in_thread

log = logging.getLogger("phoneagent.tools")

TOOL_SECONDS = 20.0
"""How long a tool may take, unless it says otherwise."""

FILLER_SECONDS = 1.0
"""How long a tool works in silence before its filler is said, unless it says otherwise."""

MAX_ARGUMENTS_CHARS = 256 * 1024
MAX_OUTPUT_CHARS = 64 * 1024
"""More than this is not an answer a model can use."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Handler: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call. Made by `@tool`, or by hand from a name, a JSON schema and a handler.

    A handler made by hand is called with the arguments as one dict, and with the call as `call` if it takes one.
    `timeout` is in seconds. For `once`, `filler` and `filler_after` see `tool`.
    """

    name: str
    description: str
    parameters: Mapping[str, Any] = field(repr=False)
    handler: Handler = field(repr=False)
    timeout: float = TOOL_SECONDS
    once: bool = False
    filler: str | None = None
    filler_after: float = FILLER_SECONDS
    model: type[pydantic.BaseModel] | None = field(default=None, repr=False)
    call_parameter: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DefinitionError(
                f"tool name {self.name!r} cannot be used: 1 to 64 letters, digits, _ and - are allowed"
            )
        if self.timeout <= 0:
            raise DefinitionError(f"tool {self.name!r} has timeout={self.timeout}: it must be above 0 seconds")
        if self.filler_after < 0:
            raise DefinitionError(f"tool {self.name!r} has filler_after={self.filler_after}: it must be 0 s or more")
        if self.filler is not None and not self.filler.strip():
            raise DefinitionError(f"tool {self.name!r} has an empty filler: write what is to be said, or None")
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

    def canonical(self, arguments: str) -> str | None:
        """Return the arguments in a spelling in which equal ones are the same; None for such as the tool refuses.

        What is left out counts as its default, unless that is made anew each time.
        """
        try:
            given = pydantic_core.from_json(arguments or "{}")
            checked = None if self.model is None else self.model.model_validate_json(arguments or "{}")
        except Exception:  # noqa: BLE001 - a user's validator may raise anything, and `run` tells what is wrong
            return None
        if checked is not None:
            fields = type(checked).model_fields
            absent = fields.keys() - checked.model_fields_set
            made = {name for name in absent if fields[name].default_factory is not None}
            with suppress(ValueError):  # a type that JSON does not carry: as the model wrote it, then
                given = pydantic_core.to_jsonable_python(checked.model_dump(exclude=made))
        return json.dumps(given, sort_keys=True) if isinstance(given, dict) else None

    async def run(self, call: Call, arguments: str) -> str:
        """Run the tool with the model's JSON. Whatever happens becomes an answer to the model; nothing is raised."""
        try:
            positional, named = self._arguments(call, arguments)
            async with asyncio.timeout(self.timeout):
                return self._output(await self._invoke(positional, named))
        except ToolError as error:
            return failure(str(error))
        except TimeoutError:
            log.warning("tool %s took longer than %g s", self.name, self.timeout, extra={"call_sid": call.sid})
            return failure(f"{self.name} took longer than {self.timeout:g} s; its outcome is unknown")
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # the process ends
            log.warning("tool %s was cancelled from inside", self.name, extra={"call_sid": call.sid})
            return failure(f"{self.name} failed")
        except (Exception, SystemExit):  # whatever a user's function raises: the model is told, the log has the rest
            log.exception("tool %s failed", self.name, extra={"call_sid": call.sid})
            return failure(f"{self.name} failed")

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
            output = sendable(value) if isinstance(value, str) else pydantic_core.to_json(value).decode()
        except pydantic_core.PydanticSerializationError as error:
            log.error("tool %s returned something that is not JSON: %s", self.name, error)
            return failure(f"{self.name} returned something that cannot be written as JSON")
        if len(output) > MAX_OUTPUT_CHARS:
            log.error("tool %s returned %d characters, the limit is %d", self.name, len(output), MAX_OUTPUT_CHARS)
            return failure(f"{self.name} returned too much: {len(output)} of {MAX_OUTPUT_CHARS} characters")
        return output


def failure(message: str) -> str:
    """Return what the model is told of something that did not work."""
    return pydantic_core.to_json({"error": sendable(message)}).decode()


def _parameters_of(handler: Handler, name: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(handler).parameters
    except (TypeError, ValueError):
        raise DefinitionError(f"tool {name!r} has a handler that cannot be called: {handler!r}") from None


def _from_function(function: Handler, name: str | None, description: str | None, options: Mapping[str, Any]) -> Tool:
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
        model=model,
        call_parameter=call_parameter,
        **options,
    )


@overload
def tool(function: Handler, /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float = TOOL_SECONDS,
    once: bool = False,
    filler: str | None = None,
    filler_after: float = FILLER_SECONDS,
) -> Callable[[Handler], Tool]: ...
def tool(
    function: Handler | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float = TOOL_SECONDS,
    once: bool = False,
    filler: str | None = None,
    filler_after: float = FILLER_SECONDS,
) -> Tool | Callable[[Handler], Tool]:
    """Make a function a tool that the model may call.

    The JSON schema comes from the signature (annotate as for pydantic), the description from the docstring. A parameter
    annotated `Call` gets the live call and is not in the schema. Plain functions run in a thread. `timeout` is in
    seconds. What the function returns is given to the model: a string as it is, everything else as JSON. Raise
    `ToolError` to tell the model what went wrong; any other exception is logged, and the model learns that it failed.

    With `once` (a payment, a booking) the same arguments run the function only once in a call: asked again, the model
    gets the first output, whatever that was. This holds also where the call goes on in another process; what was cut
    off there is not repeated, nor is anything run that cannot be written down before.

    While the function works the agent says the `filler`, in the caller's language, should there be `filler_after`
    seconds of silence.

    Raises:
        DefinitionError: the signature cannot be turned into a schema.
    """

    def make(function: Handler) -> Tool:
        options = {"timeout": timeout, "once": once, "filler": filler, "filler_after": filler_after}
        return _from_function(function, name, description, options)

    return make if function is None else make(function)


@tool
async def hang_up(call: Call) -> str:
    """End the phone call. Say goodbye in the same breath; the line is cut once the caller has heard it."""
    call.hang_up()
    return "The call ends as soon as the caller has heard your goodbye."
