"""What the bridge goes by: its limits, the agent's manners on the phone, and what it asks of the shell."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TypeAlias

from phoneagent.events import EndedBy

LINE_LOST_SECONDS = 15.0
"""Twilio sends silence too: without any media for so long the line is dead."""

MODEL_STALLED_SECONDS = 15.0
"""A response of which nothing comes for so long, while nothing plays, is dead."""

GOODBYE_SECONDS = 5.0
"""In CLOSING the model may be silent for so long before we hang up without waiting for it."""

COMMIT_SECONDS = 1.0
"""So long after the end of speech its turn may take to be committed; until then the server may answer by itself."""

CLOSING_SECONDS = 15.0
"""The longest that CLOSING waits for words that were not received yet."""

HEARD_GRACE_SECONDS = 1.0
"""How much later than computed the last mark may come."""

FATAL_CODES = frozenset(
    {
        "beta_api_shape_disabled",
        "invalid_api_key",
        "insufficient_quota",
        "credit_balance_exhausted",
        "billing_hard_limit_reached",
        "account_deactivated",
        "model_not_found",
        "session_expired",
    }
)
"""Errors after which the session is of no use; every other error leaves the call alone."""


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
    apology: str = field(default="", repr=False)
    """What is played when the model is lost: base64 of µ-law."""
    max_call_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class RunTool:
    """Run a tool and bring its output back with `tool_returned`. `arguments` is the model's JSON."""

    call_id: str
    name: str
    arguments: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class EndCall:
    """Close the caller's socket, which hangs up, and the model's session."""

    ended_by: EndedBy
    reason: str


Request: TypeAlias = RunTool | EndCall
