"""The facts of a call that the outside may know: what hooks, logs, records and metrics are made of.

Times named `at_ms` are milliseconds since the call's media stream started. Nothing in here can change a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

EndedBy: TypeAlias = Literal["agent", "caller", "line", "error"]
"""Who ended a call: the agent hung up, the caller did, the line broke, or something failed on our side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Something that was said. `heard_text` and `heard_ms` are what reached the other side.

    For the agent, `heard_text` is an estimate: the part of `text` that fits the audio the caller heard. The text of a
    caller's turn comes from a side recogniser and may be empty. `agent` is the name of the agent who spoke.
    """

    role: Literal["caller", "agent"]
    item_id: str
    text: str
    heard_text: str
    start_ms: int
    end_ms: int
    said_ms: int
    heard_ms: int
    interrupted: bool = False
    agent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted:
    call_sid: str
    stream_sid: str
    caller: str | None = field(repr=False)
    called: str | None = field(repr=False)
    direction: str
    resumed: bool = False
    """The same call goes on in another media stream, and perhaps in another process than before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerSpoke:
    """The caller began to speak, as the model's voice activity detection heard it."""

    call_sid: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentAnswered:
    """The first audio of an answer went to the caller, `latency_ms` after the caller's speech had ended."""

    call_sid: str
    at_ms: int
    latency_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BargeIn:
    """The agent was interrupted: of `item_id` the model was told that `audio_end_ms` of `said_ms` were heard.

    `reaction_ms` is what passed from the caller's first sound to our `clear`; None if not the caller interrupted.
    """

    call_sid: str
    at_ms: int
    item_id: str
    audio_end_ms: int
    said_ms: int
    reaction_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded:
    """A turn is over: the agent was heard to the end or cut off, or the transcript of the caller's turn came."""

    call_sid: str
    turn: Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled:
    """The model asked for a tool; `arguments` is the model's JSON, as it came."""

    call_sid: str
    at_ms: int
    call_id: str
    name: str
    arguments: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned:
    """A tool answered after `ms` milliseconds; `output` is what the model was told."""

    call_sid: str
    at_ms: int
    call_id: str
    name: str
    output: str = field(repr=False)
    ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPressed:
    """The caller pressed a key of the telephone: 0-9, *, #, A-D."""

    call_sid: str
    at_ms: int
    digit: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something went wrong that the call survived, or that ended it; one line, without secrets or speech."""

    call_sid: str
    at_ms: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvent:
    """An event of the model as it came, for those who need what phoneagent does not."""

    call_sid: str
    type: str
    data: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallHandedOver:
    """Our part of the call is over, and the call is not: it goes on with a `CallStarted(resumed=True)`.

    That may be in another process, as when this one ends, or in this one.
    """

    call_sid: str
    at_ms: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded:
    """The call is over; `transcript` holds all of its turns in order.

    If the line broke ("line"), or after a fault of ours ("error"), Twilio may still hold the call and connect it again.
    """

    call_sid: str
    ended_by: EndedBy
    reason: str
    duration_ms: int
    transcript: tuple[Turn, ...] = field(repr=False)


Event: TypeAlias = (
    CallStarted
    | CallerSpoke
    | AgentAnswered
    | BargeIn
    | TurnEnded
    | ToolCalled
    | ToolReturned
    | KeyPressed
    | Trouble
    | ModelEvent
    | CallHandedOver
    | CallEnded
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """How a call goes on once its media stream is closed: `kind`, and what that kind needs as JSON can carry it.

    Kinds: "hang_up"; "fall_back" (to FALLBACK_NUMBER, after a failure of ours); "resume" (in the next media stream,
    `data["pending"]` tells what was left open). `data["stream_sid"]` is the stream that it comes after.
    """

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Journal(Protocol):
    """What a call writes down before it acts, so that another process knows it after a crash.

    Both are awaited and given up in time by the call, and raise PhoneAgentError when it was not written.
    """

    async def tool_started(self, call_sid: str, call_id: str, name: str, arguments: str) -> None:
        """A tool is about to run: it must not be run a second time."""

    async def next_step(self, call_sid: str, step: NextStep) -> None:
        """The media stream is about to be closed by us, and this comes next."""
