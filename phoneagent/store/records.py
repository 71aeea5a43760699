"""Records of calls as they are read back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from phoneagent.bridge.steps import NextStep, Pending, Transfer
from phoneagent.events import Cost, EndedBy, RecordingStatus, TransferOutcome, Turn, Usage

DIALING, ACCEPTED, JOINED, LEFT, OVER = "dialing", "accepted", "joined", "left", "over"
"""The states of a successful transfer; LEFT: the party hung up before the caller joined. Any other state is the outcome
of a failed one."""

OPEN = (DIALING, ACCEPTED)
"""The states in which the caller is still with the agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingRecord:
    """The recording of a call: its folder, and whether all of it was written.

    `duration_ms` is None during the recording, and if its process died. It is 0 if the recording was stopped before it
    began.
    """

    status: RecordingStatus
    where: str
    complete: bool
    duration_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """A call. Its end is None while it is live, or if the end was never reported."""

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
    dead_air_ms: int | None = None
    """The longest silence while an answer was due, in all media streams that are over; None if none is."""

    recording: RecordingRecord | None = None
    """The call's recording; None if there is none."""

    outcome: dict[str, Any] | None = field(default=None, repr=False)
    """The values that the agent's `outcome` asks for; None until they are filled in, or if there are none."""
    outcome_error: str | None = None
    """Why the outcome could not be filled in."""

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
            "cost": self.cost and self.cost.as_dict(),
            "dead_air_ms": self.dead_air_ms,
            "recording": self.recording and asdict(self.recording),
            "outcome": self.outcome,
            "outcome_error": self.outcome_error,
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
class TransferredRecord:
    """A transfer that was over `at_ms` into the call: to whom, by the name in the agent's list, and its outcome."""

    at_ms: int
    to_name: str
    outcome: TransferOutcome
    warm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """The total usage of one model in a call, and its cost."""

    model: str
    usage: Usage
    cost: Cost

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a dict for JSON."""
        return {"model": self.model, **asdict(self.usage), "cost": self.cost.as_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDetails(CallRecord):
    """A call with all its details, each kind in chronological order, on the call's own clock."""

    streams: tuple[StreamRecord, ...]
    turns: tuple[Turn, ...] = field(repr=False)
    messages: tuple[MessageRecord, ...]
    tools: tuple[ToolRecord, ...]
    answers: tuple[AnswerRecord, ...]
    transfers: tuple[TransferredRecord, ...] = ()
    usage: tuple[UsageRecord, ...]

    def latency_ms(self, share: float) -> int | None:
        """Return the latency that `share` (0 to 1) of the answers did not exceed, in milliseconds."""
        return latency_at(share, [answer.latency_ms for answer in self.answers])

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a dict for JSON. turns, tool_calls and latency_ms are as in the demo's report."""
        return CallRecord.as_dict(self) | {
            "streams": [asdict(stream) for stream in self.streams],
            "turns": [asdict(turn) | {"pauses": [asdict(each) for each in turn.pauses]} for turn in self.turns],
            "messages": [asdict(message) for message in self.messages],
            "tool_calls": [asdict(tool) for tool in self.tools],
            "answers": [asdict(answer) for answer in self.answers],
            "transfers": [asdict(transfer) for transfer in self.transfers],
            "usage": [used.as_dict() for used in self.usage],
            "latency_ms": {"response_p50": self.latency_ms(0.5), "response_p95": self.latency_ms(0.95)},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Highlights:
    """The details of a call in a list, besides its record: the agents that spoke, and the latencies of the answers."""

    agents: tuple[str, ...]
    """In the order in which they first spoke."""
    latencies_ms: tuple[int, ...]


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
    pending: Pending = "unknown"
    """What was open in the latest media stream about a second ago."""
    step: NextStep | None = None
    """The next step; None if no step was written since the latest media stream began. A step applies after the stream
    in its `stream_sid`, or after any stream if that is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoFar(Standing):
    """The current state of a call, and what was said and done in it."""

    turns: tuple[Turn, ...] = field(default=(), repr=False)
    messages: tuple[MessageRecord, ...] = ()
    tools: tuple[ToolRecord, ...] = ()
    cost: Cost | None = None
    recording: RecordingRecord | None = None


def latency_at(share: float, latencies_ms: Sequence[int]) -> int | None:
    """Return the latency that `share` (0 to 1) of the answers did not exceed; None if there are none."""
    return sorted(latencies_ms)[max(0, math.ceil(share * len(latencies_ms)) - 1)] if latencies_ms else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRecord:
    """A warm transfer. `callee_sid` is the CallSid of the party's call, or None while it is unknown.

    `summary` is what the party is told; None until the model has written it.
    """

    id: str
    call_sid: str
    state: str
    step: Transfer
    summary: str | None = field(repr=False)
    callee_sid: str | None
    at: datetime


def ms_between(start: datetime, moment: datetime) -> int:
    """Return the time from `start` to `moment` in whole milliseconds."""
    return round((moment - start).total_seconds() * 1000)


MAY_GO_ON: tuple[EndedBy, ...] = ("line", "error")
"""Ends after which Twilio may still hold the call and reconnect it."""

REFUSED = "refused"

CALL_OVER = frozenset({"completed", "busy", "no-answer", "failed", "canceled", REFUSED})
"""The statuses of a call that is over. All but the last are Twilio's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundCall:
    """A call that the app makes, in its current state.

    `status` is Twilio's CallStatus once Twilio has the call; before, it is `queued`, `placing` or `placed`, and
    `refused` if it was given up before (`error` says why). `answered_by` is the result of Twilio's answering machine
    detection, and `decided` our decision: person, machine, fax or menu. `message_left` says whether a machine got the
    whole message; it is None if there was no machine or no message.
    """

    id: str
    idempotency_key: str | None = field(repr=False)
    to: str = field(repr=False)
    plan: Mapping[str, Any] = field(repr=False)
    status: str
    call_sid: str | None
    answered_by: str | None
    decided: str | None
    message_left: bool | None
    error: str | None
    attempts: int
    created_at: datetime
    asked_at: datetime | None
    ended_at: datetime | None

    @property
    def over(self) -> bool:
        """Whether the call has ended, or was never placed."""
        return self.status in CALL_OVER
