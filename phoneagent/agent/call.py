"""The handle of a live call. Tools, hooks and the user's other functions get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, TypeGuard

from phoneagent.agent.destinations import destination
from phoneagent.agent.image import data_url
from phoneagent.bridge.steps import CallerId, Transfer
from phoneagent.errors import DefinitionError, ToolError
from phoneagent.protocol.callerid import caller_id
from phoneagent.protocol.tones import SENDABLE


class ToolDefinition(Protocol):
    """The part of a tool that the model sees; every `Tool` has it. (`Tool` imports this file.)"""

    @property
    def name(self) -> str: ...
    def definition(self) -> dict[str, Any]: ...


class CallControl(Protocol):
    """The operations on a live call; its session provides them."""

    def say(self, text: str, *, interruptible: bool) -> None: ...
    def interrupt(self) -> None: ...
    @property
    def muted(self) -> bool: ...
    def mute(self, *, muted: bool) -> None: ...
    def hang_up(self, *, goodbye: bool) -> None: ...
    def add(self, text: str, role: Literal["system", "user"], image: str | None) -> None: ...
    def respond(self, instructions: str | None, tools: Sequence[ToolDefinition] | None) -> None: ...
    async def ask(self, instructions: str, input: str | None, timeout: float) -> Answered: ...
    def commit(self) -> None: ...
    def clear(self) -> None: ...
    async def gather(self, digits: int, timeout: float, finish_on: str) -> Typed: ...
    def play(self, clip: Playable, *, interruptible: bool) -> None: ...
    def send_digits(self, digits: str) -> None: ...
    def record(self, what: Literal["start", "pause", "stop"]) -> None: ...
    def transfer(self, step: Transfer, *, warm: bool) -> None: ...
    def transfer_problem(self, *, warm: bool) -> str | None: ...


class Playable(Protocol):
    """A `Clip`, as µ-law audio in base64. (`Clip` imports this file.)"""

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def payload(self) -> str: ...


class Answered(Protocol):
    """The model's answer to a question, in an object that hides it as `Typed` does."""

    @property
    def answer(self) -> str: ...


class Typed(Protocol):
    """What the caller typed, in an object that hides it, because reprs of plain text reach logs."""

    @property
    def typed(self) -> str: ...


