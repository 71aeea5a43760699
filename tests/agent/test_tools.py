"""Tools: their schemas and arguments. Whatever a tool does becomes one short answer to the model, and no more."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field

from phoneagent import Call, DefinitionError, DefinitionWarning, Tool, ToolError, tool
from phoneagent.agent import tools
from phoneagent.agent.tools import MAX_DESCRIPTION_CHARS, MAX_FAILURE_CHARS

pytestmark = pytest.mark.anyio


@pytest.fixture
def call() -> Call:
    return Call(sid="CA1", caller="+15550100001", called=None, direction="inbound", started_at=datetime.now(UTC))


def error_of(output: str) -> str:
    return str(json.loads(output)["error"])


# --- schemas ---


def test_schema_comes_from_the_signature_and_the_docstring() -> None:
    @tool
    async def book(
        call: Call, guests: Annotated[int, Field(ge=1)], time: str, where: Literal["in", "out"] = "in"
    ) -> str:
        """Book a table."""
        return ""

    assert book.name == "book"
    assert book.description == "Book a table."
    assert book.parameters == {
        "type": "object",
        "properties": {
            "guests": {"type": "integer", "minimum": 1},
            "time": {"type": "string"},
            "where": {"type": "string", "enum": ["in", "out"], "default": "in"},
        },
        "required": ["guests", "time"],
        "additionalProperties": False,
    }
    assert book.definition()["type"] == "function"


def test_names_and_descriptions_can_be_given() -> None:
    @tool(name="look-up", description="Look it up.", timeout=3)
    def anything() -> None: ...

    assert (anything.name, anything.description, anything.timeout) == ("look-up", "Look it up.", 3)


def variadic(*numbers: int) -> None: ...
def positional(number: int, /) -> None: ...
def unresolvable(number: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037


@pytest.mark.parametrize("function", [variadic, positional, unresolvable])
def test_signatures_that_cannot_work_are_refused_at_once(function: Callable[..., None]) -> None:
    with pytest.raises(DefinitionError, match=function.__name__):
        tool(function)


@pytest.mark.parametrize("name", ["", "two words", "é", "x" * 65])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match="letters, digits"):
        Tool(name=name, description="", parameters={}, handler=print)


def test_a_timeout_is_positive() -> None:
    with pytest.raises(DefinitionError, match="timeout"):
        Tool(name="x", description="", parameters={}, handler=lambda arguments: None, timeout=0)


@pytest.mark.parametrize(("option", "value"), [("filler", " "), ("filler_after", -1)])
def test_a_filler_is_said_at_some_time(option: str, value: Any) -> None:
    with pytest.raises(DefinitionError, match=option.split("_")[0]):
        Tool(name="x", description="", parameters={}, handler=lambda arguments: None, **{option: value})


def test_what_a_server_misses_in_a_schema_is_written_out() -> None:
    @tool
    def go(to: tuple[float, float]) -> None:
        """Go."""

    assert go.parameters["properties"]["to"]["items"] == {}
    assert Tool(name="x", description="", parameters={}, handler=print).definition()["parameters"] == {
        "type": "object",
        "properties": {},
    }


def test_a_description_that_is_too_long_is_told_and_cut(caplog: pytest.LogCaptureFixture) -> None:
    @tool(description="Looks up an order. " * 100)
    def look_up(number: str) -> None: ...

    assert len(look_up.definition()["description"]) == MAX_DESCRIPTION_CHARS
    assert look_up.description.startswith("Looks up an order. Looks")
    assert caplog.messages == [
        "tool look_up has a description of 1900 characters: the model gets the first 1024, so shorten it"
    ]
    caplog.clear()
    emoji = tool(description="👍🏽" * 1000)(look_up.handler)
    assert emoji.description == "👍🏽" * 511 + "…"
    assert len(caplog.messages) == 1


# --- running ---


async def test_an_async_tool_gets_checked_arguments_and_the_call(call: Call) -> None:
    @tool
    async def book(guests: int, call: Call, when: datetime) -> str:
        """Book."""
        return f"{guests} {call.sid} {when.year}"

    assert await book.run(call, '{"guests": 4, "when": "2026-11-20T19:30:00"}') == "4 CA1 2026"


async def test_a_plain_tool_runs_in_a_thread(call: Call) -> None:
    @tool
    def where() -> bool:
        """Where."""
        return threading.current_thread() is threading.main_thread()

    assert await where.run(call, "{}") == "false"


class Guest(BaseModel):
    name: str


@dataclass
class Booking:
    guest: str
    at: datetime


async def test_rich_arguments_and_results(call: Call) -> None:
    @tool
    async def book(guest: Guest) -> Booking:
        """Book."""
        return Booking(guest.name, datetime(2026, 11, 20, tzinfo=UTC))

    output = await book.run(call, '{"guest": {"name": "Ann"}}')
    assert json.loads(output) == {"guest": "Ann", "at": "2026-11-20T00:00:00Z"}


async def test_parameters_may_have_names_that_pydantic_uses_and_aliases(call: Call) -> None:
    @tool
    def keep(model_extra: str, model_fields_set: int, kind: Annotated[str, Field(alias="type")], size: int = 3) -> Any:
        """Keep."""
        return [model_extra, model_fields_set, kind, size]

    arguments = {"model_extra": "chrome", "model_fields_set": 5, "type": "van"}
    assert await keep.run(call, arguments) == '["chrome",5,"van",3]'
    assert keep.canonical(arguments) == keep.canonical({**arguments, "size": 3})


async def test_a_tool_by_hand_gets_a_dict(call: Call) -> None:
    def handler(arguments: dict[str, Any], call: Call) -> Any:
        return {"sid": call.sid, **arguments}

    by_hand = Tool(name="echo", description="", parameters={"type": "object"}, handler=handler)
    assert json.loads(await by_hand.run(call, '{"a": [1]}')) == {"sid": "CA1", "a": [1]}
    plain = Tool(name="echo", description="", parameters={}, handler=lambda arguments: len(arguments))
    assert await plain.run(call, "") == "0"


@tool
async def add(a: int, b: int = 1) -> int:
    """Add."""
    return a + b


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("{", "EOF"),
        ("[]", "arguments"),
        ("{}", "a: Field required"),
        ('{"a": "x"}', "a: Input should be a valid integer"),
        ('{"a": 1, "c": 2}', "c: Extra inputs"),
        ('"' + "x" * 300_000 + '"', "too long"),
    ],
)
async def test_bad_arguments_are_told_to_the_model(call: Call, arguments: str, complaint: str) -> None:
    assert complaint in error_of(await add.run(call, arguments))


@pytest.mark.parametrize("arguments", ["nonsense", "[1]"])
async def test_bad_arguments_of_a_tool_by_hand(call: Call, arguments: str) -> None:
    by_hand = Tool(name="echo", description="", parameters={}, handler=lambda arguments: arguments)
    assert "JSON" in error_of(await by_hand.run(call, arguments))


NOTHING: list[Any] = ["", "  ", "null", " null\n", '""', '"null"', None, {}, "{}", '"{}"']


@pytest.mark.parametrize("arguments", NOTHING)
async def test_no_arguments_in_any_spelling_are_an_empty_object(call: Call, arguments: Any) -> None:
    @tool
    def count(most: int = 3) -> int:
        """Count."""
        return most

    by_hand = Tool(name="echo", description="", parameters={}, handler=lambda arguments: arguments)
    assert await count.run(call, arguments) == "3"
    assert await by_hand.run(call, arguments) == "{}"
    assert count.canonical(arguments) == count.canonical("{}") == '{"most": 3}'
    assert "a: Field required" in error_of(await add.run(call, arguments))


@pytest.mark.parametrize("arguments", [{"a": 2}, '{"a": 2}', '"{\\"a\\": 2}"', ' {"a": 2} '])
async def test_arguments_may_be_an_object_or_its_json(call: Call, arguments: Any) -> None:
    assert await add.run(call, arguments) == "3"
    assert add.canonical(arguments) == '{"a": 2, "b": 1}'


@pytest.mark.parametrize("arguments", ['"', '"some words"', '"[1]"', "[null]", "0"])
async def test_arguments_that_are_no_object_are_told_to_the_model(call: Call, arguments: str) -> None:
    assert "arguments" in error_of(await add.run(call, arguments))
    assert add.canonical(arguments) is None


async def test_a_tool_error_speaks_to_the_model_any_other_does_not(
    call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    @tool
    async def full() -> None:
        """Full."""
        raise ToolError("no table is free")

    @tool
    def broken() -> None:
        """Broken."""
        raise RuntimeError("password=hunter2")

    assert error_of(await full.run(call, "{}")) == "no table is free"
    assert error_of(await broken.run(call, "{}")) == "broken failed"
    assert [record.message for record in caplog.records] == ["tool broken failed: RuntimeError: password=hunter2"]


async def test_a_slow_tool_is_answered_for(call: Call) -> None:
    never = asyncio.Event()

    @tool(timeout=0.01)
    async def slow() -> None:
        """Slow."""
        await never.wait()

    assert "outcome is unknown" in error_of(await slow.run(call, "{}"))


async def test_a_thread_that_hangs_is_left_behind(call: Call) -> None:
    release = threading.Event()

    @tool(timeout=0.01)
    def stuck() -> None:
        """Stuck."""
        release.wait()

    try:
        assert "outcome is unknown" in error_of(await stuck.run(call, "{}"))
    finally:
        release.set()


async def test_a_tool_cannot_end_the_process_nor_leave_the_model_without_an_answer(call: Call) -> None:
    @tool
    def leave() -> None:
        """Leave."""
        raise SystemExit(3)

    @tool
    async def leave_at_once() -> None:
        """Leave at once."""
        raise SystemExit(3)

    @tool
    async def cancelled() -> None:
        """Cancelled."""
        raise asyncio.CancelledError  # as awaiting a task does that somebody cancelled

    for each in (leave, leave_at_once, cancelled):
        assert error_of(await each.run(call, "{}")) == f"{each.name} failed"


async def test_a_tool_that_is_cancelled_from_outside_is_cancelled(call: Call) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    @tool
    async def waits() -> None:
        """Waits."""
        begun.set()
        await never.wait()

    task = asyncio.create_task(waits.run(call, "{}"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_text_that_no_socket_takes_is_made_sendable(call: Call) -> None:
    @tool
    async def odd() -> str:
        """Odd."""
        return "caf\udce9"

    @tool
    async def odd_failure() -> str:
        """Odd failure."""
        raise ToolError("caf\udce9")

    assert await odd.run(call, "{}") == "caf?"
    assert error_of(await odd_failure.run(call, "{}")) == "caf?"


async def test_results_that_are_no_answer(call: Call) -> None:
    @tool
    async def strange() -> object:
        """Strange."""
        return object()

    @tool
    async def endless() -> str:
        """Endless."""
        return "x" * 100_000

    assert "JSON" in error_of(await strange.run(call, "{}"))
    assert "too much" in error_of(await endless.run(call, "{}"))


# --- tools that do not end ---


async def test_one_that_does_not_let_itself_be_cancelled_is_left_behind(call: Call) -> None:
    release, tries = asyncio.Event(), 0

    @tool(timeout=0.01)
    async def stubborn() -> None:
        """Stubborn."""
        nonlocal tries
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                tries += 1

    assert "outcome is unknown" in error_of(await stubborn.run(call, "{}"))
    (left,) = tools._left
    await asyncio.sleep(0)
    assert tries == 1
    assert not left.done()
    release.set()
    await asyncio.wait([left])
    assert not tools._left


async def test_a_time_out_of_its_own_is_a_failure_like_any_other(call: Call) -> None:
    @tool
    async def looks_up() -> None:
        """Looks up."""
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

    assert error_of(await looks_up.run(call, "{}")) == "looks_up failed"


async def test_one_that_holds_up_the_loop_is_named(
    call: Call, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = itertools.count()  # a second passes whenever somebody looks
    monkeypatch.setattr(tools, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    @tool
    async def dawdles() -> str:
        """Dawdles."""
        return "done"

    assert await dawdles.run(call, "{}") == "done"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("tool dawdles blocked every call for 1.0 s")


async def test_a_tool_that_only_waits_does_not_count_as_blocking(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    held: list[float] = []
    monkeypatch.setattr(tools, "time", SimpleNamespace(monotonic=lambda: now))

    async def waits() -> str:
        nonlocal now
        asyncio.get_running_loop().call_soon(passes)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "done"

    def passes() -> None:
        nonlocal now
        now += 60

    assert await tools._watched(waits(), held.append) == "done"
    assert (now, held) == (60, [])


# --- that raise what ends other programs ---


class Rude(BaseException):
    """Nothing that `except Exception` catches."""


@pytest.mark.parametrize("error", [Rude, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_whatever_is_raised_is_a_failure(call: Call, error: type[BaseException], kind: str) -> None:
    async def asynchronous() -> None:
        raise error

    def plain() -> None:
        raise error

    rude = tool(name="rude", description="Rude.")(asynchronous if kind == "async" else plain)
    assert error_of(await rude.run(call, "{}")) == "rude failed"


async def test_one_that_cancels_itself_cancels_nothing_else(call: Call) -> None:
    @tool
    async def gives_up() -> None:
        """Gives up."""
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    assert error_of(await gives_up.run(call, "{}")) == "gives_up failed"
    me = asyncio.current_task()
    assert me is not None
    assert me.cancelling() == 0


async def test_an_error_that_cannot_be_shown(call: Call) -> None:
    class Shy(ToolError):
        def __str__(self) -> str:
            raise RuntimeError

    @tool
    async def shy() -> None:
        """Shy."""
        raise Shy

    assert error_of(await shy.run(call, "{}")) == "shy failed"


async def test_an_error_without_words_and_one_with_too_many(call: Call) -> None:
    @tool
    async def mute() -> None:
        """Mute."""
        raise ToolError

    @tool
    async def talkative() -> None:
        """Talkative."""
        raise ToolError("x" * 1_000_000)

    assert error_of(await mute.run(call, "{}")) == "mute failed"
    assert len(await talkative.run(call, "{}")) < MAX_FAILURE_CHARS + 100


def exits(value: int) -> int:
    raise SystemExit(value)


@pytest.mark.parametrize("once", [True, False])
async def test_a_validator_that_ends_the_process_does_not(call: Call, once: bool) -> None:
    @tool(once=once)
    async def checked(number: Annotated[int, AfterValidator(exits)]) -> None:
        """Checked."""

    assert checked.canonical('{"number": 1}') is None
    assert error_of(await checked.run(call, '{"number": 1}')) == "checked failed"


# --- with arguments that are none ---


@tool
async def add_up(numbers: list[int]) -> int:
    """Add up."""
    return sum(numbers)


async def test_of_very_many_mistakes_a_few_are_told(call: Call) -> None:
    output = await add_up.run(call, json.dumps({"numbers": ["x"] * 10_000}))
    assert "numbers.0: Input should be a valid integer" in error_of(output)
    assert error_of(output).endswith("; and 9995 more")
    assert len(output) < MAX_FAILURE_CHARS


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("{" + '"k' * 20_000, "JSON"),
        ('{"' + "k" * 60_000 + '": 1}', "numbers: Field required"),
        ("[" * 60_000, "recursion limit"),
        ('{"numbers": [' + "9" * 10_000 + "]}", "out of range"),
        ('{"numbers": ["\\ud800"]}', "JSON"),
        ('{"numbers": null}', "valid array"),
        ('{"numbers": [1.5]}', "valid integer"),
        ('{"call": 1, "numbers": []}', "call: Extra inputs"),
        ('"' + "x" * 1_000_000 + '"', "too long: 1000002"),
    ],
)
async def test_bad_arguments_get_a_short_answer(call: Call, arguments: str, complaint: str) -> None:
    output = await add_up.run(call, arguments)
    assert complaint in error_of(output)
    assert len(output) < MAX_FAILURE_CHARS + 100


# --- with outputs that are none ---


async def test_what_is_yielded_is_a_list_and_what_has_no_end_is_too_much(call: Call) -> None:
    @tool
    def counts() -> Iterator[int]:
        """Counts."""
        yield from range(3)

    @tool
    async def endless() -> Iterator[int]:
        """Endless."""
        return itertools.count()

    assert await counts.run(call, "{}") == "[0,1,2]"
    assert "too much" in error_of(await endless.run(call, "{}"))


async def test_results_that_json_does_not_carry(call: Call) -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (circle, b"\xff", {"a": "\udce9"}, {1, object()}):
        by_hand = Tool(name="odd", description="", parameters={}, handler=lambda arguments, value=value: value)
        assert "cannot be written as JSON" in error_of(await by_hand.run(call, "{}"))


async def test_a_number_that_json_does_not_know_is_null(call: Call) -> None:
    @tool
    async def divide() -> dict[str, Any]:
        """Divide."""
        return {"a": float("nan"), "b": [float("inf"), 1.5]}

    assert await divide.run(call, "{}") == '{"a":null,"b":[null,1.5]}'


async def test_one_that_prints_disturbs_nothing(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    @tool
    async def loud() -> str:
        """Loud."""
        print('{"error": "this is no output"}')
        return "quiet"

    assert await loud.run(call, "{}") == "quiet"
    assert capsys.readouterr().out == '{"error": "this is no output"}\n'


# --- that cannot be offered ---


async def in_pieces() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": 5}, "tool name 5 cannot be used"),
        ({"name": "two words"}, "tool name 'two words' cannot be used: 1 to 64 letters"),
        ({"description": None}, "tool 'x' has description=None: write text"),
        ({"description": "caf\udce9"}, "tool 'x' has description='caf.udce9': write text"),
        ({"timeout": "20"}, "tool 'x' has timeout='20': it must be more than 0 seconds"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"timeout": float("inf")}, "timeout=inf"),
        ({"timeout": True}, "timeout=True"),
        ({"filler_after": "1"}, "filler_after='1': it must be 0 seconds or more"),
        ({"filler": 5}, "tool 'x' has filler=5: write what the agent says"),
        ({"parameters": None}, "tool 'x' has parameters=None: write a JSON schema, a dict"),
        ({"parameters": {"type": "array"}}, "tool 'x' has parameters of type 'array': write the type 'object'"),
        ({"parameters": {"default": {1, 2}}}, "tool 'x' has parameters that are not JSON: .*set"),
        ({"parameters": {"maximum": float("nan")}}, "tool 'x' has parameters that are not JSON: .*float"),
        ({"parameters": {"oneOf": [{}]}}, "tool 'x' has 'oneOf' at the top of its parameters: write it into"),
        ({"parameters": {"required": "name"}}, "tool 'x' has parameters.required='name': write a list of names"),
        ({"parameters": {"title": "\udce9"}}, "tool 'x' has parameters that are not JSON: .*surrogates"),
        ({"handler": None}, "tool 'x' has handler=None, which cannot be called: pass a function"),
        ({"handler": lambda: None}, "tool 'x' has a handler that cannot be called .*: let it take .arguments"),
        ({"handler": lambda one, two: None}, "cannot be called .*: let it take .arguments"),
        ({"filler": "caf\udce9"}, "tool 'x' has filler='caf.udce9': write what the agent says"),
        ({"handler": in_pieces}, "tool 'x' is an async generator: return the whole output"),
    ],
)
def test_what_the_api_would_refuse_is_refused_where_it_is_written(options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"name": "x", "description": "", "parameters": {}, "handler": lambda arguments: None}
    with pytest.raises(DefinitionError, match=words) as raised:
        Tool(**{**given, **options})
    assert "\n" not in str(raised.value)


def function_type(number: Callable[[], None]) -> None: ...


def test_a_parameter_that_json_cannot_carry() -> None:
    with pytest.raises(DefinitionError, match=r"tool 'function_type': parameter 'number' is of type .*: use str, int"):
        tool(function_type)


def test_what_the_model_is_not_told_is_a_warning_at_the_function() -> None:
    def book(guests, when: str, call):
        return f"{guests} at {when}"

    with pytest.warns(DefinitionWarning) as warned:
        tool(book)
    assert [str(each.message) for each in warned] == [
        "tool 'book' has no docstring: write when to call it and what it does, for the model",
        "tool 'book' has parameter 'guests' without a type hint: write one, like guests: str, "
        "or the model does not know what to pass",
    ]
    assert {(each.filename, each.lineno) for each in warned} == {(__file__, book.__code__.co_firstlineno)}


def test_a_description_that_is_given_stands_for_the_docstring() -> None:
    assert tool(name="count", description="Counts.")(lambda: 7).description == "Counts."


async def test_a_tool_may_want_no_response_but_to_a_failure(call: Call) -> None:
    @tool(respond=False)
    async def press(key: int) -> str:
        """Press."""
        return str(key)

    assert not press.responds_to(await press.run(call, '{"key": 1}'))
    assert press.responds_to(await press.run(call, "{}"))

    @tool
    async def ask() -> str:
        """Ask."""
        return ""

    assert ask.responds_to(await ask.run(call, "{}"))
