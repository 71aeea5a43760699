"""Records of calls as they are read back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from phoneagent.events import Cost, EndedBy, NextStep, Turn, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """A call. Its end is None while it is live, and also if the end was never reported."""

    call_sid: str
    stream_sid: str
    """The call's latest media stream."""
    caller: str | None = field(repr=False)
    called: str | None = field(repr=False)
    direction: str
    started_at: datetime
    ended_at: datetime | None
    ended_by: EndedBy | None
    reason: str | None
    cost: Cost | None
    """The cost so far; None if no usage was reported."""

    @property
    def duration_ms(self) -> int | None:
        """From the call's start to its end, in milliseconds, including the gaps between its media streams."""
        return None if self.ended_at is None else ms_between(self.started_at, self.ended_at)

    def as_dict(self) -> dict[str, Any]:
        """Return the record for JSON, including phone numbers."""
        return {
            "call_sid": self.call_sid,
            "stream_sid": self.stream_sid,
            "caller": self.caller,
            "called": self.called,
            "direction": self.direction,
            "started_at": self.started_at.isoformat(),
            "ended_at": self.ended_at.isoformat() if self.ended_at else None,
            "ended_by": self.ended_by,
            "reason": self.reason,
            "duration_ms": self.duration_ms,
            "cost": self.cost and _cost(self.cost),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRecord:
    """A media stream of a call, which began `at_ms` into the call. The first one begins the call."""

    stream_sid: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRecord:
    """A tool call, `at_ms` into the call. `output` and `ms` are None while it runs, and if it never returned."""

    call_id: str
    name: str
    arguments: str = field(repr=False)
    output: str | None = field(repr=False)
    at_ms: int
    ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord:
    """A message that the user's code added to the conversation, `at_ms` into the call."""

    role: Literal["system", "user"]
    text: str = field(repr=False)
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """The first audio of an answer, `at_ms` into the call, `latency_ms` after the caller stopped speaking."""

    at_ms: int
    latency_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """The total usage of one model in a call, and its cost."""

    model: str
    usage: Usage
    cost: Cost

    def as_dict(self) -> dict[str, Any]:
        """Return the record for JSON."""
        return {"model": self.model, **asdict(self.usage), "cost": _cost(self.cost)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDetails(CallRecord):
    """A call with all its details, each kind in chronological order, on the call's own clock."""

    streams: tuple[StreamRecord, ...]
    turns: tuple[Turn, ...] = field(repr=False)
    messages: tuple[MessageRecord, ...]
    tools: tuple[ToolRecord, ...]
    answers: tuple[AnswerRecord, ...]
    usage: tuple[UsageRecord, ...]

    def latency_ms(self, share: float) -> int | None:
        """Return the latency that `share` (0 to 1) of the answers did not exceed, in milliseconds."""
        latencies = sorted(answer.latency_ms for answer in self.answers)
        return latencies[max(0, math.ceil(share * len(latencies)) - 1)] if latencies else None

    def as_dict(self) -> dict[str, Any]:
        """Return the record for JSON. turns, tool_calls and latency_ms have the shape of the demo's report."""
        return CallRecord.as_dict(self) | {
            "streams": [asdict(stream) for stream in self.streams],
            "turns": [asdict(turn) for turn in self.turns],
            "messages": [asdict(message) for message in self.messages],
            "tool_calls": [asdict(tool) for tool in self.tools],
            "answers": [asdict(answer) for answer in self.answers],
            "usage": [used.as_dict() for used in self.usage],
            "latency_ms": {"response_p50": self.latency_ms(0.5), "response_p95": self.latency_ms(0.95)},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The current state of a call, as other processes need it.

    `stream_sid` is its latest media stream; it and `started_at` are None if there is no record.
    """

    stream_sid: str | None = None
    started_at: datetime | None = None
    ended_by: EndedBy | None = None
    state: str | None = field(default=None, repr=False)
    """The user's state of the call, as JSON."""
    step: NextStep | None = None
    """What comes next; None if no step was written since the latest media stream began. A step applies after the
    stream in its `stream_sid`, or after any stream if that is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoFar(Standing):
    """The current state of a call, and what was said and done in it."""

    turns: tuple[Turn, ...] = field(default=(), repr=False)
    messages: tuple[MessageRecord, ...] = ()
    tools: tuple[ToolRecord, ...] = ()
    cost: Cost | None = None


def _cost(cost: Cost) -> dict[str, Any]:
    """Return a cost for JSON. The dollars are text, so that they stay exact."""
    return {"usd": f"{cost.usd:f}", "at_least": cost.at_least}


def ms_between(start: datetime, moment: datetime) -> int:
    """Return the time from `start` to `moment` in whole milliseconds."""
    return round((moment - start).total_seconds() * 1000)