@dataclass(slots=True, eq=False, kw_only=True)
class Call:
    """A live call. Its methods never block, and any thread may call them; `gather` is awaited, in any event loop.

    `caller` and `called` are caller IDs: a phone number in E.164, whatever spelling the network sent; another address,
    like "sip:anna@host" or "client:anna"; or None if the number is withheld. `direction` is Twilio's: "inbound",
    "outbound-api" or "outbound-dial".

    `parameters` are the webhook's other fields, by Twilio's names: `SipHeader_X-…` of a SIP call, `CallerName`,
    `ForwardedFrom`, `StirVerstat`, `FromCity`, the query of the webhook's address, and custom parameters of the stream.
    `From` and `To` are among them if they are spelled differently from `caller` and `called`. The caller may choose
    some values, so trust none of them.

    `context` is the context that `app.dial` was given; it is empty if the app did not make the call. Do not change it.

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
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _muted: bool = field(default=False, repr=False)
    _control: CallControl | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.caller, self.called = caller_id(self.caller), caller_id(self.called)

    @property
    def party(self) -> str | None:
        """The number at the other end: `caller` for an inbound call, `called` for an outbound one."""
        return self.called if self.direction.startswith("outbound") else self.caller

    def say(self, text: str, *, interruptible: bool = True) -> None:
        """Have the agent say exactly `text` as soon as it can; do nothing if the call is over or about to end.

        With `interruptible=False` the caller's speech does not stop it: use this for a disclosure that must be heard.
        A text that is empty or blank says nothing.

        Raises:
            DefinitionError: `text` is not a string.
        """
        if not isinstance(text, str):
            raise DefinitionError(f"call.say has text={text!r:.80}: write what the agent says")
        if self._control is not None and text.strip():  # asked to say an empty text, a model improvises
            self._control.say(sendable(text), interruptible=interruptible)

    def interrupt(self) -> None:
        """Interrupt the agent, as if the caller had begun to speak."""
        if self._control is not None:
            self._control.interrupt()

    @property
    def muted(self) -> bool:
        """Whether the agent is muted."""
        return self._muted if self._control is None else self._control.muted

    def mute(self, muted: bool = True) -> None:
        """Mute the agent, or unmute it with False; do nothing if the call is over or about to end.

        A muted agent stops at once, even in speech that is not interruptible. It hears the caller and says nothing:
        whatever it was told to say waits, and so does its answer to the caller. No sound fills the silence. A call that
        ends while muted ends without a goodbye. A call that moves to another process stays muted.
        """
        self._muted = muted
        if self._control is not None:
            self._control.mute(muted=muted)

    def hang_up(self, *, goodbye: bool = True) -> None:
        """End the call once the caller has heard what the agent is saying.

        With `goodbye` the agent then says goodbye, unless a tool hangs up and the model spoke as it called the tool.
        """
        if self._control is not None:
            self._control.hang_up(goodbye=goodbye)

    def transfer(
        self,
        to: str,
        *,
        name: str = "the other party",
        warm: bool = False,
        screen: bool = False,
        caller_id: CallerId = "caller",
        timeout: int = 20,
        ask: str | None = None,
        language: str | None = None,
    ) -> None:
        """Transfer the call to the address `to`; the model and the events know it by `name`.

        For the options, see the tool `transfer`, which lets the model choose from a list. Take the address from your
        own data, never from what the caller or the model says.

        Raises:
            DefinitionError: the address must not be dialed, or an option cannot be used.
            ToolError: the call is over, about to end or being transferred; or it could not come back, for lack of a
                database.
        """
        options = {"timeout": timeout, "caller_id": caller_id, "screen": screen, "ask": ask, "language": language}
        self.begin_transfer(destination("call.transfer", to, name=name, **options), warm=warm)

    def begin_transfer(self, step: Transfer, *, warm: bool) -> None:
        """Transfer the call as `step` says, which is already checked."""
        if self._control is None:
            raise ToolError("the call cannot be transferred: it is over")
        self._control.transfer(step, warm=warm)

    def transfer_problem(self, *, warm: bool = False) -> str | None:
        """Return why the call cannot be transferred now; None if it can."""
        return "it is over" if self._control is None else self._control.transfer_problem(warm=warm)

    # --- the conversation itself ---

    def add(
        self, text: str, role: Literal["system", "user"] | None = None, *, image: bytes | str | None = None
    ) -> None:
        """Add a message to the conversation: a fact (`system`), or what the caller did or wrote (`user`).

        An `image` is a PNG or JPEG of up to 1 MiB, as bytes or as a data URL. A message with an image has the role
        `user`, because the model accepts images only from the user; without one, the default is `system`. If the model
        session is lost, the next one gets the text again, but not the image.

        The agent does not answer it until `respond` is called. A greeting that is still due is said after the message.

        Raises:
            DefinitionError: `role` is neither "system" nor "user", or the image cannot be sent.
        """
        if role not in (None, "system", "user"):
            raise DefinitionError(f'call.add has role={role!r}: choose "system" or "user"')
        if image is not None and role == "system":
            raise DefinitionError('call.add has an image and role="system": only a user message can have an image')
        shown = None if image is None else data_url(image)
        if self._control is not None:
            self._control.add(sendable(text), role or ("system" if shown is None else "user"), shown)

    def respond(self, instructions: str | None = None, tools: Sequence[ToolDefinition] | None = None) -> None:
        """Have the agent respond to the conversation so far, as soon as it can.

        For this one response, `instructions` replace the agent's own, and `tools` (a subset of the agent's, possibly
        empty) replace all of them.

        Raises:
            DefinitionError: the agent does not have one of the tools.
        """
        if self._control is not None:
            self._control.respond(None if instructions is None else sendable(instructions), tools)

    async def ask(self, instructions: str, input: str | None = None, *, timeout: float = 15.0) -> str:
        """Return what the model writes about the conversation so far, or about `input` alone if given.

        Use it for a summary for a colleague, or to check what was agreed. The caller does not hear it, it does not
        become part of the conversation, and the agent keeps talking. Its tokens count toward the call's cost.

        Raises:
            DefinitionError: an argument cannot be used.
            ToolError: no answer came within `timeout` seconds, the model refused, or the call is over.
        """
        check_ask(instructions, input, timeout)
        if self._control is None:
            raise ToolError("the model cannot be asked: the call is over")
        asked = None if input is None else sendable(input)
        return (await self._control.ask(sendable(instructions), asked, timeout)).answer

    def commit(self) -> None:
        """End the caller's turn: all audio since the last turn or `clear`. Call `respond` to have the agent answer.

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

    def play(self, clip: Playable, *, interruptible: bool = True) -> None:
        """Play a `Clip` after what the agent is saying now, and before what it says next.

        The caller may interrupt it just as they may interrupt the agent. With `interruptible=False` nothing stops it,
        not even `interrupt`; only `mute` does.

        Raises:
            DefinitionError: `clip` is not a Clip.
        """
        if not isinstance(getattr(clip, "payload", None), str):
            raise DefinitionError(f"call.play has clip={clip!r:.80}: make a Clip of the WAV file, once")
        if self._control is not None:
            self._control.play(clip, interruptible=interruptible)

    # --- the recording ---

    def start_recording(self) -> None:
        """Record the call from now on, or resume after a pause; do nothing if it is being recorded.

        If the agent has a `Recording` with a `consent`, the consent is said first. Without RECORD_AUDIO nothing is
        recorded, and the log says so.
        """
        if self._control is not None:
            self._control.record("start")

    def pause_recording(self) -> None:
        """Record silence from now on, on both sides, until `start_recording`.

        While the consent line is still being said, this is the same as `stop_recording`.
        """
        if self._control is not None:
            self._control.record("pause")

    def stop_recording(self) -> None:
        """Stop the recording, or do not begin one after the consent line. A later `start_recording` adds to it."""
        if self._control is not None:
            self._control.record("stop")

    # --- keys ---

    def send_digits(self, digits: str) -> None:
        """Press keys: the far end hears their tones, in order with what the agent says.

        `digits` are 0-9, *, #, A-D, and pauses: `w` is half a second, `W` a second. Nothing interrupts them, because
        half a number is a different number.

        Raises:
            DefinitionError: there are other characters, or more than 100.
        """
        check_sendable(digits)
        if self._control is not None:
            self._control.send_digits(digits)

    async def gather(self, digits: int | None = None, *, timeout: float = 5.0, finish_on: str = "#") -> str:
        """Return what the caller types on the keypad. The model, logs, records and events never see it.

        Gathering ends after `digits` keys, at the key `finish_on` (which is left out; "" is none), or when no key was
        pressed for `timeout` seconds. So the result may be shorter than `digits`, or empty. The wait for the first key
        starts when the agent has finished speaking. While digits are gathered, the model hears silence in place of the
        caller, and `KeyPressed` does not say which key.

        Raises:
            DefinitionError: an argument cannot be used.
            ToolError: the call is over, or ends before gathering does; or digits are already being gathered.
        """
        wanted = check_gather("call.gather", digits, timeout, finish_on)
        if self._control is None:
            raise ToolError("no digits can be gathered: the call is over")
        return (await self._control.gather(wanted, timeout, finish_on)).typed

    def attach(self, control: CallControl | None) -> None:
        """Connect this handle to its live call, or disconnect it with None."""
        self._control = control


