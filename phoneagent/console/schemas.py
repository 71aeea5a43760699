"""The types of the control API's answers, made from those of records and events, for `/openapi.json`."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

from msgspec import Struct, defstruct

from phoneagent.bridge.policy import Floor
from phoneagent.console.encoding import NAMES
from phoneagent.console.listing import State
from phoneagent.events import Cost, Event, ModelEvent, RateLimitsUpdated, Turn, Usage
from phoneagent.store import AnswerRecord, CallRecord, MessageRecord, StreamRecord, ToolRecord, TransferredRecord

_CALL: list[tuple[str, Any]] = [*get_type_hints(CallRecord).items(), ("duration_ms", int | None)]


class ProblemDetails(Struct, frozen=True):
    """An error (RFC 9457). `detail` names the remedy."""

    type: str
    title: str
    status: int
    detail: str


class Latency(Struct, frozen=True):
    """The latency that half of the answers, and 95 of 100, did not exceed."""

    response_p50: int | None
    response_p95: int | None


ModelUsage: TypeAlias = defstruct(  # type: ignore[valid-type]
    "ModelUsage", [("model", str), *[(each.name, int) for each in fields(Usage)], ("cost", Cost)]
)

Record: TypeAlias = defstruct(  # type: ignore[valid-type]
    "Record",
    [
        *_CALL,
        ("streams", tuple[StreamRecord, ...]),
        ("turns", tuple[Turn, ...]),
        ("messages", tuple[MessageRecord, ...]),
        ("tool_calls", tuple[ToolRecord, ...]),
        ("answers", tuple[AnswerRecord, ...]),
        ("transfers", tuple[TransferredRecord, ...]),
        ("usage", tuple[ModelUsage, ...]),
        ("latency_ms", Latency),
    ],
)

_SUMMARY: list[tuple[str, Any]] = [
    *_CALL,
    ("state", State),
    ("agent", str | None),
    ("floor", Floor | None),
    ("last_latency_ms", int | None),
    ("muted", bool | None),
    ("latency_ms", Latency),
]
CallSummary: TypeAlias = defstruct("CallSummary", _SUMMARY)  # type: ignore[valid-type]
_LIVE: list[Any] = [("record", Record | None), ("call_state", dict[str, Any] | None, None)]
OneCall: TypeAlias = defstruct("OneCall", [*_SUMMARY, *_LIVE])  # type: ignore[valid-type]


class CallsPage(Struct, frozen=True):
    """A page of the list of calls, and the cursor of the next one."""

    calls: list[CallSummary]
    next: str | None


def _event(kind: Any) -> Any:
    """Return the type of an event as readers get it."""
    hints = {name: each for name, each in get_type_hints(kind).items() if name != "transcript"}
    head: list[tuple[str, Any]] = [("type", Literal[NAMES[kind]]), ("at", datetime)]
    return defstruct(kind.__name__, [*head, *hints.items(), ("cut", bool, False)])


EVENTS: tuple[Any, ...] = tuple(_event(kind) for kind in get_args(Event) if kind not in (ModelEvent, RateLimitsUpdated))
"""The types of the events on the streams."""
