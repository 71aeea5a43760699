"""Next steps: how a call goes on once its media stream is closed. They are recorded before it closes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Pending: TypeAlias = Literal["nothing", "answer", "words", "unknown"]
"""What was open when a media stream ended: nothing, because the caller listens or thinks · an answer, or the rest of
one · the caller's last words, which were lost · unknown, as after a crash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    """The next step of a call: it is hung up once the media stream is closed."""

    stream_sid: str = ""
    """The media stream that the step comes after; "" where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallBack:
    """The next step of a call: after a failure on our side, it goes to FALLBACK_NUMBER, or ends with an apology."""

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
    """Whether the media stream ended because of a fault, rather than as planned."""
    returned: str = field(default="", repr=False)
    """Why the call comes back to the agent from a transfer, in words for the model; "" if it does not."""


CallerId: TypeAlias = Literal["caller", "called"]
"""The number that a transferred call shows: the caller's own, or the one that they called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The next step of a call: it is connected to another party, and comes back if the party does not take it.

    The party is dialed, or was already dialed and waits in a `conference`.
    """

    stream_sid: str = ""
    """The media stream that the step comes after; "" where that is not known."""
    to: str = field(default="", repr=False)
    """A phone number in E.164, `sip:user@host` or `client:name`."""
    name: str = ""
    """The party's name in the agent's list."""
    timeout: int = 20
    """How many seconds it rings."""
    caller_id: CallerId = "caller"
    screen: bool = False
    """Whether the party must press a key before the two are connected, which no machine does."""
    conference: str = ""
    ask: str = ""
    """The words that ask the party to press the key; "" for English ones."""
    language: str = ""
    """The language of what the party hears, in `<Say>`'s format, like "de-DE"; "" for Twilio's default, English."""


NextStep: TypeAlias = HangUp | FallBack | Resume | Transfer
"""How a call goes on once its media stream is closed."""
