"""Remedies for wrong arguments of phoneagent's own classes, and for type hints of other languages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from phoneagent import Agent, Endpoint, Hearing, PhoneApp, Turns, tool
from phoneagent.cli.remedies import argument_remedy, hint_remedy


def remedy(call: Callable[[], object], names: dict[str, Any] | None = None) -> str | None:
    with pytest.raises(TypeError) as raised:
        call()
    return argument_remedy(raised.value, {"Agent": Agent} if names is None else names)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Agent(instructions="x", model="m"), "'model': set OPENAI_MODEL, or give PhoneApp an endpoint="),
        (lambda: PhoneApp(Agent(instructions="x"), model="m"), "'model': set OPENAI_MODEL, or give PhoneApp an"),
        (lambda: PhoneApp(Agent(instructions="x"), api_key="k"), "'api_key': set OPENAI_API_KEY, or give PhoneApp"),
        (lambda: Agent(instruction="x"), "'instruction': did you mean instructions=?"),
        (lambda: Agent(prompt="x"), "'prompt': did you mean instructions=?"),
        (lambda: Agent(instructions="x", temperature=1), "'temperature': it takes name, instructions, greeting, "),
        (lambda: Hearing(model="x"), "'model': did you mean models=?"),
        (lambda: tool(fillr="x"), "tool() got an unexpected keyword argument 'fillr': did you mean filler=?"),
        (lambda: Endpoint.openai("k", dialekt=None), "'dialekt': did you mean dialect=?"),
        (lambda: Agent("You answer"), "2 were given: write the arguments' names, like instructions=…"),
        (lambda: Turns("manual"), "2 were given: write the arguments' names, like detection=…"),
        (lambda: PhoneApp(Agent(instructions="x"), None), "3 were given: write the arguments' names, like settings=…"),
    ],
)
def test_a_wrong_argument(call: Callable[[], object], words: str) -> None:
    found = remedy(call)
    assert found is not None
    assert found.startswith("TypeError: ")
    assert words in found
    assert "Did you mean" not in found


class Stranger:
    """A class of the user's, or of another framework."""

    def __init__(self) -> None: ...


Stranger.__init__.__qualname__ = "Agent.__init__"


def test_a_class_of_the_same_name_is_not_ours() -> None:
    assert remedy(lambda: Stranger(model="m"), {"Agent": Stranger}) is None  # type: ignore[call-arg]
    assert remedy(lambda: print(model="m")) is None  # type: ignore[call-overload]
    assert remedy(lambda: len(1)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "line", "kind"),
    [
        ("string", "def book(day: string) -> str:", "str"),
        ("number", "    guests: list[number],", "float or int"),
        ("integer", "def book(guests: integer = 2):", "int"),
        ("boolean", "def book() -> boolean:", "bool"),
        ("string", "def book(day: int | string):", "str"),
        ("number", "print(number)", None),
        ("string", "string.ascii_letters", None),
        ("table", "def book(day: table):", None),
    ],
)
def test_a_type_hint_of_another_language(name: str, line: str, kind: str | None) -> None:
    error = NameError(f"name {name!r} is not defined", name=name)
    expected = None if kind is None else f"NameError: name {name!r} is not defined: as a type hint, write {kind}"
    assert hint_remedy(error, line) == expected
