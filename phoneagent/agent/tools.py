"""Tools: functions that the model may call, with checked arguments and limited output."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import logging
import math
import re
import time
import types
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias, overload

import pydantic
import pydantic_core

from phoneagent.agent.call import Call, is_text, sendable
from phoneagent.agent.schemas import problem_of, problems_in, written_out
from phoneagent.agent.signatures import doc_of, parameters_of, read_signature
from phoneagent.bridge.scripts import begin_of, tokens_of
from phoneagent.errors import DefinitionError, DefinitionWarning, ToolError, shown
from phoneagent.usercode import run_in_thread, signature_problem

log = logging.getLogger("phoneagent.agent.tools")

TOOL_SECONDS = 20.0
"""How long a tool may take by default."""

FILLER_SECONDS = 1.0
"""How long the silence is before a tool's filler is said, by default."""

MAX_ARGUMENTS_CHARS = 64 * 1024
MAX_OUTPUT_CHARS = 64 * 1024
"""A model cannot use a longer output."""

MAX_FAILURE_CHARS = 2_000
"""A longer failure message does not help the model."""

HELD_SECONDS = 0.5
"""An async tool that blocks the event loop for longer holds up the audio of every call, and that is logged."""

MAX_NAME_CHARS = 64
MAX_DESCRIPTION_CHARS = 1024
"""The Realtime API refuses a session with a longer one."""

_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}")

Handler: TypeAlias = Callable[..., Any]
"""The function of a tool, plain or async."""

