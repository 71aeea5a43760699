"""Made-up arguments: a schema allows what is made of it."""

from __future__ import annotations

import uuid
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field

from phoneagent.sim.model.example import MAX_DEPTH, example_of


class Color(Enum):
    RED = "red"


class Leaf(BaseModel):
    size: Annotated[int, Field(ge=3, le=5)]
    weight: float = Field(gt=0, lt=1)
    odd: int = Field(multiple_of=7, gt=7)
    low: int = Field(lt=0)


class Everything(BaseModel):
    name: str = Field(min_length=10, max_length=12)
    short: str = Field(max_length=2)
    maybe: int | None
    color: Color
    choice: Literal["a", "b"]
    day: date
    at: datetime
    hour: time
    lasts: timedelta
    id: uuid.UUID
    price: Decimal
    leaf: Leaf
    leaves: list[Leaf] = Field(min_length=2)
    pair: tuple[int, str]
    yes: bool
    nothing: None
    table: dict[str, int]
    anything: Any
    left_out: int = 5


def test_a_model_takes_what_was_made_of_its_schema() -> None:
    schema = Everything.model_json_schema()
    made = example_of(schema)
    jsonschema.validate(made, schema)
    assert Everything.model_validate(made).left_out == 5
    assert "left_out" not in made


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, "example"),
        ({"type": "object"}, {}),
        ({"type": ["null", "string"]}, None),
        ({"const": 4}, 4),
        ({"default": [1], "type": "array"}, [1]),
        ({"allOf": [{"type": "integer", "minimum": 2}]}, 2),
        ({"type": "number", "exclusiveMinimum": 1}, 2),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "number", "maximum": -3}, -3),
        ({"$ref": "#/nowhere"}, None),
        ({"type": "object", "required": ["x"]}, {"x": "example"}),
        ({"type": "string", "format": "email"}, "someone@example.com"),
    ],
)
def test_any_schema_has_an_example(schema: dict[str, Any], value: Any) -> None:
    assert example_of(schema) == value


def test_a_schema_without_an_end_has_one_all_the_same() -> None:
    endless = {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/$defs/a"}}}},
    }
    made, depth = example_of(endless), 0
    while made:
        made, depth = made["a"], depth + 1
    assert 0 < depth <= MAX_DEPTH