MAX_DIGITS = 64
"""The most digits that can be gathered at once, and the default."""

MAX_SENT = 100
"""The most keys and pauses that can be sent at once."""

MAX_GATHER_SECONDS = 120.0

MAX_ASK_SECONDS = 120.0

MAX_ASKED_CHARS = 32_000
"""The most characters in a question's instructions, and in its input."""

KEYS = "0123456789*#ABCD"
"""The keys of a telephone; most telephones lack A to D."""


def check_gather(owner: str, digits: int | None, timeout: float, finish_on: str) -> int:
    """Return how many digits to gather at most.

    Raises:
        DefinitionError: one of the values cannot be used; the message begins with `owner`.
    """
    if digits is not None and (type(digits) is not int or not 1 <= digits <= MAX_DIGITS):
        raise DefinitionError(f"{owner} has digits={digits!r}: write a number from 1 to {MAX_DIGITS}, or None")
    if type(timeout) not in (int, float) or not 0 < timeout <= MAX_GATHER_SECONDS:
        raise DefinitionError(
            f"{owner} has timeout={timeout!r}: it must be more than 0 and at most {MAX_GATHER_SECONDS:g} seconds"
        )
    if not isinstance(finish_on, str) or len(finish_on) > 1 or finish_on not in KEYS:
        raise DefinitionError(f'{owner} has finish_on={finish_on!r}: choose one key of {KEYS}, or "" for none')
    return MAX_DIGITS if digits is None else digits


def check_ask(instructions: str, input: str | None, timeout: float) -> None:
    """Check a question to the model.

    Raises:
        DefinitionError: one of the values cannot be used; the message does not repeat the texts.
    """
    for name, text in (("instructions", instructions), ("input", input)):
        if name == "input" and text is None:
            continue
        if not isinstance(text, str) or not text.strip():
            raise DefinitionError(f"call.ask has no text in its {name}: write what the model is to do")
        if len(text) > MAX_ASKED_CHARS:
            raise DefinitionError(f"call.ask has {len(text)} characters in its {name}: keep to {MAX_ASKED_CHARS}")
    if type(timeout) not in (int, float) or not 0 < timeout <= MAX_ASK_SECONDS:
        raise DefinitionError(
            f"call.ask has timeout={timeout!r}: it must be more than 0 and at most {MAX_ASK_SECONDS:g} seconds"
        )


def check_sendable(digits: str) -> None:
    """Check keys before they are pressed; the error message does not repeat them.

    Raises:
        DefinitionError: they cannot be pressed.
    """
    if not isinstance(digits, str) or not 0 < len(digits) <= MAX_SENT or not set(digits) <= SENDABLE:
        raise DefinitionError(
            f"call.send_digits takes 1 to {MAX_SENT} keys: 0-9, *, #, A-D, and w or W for a pause of 0.5 or 1 s"
        )


def sendable(text: str) -> str:
    """Return text with each lone surrogate replaced by "?": no socket can send one.

    Decoding with "surrogateescape" leaves lone surrogates behind.
    """
    return text.encode("utf-8", "replace").decode()


def is_text(value: object) -> TypeGuard[str]:
    """Return whether a value is text that a socket can send."""
    return isinstance(value, str) and sendable(value) == value
