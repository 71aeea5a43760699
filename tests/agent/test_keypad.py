"""The tool that has the caller type: the user's function gets the digits, and the model only what that answers."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from phoneagent import Call, DefinitionError, Tool, ToolError, keypad

pytestmark = pytest.mark.anyio
PIN = "1973"


class Control:
    """A call whose caller types `typed`."""

    def __init__(self, typed: str) -> None:
        self.typed = typed
        self.asked: list[tuple[int, float, str]] = []

    async def gather(self, digits: int, timeout: float, finish_on: str) -> Any:
        self.asked.append((digits, timeout, finish_on))
        return SimpleNamespace(typed=self.typed)


def call(typed: str = PIN) -> Call:
    made = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
    made.attach(Control(typed))  # type: ignore[arg-type]
    return made


async def test_the_function_gets_the_digits_and_the_model_its_answer() -> None:
    got: list[Any] = []

    @keypad(digits=4, describe="Check the PIN.")
    async def check_pin(digits: str, call: Call) -> dict[str, bool]:
        got.append((digits, call.sid))
        return {"ok": True}

    made = call()
    assert await check_pin.run(made, "{}") == '{"ok":true}'
    assert got == [(PIN, "CA1")]
    assert made._control.asked == [(4, 5.0, "#")]  # type: ignore[union-attr]
    assert (check_pin.name, check_pin.parameters) == ("check_pin", {"type": "object", "properties": {}})
    assert check_pin.description.startswith("Check the PIN.\nThe caller types on the keys")
    assert check_pin.timeout > 4 * 5


async def test_a_plain_function_and_names_of_its_own() -> None:
    @keypad(name="enter_code", timeout=2, finish_on="*")
    def anything(digits: str) -> str:
        """Take the code."""
        return f"{len(digits)} keys"

    made = call("123456")
    assert await anything.run(made, None) == "6 keys"
    assert made._control.asked == [(64, 2, "*")]  # type: ignore[union-attr]
    assert (anything.name, anything.description.splitlines()[0]) == ("enter_code", "Take the code.")


async def test_a_partial_has_its_functions_docstring_and_a_call_of_its_own() -> None:
    def check(pins: list[str], digits: str, call: str) -> str:
        """Check the PIN."""
        return f"{digits in pins} {call}"

    checks = keypad(name="check")(functools.partial(check, [PIN], call="mine"))
    assert checks.description.splitlines()[0] == "Check the PIN."
    assert await checks.run(call("1974"), None) == "False mine"


@pytest.mark.parametrize(("typed", "told"), [("", "typed nothing"), ("12", "typed 2 of 4 digits")])
async def test_too_few_digits_reach_no_function(typed: str, told: str) -> None:
    @keypad(digits=4)
    async def check_pin(digits: str) -> str:
        """Check."""
        raise AssertionError

    assert told in json.loads(await check_pin.run(call(typed), "{}"))["error"]


def quoting(digits: str) -> str:
    raise KeyError(digits)


def refusing(digits: str) -> str:
    raise ToolError(f"{digits} is wrong, and so is {' '.join(digits)}")


def chained(digits: str) -> str:
    try:
        return str({}[digits])
    except KeyError as error:
        raise LookupError(f"no {digits}") from error


def leaving(digits: str) -> str:
    raise SystemExit(digits)


async def awaited(digits: str) -> str:
    raise ValueError(f"invalid: {digits!r}")


def unspeakable(digits: str) -> Any:
    return {digits: lambda: digits}


def repeating(digits: str) -> Any:
    return {"pin": digits, "spelled": "-".join(digits), "in words": f"{digits[:2]} {digits[2:]}"}


@pytest.mark.parametrize("function", [quoting, refusing, chained, leaving, awaited, unspeakable, repeating])
async def test_whatever_a_function_does_the_digits_stay_with_it(
    function: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    output = await keypad(digits=4, describe="Check.")(function).run(call(), "{}")
    formatter = logging.Formatter("%(message)s %(exc_text)s")
    left = output + "".join(formatter.format(record) + repr(record.args) for record in caplog.records)
    assert not any(secret in left for secret in (PIN, "1 9 7 3", "1-9-7-3", "19 73"))
    for record in caplog.records:  # what a service that collects errors would take along
        trace = record.exc_info[1] if record.exc_info else None
        while trace is not None:
            frame = trace.__traceback__
            while frame is not None:
                assert PIN not in repr(frame.tb_frame.f_locals | {"self": None}), frame.tb_frame.f_code.co_name
                frame = frame.tb_next
            trace = trace.__cause__ or trace.__context__


async def test_the_log_names_the_place_of_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    output = await keypad(digits=4, describe="Check.")(quoting).run(call(), "{}")
    assert json.loads(output) == {"error": "quoting failed"}
    assert "KeyError at " in caplog.text
    assert "test_keypad.py:" in caplog.text


async def test_a_choice_is_no_secret() -> None:
    @keypad(digits=1, describe="Choose.")
    async def choose(digits: str) -> str:
        return f"{digits}: you have 1 new message"

    assert await choose.run(call("1"), "{}") == "1: you have 1 new message"


def nothing() -> str:
    return ""


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: keypad(digits=0)(quoting), "digits=0"),
        (lambda: keypad(digits=True)(quoting), "digits=True"),
        (lambda: keypad(digits=65)(quoting), "1 to 64"),
        (lambda: keypad(timeout=0)(quoting), "timeout=0"),
        (lambda: keypad(timeout=float("nan"))(quoting), "timeout=nan"),
        (lambda: keypad(finish_on="##")(quoting), "finish_on='##'"),
        (lambda: keypad(finish_on="x")(quoting), "finish_on='x'"),
        (lambda: keypad(name="two words")(quoting), "two words"),
        (lambda: keypad()(nothing), "let it take (digits)"),
        (lambda: keypad()(5), "cannot be called"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_told_where_they_are_made(make: Callable[[], Tool], why: str) -> None:
    with pytest.raises(DefinitionError) as error:
        make()
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"digits": 4}, "1234"),
        ({"digits": 12}, "123456789012"),
        ({"digits": 3, "finish_on": "2"}, "134"),
        ({}, "1234#"),
        ({"finish_on": ""}, "1234"),
    ],
)
def test_the_keys_that_a_caller_could_type(options: dict[str, Any], keys: str) -> None:
    @keypad(**options)
    def anything(digits: str) -> str:
        """Take the code."""
        return ""

    assert anything.example_keys == keys
