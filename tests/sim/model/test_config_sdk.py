"""Every field that a client may send, walked in the official SDK's types: what may be null there may be null here.

A required field may not, and no field is unknown.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from openai.types.realtime import (
    RealtimeResponseCreateParams,
    RealtimeSessionCreateRequest,
    RealtimeTranscriptionSessionCreateRequest,
)
from openai.types.realtime.conversation_item import ConversationItem
from openai.types.realtime.realtime_client_event import RealtimeClientEvent
from pydantic import BaseModel

from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.config import check_response, check_session
from phoneagent.sim.model.events import check_event, check_item

VALUES: dict[str, Any] = {
    "idle_timeout_ms": 5000,
    "max_output_tokens": 100,
    "output_modalities": ["audio"],
    "content_index": 0,
    "object": "realtime.item",
    "image_url": "data:image/png;base64,iVBORw0KGgo=",
}
"""Values for fields whose type does not say what is allowed."""

PARTS: dict[str, dict[str, Any]] = {
    "text": {"type": "input_text", "text": "x"},
    "audio": {"type": "input_audio", "audio": ""},
    "transcript": {"type": "input_audio", "audio": ""},
    "image_url": {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="},
    "detail": {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="},
}
"""Content parts: the SDK has one class for all kinds, of which each takes some fields."""

REFUSED_HERE = {
    "item[mcp_list_tools]": "the server makes these itself",
    "item[mcp_call]": "the server makes these itself",
    "item[mcp_approval_request]": "the server makes these itself",
    "event[output_audio_buffer.clear]": "for WebRTC and SIP",
    "session.prompt": "ended in November 2026",
    "response.prompt": "ended in November 2026",
}
"""Parts of the SDK's types that the simulated server refuses, whatever they hold."""

REQUIRED_HERE = (
    *("tools[].type", "tools[].name", "format.type"),
    *("content[].type", "content[].text", "content[].audio", "content[].image_url"),
)
"""Ends of the paths of fields that are required though optional in the SDK: nothing can be made without them."""

LENIENT_HERE = {"item[mcp_approval_response].id"}
"""Required in the SDK, whose types are also those of what the server sends; a client may leave the id to the server."""

ITEMS_OF_ITS_OWN = "response.input[]."
"""Checked when they are resolved, by the check of an item, so they are walked as items."""

Put = Callable[[Any], Any]


def members(annotation: Any) -> list[Any]:
    """Return the members of a union, without its annotations and its null."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [] if annotation is types.NoneType else [annotation]


def sample(name: str, annotation: Any) -> Any:
    """Return a value that fits a field."""
    if name in VALUES:
        return VALUES[name]
    kinds = members(annotation)
    kind = next((each for each in kinds if get_origin(each) is Literal), kinds[0])
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    if get_origin(kind) is list:
        return [sample("", get_args(kind)[0])]
    if get_origin(kind) is dict or kind is object:
        return {}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return minimal(kind)
    return {str: "x", int: 1, float: 0.5, bool: True}[kind]


def minimal(model: type[BaseModel]) -> dict[str, Any]:
    """Return the smallest valid object."""
    if "text" in model.model_fields and "type" in model.model_fields and model.__name__ == "Content":
        kind = get_args(members(model.model_fields["type"].annotation)[0])[0]
        return {"type": kind, "text": "x"}
    needed = {name: sample(name, f.annotation) for name, f in model.model_fields.items() if f.is_required()}
    named = {"name": "x"} if model.__name__ == "RealtimeFunctionTool" else {}
    return {**discriminators(model), **named, **needed}


def walk(model: type[BaseModel], at: str, put: Put, **fixed: Any) -> Iterator[tuple[str, bool, Any, Any]]:
    """Yield each field's path, whether it is required, and the whole payload with a value there and with null."""
    for name, field in model.model_fields.items():
        here = f"{at}.{name}"
        base = {**minimal(model), **fixed}
        if model.__name__ == "Content" and "image_url" in model.model_fields and name in PARTS:
            base = PARTS[name]
        nullable = types.NoneType in get_args(field.annotation)
        if name not in fixed:
            value = put({**base, name: sample(name, field.annotation)})
            yield here, not nullable, value, put({**base, name: None})
        for kind in members(field.annotation):
            listed = get_origin(kind) is list
            for inner in members(get_args(kind)[0]) if listed else [kind]:
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    more = discriminators(inner)

                    yield from walk(inner, f"{here}[]" if listed else here, inside(put, base, name, listed), **more)


def inside(put: Put, base: dict[str, Any], name: str, listed: bool) -> Put:
    """Return a function that puts an object into a field of another one."""
    return lambda value: put({**base, name: [value] if listed else value})


def discriminators(model: type[BaseModel]) -> dict[str, Any]:
    """Return the type of a part, which its union goes by though the SDK calls it optional."""
    field = model.model_fields.get("type")
    kinds = members(field.annotation) if field else []
    return {"type": get_args(kinds[0])[0]} if kinds and get_origin(kinds[0]) is Literal else {}


def identity(value: Any) -> Any:
    return value


def cases() -> Iterator[tuple[Callable[..., None], str, bool, Any, Any]]:
    shapes: list[tuple[Callable[..., None], str, type[BaseModel]]] = [
        (check_session, "session", RealtimeSessionCreateRequest),
        (check_session, "transcription", RealtimeTranscriptionSessionCreateRequest),
        (check_response, "response", RealtimeResponseCreateParams),
    ]
    for check, at, model in shapes:
        for case in walk(
            model, at, identity, **({"type": discriminators(model)["type"]} if "type" in model.model_fields else {})
        ):
            yield check, *case
    for item in members(ConversationItem):
        kind = discriminators(item)["type"]
        for case in walk(item, f"item[{kind}]", identity, type=kind):
            yield check_item, *case
    for event in members(RealtimeClientEvent):
        kind = discriminators(event)["type"]
        base = {**minimal(event), "type": kind}
        for name, field in event.model_fields.items():
            if name != "type":
                nullable = types.NoneType in get_args(field.annotation)
                value = {**base, name: sample(name, field.annotation)}
                yield check_event, f"event[{kind}].{name}", not nullable, value, {**base, name: None}


def refused(check: Callable[..., None], payload: Any) -> EventRefused | None:
    try:
        check(payload)
    except EventRefused as error:
        return error
    return None


def assistant_audio(payload: Any) -> bool:
    """Return whether a message brings audio of the assistant's, which the server takes from nobody."""
    parts = payload.get("content", []) if payload.get("role") == "assistant" else []
    return any(part.keys() & {"audio", "transcript"} for part in parts)


def test_all_fields_of_the_sdk_are_known_and_may_be_null_where_it_says_so() -> None:
    wrong, seen = [], 0
    for check, at, required, value, null in cases():
        if at.startswith((*REFUSED_HERE, ITEMS_OF_ITS_OWN)) or assistant_audio(value):
            continue
        seen += 1
        if (error := refused(check, value)) is not None:
            wrong.append(f"{at}: {value} is refused: {error}")
        error = refused(check, null)
        if required or at.endswith(REQUIRED_HERE):
            if error is None and at not in LENIENT_HERE:
                wrong.append(f"{at} may be null, though it is required")
        elif error is not None:
            wrong.append(f"{at} may not be null: {error}")
    assert wrong == []
    assert seen > 150


@pytest.mark.parametrize("path", REFUSED_HERE)
def test_the_exceptions_are_real(path: str) -> None:
    """An exception that is none any more has to go from the list."""
    found = [(check, value) for check, at, _, value, _ in cases() if at.startswith(path)]
    assert found
    assert any(refused(check, value) for check, value in found)
