"""Schemas of tools: what the Realtime API would refuse, and what it wants written out."""

from __future__ import annotations

import math
from typing import Any

import pytest

from phoneagent.agent.schemas import MAX_DEPTH, problem_of, written_out


def properties(**schemas: Any) -> dict[str, Any]:
    return {"type": "object", "properties": schemas}


def nested(levels: int) -> dict[str, Any]:
    return {"type": "array", "items": nested(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "array"}, "of type 'array': write the type 'object'"),
        ({"type": ["object", "null"]}, "of type ['object', 'null']: write the type 'object'"),
        ({"type": None}, "of type None: write the type 'object'"),
        ({"anyOf": [{"required": ["a"]}]}, "has 'anyOf' at the top of its parameters: write it into one of"),
        ({"type": "object", "enum": [{}]}, "has 'enum' at the top"),
        (properties(a={"type": "str"}), "has parameters.properties.a.type='str': choose from 'object', 'array', "),
        (properties(a={"type": []}), "has parameters.properties.a.type=[]: choose from"),
        (properties(a={"type": {"kind": "string"}}), "type={'kind': 'string'}: choose from"),
        (properties(a="string"), "has parameters.properties.a='string': write a schema, a dict"),
        (properties(a={"required": True}), "a.required=True: write a list of names beside `properties`"),
        (properties(a={"enum": []}), "a.enum=[]: write a list of at least one value"),
        (properties(a={"description": 5}), "a.description=5: write text"),
        (properties(a={"minimum": "1"}), "a.minimum='1': write a number"),
        (properties(a={"exclusiveMinimum": True}), "a.exclusiveMinimum=True: write a number"),
        (properties(a={"maxLength": -1}), "a.maxLength=-1: write a whole number"),
        (properties(a={"uniqueItems": "no"}), "a.uniqueItems='no': write True or False"),
        (properties(a={"anyOf": []}), "a.anyOf=[]: write a list of schemas"),
        (properties(a={"anyOf": [{"type": "integer"}, {"type": "any"}]}), "properties.a.anyOf[1].type='any'"),
        (properties(a={"items": {"type": "int"}}), "properties.a.items.type='int'"),
        (properties(a={"items": [{}, {"type": "int"}]}), "properties.a.items[1].type='int'"),
        ({"properties": []}, "has parameters.properties=[]: write a dict of schemas"),
        ({"$defs": {"A": {"type": "x"}}}, "has parameters.$defs.A.type='x'"),
        (properties(a={"$ref": "#/$defs/Missing"}), "a.$ref='#/$defs/Missing', which leads nowhere: define it"),
        (properties(a={"$ref": "https://example.com/a.json"}), "which leads nowhere"),
        (properties(a={"$ref": "#/$defs/Missing/x"}), "which leads nowhere"),
        (properties(a={"$ref": "#/properties/b/anyOf/2"}, b={"anyOf": [{}, {}]}), "which leads nowhere"),
        (properties(a={"$ref": "#/properties/b/anyOf/x"}, b={"anyOf": [{}, {}]}), "which leads nowhere"),
        (properties(a={"$ref": "#/type"}), "which leads nowhere"),
        (properties(a=nested(MAX_DEPTH)), f"nested more than {MAX_DEPTH} levels deep: make them flatter"),
        (properties(a={"enum": "x" * 200}), "..."),
    ],
)
def test_what_a_server_refuses_is_named(schema: dict[str, Any], problem: str) -> None:
    found = problem_of(schema)
    assert found is not None
    assert problem in found
    assert len(found) < 250


def test_a_schema_within_itself_is_refused_too() -> None:
    circle: dict[str, Any] = {"type": "array"}
    circle["items"] = circle
    assert "nested more than" in str(problem_of(properties(a=circle)))


GOOD: list[dict[str, Any]] = [
    {},
    {"type": "object"},
    properties(a={"type": ["string", "null"], "enum": ["x", None]}, b=True, c={}),
    properties(a={"$ref": "#/$defs/A"}) | {"$defs": {"A": properties(again={"$ref": "#/$defs/A"})}},
    properties(a={"$ref": "#"}),
    properties(a={"$ref": "#/properties/b/anyOf/1"}, b={"anyOf": [{}, {"type": "string"}]}),
    properties(a={"$ref": "#/$defs/Table%20of%20two"}) | {"$defs": {"Table of two": {}}},
    properties(a={"$ref": "#/definitions/one~1two"}) | {"definitions": {"one/two": True}},
    properties(a={"type": "array"}, b={"type": "array", "items": {"type": "array"}}),
    properties(a={"type": "array", "prefixItems": [{"type": "object"}], "items": False}),
    properties(a={"type": "array", "items": False}),
    properties(a={"items": [{"type": "integer"}, {"type": "array"}], "additionalItems": False, "type": "array"}),
    properties(a={"anyOf": [{"type": "array"}, {"type": "object"}]}, b={"not": {"type": "object"}}),
    properties(a={"type": ["array", "object"]}),
    {"additionalProperties": {"type": "array"}, "required": ()},
]


def arrays_and_objects(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for each in schema for found in arrays_and_objects(each)]
    if not isinstance(schema, dict):
        return []
    here = [schema] if isinstance(schema.get("type"), str | list) else []
    return here + [found for value in schema.values() for found in arrays_and_objects(value)]


@pytest.mark.parametrize("schema", GOOD)
def test_what_is_written_out_says_all_that_a_server_misses(schema: dict[str, Any]) -> None:
    assert problem_of(schema) is None
    written = written_out(schema)
    assert problem_of(written) is None
    assert written_out(written) == written
    assert (written["type"], "properties" in written) == ("object", True)
    for each in arrays_and_objects(written):
        kinds = [each["type"]] if isinstance(each["type"], str) else each["type"]
        assert "array" not in kinds or isinstance(each["items"], dict)
        assert "object" not in kinds or isinstance(each["properties"], dict)


def test_a_tuple_keeps_its_length() -> None:
    pair = {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}
    assert written_out(properties(a=pair))["properties"]["a"] == pair | {"items": {}, "maxItems": 2}
    older = {"type": "array", "items": [{"type": "integer"}]}
    assert written_out(properties(a=older))["properties"]["a"] == {
        "type": "array",
        "prefixItems": [{"type": "integer"}],
        "items": {},
    }


def test_a_default_without_an_end_is_left_out() -> None:
    schema = properties(a={"type": "number", "default": math.inf}, b={"type": "number", "default": 1.5})
    assert written_out(schema)["properties"] == {"a": {"type": "number"}, "b": {"type": "number", "default": 1.5}}


def test_what_was_given_stays_as_it_is() -> None:
    schema = properties(a={"type": "array"})
    written_out(schema)
    assert schema == properties(a={"type": "array"})
