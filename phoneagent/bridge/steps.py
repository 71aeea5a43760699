"""Next steps: how a call goes on once its media stream is closed. They are written down before it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

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
    returned: str = field(default="", repr=False)
    """Why the call comes back to the agent from a transfer, in words for the model; "" if it does not."""


CallerId: TypeAlias = Literal["caller", "called"]
"""The number that a transferred call shows: the caller's own, or the one that they called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The next step of a call: it is connected to another party, and comes back if that does not take it.

    The party is dialed; or it was, and waits in a `conference`.
    """

    stream_sid: str = ""
    """The media stream that the step comes after; "" where that is not known."""
    to: str = field(default="", repr=False)
    """A phone number in E.164, `sip:user@host` or `client:name`."""
    name: str = ""
    """What the party is called in the agent's list."""
    timeout: int = 20
    """How many seconds it rings."""
    caller_id: CallerId = "caller"
    screen: bool = False
    """Whether the party has to press a key before the two are connected, as no machine does."""
    conference: str = ""
    ask: str = ""
    """The words with which the party is asked to press the key; "" for English ones."""
    language: str = ""
    """The language of what the party hears, as `<Say>` has it, like "de-DE"; "" for Twilio's default, English."""


NextStep: TypeAlias = HangUp | FallBack | Resume | Transfer
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
