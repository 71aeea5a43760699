"""Tools for telephone keys: keys that the caller presses for your code alone, and keys that an agent presses."""

from __future__ import annotations

import functools
import inspect
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import pydantic_core
from pydantic import Field

from phoneagent.agent.call import KEYS, Call, check_gather
from phoneagent.agent.signatures import doc_of, parameters_of
from phoneagent.agent.tools import TOOL_SECONDS, Tool, tool
from phoneagent.errors import DefinitionError, ToolError
from phoneagent.usercode import call_user, signature_problem

Checker: TypeAlias = Callable[..., Any]
"""The user's function: it takes the digits, and the call as `call` if it has that parameter."""

PROMPT_SECONDS = 60.0
"""How long the agent may speak before the caller types."""

SECRET_DIGITS = 3
"""Fewer digits are a choice rather than a secret, so they are not masked in what the model gets."""

_RULE = (
    "The caller types on the keys of their telephone; you never learn the digits. Ask them to type, and call this in "
    "the same breath. Never ask for the digits to be spoken."
)


EXAMPLE_DIGITS = 4
"""How many digits an example has if the tool sets no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeypadTool(Tool):
    """A tool that has the caller type digits. `example_keys` are made-up keys that a caller could type."""

    example_keys: str = ""


def keypad(
    *,
    digits: int | None = None,
    name: str | None = None,
    describe: str | None = None,
    timeout: float = 5.0,
    finish_on: str = "#",
) -> Callable[[Checker], KeypadTool]:
    """Turn a function into a tool that has the caller type digits, like a PIN, and passes them to that function alone.

    The function gets the digits as text, and the call if it has a parameter `call`. The model gets what it returns,
    with the digits masked if they appear in it. It gets the text of a `ToolError` in the same way. For any other
    exception, it learns only that the tool failed, and the log names the exception's type and place, but not its text.

    `digits`, `timeout` and `finish_on` are as for `call.gather`. If fewer than `digits` were typed, or none, the
    function does not run, and the model learns how many came. `name` and `describe`, which says when to call the tool,
    default to the function's name and docstring.

    Raises:
        DefinitionError: an option cannot be used, or the function has the wrong signature.
    """

    def make(function: Checker) -> KeypadTool:
        called = name or str(getattr(function, "__name__", "keypad"))
        owner = f"keypad {called!r}"
        most = check_gather(owner, digits, timeout, finish_on)
        wants_call = "call" in parameters_of(function, called)
        problem = signature_problem(function, "digits", named=("call",) if wants_call else ())
        if problem is not None:
            raise DefinitionError(f"{owner} has a function that {problem}")

        async def handle(arguments: Mapping[str, Any], call: Call) -> str:
            return await _handle(function, call, (digits, timeout, finish_on), wants_call=wants_call)

        return KeypadTool(
            name=called,
            description=f"{(describe or doc_of(function)).strip()}\n{_RULE}".strip(),
            parameters={"type": "object", "properties": {}},
            handler=handle,
            timeout=PROMPT_SECONDS + (most + 1) * timeout + TOOL_SECONDS,
            example_keys=_example(digits, finish_on),
        )

    return make


def _example(digits: int | None, finish_on: str) -> str:
    allowed = "".join(key for key in KEYS if key.isdigit() and key != finish_on)
    if digits is None:
        return allowed[1 : EXAMPLE_DIGITS + 1] + finish_on
    return "".join(allowed[number % len(allowed)] for number in range(1, digits + 1))


async def _handle(function: Checker, call: Call, wanted: tuple[int | None, float, str], *, wants_call: bool) -> str:
    digits, timeout, finish_on = wanted
    secret = await call.gather(digits, timeout=timeout, finish_on=finish_on)
    if not secret:
        raise ToolError("the caller typed nothing: ask whether they want to try again")
    if digits is not None and len(secret) < digits:
        raise ToolError(f"the caller typed {len(secret)} of {digits} digits: ask them to type all of them again")
    value, problem, told = await _ask(functools.partial(function, call=call) if wants_call else function, secret)
    value, told = _masked(value, secret), _masked(told, secret)
    del secret  # error reporters keep the local variables of the frame that raises
    if told:
        raise ToolError(told)
    if problem:
        raise RuntimeError(problem)
    return value


async def _ask(function: Checker, secret: str) -> tuple[str, str, str]:
    """Return the function's answer, or its fault for the log, or its `ToolError` for the model."""
    try:
        answer = (await call_user(_sealed(function), secret)).open()
        if inspect.isawaitable(answer):
            answer = await answer
        return (answer if isinstance(answer, str) else pydantic_core.to_json(answer).decode()), "", ""
    except ToolError as error:
        return "", "", str(error) or "it failed"
    except Exception as error:  # noqa: BLE001 - it may quote the digits, so that only its type and place are reported
        frames = traceback.extract_tb(error.__traceback__)
        return "", f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}", ""


@dataclass(frozen=True, slots=True, repr=False)
class _Outcome:
    """What a function returned or raised, in an object that hides it from asyncio, whose debug mode logs reprs."""

    answer: Any = None
    error: Exception | None = None

    def open(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.answer


def _sealed(function: Checker) -> Callable[[str], Any]:
    async def awaited(secret: str) -> _Outcome:
        try:
            return _Outcome(await function(secret))
        except Exception as error:  # noqa: BLE001 - raised again by `open`
            return _Outcome(error=error)

    def plain(secret: str) -> _Outcome:
        try:
            return _Outcome(function(secret))
        except Exception as error:  # noqa: BLE001 - raised again by `open`
            return _Outcome(error=error)

    return awaited if inspect.iscoroutinefunction(function) else plain


def _masked(text: str, secret: str) -> str:
    """Return text without the digits, even if something separates them."""
    if len(secret) < SECRET_DIGITS:
        return text
    return re.sub(r"[\W_]{0,3}".join(map(re.escape, secret)), "•" * len(secret), text)


@tool(respond=False)
async def press_keys(call: Call, keys: Annotated[str, Field(pattern="^[0-9*#A-DwW]{1,100}$")]) -> str:
    """Press keys of the telephone, as a caller of a menu does.

    Listen to the menu to its end first, press once, then wait for what it says; say nothing to a menu. Never press a
    second time because the answer takes a while. Keys are 0-9, * and #; w is a pause of half a second.
    """
    call.send_digits(keys)
    return "Pressed. Wait for what the far end says."
