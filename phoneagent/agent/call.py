"""The live call, as tools, hooks and functions of the user get it in their hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from phoneagent.errors import DefinitionError


class ToolDefinition(Protocol):
    """A tool as the model is told of it; every `Tool` is one. (Tools take calls, so this file cannot know `Tool`.)"""

    @property
    def name(self) -> str: ...
    def definition(self) -> dict[str, Any]: ...


class CallControl(Protocol):
    """What can be done to a live call; the session brings it."""

    def say(self, text: str) -> None: ...
    def interrupt(self) -> None: ...
    def hang_up(self, *, goodbye: bool) -> None: ...
    def add(self, text: str, role: Literal["system", "user"]) -> None: ...
    def respond(self, instructions: str | None, tools: Sequence[ToolDefinition] | None) -> None: ...
    def commit(self) -> None: ...
    def clear(self) -> None: ...


@dataclass(slots=True, eq=False, kw_only=True)
class Call:
    """A live call. Its methods may be called from anywhere, also from a tool's thread, and never block.

    `caller` and `called` are what the telephone network says: E.164 as a rule, but None, a SIP address or a word like
    "anonymous" occur. `direction` is Twilio's: "inbound", "outbound-api" or "outbound-dial".

    `state` is yours: what of it JSON can carry (16 K characters) is there again in the call's next media stream, also
    after a crash.
    """

    sid: str
    caller: str | None = field(repr=False)
    called: str | None = field(repr=False)
    direction: str
    started_at: datetime
    state: dict[str, Any] = field(default_factory=dict, repr=False)
    _control: CallControl | None = field(default=None, repr=False)

    @property
    def party(self) -> str | None:
        """The other side's number: the caller's, or of a call that we made, the called one's."""
        return self.called if self.direction.startswith("outbound") else self.caller

    def say(self, text: str) -> None:
        """Let the agent say exactly `text` as soon as it may. Does nothing when the call is over or about to end."""
        if self._control is not None:
            self._control.say(sendable(text))

    def interrupt(self) -> None:
        """Stop what the agent is saying, as if the caller had begun to speak."""
        if self._control is not None:
            self._control.interrupt()

    def hang_up(self, *, goodbye: bool = True) -> None:
        """End the call after what is being said was heard.

        With `goodbye` the agent then says one, unless a tool hangs up and the model said something as it called it.
        """
        if self._control is not None:
            self._control.hang_up(goodbye=goodbye)

    # --- the conversation itself ---

    def add(self, text: str, role: Literal["system", "user"] = "system") -> None:
        """Add a message to the conversation: a fact (`system`), or what the caller did or wrote (`user`).

        By itself it is not answered; `respond` asks for that. A greeting that is still to come is said after it.

        Raises:
            DefinitionError: there is no such role.
        """
        if role not in ("system", "user"):
            raise DefinitionError(f'call.add has role={role!r}: choose "system" or "user"')
        if self._control is not None:
            self._control.add(sendable(text), role)

    def respond(self, instructions: str | None = None, tools: Sequence[ToolDefinition] | None = None) -> None:
        """Let the agent answer what there is, as soon as it may.

        `instructions` take the place of the agent's own, and `tools` (some of the agent's, or none) that of all of
        them, for this one response.

        Raises:
            DefinitionError: one of the tools is not the agent's.
        """
        if self._control is not None:
            self._control.respond(None if instructions is None else sendable(instructions), tools)

    def commit(self) -> None:
        """Make a turn of what the caller has said since the last one, or since `clear`; `respond` has it answered.

        Raises:
            DefinitionError: the model finds the turns itself, see `Turns`.
        """
        if self._control is not None:
            self._control.commit()

    def clear(self) -> None:
        """Forget what the caller has said since the last turn, as when they press the key to talk.

        Raises:
            DefinitionError: the model finds the turns itself, see `Turns`.
        """
        if self._control is not None:
            self._control.clear()

    def attach(self, control: CallControl | None) -> None:
        """Connect this handle with its live call, or (None) part them."""
        self._control = control


def sendable(text: str) -> str:
    """Return text without lone surrogates (decoding with "surrogateescape" leaves some), which no socket takes."""
    return text.encode("utf-8", "replace").decode()
