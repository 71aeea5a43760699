"""The facts of a call that the outside may know: what hooks, logs, records and metrics are made of.

Times named `at_ms` are milliseconds since the call's media stream started. Nothing in here can change a call.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal
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
class Usage:
    """What a model used: tokens by kind, each counted in one place only, and audio that is paid by its length.

    `*_in` were read, `*_cached` read as well but known from before, which is cheaper, `*_out` written.
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
    """Milliseconds of audio, where a recogniser is paid by the minute."""

    def __add__(self, other: Usage) -> Usage:
        names = [each.name for each in fields(self)]
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars, exact to a billionth. `at_least`: also something was used of unknown price, or in unknown amount."""

    usd: Decimal = Decimal(0)
    at_least: bool = False

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.usd + other.usd, self.at_least or other.at_least)

    def __str__(self) -> str:
        return f"{'at least ' if self.at_least else ''}${self.usd:.4f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """How much of something (`tokens`, `requests`) may still be used; all of it again after `reset_seconds`."""

    name: str
    limit: float = 0
    remaining: float | None = None
    reset_seconds: float = 0


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
class MessageAdded:
    """The user's code added a message to the conversation (`call.add`); `number` counts those of a media stream."""

    call_sid: str
    at_ms: int
    number: int
    role: Literal["system", "user"]
    text: str = field(repr=False)


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
class UsageReported:
    """A model told what it has used for a response, or for the transcript of a turn; interrupted ones are paid too.

    Where it told nothing, `usage` is empty and `cost` at least nothing: once in a call, for it cannot get truer.
    """

    call_sid: str
    at_ms: int
    number: int
    """Counts the reports of this media stream, from 1."""
    source: Literal["response", "transcription"]
    model: str
    usage: Usage
    cost: Cost
    total: Cost
    """What the whole call has cost so far, this and earlier media streams included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitsUpdated:
    """The provider of a model told how much may still be used of it, by all calls of the account together."""

    call_sid: str
    at_ms: int
    model: str
    limits: tuple[RateLimit, ...]


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
    """The call is over; `transcript` holds all turns of its last media stream in order, as a rule all of the call.

    If the line broke ("line"), or after a fault of ours ("error"), Twilio may still hold the call and connect it again.
    """

    call_sid: str
    ended_by: EndedBy
    reason: str
    duration_ms: int
    transcript: tuple[Turn, ...] = field(repr=False)
    cost: Cost | None = None
    """What the models cost, in all of the call's media streams; None if they told of nothing."""


Event: TypeAlias = (
    CallStarted
    | CallerSpoke
    | AgentAnswered
    | BargeIn
    | TurnEnded
    | MessageAdded
    | ToolCalled
    | ToolReturned
    | KeyPressed
    | UsageReported
    | RateLimitsUpdated
    | Trouble
    | ModelEvent
    | CallHandedOver
    | CallEnded
)


Pending: TypeAlias = Literal["nothing", "answer", "words", "unknown"]
"""What was open when a media stream ended: nothing, the caller listens or thinks · the caller waits for an answer, or
for the rest of one · the caller's last words were lost · unknown, as after a crash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    """The next step of a call: it is hung up once the media stream is closed."""

    stream_sid: str = ""
    """The media stream that the step comes after; "" where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallBack:
    """The next step of a call: after a failure of ours, it goes to FALLBACK_NUMBER, or ends with an apology."""

    stream_sid: str = ""
    """The media stream that the step comes after; "" where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """The next step of a call: it goes on in another media stream."""

    stream_sid: str = ""
    """The media stream that the step comes after; "" where that is not known."""
    pending: Pending = "unknown"
    """What was left open."""
    broke: bool = True
    """Whether the media stream ended by a fault, rather than as planned."""


NextStep: TypeAlias = HangUp | FallBack | Resume
"""How a call goes on once its media stream is closed."""


class Journal(Protocol):
    """What a call writes down before it acts, so that another process knows it after a crash.

    Both are awaited and given up in time by the call, and raise PhoneAgentError when it was not written.
    """

    async def tool_started(self, call_sid: str, call_id: str, name: str, arguments: str) -> None:
        """A tool is about to run: it must not be run a second time."""

    async def next_step(self, call_sid: str, step: NextStep, *, early: bool = False) -> None:
        """The media stream is about to be closed by us, and this comes next.

        `early`: it is to be closed when its last words are said; whatever is given later for it counts instead.
        """