Arguments: TypeAlias = str | Mapping[str, Any] | None
"""The arguments of a tool call as the model wrote them: JSON, which some servers have already parsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call. `@tool` makes one; or write a name, a JSON schema and a handler by hand.

    A handler that is written by hand gets the arguments as one dict, and the call as `call` if it has that parameter.
    `timeout` and `filler_after` are in seconds. For `once`, `filler`, `filler_after` and `respond` see `tool`.

    The model gets the first 1024 characters of the `description`; if it is longer, that is logged.

    Raises:
        DefinitionError: the Realtime API would refuse the tool, or the handler cannot be called.
    """

    name: str
    description: str
    parameters: Mapping[str, Any] = field(repr=False)
    handler: Handler = field(repr=False)
    timeout: float = TOOL_SECONDS
    once: bool = False
    filler: str | None = None
    filler_after: float = FILLER_SECONDS
    respond: bool = True
    model: type[pydantic.BaseModel] | None = field(default=None, repr=False)
    call_parameter: str | None = field(default=None, repr=False)
    tokens: int = field(init=False, repr=False, compare=False)
    """About how many tokens of the model's context the tool takes."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise DefinitionError(
                f"tool name {self.name!r} cannot be used: 1 to 64 letters, digits, _ and - are allowed"
            )
        if not is_text(self.description):
            raise DefinitionError(f"tool {self.name!r} has description={self.description!r}: write text")
        check_pace(f"tool {self.name!r}", timeout=self.timeout, filler=self.filler, filler_after=self.filler_after)
        self._check_parameters()
        self._check_handler()
        if len(self.description) > MAX_DESCRIPTION_CHARS:
            log.warning(
                "tool %s has a description of %d characters: the model gets the first %d, so shorten it",
                self.name,
                len(self.description),
                MAX_DESCRIPTION_CHARS,
            )
            object.__setattr__(self, "description", shortened(self.description))
        object.__setattr__(self, "tokens", tokens_of(json.dumps(self.definition(), ensure_ascii=False)))

    def _check_parameters(self) -> None:
        """Refuse a schema that the Realtime API would refuse, because then no session could be opened."""
        if not isinstance(self.parameters, Mapping):
            raise DefinitionError(f"tool {self.name!r} has parameters={self.parameters!r}: write a JSON schema, a dict")
        if (problem := problem_of(self.parameters)) is not None:
            raise DefinitionError(f"tool {self.name!r} {problem}")
        object.__setattr__(self, "parameters", written_out(self.parameters))
        try:
            json.dumps(self.parameters, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise DefinitionError(f"tool {self.name!r} has parameters that are not JSON: {error}") from None

    def _check_handler(self) -> None:
        if inspect.isasyncgenfunction(self.handler):
            raise DefinitionError(f"tool {self.name!r} is an async generator: return the whole output instead")
        if self.model is not None:
            return
        if self.call_parameter is None and "call" in parameters_of(self.handler, self.name):
            object.__setattr__(self, "call_parameter", "call")
        named = () if self.call_parameter is None else (self.call_parameter,)
        if not inspect.isgeneratorfunction(self.handler):  # a generator's values become a list
            problem = signature_problem(self.handler, "arguments", named=named)
            if problem is not None:
                raise DefinitionError(f"tool {self.name!r} has a handler that {problem}")

    def definition(self) -> dict[str, Any]:
        """Return the tool in the shape that the Realtime API takes."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }

    def canonical(self, arguments: Arguments) -> str | None:
        """Return the arguments in a canonical spelling, the same for equal arguments; None if the tool refuses them.

        An argument that is left out counts as its default, unless a factory makes a new default each time.
        """
        try:
            arguments = _as_json(arguments)
            given = pydantic_core.from_json(arguments)
            checked = None if self.model is None else self.model.model_validate_json(arguments)
        except BaseException:  # noqa: BLE001 - a user's validator may raise anything; `run` reports what is wrong
            return None
        if checked is not None:
            fields = type(checked).model_fields
            absent = fields.keys() - checked.model_fields_set
            made = {name for name in absent if fields[name].default_factory is not None}
            with suppress(ValueError):  # JSON cannot express a value: use the arguments as the model wrote them
                given = pydantic_core.to_jsonable_python(checked.model_dump(exclude=made))
        return json.dumps(given, sort_keys=True) if isinstance(given, dict) else None

    def responds_to(self, output: str) -> bool:
        """Return whether the model should respond to that output; it always responds to a failure."""
        return self.respond or output.startswith('{"error":')  # as `failure` writes it

    async def run(self, call: Call, arguments: Arguments) -> str:
        """Run the tool with the model's arguments and return its output. It never raises: a failure is an output too.

        A tool that keeps running after its cancellation is left running in the background, as a thread would be.
        """
        context = {"call_sid": call.sid}
        work = asyncio.create_task(self._work(call, arguments), name=f"phoneagent tool {self.name}")
        try:
            await asyncio.wait([work], timeout=self.timeout)
        finally:
            if not work.done():  # it timed out, or this task was canceled because the process ends
                _leave(work)
        if not work.done():
            log.warning("tool %s took longer than %g s", self.name, self.timeout, extra=context)
            return failure(f"{self.name} took longer than {self.timeout:g} s; its outcome is unknown")
        if work.cancelled():
            log.warning("tool %s was canceled by its own code", self.name, extra=context)
            return failure(f"{self.name} failed")
        if (error := work.exception()) is not None:  # the traceback is for the log, not for the model
            log.error("tool %s failed: %s", self.name, _named(error), exc_info=error, extra=context)
            return failure(f"{self.name} failed")
        return work.result()

    async def _work(self, call: Call, arguments: Arguments) -> str:
        try:
            positional, named = self._arguments(call, arguments)
            return self._output(await self._invoke(call, positional, named))
        except ToolError as error:
            return failure(str(error) or f"{self.name} failed")
        except (SystemExit, KeyboardInterrupt) as error:  # raised from a task, these would end the process
            raise RuntimeError(f"it raised {type(error).__name__}") from error

    def _arguments(self, call: Call, given: Arguments) -> tuple[list[Any], dict[str, Any]]:
        arguments = _as_json(given)
        if len(arguments) > MAX_ARGUMENTS_CHARS:
            raise ToolError(f"the arguments are too long: {len(arguments)} of {MAX_ARGUMENTS_CHARS} characters")
        named: dict[str, Any] = {} if self.call_parameter is None else {self.call_parameter: call}
        try:
            if self.model is None:
                plain = pydantic_core.from_json(arguments)
                if not isinstance(plain, dict):
                    raise ToolError("the arguments must be a JSON object")
                return [plain], named
            checked = self.model.model_validate_json(arguments)
        except pydantic.ValidationError as error:
            raise ToolError(f"bad arguments: {problems_in(error, 'arguments')}") from None
        except ValueError as error:
            raise ToolError(f"the arguments are not JSON: {error}") from None
        values = checked.__dict__  # by the parameters' names: `model_extra`, as an attribute, is pydantic's own
        return [], {**named, **{key: values[key] for key in type(checked).model_fields}}

    async def _invoke(self, call: Call, positional: list[Any], named: dict[str, Any]) -> Any:
        def report_block(seconds: float) -> None:
            message = "tool %s blocked every call for %.1f s: await slow work, or make the function plain (no async)"
            log.error(message, self.name, seconds, extra={"call_sid": call.sid})

        if inspect.iscoroutinefunction(self.handler):
            return _whole(await _watched(self.handler(*positional, **named), report_block))
        result = await run_in_thread(lambda: _whole(self.handler(*positional, **named)))
        if inspect.iscoroutine(result):
            return _whole(await _watched(result, report_block))
        return await result if inspect.isawaitable(result) else result

    def _output(self, value: Any) -> str:
        try:
            output = sendable(value) if isinstance(value, str) else _json(value)
        except pydantic_core.PydanticSerializationError as error:
            log.error("tool %s returned a value that cannot be written as JSON: %s", self.name, str(error))
            return failure(f"{self.name} returned something that cannot be written as JSON")
        if len(output) > MAX_OUTPUT_CHARS:
            log.error("tool %s returned %d characters: the limit is %d", self.name, len(output), MAX_OUTPUT_CHARS)
            return failure(f"{self.name} returned too much: {len(output)} of {MAX_OUTPUT_CHARS} characters")
        return output


