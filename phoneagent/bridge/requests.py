"""Requests of the bridge to the shell around it, and the verdicts of its parts."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from phoneagent.bridge.steps import NextStep
from phoneagent.events import EndedBy

# --- of the shell ---


@dataclass(frozen=True, slots=True)
class RunTool:
    """Run a tool, and bring its output back with `tool_returned`. `arguments` is the model's JSON."""

    call_id: str
    name: str
    arguments: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """The server has answered a change of the session: `refusal` is its error code, None for a change that it took."""

    change_id: str
    refusal: str | None


@dataclass(frozen=True, slots=True)
class OpenNext:
    """Open another model session beside the present one, for a `Renew` to come; answer with `next_session`."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Give up the model's session, and go on with the next one; with `elsewhere` at another endpoint if possible."""

    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class NoteStep:
    """Write down what comes after the stream while its last words are being said: the process may die meanwhile."""

    step: NextStep


@dataclass(frozen=True, slots=True)
class EndCall:
    """Write down what comes next, then close the caller's socket and the model's session.

    `ended_by` is None if only our part of the call is over: the call goes on in another media stream.
    """

    ended_by: EndedBy | None
    reason: str
    next_step: NextStep | None = None


Request: TypeAlias = RunTool | SessionChanged | OpenNext | Renew | NoteStep | EndCall

# --- of the bridge ---


class State(enum.Enum):
    """The state of the one response that may run."""

    NONE = "none"
    REQUESTED = "requested"
    DROPPED = "dropped"
    """Requested, and interrupted before it was created: it is cancelled when it is."""
    ACTIVE = "active"
    CANCELLING = "cancelling"
    """Cancelled by us; its `response.done` is still to come."""


class Ending(enum.Enum):
    """How a response ended."""

    IGNORED = "ignored"  # not the active one
    SAID = "said"  # audio, or a tool was called
    CANCELLED = "cancelled"  # by us
    INTERRUPTED = "interrupted"  # by the server, though we had not asked
    CUT = "cut"  # said something, and was cut off by a limit of the server's
    RETRIED = "retried"  # failed or empty: asked for once more
    EMPTY = "empty"  # empty again: prescribed words are asked for once more
    MUTE = "mute"  # empty a third time
    FAILED = "failed"  # failed again


class Verdict(NamedTuple):
    """What a part has found, for the bridge to act on.

    - `trouble`: report it; the call goes on.
    - `renew`: the session is of no use; open another one, at another endpoint if possible.
    - `expired`: the session was good and its time is over; open another one.
    - `lost`: no other session would do better.
    - `take_over`: the next session is open and the line is quiet; go on with it.
    - `line_lost`: the caller's line is dead.
    - `time_up`: the call has reached a limit; hang up with a goodbye.
    - `parted`: the agent has said goodbye already; hang up.
    - `closed`: the last words were heard; hang up.
    """

    kind: Literal["trouble", "renew", "expired", "lost", "take_over", "line_lost", "time_up", "parted", "closed"]
    text: str = ""
    code: str | None = None
    """The server's error code, if it named one."""
