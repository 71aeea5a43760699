"""The events of a call. Hooks get them; logs, records and metrics are made from them.

Each `at_ms` is in milliseconds since the call's media stream started. An event is frozen and cannot change its call.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, Literal, Protocol, TypeAlias

EndedBy: TypeAlias = Literal["agent", "caller", "line", "error"]
"""What ended a call: the agent or the caller hung up, the line broke, or something failed on our side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A turn of the conversation. `heard_text` and `heard_ms` are the part that reached the other side.

    For the agent, `heard_text` is an estimate: the part of `text` that matches the audio the caller heard. The text of
    a caller's turn comes from a separate recogniser and may be empty. `agent` is the name of the agent that spoke.
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
    """A model's usage: tokens by kind, each token in one field only, and audio that is paid by its length.

    `*_in` are tokens that the model read, `*_cached` are cached tokens that it read, which are cheaper, and `*_out` are
    tokens that it wrote.
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
    """Milliseconds of audio, for a recogniser that is paid by the minute."""

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

    def __str__(self) -> str:
        return f"{'at least ' if self.at_least else ''}${self.usd:.4f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A rate limit of `tokens` or `requests`: how much is left, all of it again after `reset_seconds`."""

    name: str
    limit: float = 0
    remaining: float | None = None
    reset_seconds: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted:
    """A media stream of a call started: the call's first, or with `resumed` a later one.

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
class TurnEnded:
    """A turn ended: the agent was heard to the end or cut off, or the transcript of the caller's turn arrived."""

    call_sid: str
    turn: Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAdded:
    """The user's code added a message with `call.add`; `number` counts the messages of the media stream."""

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
    """The caller pressed a telephone key: 0-9, *, #, A-D."""

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
    """The cost of the whole call so far, earlier media streams included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitsUpdated:
    """The model's provider reported its rate limits, which all calls of the account share."""

    call_sid: str
    at_ms: int
    model: str
    limits: tuple[RateLimit, ...]


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

    That may be in another process, for example when this one ends, or in the same one.
    """

    call_sid: str
    at_ms: int
    reason: str


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
    """The models' cost in all of the call's media streams; None if they reported no usage."""


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
