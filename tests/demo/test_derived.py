"""The script that is made for an agent: arguments that its schemas allow, and lines that lead to the turns in order."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from phoneagent.demo.derived import derive, made_up
from phoneagent.sim.model.script import Script

BOOK = {
    "type": "function",
    "name": "book_table",
    "description": "Book a table for this evening. `time` is like 19:30.",
    "parameters": {
        "type": "object",
        "properties": {"guests": {"type": "integer"}, "time": {"type": "string"}, "note": {"type": "string"}},
        "required": ["guests", "time"],
    },
}


def tool(name: str, description: str = "") -> dict[str, Any]:
    return {"type": "function", "name": name, "description": description, "parameters": {"type": "object"}}


def script_for(*tools: dict[str, Any], greeting: str | None = None) -> Script:
    return Script.parse(derive("host", tools, greeting=greeting, target="main.py"))


def test_each_tool_is_called_once_and_what_it_returned_is_said() -> None:
    script = script_for(BOOK, tool("hang_up"), tool("hand_off_to_billing"), tool("menu"), {"type": "mcp"})
    hand_off = [("hand_off_to_billing", {})]
    calls = [[(call.name, call.arguments) for call in turn.calls] for turn in script.turns]
    assert calls == [
        [],
        [],
        [("book_table", {"guests": 2, "time": "19:30"})],
        [("menu", {})],
        [("hang_up", {})],
        hand_off,
    ]
    assert script.turns[2].then == ("book table returned: {output}",)
    assert [turn.caller for turn in script.turns[2:4]] == ["Please book a table for this evening.", "Please menu."]


def test_the_tools_of_other_agents_can_be_typed_after_the_callers_lines() -> None:
    tools = [tool("menu", "Read the menu."), tool("hand_off_to_billing"), {"type": "mcp"}]
    others = [tool("refund"), {**BOOK, "name": "menu"}, tool("menu_card"), tool("hang_up"), tool("hand_off_to_host")]
    script = Script.parse(derive("host", tools, others=others, greeting=None, target="main.py"))
    named = [(turn.calls[0].name, bool(turn.caller)) for turn in script.turns if turn.calls]
    spoken, typed = [("menu", True), ("hang_up", True)], ["hand_off_to_billing", "hand_off_to_host", "refund"]
    assert named == [*spoken, *((name, False) for name in (*typed, "menu_card"))]
    assert [call.arguments for turn in script.turns for call in turn.calls] == [{}] * 6
    for said, name in (("Refund, please.", "refund"), ("Show me the menu card.", "menu_card"), ("The menu!", "menu")):
        turn = script.match(said)
        assert turn is not None
        assert turn.calls[0].name == name


def test_an_agent_that_is_handed_a_call_says_no_words_of_phoneagents_own() -> None:
    (turn,) = [turn for turn in script_for(tool("hand_off_to_billing")).turns if turn.calls]
    assert turn.then
    assert not any("{output}" in line for line in turn.then)


def test_without_hang_up_the_agent_only_says_goodbye() -> None:
    assert [turn.calls for turn in script_for().turns] == [(), (), ()]


def test_the_callers_lines_lead_to_their_turns() -> None:
    script = script_for(BOOK, tool("cancel_order", "Cancel what was ordered."), tool("menu", "Read the dishes."))
    for turn in script.turns:
        assert script.match(turn.caller) is turn


def test_all_tools_of_a_long_list_are_called_each_by_its_name() -> None:
    script = script_for(*(tool(f"job{number}") for number in range(12)), tool("book"), tool("book_table"))
    assert sum(len(turn.calls) for turn in script.turns) == 14
    for said in ("job1", "job8", "job11", "Please job11.", "book", "Please book a table."):
        turn = script.match(said)
        assert turn is not None
        assert turn.calls[0].name in (said, "job11" if "job" in said else "book_table")


def test_an_exact_name_goes_before_other_words() -> None:
    script = script_for(tool("stop"), tool("hang_up"), tool("hand_off_to_billing"))
    for said in ("stop", "hang_up", "hang up", "Hand off to billing"):
        turn = script.match(said)
        assert turn is not None
        assert turn.calls[0].name == said.lower().replace(" ", "_")


def test_an_emoji_is_toml_too() -> None:
    script = script_for(tool("wave", "Wave \U0001f44b."), greeting="Hi \U0001f44b\ud83d")
    assert script.greeting == "Hi \U0001f44b?"
    assert script.turns[2].caller == "Please wave \U0001f44b."


def test_odd_words_are_quoted() -> None:
    script = script_for(tool("say", 'Say "hello"\\ {now}\x7f.'), greeting='The "Blue" \\ Café\n')
    assert script.greeting == 'The "Blue" \\ Café\n'
    assert script.turns[2].caller == 'Please say "hello"\\ {now}\x7f.'


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "string", "minLength": 12, "maxLength": 15},
        {"type": "string", "enum": ["red", "blue"]},
        {"const": 7},
        {"type": "integer", "minimum": 5},
        {"type": "integer", "exclusiveMinimum": 5, "maximum": 6},
        {"type": "integer", "maximum": -3},
        {"type": "integer", "minimum": 5, "multipleOf": 4},
        {"type": "number", "exclusiveMaximum": 1},
        {"type": "boolean"},
        {"type": ["null", "integer"]},
        {"type": "array", "items": {"type": "number"}, "minItems": 2},
        {"anyOf": [{"type": "null"}, {"type": "string", "format": "date"}]},
        {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/A"}},
            "required": ["a"],
            "$defs": {"A": {"enum": [3]}},
        },
        {},
    ],
)
def test_made_up_values_are_allowed_by_their_schema(schema: dict[str, Any]) -> None:
    jsonschema.validate(made_up(schema), schema)


def test_a_schema_that_contains_itself_ends() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/N"}}, "required": ["next"]}
    value = made_up({"$ref": "#/$defs/N", "$defs": {"N": node}})
    assert list(value) == ["next"]


@pytest.mark.parametrize(
    ("name", "value"), [("customer_phone", "+15550100001"), ("date", "2027-01-15"), ("first_name", "first name")]
)
def test_names_of_parameters_help(name: str, value: str) -> None:
    assert made_up({"type": "string"}, name) == value
