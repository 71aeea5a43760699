"""Signatures: what of a function the model fills in, and which functions cannot be tools."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import Field

from phoneagent import Call, DefinitionError, tool
from phoneagent.agent.signatures import doc_of, read_signature


def annotated(one: int, call: Call) -> None: ...
def optional(one: int, line: Call | None = None) -> None: ...
def bare(one: int, call) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(("function", "name"), [(annotated, "call"), (optional, "line"), (bare, "call")])
def test_the_call_is_no_argument_of_the_model(function: Callable[..., Any], name: str) -> None:
    read = read_signature(function, "x")
    assert read.call_parameter == name
    assert list(read.schema["properties"]) == ["one"]


def test_a_parameter_named_call_with_a_type_of_its_own_is_an_argument() -> None:
    def dial(call: str) -> None: ...

    assert read_signature(dial, "x").call_parameter is None


def party(more: int, guests: int) -> None: ...


class Booker:
    def book(self, guests: int) -> None: ...

    def __call__(self, guests: int) -> None: ...


@pytest.mark.parametrize("function", [Booker(), Booker().book, functools.partial(party, 1)])
def test_methods_and_other_things_that_can_be_called(function: Callable[..., Any]) -> None:
    made = tool(name="book", description="Book.")(function)
    assert list(made.parameters["properties"]) == ["guests"]


class Tables:
    """Not a type that JSON can express."""


def reserve(tables: Tables, guests: int, call: Call, day: str = "today") -> None:
    """Reserve a table."""


class Waiter:
    def __call__(self, order: str) -> None:
        """Take an order."""


class Cook:
    """Cook an order."""

    def __call__(self, order: str) -> None:
        """Not for the model."""


def described(function: Any, text: str) -> Any:
    function.__doc__ = text
    return function


def test_what_a_partial_fills_in_by_name_is_not_the_models() -> None:
    inner = described(functools.partial(reserve, tables=Tables()), "Not flattened.")
    made = tool(name="reserve")(functools.partial(inner, day="Sunday"))
    assert list(made.parameters["properties"]) == ["guests"]
    assert made.call_parameter == "call"
    assert tool(name="reserve")(functools.partial(inner, call=None)).call_parameter is None


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (functools.partial(reserve, Tables()), "Reserve a table."),
        (functools.partial(functools.partial(Waiter()), order="soup"), "Take an order."),
        (described(functools.partial(reserve, Tables()), "Reserve at Da Mario."), "Reserve at Da Mario."),
        (Waiter(), "Take an order."),
        (Cook(), "Cook an order."),
        (party, ""),
    ],
)
def test_the_docstring_is_the_one_that_the_user_wrote(function: Any, text: str) -> None:
    assert doc_of(function) == text


@pytest.mark.filterwarnings("ignore::phoneagent.DefinitionWarning")
@pytest.mark.parametrize(
    ("function", "text"),
    [(functools.partial(reserve, Tables()), "Reserve a table."), (Waiter(), "Take an order."), (Booker(), "")],
)
def test_a_tool_has_that_docstring_as_its_description(function: Any, text: str) -> None:
    assert tool(name="x")(function).description == text


def test_a_default_that_json_cannot_express_is_left_out() -> None:
    def find(most: float = math.inf, kind: Any = object(), _cache: dict[str, int] = {}) -> None: ...  # noqa: B006, B008

    assert tool(description="Find.")(find).parameters["properties"] == {"most": {"type": "number"}, "kind": {}}


def test_a_name_that_pydantic_has_too_is_no_matter() -> None:
    def save(json: str, copy: bool) -> None: ...

    assert list(read_signature(save, "x").schema["properties"]) == ["json", "copy"]


def variadic(*numbers: int) -> None: ...
def twice(one: Call, two: Call) -> None: ...
def private(_number: int) -> None: ...
def kept(model_config: int) -> None: ...
def dump(model_dump: int) -> None: ...
def unknown(number: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037
def translated(day: "string") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037
def broken(number: "list[int") -> None: ...  # type: ignore[valid-type]  # noqa: F722
def bound(number: Annotated[int, Field(ge="one")]) -> None: ...  # type: ignore[arg-type]
def other(number: 5) -> None: ...  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (variadic, "tool 'x' has parameter 'numbers', which the model cannot fill: use a named one"),
        (Booker.book, "tool 'x' is a method without its object: write tool"),
        (twice, "tool 'x' takes the call twice, as 'one' and 'two': remove one"),
        (private, "tool 'x' has parameter '_number', a name that pydantic keeps: rename it"),
        (kept, "tool 'x' has parameter 'model_config', a name that pydantic keeps: rename it"),
        (dump, "tool 'x' has parameters that JSON cannot express: .*model_dump"),
        (unknown, "cannot be resolved: name 'Missing' is not defined: import it outside of TYPE_CHECKING, or"),
        (translated, "cannot be resolved: name 'string' is not defined: write str"),
        (broken, "tool 'x' has a type hint that cannot be resolved: "),
        (bound, "tool 'x' has parameters that JSON cannot express: .*'ge' must be"),
        (other, "tool 'x': parameter 'number' is of type 5: use str, int, list or a pydantic model"),
        ("book", "tool 'x' has handler='book', which cannot be called"),
        (functools.partial(annotated, missing=1), "tool 'x' has handler=.*cannot be called"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_in_one_line(function: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words) as raised:
        tool(name="x")(function)
    assert "\n" not in str(raised.value)


def test_without_a_name_there_is_no_tool() -> None:
    with pytest.raises(DefinitionError, match=r"has no name: write tool\(name=…\)"):
        tool(Booker())
