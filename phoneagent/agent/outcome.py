"""The outcome of a call: the type that an agent's `outcome` names, as a form that a model can fill in.

    class Booking(BaseModel):
        booked: bool
        guests: int | None = None

    Agent(..., outcome=Booking)

The type's JSON schema is what the model gets, and the type itself checks what the model wrote.
"""

from __future__ import annotations

import functools
import inspect
import json
from dataclasses import dataclass, is_dataclass
from typing import Any

import pydantic

from phoneagent.agent.schemas import problem_of, problems_in, written_out
from phoneagent.bridge.scripts import tokens_of
from phoneagent.errors import DefinitionError, shown

MAX_SCHEMA_TOKENS = 8_000
"""Even the smallest context of a model then holds the schema, the longest transcript and the answer."""

MAX_OUTCOME_CHARS = 16_384
"""The maximum length of an outcome as JSON."""


class OutcomeMismatch(ValueError):
    """What the model wrote is not an outcome. The message says why in one line."""


@dataclass(frozen=True, slots=True)
class OutcomeForm:
    """A type as a form: the JSON schema of its values, and the check of what a model wrote."""

    name: str
    description: str
    schema: dict[str, Any]
    adapter: pydantic.TypeAdapter[Any]

    def read(self, text: str) -> dict[str, Any]:
        """Return the outcome that a model wrote as JSON, checked and with only JSON's types.

        Raises:
            OutcomeMismatch: it does not fit the type.
        """
        if len(text) > MAX_OUTCOME_CHARS:
            raise OutcomeMismatch(f"it has {len(text)} characters: write at most {MAX_OUTCOME_CHARS}")
        try:
            value = self.adapter.validate_json(text)
            written = json.loads(self.adapter.dump_json(value, by_alias=True, warnings=False))
        except pydantic.ValidationError as error:
            raise OutcomeMismatch(problems_in(error, self.name)) from None
        except Exception as error:  # the user's validator or serializer may raise anything
            raise OutcomeMismatch(f"{self.name} failed with {type(error).__name__}: {shown(error, 200)}") from error
        if not isinstance(written, dict) or len(json.dumps(written)) > MAX_OUTCOME_CHARS:
            raise OutcomeMismatch(f"{self.name} makes no JSON object of it, or one that is too long")
        return written


def outcome_form(kind: Any) -> OutcomeForm:
    """Return the form of a type.

    Raises:
        DefinitionError: no model could fill it in. The message continues "… has outcome=…".
        TypeError: it is not a type, and not hashable.
    """
    return _form(kind)


@functools.lru_cache(maxsize=256)
def _form(kind: Any) -> OutcomeForm:
    name = getattr(kind, "__name__", repr(kind))
    if not inspect.isclass(kind) or not (issubclass(kind, pydantic.BaseModel) or is_dataclass(kind)):
        raise DefinitionError("which is not a type with fields: use a pydantic BaseModel subclass")
    try:
        adapter = pydantic.TypeAdapter(kind)
        schema = adapter.json_schema()
    except Exception as error:  # noqa: BLE001 - pydantic and the types of the user may raise anything
        raise DefinitionError(f"which JSON cannot express: {shown(error, 300)}") from None
    schema = _without_reference(schema)
    if (problem := problem_of(schema)) is not None:
        raise DefinitionError(f"which {problem}")
    if not schema.get("properties"):
        raise DefinitionError("which has no field for the model to fill in: add one")
    schema = written_out(schema)
    if (tokens := tokens_of(json.dumps(schema, ensure_ascii=False))) > MAX_SCHEMA_TOKENS:
        raise DefinitionError(f"whose schema has about {tokens} tokens: keep to {MAX_SCHEMA_TOKENS}")
    description = str(schema.pop("description", "")).strip()
    schema.pop("title", None)
    return OutcomeForm(name, description, schema, adapter)


def any_outcome() -> bool:
    """Return whether any agent of this process has an outcome: only then may one have to be filled in."""
    return _form.cache_info().currsize > 0


def check_outcome(agent: str, kind: Any) -> None:
    """Check the `outcome` of the agent with that name. Raises `DefinitionError`."""
    if kind is None:
        return
    try:
        outcome_form(kind)
    except (DefinitionError, TypeError) as error:  # TypeError: a value that is not hashable is not a type
        why = (
            str(error)
            if isinstance(error, DefinitionError)
            else "which is not a type: use a pydantic BaseModel subclass"
        )
        named = getattr(kind, "__name__", None) or shown(repr(kind), 80)
        raise DefinitionError(f"agent {agent!r} has outcome={named}, {why}") from None


def _without_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a self-referential type with the type itself at the top, where servers require it."""
    reference = str(schema.get("$ref", ""))
    found = schema.get("$defs", {}).get(reference.removeprefix("#/$defs/"))
    return schema if not isinstance(found, dict) else {**found, "$defs": schema["$defs"]}