def _as_json(arguments: Arguments) -> str:
    """Return the arguments of a tool call as a JSON object, if they are one in any spelling.

    A model that has no arguments to pass may write nothing, or null; some write the object as a JSON string.
    """
    if isinstance(arguments, Mapping):
        return json.dumps(dict(arguments), ensure_ascii=False, default=str)
    text = (arguments or "").strip()
    if text in ("", "null", '""', '"null"'):
        return "{}"
    if text.startswith('"') and len(text) <= MAX_ARGUMENTS_CHARS:
        with suppress(ValueError):
            inner = pydantic_core.from_json(text)
            return inner if isinstance(inner, str) and inner.strip().startswith("{") else text
    return text


def _json(value: Any) -> str:
    return pydantic_core.to_json(value, inf_nan_mode="null").decode()  # JSON has neither infinity nor NaN


def failure(message: str) -> str:
    """Return the output that tells the model about a failure."""
    if len(message) > MAX_FAILURE_CHARS:
        message = f"{message[:MAX_FAILURE_CHARS]}… (cut)"
    return pydantic_core.to_json({"error": sendable(message)}).decode()


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {shown(error)}" if str(error) else type(error).__name__


_left: set[asyncio.Task[str]] = set()
"""Canceled tools that are still running. The event loop holds tasks weakly, so without this they could vanish."""


def _leave(work: asyncio.Task[str]) -> None:
    """Cancel a task without waiting for its end, which may come late or never."""
    work.cancel()
    _left.add(work)
    work.add_done_callback(_left.discard)


def _whole(value: Any) -> Any:
    """Return the values of a generator as a list; any other value as it is.

    The list ends after MAX_OUTPUT_CHARS values: an endless generator then fails for its length.
    """
    return list(itertools.islice(value, MAX_OUTPUT_CHARS)) if isinstance(value, Iterator) else value


@types.coroutine
def _watched(work: Coroutine[Any, Any, Any], report_block: Callable[[float], None]) -> Generator[Any, Any, Any]:
    """Run a coroutine. Each time it blocks the event loop for too long, report how many seconds that took."""
    value, error = None, None
    while True:
        since = time.monotonic()
        try:
            awaited = work.send(value) if error is None else work.throw(error)
        except StopIteration as end:
            return end.value
        finally:
            if (seconds := time.monotonic() - since) > HELD_SECONDS:
                report_block(seconds)
        value, error = None, None
        try:
            value = yield awaited
        except BaseException as raised:  # noqa: BLE001 - the coroutine gets it
            error = raised
        del awaited  # a traceback would show its value


