"""What the bridge goes by: its limits, the agent's manners on the phone, and what it asks of the shell."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias

from phoneagent.billing.prices import PRICES, Price
from phoneagent.events import EndedBy, NextStep

LINE_LOST_SECONDS = 15.0
"""Twilio sends silence too: without any media for so long the line is dead."""

MODEL_STALLED_SECONDS = 12.0
"""A response of which nothing comes for so long, while nothing plays, is dead."""

PATIENCE_SECONDS = 5.0
"""How long the caller waits for a session, or for room within a rate limit, before they hear an apology."""

SILENCE_SECONDS = 20.0
"""How long the caller waits for an answer, through all sessions that do not give it, before they hear an apology."""

ANNOUNCE_SECONDS = 30.0
"""So long before the longest call ends the agent says so, or in the last quarter of a very short one."""


class Floor(enum.Enum):
    """Who has the word."""

    CLOSING = "closing"
    AGENT = "agent"
    THINKING = "thinking"
    CALLER = "caller"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the agent behaves on the phone; times in seconds."""

    greeting: str | None = None
    """What is said first, word for word; None waits for the caller."""
    greeting_interruptible: bool = False
    barge_in: bool = True
    """Whether the caller's speech stops the agent."""
    server_answers: bool = True
    """Whether the server begins a response by itself after each turn (`create_response`)."""
    manual_turns: bool = False
    """Whether nobody but the user's code says where a turn ends and when it is answered."""
    apology: str = field(default="", repr=False)
    """What is played when the model is lost: base64 of µ-law."""
    max_call_seconds: float = 3600.0
    renews: bool = False
    """Whether the shell opens another model session where one has failed."""
    elsewhere: bool = False
    """Whether it can do so at another endpoint."""
    max_call_cost: Decimal | None = None
    """US dollars at which the call is brought to its end."""
    prices: Mapping[str, Price] = field(default_factory=lambda: PRICES, repr=False)
    """What models cost, by name."""


@dataclass(frozen=True, slots=True)
class RunTool:
    """Run a tool and bring its output back with `tool_returned`. `arguments` is the model's JSON."""

    call_id: str
    name: str
    arguments: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OpenNext:
    """Open another model session beside the present one, for a `Renew` to come; tell `sessions.rotation.opened`."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Give up the model's session, and go on with the next one; `elsewhere`, if possible at another endpoint."""

    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class NoteStep:
    """Write down what is to come after the stream, while its last words are being said: we may not live to its end."""

    step: NextStep


@dataclass(frozen=True, slots=True)
class EndCall:
    """Write down what comes next, then close the caller's socket and the model's session.

    `ended_by` is None if only our part of the call is over: it goes on in another media stream.
    """

    ended_by: EndedBy | None
    reason: str
    next_step: NextStep | None = None


Request: TypeAlias = RunTool | NoteStep | EndCall | OpenNext | Renew
