"""The official package's types of what a client may send, held against whole events.

The beta's types have no word for a function named as `tool_choice`, although its service took one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter

from phoneagent.protocol.realtime import Dialect


@cache
def _type(dialect: Dialect) -> TypeAdapter[Any]:
    """Return the type of all events of a dialect. Its import takes a second, so it is imported where it is needed."""
    if dialect is Dialect.GA:
        from openai.types.realtime import RealtimeClientEvent

        return TypeAdapter(RealtimeClientEvent)
    from openai.types.beta.realtime import RealtimeClientEvent as BetaClientEvent

    return TypeAdapter(BetaClientEvent)


def check(event: dict[str, Any], dialect: Dialect) -> None:
    """Fail unless the event is of a known type, complete, and without any field that its type does not have."""
    if dialect is Dialect.BETA:
        event = _without_named_function(event)
    parsed = _type(dialect).validate_python(event)
    assert parsed.type == event["type"]
    assert not (unknown := _unknown(parsed, event["type"])), f"the package does not know {unknown}"


def _without_named_function(event: dict[str, Any]) -> dict[str, Any]:
    session = event.get("session", {})
    if isinstance(choice := session.get("tool_choice"), dict):
        assert choice.keys() == {"type", "name"}
        return {**event, "session": {**session, "tool_choice": "required"}}
    return event


def _unknown(value: Any, at: str) -> list[str]:
    if isinstance(value, BaseModel):
        extra = [f"{at}.{name}" for name in value.model_extra or {}]
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        return extra + [path for name, each in fields.items() for path in _unknown(each, f"{at}.{name}")]
    if isinstance(value, list):
        return [path for index, each in enumerate(value) for path in _unknown(each, f"{at}[{index}]")]
    return []
