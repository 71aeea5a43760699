"""Acting on a live call from outside: `POST /calls/{sid}/say|play|send-digits|interrupt|hang-up|transfer|mute|note`.

The answer is 202: the call has accepted the request, and does it as soon as it can. The results are in the call's
events, after a `CallControlled`. `commands` passes the request to the process that has the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from phoneagent.agent.agent import Agent
from phoneagent.agent.call import MAX_SENT, Call, check_sendable
from phoneagent.bridge.policy import Floor
from phoneagent.console import playing, transferring
from phoneagent.console.body import JSON, MAX_BODY_BYTES, Body, decode, read_body
from phoneagent.console.commands import Accepted, Commands, Once, Wanted, check_open
from phoneagent.console.listing import Look
from phoneagent.console.operations import KEY, Operation, Operations, idempotency_key
from phoneagent.console.playing import Play
from phoneagent.console.problems import BadRequest, Conflict
from phoneagent.console.transferring import Transfer
from phoneagent.errors import DefinitionError
from phoneagent.events import ControlOperation
from phoneagent.store import Store

MAX_TEXT_CHARS = 4000
"""The longest text that can be said or noted at once: minutes of speech."""

MOVING = "this call is moving to another process: send the request again"
NOT_KNOWN = "the process that has the call is of another release, which cannot do this: send it again after the update"
_ENDING = "this call is about to end: nothing more can be done to it"
_NO_AGENT = "no agent has this call on the telephone: web calls and calls between two people cannot be acted on"
_NOT_BOTH = "only exact words can be protected: leave out interruptible, or set exactly to true"
_IN_OWN_WORDS = "Tell the caller this now, in your own words and in the language you speak with each other: "

_Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS, pattern=r"\S")]


class Say(Body, frozen=True):
    """What the agent should say: exactly these words, or the same in its own words.

    Unless it is interruptible, the caller's speech does not stop it. Its own words can always be interrupted.
    """

    text: _Text
    exactly: bool = True
    interruptible: bool = True


class Note(Body, frozen=True):
    """A fact for the model that the caller does not hear. The agent does not respond to it by itself."""

    text: _Text


class Mute(Body, frozen=True):
    """Whether the caller hears nothing from the agent."""

    muted: bool


class HangUp(Body, frozen=True):
    """How the call ends: the agent says goodbye first, or not."""

    goodbye: bool = True


class SendDigits(Body, frozen=True):
    """Keys to press as tones: 0-9, *, #, A-D, and pauses: `w` is half a second, `W` a second."""

    digits: Annotated[str, Meta(max_length=MAX_SENT, pattern=r"^[0-9*#A-DwW]+$")]


class Interrupt(Body, frozen=True):
    """An empty object."""


def _say(call: Call, body: Say) -> None:
    if body.exactly:
        call.say(body.text, interruptible=body.interruptible)
    else:
        call.add(_IN_OWN_WORDS + body.text)
        call.respond()


def _check_say(body: Say) -> None:
    if not (body.exactly or body.interruptible):
        raise BadRequest(_NOT_BOTH)


def _check_digits(body: SendDigits) -> None:
    try:
        check_sendable(body.digits)
    except DefinitionError as error:
        raise BadRequest(str(error)) from None


@dataclass(frozen=True, slots=True)
class _Action:
    """An action: its name in the path, the body that it takes, and what it does to a call."""

    name: str
    summary: str
    body: Any
    example: Mapping[str, Any]
    act: Callable[[Call, Any], None]
    operation: Callable[[Any], ControlOperation]
    check: Callable[[Any], None] = lambda body: None
    prepare: Callable[[Any], Any] | None = None
    """Converts the body, in a thread; `choose` and `act` get the result instead."""
    choose: Callable[[Call, Agent, Any], Any] = lambda call, agent, wish: wish
    """Returns the action for a call that the agent has, for `act`. Raises BadRequest if it is not possible."""
    when_closing: bool = False
    """Whether it does nothing, instead of being refused, in a call that is about to end."""
    problems: tuple[int, ...] = ()
    """The statuses with which it may be refused, besides those of all actions."""
    max_bytes: int = MAX_BODY_BYTES


