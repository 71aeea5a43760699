"""The policy of a call: how the agent behaves on the phone, as one frozen value that the shell passes to the bridge."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from phoneagent.billing.prices import PRICES, Price
from phoneagent.errors import DefinitionError
from phoneagent.protocol.audio import is_base64

MAX_INTERRUPTION_MS = 5_000
"""How long the decision whether the caller interrupts may take."""

KeysMode: TypeAlias = Literal["tell", "ignore"]
"""What happens to keys that are not gathered: the model learns them, or only hooks get them."""


class Floor(enum.Enum):
    """Which side of the call has the floor."""

    CLOSING = "closing"
    AGENT = "agent"
    THINKING = "thinking"
    CALLER = "caller"
    OPEN = "open"

    @property
    def agents(self) -> bool:
        """Whether it is the agent's turn: it speaks, or is about to."""
        return self in (Floor.AGENT, Floor.THINKING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """Which speech from the caller stops the agent.

    Raises:
        DefinitionError: a time is negative or too long.
    """

    enabled: bool = True
    """Whether speech stops the agent at all. If not, speech is answered once the agent has finished."""
    greeting: bool = False
    """Whether speech stops the greeting too; otherwise the greeting is protected until the caller has heard it."""
    min_speech_ms: int = 500
    """Speech of this length interrupts; until that is decided, the agent pauses. 0: all speech interrupts at once."""
    backchannel_ms: int = 900
    """The longest back-channel: speech that is over by then is judged by its words."""
    words_ms: int = 1_200
    """How long to wait for a shorter sound's transcript, to tell a word from a cough; 0: not at all."""
    languages: tuple[str, ...] = ()
    """The languages (ISO 639-1) whose back-channels count; empty: all that are known."""
    backchannels: tuple[str, ...] = ()
    """More words that only show that the caller is listening."""

    def __post_init__(self) -> None:
        for name in ("min_speech_ms", "backchannel_ms", "words_ms"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INTERRUPTION_MS:
                most = f"0 to {MAX_INTERRUPTION_MS}"
                raise DefinitionError(f"Interruption has {name}={value!r}: write milliseconds, {most}")

    @property
    def server_may_answer(self) -> bool:
        """Whether the server may answer each turn by itself. If speech can be ignored, it would answer that too."""
        return self.enabled


@runtime_checkable  # pydantic calls isinstance with it if a model has an Agent as a field
class Playable(Protocol):
    """Something that has audio, like a `Clip`."""

    @property
    def payload(self) -> str:
        """Return its audio as base64 of µ-law."""


def sound_of(sound: str | Playable) -> str:
    """Return a sound as base64 of µ-law."""
    return sound if isinstance(sound, str) else sound.payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """How long a silence may last, and what happens then. A time of 0 skips its step.

    The sounds are the package's own, unless you give a `Clip` (or base64 of µ-law). The shipped words are in English.
    """

    dead_air_ms: int = 2500
    """How long the caller hears nothing, while an answer is due, before a short sound is played."""
    retry_seconds: float = 7.5
    """How long an answer may take before the caller hears an apology and another model session is tried."""
    give_up_seconds: float = 20.0
    """How long an answer may take before the call goes to `FALLBACK_NUMBER`, or ends with an apology."""
    idle_seconds: float = 15.0
    """How long the caller may stay silent, while no answer is due, before the agent asks whether they are still
    there."""
    idle_prompts: int = 2
    """How many times they are asked before the agent says goodbye and hangs up."""
    closing_silence_seconds: float = 8.0
    """How long neither side speaks after the agent's goodbye before the call ends, if the agent does not hang up."""
    filler: str | Playable = field(default="", repr=False)
    """The short sound."""
    apology: str | Playable = field(default="", repr=False)
    """The apology for a slow answer."""
    farewell: str | Playable = field(default="", repr=False)
    """The apology when no answer comes at all, before the call goes to `FALLBACK_NUMBER` or ends."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type == "str | Playable":
                audio = value if isinstance(value, str) else getattr(value, "payload", None)
                if not (isinstance(audio, str) and is_base64(audio)):
                    raise DefinitionError(f"Silence.{each.name} is {value!r:.80}: make it a Clip")
                continue
            whole = each.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 <= value < 1e6:
                kind = "a whole number" if whole else "a number"
                raise DefinitionError(f"Silence.{each.name} is {value!r}: it must be {kind} from 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of one call that its user may choose; times in seconds."""

    greeting: str | None = None
    """What is said first, word for word; None waits for the caller."""
    interruption: Interruption = field(default_factory=Interruption)
    """Which speech from the caller stops the agent."""
    silence: Silence = field(default_factory=Silence)
    """How long the caller may hear nothing, and what happens then."""
    server_answers: bool = True
    """Whether the server begins a response by itself after each turn (`create_response`)."""
    manual_turns: bool = False
    """Whether the user's code ends each turn and asks for the answer, as for push-to-talk."""
    keys: KeysMode = "tell"
    """What happens to the keys that the caller presses."""
    apology: str = field(default="", repr=False)
    """What is played when the model is lost: base64 of µ-law."""
    max_call_seconds: float = 3600.0
    renews: bool = False
    """Whether the shell opens another model session when one fails."""
    elsewhere: bool = False
    """Whether the shell has another endpoint to open it at."""
    max_call_cost: Decimal | None = None
    """The cost limit of the call, in US dollars."""
    prices: Mapping[str, Price] = field(default_factory=lambda: PRICES, repr=False)
    """What models cost, by name."""