def shortened(description: str) -> str:
    """Return the part of a long description that servers accept."""
    return begin_of(description, MAX_DESCRIPTION_CHARS - 1) + "…"


def check_pace(owner: str, *, timeout: float, filler: str | None, filler_after: float) -> None:
    """Check how long a tool may take, and the filler until then.

    Raises:
        DefinitionError: one of them cannot be used; the message begins with `owner`.
    """
    if not _is_seconds(timeout) or timeout == 0:
        raise DefinitionError(f"{owner} has timeout={timeout!r}: it must be more than 0 seconds")
    if not _is_seconds(filler_after):
        raise DefinitionError(f"{owner} has filler_after={filler_after!r}: it must be 0 seconds or more")
    if filler is not None and not (is_text(filler) and filler.strip()):
        raise DefinitionError(f"{owner} has filler={filler!r}: write what the agent says, or None")


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _warn(function: Handler, words: str) -> None:
    """Warn about a definition. The warning names the place of the function, not of its decorator."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    where = ("<tool>", 0) if code is None else (code.co_filename, code.co_firstlineno)
    warnings.warn_explicit(words, DefinitionWarning, *where)


def _from_function(function: Handler, name: str | None, description: str | None, options: Mapping[str, Any]) -> Tool:
    if (name := name or getattr(function, "__name__", None)) is None:
        raise DefinitionError(f"a tool is made of {function!r}, which has no name: write tool(name=…)(…)")
    read = read_signature(function, name)
    made = Tool(
        name=name,
        description=description or doc_of(function),
        parameters=read.schema,
        handler=function,
        model=read.model,
        call_parameter=read.call_parameter,
        **options,
    )
    if not made.description.strip():
        _warn(function, f"tool {name!r} has no docstring: write when to call it and what it does, for the model")
    for parameter in read.untyped:
        words = f"tool {name!r} has parameter {parameter!r} without a type hint: write one, like {parameter}: str"
        _warn(function, f"{words}, or the model does not know what to pass")
    return made


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
    respond: bool = True,
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
    respond: bool = True,
) -> Tool | Callable[[Handler], Tool]:
    """Turn a function into a tool that the model may call.

    The JSON schema comes from the signature, which is annotated as for pydantic. The description is the docstring; the
    model gets its first 1024 characters. A parameter annotated `Call`, or named `call` without an annotation, gets the
    live call and is not in the schema. Plain functions run in a thread.

    The model gets what the function returns: a string as it is, any other value as JSON. Raise `ToolError` to tell the
    model what went wrong. Any other exception is logged, and the model learns only that the tool failed. After
    `timeout` seconds the function is canceled (a thread is left running), and the model learns that the outcome is
    unknown.

    With `once` (for a payment or a booking), the function runs only once in a call for the same arguments. If the model
    calls it again, it gets the first output, whatever that was. This also holds when the call moves to another process:
    a run that was cut off is not repeated. A run that cannot be recorded beforehand does not start.

    While the function runs, the agent says the `filler`, in the caller's language, after `filler_after` seconds of
    silence.

    The agent responds to what the function returned. With `respond=False` it says nothing until the caller speaks, or
    your code asks for a response; it always responds to a failure.

    A function without a docstring, or with a parameter without a type hint, causes a `DefinitionWarning`.

    Raises:
        DefinitionError: the signature cannot be turned into a schema, or an option cannot be used.
    """

    def make(function: Handler) -> Tool:
        options = {
            "timeout": timeout,
            "once": once,
            "filler": filler,
            "filler_after": filler_after,
            "respond": respond,
        }
        return _from_function(function, name, description, options)

    return make if function is None else make(function)


@tool
async def hang_up(call: Call) -> str:
    """End the phone call. Say goodbye in the same breath; the line is cut once the caller has heard it."""
    call.hang_up()
    return "The call ends as soon as the caller has heard your goodbye."
