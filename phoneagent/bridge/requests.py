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
    """Run a tool, and return its output with `tool_returned`. `arguments` is the model's JSON."""

    call_id: str
    name: str
    arguments: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """The server answered a change of the session: `refusal` is its error code, or None if it accepted the change."""

    change_id: str
    refusal: str | None


@dataclass(frozen=True, slots=True)
class OpenNext:
    """Open another model session in parallel, for a later `Renew`; answer with `renewal.next_opened`."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Give up the model's session, and go on with the next one; with `elsewhere`, at another endpoint if possible."""

    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class NoteStep:
    """Record what comes after the stream while its last words are being said, in case the process dies before."""

    step: NextStep


@dataclass(frozen=True, slots=True)
class EndCall:
    """Record what comes next, then close the caller's socket and the model's session.

    `ended_by` is None if only this media stream is over: the call goes on in another one.
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
    """Requested, and interrupted before it was created: it is canceled once it is created."""
    ACTIVE = "active"
    CANCELLING = "cancelling"
    """Canceled by us; its `response.done` has yet to come."""


class Ending(enum.Enum):
    """How a response ended."""

    IGNORED = "ignored"  # not the active one
    SAID = "said"  # audio, or a tool was called
    CANCELLED = "cancelled"  # by us
    INTERRUPTED = "interrupted"  # by the server, unasked
    CUT = "cut"  # said something, and was cut off by a server limit
    RETRIED = "retried"  # failed or empty: asked for again
    EMPTY = "empty"  # empty again: prescribed words are asked for again
    MUTE = "mute"  # empty a third time
    FAILED = "failed"  # failed again


class Verdict(NamedTuple):
    """A part's finding, for the bridge to act on.

    - `trouble`: report it; the call goes on.
    - `renew`: the session is useless; open another one, at another endpoint if possible.
    - `expired`: the session was good, but its time is over; open another one.
    - `lost`: no other session would do better.
    - `take_over`: the next session is open and the line is quiet; go on with it.
    - `line_lost`: the caller's line is dead.
    - `time_up`: the call has reached a limit; hang up with a goodbye.
    - `parted`: the agent has already said goodbye; hang up.
    - `closed`: the last words were heard; hang up.
    """

    kind: Literal["trouble", "renew", "expired", "lost", "take_over", "line_lost", "time_up", "parted", "closed"]
    text: str = ""
    code: str | None = None
    """The server's error code, if it named one."""
