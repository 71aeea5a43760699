"""The outcome of an agent: which types a model can fill in, and what is made of what it wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import jsonschema
import pydantic
import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_serializer, field_validator

from phoneagent import Agent, DefinitionError
from phoneagent.agent.outcome import MAX_OUTCOME_CHARS, OutcomeMismatch, outcome_form


class Day(BaseModel):
    day: date
    share: float = 0.5


class Booking(BaseModel):
    """What was booked."""

    model_config = ConfigDict(populate_by_name=True)

    guests: int = Field(ge=1)
    days: list[Day] = []
    mood: Literal["glad", "angry"] | None = Field(None, alias="howTheyFelt")


@dataclass
class Note:
    subject: str
    urgent: bool = False


class Node(BaseModel):
    name: str
    children: list[Node] = []


def agent(outcome: Any) -> Agent:
    return Agent(name="host", instructions="You answer.", outcome=outcome)


@pytest.mark.parametrize(
    ("kind", "text", "outcome"),
    [
        (
            Booking,
            '{"guests": 4, "days": [{"day": "2026-12-01"}], "howTheyFelt": "glad"}',
            {"guests": 4, "days": [{"day": "2026-12-01", "share": 0.5}], "howTheyFelt": "glad"},
        ),
        (Note, '{"subject": "bill"}', {"subject": "bill", "urgent": False}),
        (Node, '{"name": "a", "children": [{"name": "b"}]}', None),
    ],
)
def test_a_type_with_fields_is_a_form(kind: Any, text: str, outcome: dict[str, Any] | None) -> None:
    assert agent(kind).outcome is kind
    form = outcome_form(kind)
    assert form.schema["type"] == "object"
    assert "$ref" not in form.schema
    jsonschema.Draft202012Validator.check_schema(form.schema)
    jsonschema.validate(json.loads(text), form.schema)
    read = form.read(text)
    assert outcome is None or read == outcome
    assert pydantic.TypeAdapter(kind).validate_python(read) == pydantic.TypeAdapter(kind).validate_json(text)


def test_the_docstring_is_told_apart_from_the_schema() -> None:
    form = outcome_form(Booking)
    assert (form.name, form.description) == ("Booking", "What was booked.")
    assert not {"title", "description"} & form.schema.keys()


class Empty(BaseModel):
    pass


class Thing:
    pass


class Strange(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: Thing


class Huge(BaseModel):
    what: Literal[tuple(f"a quite long choice number {number}" for number in range(2000))]  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (Booking(guests=1), "which is not a type"),
        ({"guests": 4}, "which is not a type"),
        ("Booking", "which is not a type with fields: use a pydantic BaseModel subclass"),
        (dict, "which is not a type with fields"),
        (RootModel[list[int]], "which has parameters of type 'array'"),
        (RootModel[Booking | Note], "which has 'anyOf' at the top"),
        (Empty, "which has no field for the model to fill in: add one"),
        (Strange, "which JSON cannot express"),
        (Huge, "whose schema has about"),
    ],
)
def test_a_type_that_no_model_could_fill_in_is_refused_where_it_is_written(outcome: Any, why: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        agent(outcome)
    assert why in str(refused.value)
    assert str(refused.value).startswith("agent 'host' has outcome=")
    assert "\n" not in str(refused.value)


def test_agents_need_no_outcome() -> None:
    assert agent(None).outcome is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Booking: Invalid JSON"),
        ("[]", "Booking: Input should be an object"),
        ('{"guests": 0, "days": [{"day": "soon"}]}', "guests: Input should be greater than or equal to 1; days.0.day:"),
        ('{"guests": 1, "howTheyFelt": "' + "a" * MAX_OUTCOME_CHARS + '"}', f"write at most {MAX_OUTCOME_CHARS}"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(text: str, why: str) -> None:
    with pytest.raises(OutcomeMismatch) as mismatch:
        outcome_form(Booking).read(text)
    assert why in str(mismatch.value)
    assert "\n" not in str(mismatch.value)


class Fragile(BaseModel):
    value: float

    @field_validator("value")
    @classmethod
    def _check(cls, value: float) -> float:
        return {1.0: 1.0, 2.0: 2.0}[value]

    @field_serializer("value")
    def _write(self, value: float) -> float:
        if value == 2.0:
            raise RuntimeError("no\nway")
        return value


@pytest.mark.parametrize(("text", "why"), [("3", "Fragile failed with KeyError: 3"), ("2", "Fragile failed with")])
def test_code_of_the_type_that_fails_is_a_mismatch_too(text: str, why: str) -> None:
    form = outcome_form(Fragile)
    assert form.read('{"value": 1}') == {"value": 1.0}
    with pytest.raises(OutcomeMismatch) as mismatch:
        form.read(f'{{"value": {text}}}')
    assert str(mismatch.value).startswith(why)
    assert "\n" not in str(mismatch.value)


class Wide(BaseModel):
    model_config = ConfigDict(extra="allow")
    number: float


def test_what_json_does_not_know_is_not_in_an_outcome() -> None:
    assert outcome_form(Wide).read('{"number": Infinity}') == {"number": None}


class Growing(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def _grow(cls, value: str) -> str:
        return value * MAX_OUTCOME_CHARS


def test_an_outcome_that_grew_too_long_is_a_mismatch() -> None:
    with pytest.raises(OutcomeMismatch, match="too long"):
        outcome_form(Growing).read('{"text": "ab"}')
