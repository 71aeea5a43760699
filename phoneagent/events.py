"""The events of a call. Hooks receive them; logs, records and metrics are made from them.

Each `at_ms` is in milliseconds since the call's media stream started. Events are frozen and cannot change their call.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, Literal, TypeAlias

EndedBy: TypeAlias = Literal["agent", "caller", "line", "error"]
"""What ended a call: the agent or the caller hung up, the line broke, or something failed on our side."""


ResumeCause: TypeAlias = Literal["noise", "backchannel", "echo"]
"""Why the caller's sound did not interrupt: it had no words · a listener's "mhm" · an echo of the agent's voice."""

ControlOperation: TypeAlias = Literal[
    "say", "play", "send-digits", "interrupt", "hang-up", "transfer", "mute", "unmute", "note"
]
"""What the control API can do to a live call."""


RecordingStatus: TypeAlias = Literal["in-progress", "paused", "stopped", "completed"]
"""The status of a call's recording, in Twilio's terms: it is running · it is silent for now · it ended before the call
· it ended with the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A pause in the agent's speech for a sound that was not an interruption: the agent went on after it."""

    start_ms: int
    end_ms: int
    cause: ResumeCause


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A turn of the conversation. `heard_text` and `heard_ms` are the part that reached the other side.

    For the agent, `heard_text` is an estimate: the part of `text` that matches the audio the caller heard. The text of
    a caller's turn comes from a separate recognizer and may be empty. `agent` is the name of the agent that spoke, and
    `pauses` are the pauses after which it went on. A "callee" is the other person on a transcribed call.
    """

    role: Literal["caller", "agent", "callee"]
    item_id: str
    text: str
    heard_text: str
    start_ms: int
    end_ms: int
    said_ms: int
    heard_ms: int
    interrupted: bool = False
    agent: str | None = None
    pauses: tuple[Pause, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A model's usage: tokens by kind, each token in one field only, and audio that is billed by its length.

    `*_in` are tokens that the model read, `*_cached` are cheaper, cached tokens that it read, and `*_out` are tokens
    that it wrote.
    """

    text_in: int = 0
    text_cached: int = 0
    text_out: int = 0
    audio_in: int = 0
    audio_cached: int = 0
    audio_out: int = 0
    image_in: int = 0
    image_cached: int = 0
    audio_ms: int = 0
    """Milliseconds of audio, for a recognizer that is billed by the minute."""

    def __add__(self, other: Usage) -> Usage:
        names = [each.name for each in fields(self)]
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars, exact to a billionth. `at_least` means that some usage has an unknown price or an unknown amount."""

    usd: Decimal = Decimal(0)
    at_least: bool = False

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.usd + other.usd, self.at_least or other.at_least)

    def as_dict(self) -> dict[str, Any]:
        """Return the cost for JSON. The dollars are text, so that they stay exact."""
        return {"usd": f"{self.usd:f}", "at_least": self.at_least}

    def __str__(self) -> str:
        return f"{'at least ' if self.at_least else ''}${self.usd:.4f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A rate limit on `tokens` or `requests`: how much is left. All of it is available again after `reset_seconds`."""

    name: str
    limit: float = 0
    remaining: float | None = None
    reset_seconds: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted:
    """A media stream of a call started: the call's first, or a later one if `resumed`.

    `caller` and `called` are as in `Call`.
    """

    call_sid: str
    stream_sid: str
    caller: str | None = field(repr=False)
    called: str | None = field(repr=False)
    direction: str
    resumed: bool = False
    """Whether the call continues in a new media stream, possibly in another process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerSpoke:
    """The model's voice activity detection heard the caller begin to speak."""

    call_sid: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentAnswered:
    """The first audio of an answer was sent to the caller, `latency_ms` after the end of the caller's speech."""

    call_sid: str
    at_ms: int
    latency_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BargeIn:
    """The agent was interrupted. The model was told that the caller heard `audio_end_ms` of the item's `said_ms`.

    `reaction_ms` is the time from the caller's first sound to our `clear`; None if the caller did not interrupt.
    """

    call_sid: str
    at_ms: int
    item_id: str
    audio_end_ms: int
    said_ms: int
    reaction_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPaused:
    """The agent fell silent because the caller made a sound. `AgentResumed` follows, or `BargeIn`."""

    call_sid: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentResumed:
    """The agent went on after a pause of `paused_ms`: the sound was no interruption."""

    call_sid: str
    at_ms: int
    paused_ms: int
    cause: ResumeCause


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded:
    """A turn ended: the agent was heard to the end or cut off, or the transcript of the caller's turn arrived."""

    call_sid: str
    turn: Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAdded:
    """The user's code added a message with `call.add`, or the caller typed something on the keypad.

    `number` counts the messages of the media stream.
    """

    call_sid: str
    at_ms: int
    number: int
    role: Literal["system", "user"]
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled:
    """The model called a tool; `arguments` is the model's JSON as received."""

    call_sid: str
    at_ms: int
    call_id: str
    name: str
    arguments: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned:
    """A tool returned after `ms` milliseconds; `output` is the text that the model got."""

    call_sid: str
    at_ms: int
    call_id: str
    name: str
    output: str = field(repr=False)
    ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPressed:
    """The caller pressed a telephone key: 0-9, *, #, A-D.

    `digit` is "", because it is secret, while digits are gathered and as long as the caller keeps typing after that.
    """

    call_sid: str
    at_ms: int
    digit: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReported:
    """A model reported its usage for a response or for the transcript of a turn. Interrupted responses cost money too.

    If a model reported nothing, `usage` is empty and `cost` is "at least $0". A call has at most one such event,
    because a second one would add nothing.
    """

    call_sid: str
    at_ms: int
    number: int
    """The number of the report in this media stream, from 1."""
    source: Literal["response", "transcription"]
    model: str
    usage: Usage
    cost: Cost
    total: Cost
    """The cost of the whole call so far, including earlier media streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitsUpdated:
    """The model's provider reported its rate limits, which all calls of the account share."""

    call_sid: str
    at_ms: int
    model: str
    limits: tuple[RateLimit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceFilled:
    """The caller heard nothing for `silent_ms` while an answer was due, so phoneagent played a sound.

    It is a short filler, or an apology for a slow answer. It is not a turn: the model does not know about it.
    """

    call_sid: str
    at_ms: int
    silent_ms: int
    sound: Literal["filler", "apology"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallControlled:
    """A program or a person acted on the call from outside, through the control API."""

    call_sid: str
    at_ms: int
    operation: ControlOperation


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingChanged:
    """The call's recording started, was paused or stopped, or ended with the call.

    `where` is its folder, within RECORD_AUDIO. `complete` is false if some of it could not be written. `duration_ms` is
    known once all of it is written, after it has stopped or the media stream has ended. So `stopped` is reported twice:
    at once, and with `duration_ms`. If it was stopped before the consent line was heard, it never began: `duration_ms`
    is 0 then.
    """

    call_sid: str
    at_ms: int
    status: RecordingStatus
    where: str
    complete: bool = True
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A problem that the call survived, or that ended it. `what` is one line without secrets or speech."""

    call_sid: str
    at_ms: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvent:
    """An event of the model as received, for code that needs more than phoneagent uses."""

    call_sid: str
    type: str
    data: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallHandedOver:
    """The media stream was closed here, but the call continues with a `CallStarted(resumed=True)`.

    It may continue in another process, for example when this one ends, or in the same one.
    """

    call_sid: str
    at_ms: int
    reason: str
    dead_air_ms: int = 0
    """The longest time the caller heard nothing while an answer was due, in this media stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded:
    """The call ended. `transcript` has the turns of its last media stream in order, usually those of the whole call.

    If the line broke ("line"), or after a failure on our side ("error"), Twilio may still hold the call and connect it
    again.
    """

    call_sid: str
    ended_by: EndedBy
    reason: str
    duration_ms: int
    transcript: tuple[Turn, ...] = field(repr=False)
    cost: Cost | None = None
    """The models' cost across all of the call's media streams; None if they reported no usage."""
    dead_air_ms: int = 0
    """The longest time the caller heard nothing while an answer was due, in the last media stream."""


TransferOutcome: TypeAlias = Literal[
    "completed", "declined", "busy", "no-answer", "failed", "canceled", "error", "unknown"
]
"""The outcome of a transfer, in Twilio's terms where it has any. "completed": the two talked. "declined": the party
picked up but did not accept, as an answering machine would. "error": the party could not be dialed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTransferred:
    """A transfer to another party ended. Unless it was completed, the call goes on with the agent.

    It comes between two media streams of the call, or after the last one. `to_name` is the party's name in the agent's
    list; its number is in no event.
    """

    call_sid: str
    to_name: str
    outcome: TransferOutcome
    warm: bool = False
    """Whether the party was called first, and told about the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeFilled:
    """The outcome of an ended call was filled in, or could not be; then `error` says why in one line.

    It comes after `CallEnded`, possibly in another process.
    """

    call_sid: str
    agent: str
    """The name of the agent whose `outcome` it is."""
    outcome: dict[str, Any] | None = field(repr=False)
    error: str | None = None
    usage: Usage = Usage()
    cost: Cost = Cost()
    """The cost of the model that filled it in. The record's cost includes it; `CallEnded.cost` does not."""


UnansweredStatus: TypeAlias = Literal["busy", "no-answer", "failed", "canceled", "refused"]
"""Why a call that the app made was not answered, from Twilio's CallStatus. "refused": it was never placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallNotAnswered:
    """A call that the app made (`app.dial`) ended, and the other side never answered it, or was turned away.

    It comes once, in one of the app's processes. `outbound_id` is the `id` that `app.dial` returned;
    `app.outbound_call` returns the context for it. No event contains the number. `call_sid` is "" for a call that was
    never placed. `error` says why that is, or why an answered call was turned away.
    """

    call_sid: str
    outbound_id: str
    status: UnansweredStatus
    error: str | None = None


Event: TypeAlias = (
    CallStarted
    | CallerSpoke
    | AgentAnswered
    | BargeIn
    | AgentPaused
    | AgentResumed
    | TurnEnded
    | MessageAdded
    | ToolCalled
    | ToolReturned
    | KeyPressed
    | UsageReported
    | RateLimitsUpdated
    | SilenceFilled
    | CallControlled
    | RecordingChanged
    | Trouble
    | ModelEvent
    | CallHandedOver
    | CallTransferred
    | CallNotAnswered
    | CallEnded
    | OutcomeFilled
)
