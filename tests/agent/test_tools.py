"""Tools that misbehave: whatever they do becomes one short answer to the model, and nothing else is touched."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator

from phoneagent import Call, DefinitionError, Tool, ToolError, tool
from phoneagent.agent import tools
from phoneagent.agent.tools import MAX_FAILURE_CHARS

pytestmark = pytest.mark.anyio


@pytest.fixture
def call() -> Call:
    return Call(sid="CA1", caller="+15550100001", called=None, direction="inbound", started_at=datetime.now(UTC))


def error_of(output: str) -> str:
    return str(json.loads(output)["error"])


# --- that do not end ---


async def test_one_that_does_not_let_itself_be_cancelled_is_left_behind(call: Call) -> None:
    release, tries = asyncio.Event(), 0

    @tool(timeout=0.01)
    async def stubborn() -> None:
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
        return "done"

    assert await dawdles.run(call, "{}") == "done"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("tool dawdles held up every call for 1.0 s")


async def test_waiting_holds_up_nobody(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
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

    rude = tool(name="rude")(asynchronous if kind == "async" else plain)
    assert error_of(await rude.run(call, "{}")) == "rude failed"


async def test_one_that_cancels_itself_cancels_nothing_else(call: Call) -> None:
    @tool
    async def gives_up() -> None:
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
        raise Shy

    assert error_of(await shy.run(call, "{}")) == "shy failed"


async def test_an_error_without_words_and_one_with_too_many(call: Call) -> None:
    @tool
    async def mute() -> None:
        raise ToolError

    @tool
    async def talkative() -> None:
        raise ToolError("x" * 1_000_000)

    assert error_of(await mute.run(call, "{}")) == "mute failed"
    assert len(await talkative.run(call, "{}")) < MAX_FAILURE_CHARS + 100


def exits(value: int) -> int:
    raise SystemExit(value)


@pytest.mark.parametrize("once", [True, False])
async def test_a_validator_that_ends_the_process_does_not(call: Call, once: bool) -> None:
    @tool(once=once)
    async def checked(number: Annotated[int, AfterValidator(exits)]) -> None: ...

    assert checked.canonical('{"number": 1}') is None
    assert error_of(await checked.run(call, '{"number": 1}')) == "checked failed"


# --- with arguments that are none ---


@tool
async def add_up(numbers: list[int]) -> int:
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
        yield from range(3)

    @tool
    async def endless() -> Iterator[int]:
        return itertools.count()

    assert await counts.run(call, "{}") == "[0,1,2]"
    assert "too much" in error_of(await endless.run(call, "{}"))


async def test_results_that_json_does_not_carry(call: Call) -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (circle, b"\xff", {"a": "\udce9"}, {1, object()}):
        by_hand = Tool(name="odd", description="", parameters={}, handler=lambda arguments, value=value: value)
        assert "cannot be written as JSON" in error_of(await by_hand.run(call, "{}"))


async def test_one_that_prints_disturbs_nothing(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    @tool
    async def loud() -> str:
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
        ({"timeout": "20"}, "tool 'x' has timeout='20': it must be above 0 seconds"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"timeout": float("inf")}, "timeout=inf"),
        ({"timeout": True}, "timeout=True"),
        ({"filler_after": "1"}, "filler_after='1': it must be 0 s or more"),
        ({"filler": 5}, "no text for its filler"),
        ({"parameters": None}, "tool 'x' has parameters that are no JSON schema: write a dict"),
        ({"parameters": {"type": "array"}}, "tool 'x' has parameters of type 'array': arguments are an object"),
        ({"parameters": {"enum": {1, 2}}}, "tool 'x' has parameters that are not JSON: .*set"),
        ({"parameters": {"title": "\udce9"}}, "tool 'x' has parameters that are not JSON: .*surrogates"),
        ({"handler": None}, "tool 'x' has a handler that cannot be called: None"),
        ({"handler": in_pieces}, "tool 'x' yields its output in pieces: return all of it"),
    ],
)
def test_what_the_api_would_refuse_is_refused_where_it_is_written(options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"name": "x", "description": "", "parameters": {}, "handler": lambda arguments: None}
    with pytest.raises(DefinitionError, match=words) as raised:
        Tool(**{**given, **options})
    assert "\n" not in str(raised.value)


def function_type(number: Callable[[], None]) -> None: ...


def test_a_parameter_that_json_cannot_carry() -> None:
    with pytest.raises(DefinitionError, match="tool 'function_type' has parameters that JSON cannot carry"):
        tool(function_type)
