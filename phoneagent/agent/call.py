"""The handle of a live call, which tools, hooks and the user's other functions get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, TypeGuard

from phoneagent.errors import DefinitionError
from phoneagent.protocol.callerid import caller_id


class ToolDefinition(Protocol):
    """The part of a tool that the model sees; every `Tool` has it. (`Tool` imports this file.)"""

    @property
    def name(self) -> str: ...
    def definition(self) -> dict[str, Any]: ...


class CallControl(Protocol):
    """The operations on a live call; its session provides them."""

    def say(self, text: str) -> None: ...
    def interrupt(self) -> None: ...
    def hang_up(self, *, goodbye: bool) -> None: ...
    def add(self, text: str, role: Literal["system", "user"]) -> None: ...
    def respond(self, instructions: str | None, tools: Sequence[ToolDefinition] | None) -> None: ...
    def commit(self) -> None: ...
    def clear(self) -> None: ...


@dataclass(slots=True, eq=False, kw_only=True)
class Call:
    """A live call. Its methods never block, and any thread may call them.

    `caller` and `called` are caller IDs: a phone number in E.164, in whatever spelling the network sent it; another
    address, like "sip:anna@host" or "client:anna"; or None if the number is withheld. `direction` is Twilio's:
    "inbound", "outbound-api" or "outbound-dial".

    `parameters` is what else Twilio's webhook says, by Twilio's names: `SipHeader_X-…` of a SIP call, `CallerName`,
    `ForwardedFrom`, `StirVerstat`, `FromCity`, the query of the webhook's address, and custom parameters of the stream.
    `From` and `To` are among them if they are spelled differently from `caller` and `called`. The caller may choose
    some values, so trust none of them.

    `state` is yours. The call's next media stream gets it back, even after a crash: the values that JSON can express,
    up to 16 K characters.
    """

    sid: str
    caller: str | None = field(repr=False)
    called: str | None = field(repr=False)
    direction: str
    started_at: datetime
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    state: dict[str, Any] = field(default_factory=dict, repr=False)
    _control: CallControl | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.caller, self.called = caller_id(self.caller), caller_id(self.called)

    @property
    def party(self) -> str | None:
        """The number at the other end: `caller` for an inbound call, `called` for an outbound one."""
        return self.called if self.direction.startswith("outbound") else self.caller

    def say(self, text: str) -> None:
        """Have the agent say exactly `text` as soon as it can; do nothing if the call is over or about to end."""
        if self._control is not None:
            self._control.say(sendable(text))

    def interrupt(self) -> None:
        """Interrupt the agent, as if the caller had begun to speak."""
        if self._control is not None:
            self._control.interrupt()

    def hang_up(self, *, goodbye: bool = True) -> None:
        """End the call once the caller has heard what the agent is saying.

        With `goodbye` the agent then says goodbye, unless a tool hangs up and the model spoke as it called the tool.
        """
        if self._control is not None:
            self._control.hang_up(goodbye=goodbye)

    # --- the conversation itself ---

    def add(self, text: str, role: Literal["system", "user"] = "system") -> None:
        """Add a message to the conversation: a fact (`system`), or what the caller did or wrote (`user`).

        The agent does not answer it until `respond` is called. If the greeting is still to come, it is said after it.

        Raises:
            DefinitionError: `role` is neither "system" nor "user".
        """
        if role not in ("system", "user"):
            raise DefinitionError(f'call.add has role={role!r}: choose "system" or "user"')
        if self._control is not None:
            self._control.add(sendable(text), role)

    def respond(self, instructions: str | None = None, tools: Sequence[ToolDefinition] | None = None) -> None:
        """Have the agent respond to the conversation as it stands, as soon as it can.

        For this one response, `instructions` replace the agent's own, and `tools` (a subset of the agent's, possibly
        empty) replace all of them.

        Raises:
            DefinitionError: the agent does not have one of the tools.
        """
        if self._control is not None:
            self._control.respond(None if instructions is None else sendable(instructions), tools)

    def commit(self) -> None:
        """End the caller's turn: all audio since the last turn or since `clear`. `respond` has the agent answer it.

        Raises:
            DefinitionError: turn detection is on (see `Turns`), so the model ends turns itself.
        """
        if self._control is not None:
            self._control.commit()

    def clear(self) -> None:
        """Discard the caller's audio since the last turn, for example when they press the push-to-talk key.

        Raises:
            DefinitionError: turn detection is on (see `Turns`), so the model ends turns itself.
        """
        if self._control is not None:
            self._control.clear()

    def attach(self, control: CallControl | None) -> None:
        """Connect this handle to its live call, or disconnect it with None."""
        self._control = control


def sendable(text: str) -> str:
    """Return text with each lone surrogate replaced by "?": no socket can send one.

    Decoding with "surrogateescape" leaves lone surrogates behind.
    """
    return text.encode("utf-8", "replace").decode()


def is_text(value: object) -> TypeGuard[str]:
    """Tell whether a value is text that a socket can send."""
    return isinstance(value, str) and sendable(value) == value
