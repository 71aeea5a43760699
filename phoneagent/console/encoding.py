"""An event of a call as the bytes of a Server-Sent Event, encoded once for all readers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, get_args

import msgspec

from phoneagent.events import (
    CallEnded,
    CallNotAnswered,
    CallTransferred,
    Cost,
    Event,
    ModelEvent,
    RateLimitsUpdated,
)
from phoneagent.store.records import MAY_GO_ON
from phoneagent.telemetry import masked

MAX_EVENT_BYTES = 64 * 1024
"""The maximum size of an event's JSON that is not cut."""

MAX_CUT_CHARS = 2000
"""How much of each text stays in a larger event. The record has all of it."""

NAMES = {kind: re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower() for kind in get_args(Event)}
"""The names of the events on the stream: `TurnEnded` is `turn_ended`."""

ENDINGS = (NAMES[CallEnded], NAMES[CallNotAnswered], NAMES[CallTransferred])
"""The events that may end a call."""

MISSED = {"type": "missed", "detail": "earlier events are no longer here: read the calls anew, and go on from here"}
"""The event that a reader gets in place of events that it has missed."""

RETRY = b"retry: 2000\n\n"
"""The beginning of a stream: how long a disconnected reader waits before it reconnects."""

NUMBERS = ("caller", "called")
"""The fields that hold phone numbers, in an event and in a record."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An event with its number, as the bytes that readers get."""

    number: int
    masked: bytes
    full: bytes
    """The same with whole phone numbers."""
    type: str = ""
    stream_sid: str = ""
    """The media stream that it belongs to, if known."""
    ends: bool = False
    """Whether it ends its call, unless another media stream has begun."""


class Body(NamedTuple):
    """An event of that type, before it has an id: its fields as JSON, with whole phone numbers."""

    type: str
    json: bytes


def body_of(event: Event, at: datetime) -> Body | None:
    """Return an event for readers. None for one that they do not get: model events, and the account's rate limits.

    `at` is its time. The turns of an ended call are left out: each was a separate event.
    """
    if isinstance(event, ModelEvent | RateLimitsUpdated):
        return None
    name = NAMES[type(event)]
    data = {"type": name, "at": at.isoformat(timespec="milliseconds"), **msgspec.to_builtins(event)}
    for field in ("cost", "total"):
        if isinstance(cost := getattr(event, field, None), Cost):
            data[field] = cost.as_dict()
    if isinstance(event, CallEnded):
        del data["transcript"]
    found = msgspec.json.encode(data)
    if len(found) > MAX_EVENT_BYTES:
        found = msgspec.json.encode({**_cut(data), "cut": True})
    return Body(name, found)


def _ends_call(body: Body) -> bool:
    """Tell whether a call is over with an event, unless another media stream of it has begun.

    After a completed transfer no event tells of the end: the call was not with the agent any more.
    """
    if body.type == NAMES[CallTransferred]:
        return bool(msgspec.json.decode(body.json)["outcome"] == "completed")
    if body.type == NAMES[CallEnded]:
        return msgspec.json.decode(body.json)["ended_by"] not in MAY_GO_ON
    return body.type == NAMES[CallNotAnswered]


def encode(body: Body, number: int, event_id: str, stream_sid: str = "") -> Encoded:
    """Return an event as readers get it, with its number and its id."""
    full = masked = _server_sent(body.type, body.json, event_id)
    if any(f'"{name}":'.encode() in body.json for name in NUMBERS):
        data = msgspec.json.decode(body.json)
        if (hidden := without_numbers(data)) is not data:
            masked = server_sent(body.type, hidden, event_id)
    return Encoded(number, masked, full, body.type, stream_sid, _ends_call(body))


def server_sent(name: str, data: dict[str, Any], event_id: str | None = None) -> bytes:
    """Return a Server-Sent Event. Its data is one line, because JSON writes a line break as two characters."""
    return _server_sent(name, msgspec.json.encode(data), event_id)


def _server_sent(name: str, data: bytes, event_id: str | None) -> bytes:
    begin = "" if event_id is None else f"id: {event_id}\n"
    return f"{begin}event: {name}\ndata: ".encode() + data + b"\n\n"


def without_numbers(data: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an event or of a record with masked phone numbers; the same object if it has none."""
    found = {name: masked(data[name]) for name in NUMBERS if data.get(name)}
    return {**data, **found} if found else data


def _cut(value: Any) -> Any:
    """Return the same value with each text cut."""
    if isinstance(value, dict):
        return {name: _cut(each) for name, each in value.items()}
    return f"{value[:MAX_CUT_CHARS]}…" if isinstance(value, str) and len(value) > MAX_CUT_CHARS else value
