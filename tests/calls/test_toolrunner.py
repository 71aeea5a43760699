"""Tools that act once: for the same arguments, in one call, whatever happens to its media streams and the journal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from pydantic import BaseModel as Base
from pydantic import Field, field_validator

from phoneagent import Call, Tool, ToolError, tool
from phoneagent.bridge.history import ToolRun
from phoneagent.bridge.requests import RunTool
from phoneagent.bridge.steps import NextStep
from phoneagent.calls import toolrunner
from phoneagent.calls.toolrunner import MOVED, NOT_RUN, OUTCOME_UNKNOWN, ToolRunner
from phoneagent.errors import StoreError

pytestmark = pytest.mark.anyio
ARGUMENTS = '{"amount": 5}'


class Amount(Base):
    value: int

    @field_validator("value")
    @classmethod
    def check(cls, value: int) -> int:
        raise LookupError(value)


class Journal:
    """Writes down what it is told, unless it is `away`."""

    def __init__(self) -> None:
        self.away = False
        self.stuck = False
        self.started: list[str] = []

    async def tool_started(self, call_sid: str, call_id: str, name: str, arguments: str) -> None:
        if self.away:
            raise StoreError("the database is away")
        if self.stuck:
            await asyncio.Event().wait()
        self.started.append(call_id)

    async def next_step(self, call_sid: str, step: NextStep, *, early: bool = False) -> None:
        raise AssertionError


@dataclass
class Till:
    """A call with a tool that takes money."""

    past: Sequence[ToolRun] = ()
    journal: Journal | None = field(default_factory=Journal)
    taken: list[int] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    fails: bool = False
    moved: bool = False

    def __post_init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()

        @tool(once=True)
        async def pay(amount: Annotated[int, Field(ge=1)], currency: str = "EUR") -> str:
            """Pay."""
            self.taken.append(amount)
            await self.open.wait()
            if self.fails:
                raise ToolError("declined")
            return f"paid {len(self.taken)}"

        self.pay = pay
        call = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
        self.runner = ToolRunner(
            call, self.journal, past=self.past, report=self.troubles.append, moved=lambda: self.moved
        )

    async def run(self, arguments: str = ARGUMENTS, call_id: str = "c1", tool: Tool | None = None) -> str:
        return await self.runner.run(tool or self.pay, RunTool(call_id, "pay", arguments))


def before(output: str | None, arguments: str = ARGUMENTS, name: str = "pay") -> ToolRun:
    return ToolRun(call_id="c0", name=name, arguments=arguments, output=output, at_ms=0)


# --- in one media stream ---


@pytest.mark.parametrize("again", [ARGUMENTS, '{ "amount":5 }', '{"currency": "EUR", "amount": "5"}'])
async def test_the_same_arguments_act_once_however_they_are_written(again: str) -> None:
    till = Till()
    assert await till.run() == "paid 1"
    assert await till.run(again, "c2") == "paid 1"
    assert till.taken == [5]
    assert till.journal is not None
    assert till.journal.started == ["c1"]


async def test_other_arguments_act_again() -> None:
    till = Till()
    await till.run()
    assert await till.run('{"amount": 6}') == "paid 2"
    assert await till.run('{"amount": 5, "currency": "USD"}') == "paid 3"


async def test_a_tool_that_may_repeat_itself_does() -> None:
    till = Till()
    often = tool(name="pay")(till.pay.handler)
    assert [await till.run(tool=often), await till.run(tool=often)] == ["paid 1", "paid 2"]


async def test_two_calls_at_the_same_time_get_one_output() -> None:
    till = Till()
    till.open.clear()
    both = asyncio.gather(till.run(call_id="c1"), till.run(call_id="c2"))
    while not till.taken:
        await asyncio.sleep(0)
    till.open.set()
    assert await both == ["paid 1", "paid 1"]
    assert till.taken == [5]


async def test_a_canceled_wait_takes_nothing_from_the_others() -> None:
    till = Till()
    till.open.clear()
    first, second, third = (asyncio.create_task(till.run(call_id=f"c{number}")) for number in range(3))
    while not till.taken:
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    till.open.set()
    assert await asyncio.gather(first, third) == ["paid 1", "paid 1"]


async def test_if_the_first_is_canceled_the_outcome_is_unknown() -> None:
    till = Till()
    till.open.clear()
    first = asyncio.create_task(till.run())
    while not till.taken:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert await till.run() == OUTCOME_UNKNOWN
    assert till.taken == [5]


async def test_a_refusal_is_an_output_too() -> None:
    till = Till(fails=True)
    assert "declined" in await till.run()
    till.fails = False
    assert "declined" in await till.run()
    assert till.taken == [5]


@pytest.mark.parametrize("arguments", ["{", '{"amount": 0}', "[]", '{"amount": 5, "tip": 1}'])
async def test_arguments_that_it_refuses_are_not_remembered(arguments: str) -> None:
    till = Till()
    assert "error" in json.loads(await till.run(arguments))
    assert "error" in json.loads(await till.run(arguments))
    assert till.taken == []
    assert await till.run() == "paid 1"


async def test_a_tool_by_hand_acts_once_as_well() -> None:
    till = Till()
    given: list[Any] = []
    by_hand = Tool(name="pay", description="", parameters={}, handler=given.append, once=True)
    for arguments in ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}'):
        await till.run(arguments, tool=by_hand)
    assert given == [{"a": 1, "b": 2}]


async def test_a_default_that_is_created_for_each_run_makes_no_difference() -> None:
    given: list[Any] = []

    @tool(name="pay", once=True)
    async def pay(amount: int, key: Annotated[object, Field(default_factory=object)]) -> None:
        """Pay."""
        given.append(amount)

    till = Till()
    for _ in range(2):
        await till.run(tool=pay)
    assert given == [5]


async def test_a_validator_that_breaks_is_told_to_the_model_only() -> None:
    @tool(name="pay", once=True)
    async def pay(amount: Amount) -> None:
        """Pay."""

    assert json.loads(await Till().run('{"amount": {"value": 1}}', tool=pay)) == {"error": "pay failed"}


async def test_a_tool_that_does_not_exist() -> None:
    till = Till()
    assert "no tool named pay" in await till.runner.run(None, RunTool("c1", "pay", "{}"))


# --- across media streams ---


async def test_what_acted_in_an_earlier_stream_does_not_act_again() -> None:
    till = Till([before("paid 7", '{"amount":5,"currency":"EUR"}')])
    assert await till.run() == "paid 7"
    assert await till.run() == "paid 7"
    assert till.taken == []


async def test_what_was_cut_off_there_is_not_repeated() -> None:
    till = Till([before(None)])
    assert await till.run() == OUTCOME_UNKNOWN
    assert till.taken == []


async def test_an_output_counts_for_more_than_a_repetition_that_was_cut_off() -> None:
    assert await Till([before(None), before("paid 7")]).run() == "paid 7"


@pytest.mark.parametrize(
    "run",
    [before("paid 7", '{"amount": 6}'), before(None, name="refund"), before(NOT_RUN), before(MOVED), before("{", "{")],
)
async def test_anything_else_there_makes_no_difference(run: ToolRun) -> None:
    assert await Till([run]).run() == "paid 1"


@pytest.mark.parametrize("once", [True, False])
async def test_nothing_runs_here_any_more_once_the_call_goes_on_elsewhere(once: bool) -> None:
    till = Till(moved=True)
    assert await till.run(tool=None if once else tool(name="pay")(till.pay.handler)) == MOVED
    assert till.taken == []


# --- the journal ---


@pytest.mark.parametrize("how", ["away", "stuck"])
async def test_nothing_acts_once_that_cannot_be_written_down(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolrunner, "JOURNAL_SECONDS", 0.01)
    till = Till()
    assert till.journal is not None
    setattr(till.journal, how, True)
    assert await till.run() == NOT_RUN
    assert till.taken == []
    assert "not run" in till.troubles[0]
    setattr(till.journal, how, False)
    assert await till.run() == "paid 1"


async def test_any_other_tool_runs_all_the_same() -> None:
    till = Till()
    assert till.journal is not None
    till.journal.away = True
    assert await till.run(tool=tool(name="pay")(till.pay.handler)) == "paid 1"
    assert till.troubles == ["a tool runs although it could not be recorded beforehand"]


async def test_where_no_call_is_recorded_it_acts_once_too() -> None:
    till = Till(journal=None)
    assert [await till.run(), await till.run()] == ["paid 1", "paid 1"]
