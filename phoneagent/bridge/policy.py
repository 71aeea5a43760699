"""The policy of a call: how the agent behaves on the phone, one frozen value that the shell hands to the bridge."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from phoneagent.billing.prices import PRICES, Price
from phoneagent.bridge.interruption import Interruption


class Floor(enum.Enum):
    """Which side of the call has the floor."""

    CLOSING = "closing"
    AGENT = "agent"
    THINKING = "thinking"
    CALLER = "caller"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of one call that its user may choose; times in seconds."""

    greeting: str | None = None
    """What is said first, word for word; None waits for the caller."""
    interruption: Interruption = field(default_factory=Interruption)
    """What of the caller's speech stops the agent."""
    server_answers: bool = True
    """Whether the server begins a response by itself after each turn (`create_response`)."""
    manual_turns: bool = False
    """Whether the user's code ends each turn and asks for the answer, as for push-to-talk."""
    apology: str = field(default="", repr=False)
    """What is played when the model is lost: base64 of µ-law."""
    max_call_seconds: float = 3600.0
    renews: bool = False
    """Whether the shell opens another model session where one has failed."""
    elsewhere: bool = False
    """Whether the shell has another endpoint to open it at."""
    max_call_cost: Decimal | None = None
    """The cost limit of the call, in US dollars."""
    prices: Mapping[str, Price] = field(default_factory=lambda: PRICES, repr=False)
    """What models cost, by name."""