_ACTIONS = (
    _Action(
        "say",
        "Have the agent say something",
        Say,
        {"text": "We close in ten minutes."},
        _say,
        lambda body: "say",
        _check_say,
    ),
    _Action(
        "play",
        "Play a recording to the caller",
        Play,
        playing.EXAMPLE,
        lambda call, clip: call.play(clip[0], interruptible=clip[1]),
        lambda body: "play",
        prepare=playing.make_clip,
        max_bytes=playing.MAX_BODY_BYTES,
    ),
    _Action(
        "send-digits",
        "Press keys, as tones that the far end hears",
        SendDigits,
        {"digits": "1w2#"},
        lambda call, body: call.send_digits(body.digits),
        lambda body: "send-digits",
        _check_digits,
    ),
    _Action(
        "transfer",
        "Transfer the call to another party",
        Transfer,
        {"to": "+12025550107", "name": "billing", "warm": True},
        lambda call, chosen: call.begin_transfer(chosen.step, warm=chosen.warm),
        lambda body: "transfer",
        prepare=transferring.look_up,
        choose=transferring.choose,
        problems=(422,),
    ),
    _Action(
        "note",
        "Tell the model a fact",
        Note,
        {"text": "They are a member."},
        lambda call, body: call.add(body.text),
        lambda body: "note",
    ),
    _Action(
        "interrupt", "Interrupt the agent", Interrupt, {}, lambda call, body: call.interrupt(), lambda body: "interrupt"
    ),
    _Action(
        "mute",
        "Mute the agent, or let it be heard again",
        Mute,
        {"muted": True},
        lambda call, body: call.mute(body.muted),
        lambda body: "mute" if body.muted else "unmute",
    ),
    _Action(
        "hang-up",
        "End the call",
        HangUp,
        {"goodbye": True},
        lambda call, body: call.hang_up(goodbye=body.goodbye),
        lambda body: "hang-up",
        when_closing=True,
    ),
)


class _Here:
    """The live calls that can be acted on in this process. One that is moving can be in its next process."""

    def __init__(self, calls: Mapping[str, Call], leaving: Callable[[str], bool]) -> None:
        self._calls = calls
        self._leaving = leaving

    def __contains__(self, call_sid: object) -> bool:
        return isinstance(call_sid, str) and call_sid in self._calls and not self._leaving(call_sid)

    def __bool__(self) -> bool:
        return bool(self._calls)


class Actions:
    """The actions on the live calls of this process, and of the others of its database.

    Args:
        calls: the live calls of this process by CallSid.
        look: returns the state of a live call.
        leaving: tells whether a live call is over here, or continues elsewhere, and its media stream is still closing.
        report: takes the sid of a call and the operation, just before it is carried out.
        store: the records, if there are any. They make it possible to act on the calls of other processes.
    """

    def __init__(
        self,
        calls: Mapping[str, Call],
        look: Look,
        leaving: Callable[[str], bool],
        report: Callable[[str, ControlOperation], None],
        store: Store | None,
    ) -> None:
        self._calls = calls
        self._here = _Here(calls, leaving)
        self._look = look
        self._report = report
        self._store = store
        self.commands = None if store is None else Commands(store, self._here, self._carry_out)
        self._once = Once()
        self._preparing = asyncio.Lock()

    def operations(self) -> Operations:
        """Return the operations by path and method."""
        return {
            f"/calls/{{sid}}/{action.name}": {
                "POST": Operation(
                    partial(self._answer, action),
                    action.summary,
                    (KEY,),
                    body=action.body,
                    result=Accepted,
                    status=202,
                    example=action.example,
                    problems=(404, 409, 413, 415, 503, 504, *action.problems),
                )
            }
            for action in _ACTIONS
        }

    async def _answer(self, action: _Action, request: Request) -> Response:
        body, sent = await read_body(request, action.body, max_bytes=action.max_bytes)
        action.check(body)
        wanted = Wanted(request.path_params["sid"], action.name, sent, idempotency_key(request))
        accepted = await (self.commands or self._once).run(wanted, partial(self._act, action, wanted.call_sid, body))
        return Response(msgspec.json.encode(accepted), 202, {"Cache-Control": "no-store"}, JSON)

    async def _carry_out(self, call_sid: str, name: str, sent: bytes) -> Accepted:
        """Act on a call of this process, as requested from another one. Raises `BadRequest`."""
        action = next((each for each in _ACTIONS if each.name == name), None)
        if action is None:
            raise Conflict(NOT_KNOWN)
        body = decode(sent, action.body)
        action.check(body)
        return await self._act(action, call_sid, body)

    async def _act(self, action: _Action, call_sid: str, body: Any) -> Accepted:
        """Act on a call of this process. Raises `BadRequest`."""
        wish = body
        if action.prepare is not None:
            async with self._preparing:  # one at a time: live calls need the processor
                wish = await asyncio.to_thread(action.prepare, body)
        call, seen = self._calls[call_sid] if call_sid in self._here else None, self._look(call_sid)
        if call is not None and seen is None:
            raise Conflict(_NO_AGENT)
        if call is None or seen is None:
            await check_open(call_sid, self._store)
            raise Conflict(MOVING)
        floor, agent = seen
        operation = action.operation(body)
        if floor is not Floor.CLOSING:
            chosen = action.choose(call, agent, wish)
            self._report(call_sid, operation)
            action.act(call, chosen)
        elif not action.when_closing:
            raise Conflict(_ENDING)
        return Accepted(call_sid, operation, call.muted)
