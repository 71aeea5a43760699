"""The restaurant of the built-in call: its one tool, and how it fits the script that the simulated model follows."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from phoneagent import Call
from phoneagent.demo import restaurant
from phoneagent.demo.stories import RESTAURANT


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """A caller on an evening without a single booking."""
    monkeypatch.setattr(restaurant, "diary", {})
    return Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))


@pytest.mark.anyio
async def test_each_booking_gets_the_next_reference(call: Call) -> None:
    first = await restaurant.book_table.run(call, '{"guests": 4, "time": "19:30"}')
    second = await restaurant.book_table.run(call, '{"guests": 2, "time": "21:00"}')
    assert (first, second) == ("Booked for 4 at 19:30, reference 41.", "Booked for 2 at 21:00, reference 42.")
    assert restaurant.diary == {41: ("19:30", 4), 42: ("21:00", 2)}


@pytest.mark.anyio
@pytest.mark.parametrize("arguments", ['{"guests": 4}', '{"guests": "many", "time": "19:30"}', "no JSON"])
async def test_a_booking_that_says_too_little_is_refused(call: Call, arguments: str) -> None:
    assert "error" in json.loads(await restaurant.book_table.run(call, arguments))
    assert restaurant.diary == {}


def test_the_script_greets_as_the_agent_does() -> None:
    assert RESTAURANT.script().greeting == restaurant.host.greeting


def test_the_script_calls_every_tool_of_the_agent_with_arguments_that_it_takes() -> None:
    tools = {tool.name: tool for tool in restaurant.host.tools}
    called = [each for turn in RESTAURANT.script().turns for each in turn.calls]
    assert {each.name for each in called} == set(tools)
    for each in called:
        assert tools[each.name].canonical(json.dumps(each.arguments)) is not None, each.name


def test_the_story_names_this_app() -> None:
    assert RESTAURANT.target == f"{restaurant.__name__}:app"
    assert restaurant.app.agent is restaurant.host
