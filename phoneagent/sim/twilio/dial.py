"""The verb `<Dial>`: the other party's leg of a call, from its ring to the moment when both are connected."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack, suppress
from typing import Any, Protocol

from phoneagent.sim.twilio.alerts import CallFailed, alert
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.network import Network, Party
from phoneagent.sim.twilio.twiml import Verb

DIALLED_SECONDS = 1.0
"""The duration of a `<Dial>` on a phone without a network, including ringing and talking, if no stream carries it."""

MAX_SECONDS = 4 * 3600.0
"""The default of `timeLimit`."""

RING_SECONDS = 30.0
"""How long a party rings by default."""

_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
_CALLER_ID = re.compile(r"\+[1-9][0-9]{6,14}|client:\S+|sips?:\S+")
_PUNCTUATION = re.compile(r"[\s().-]")
_SCHEMES = {"Dial": "", "Number": "", "Client": "client:", "Sip": ""}

_OF_LEGS = frozenset({"sendDigits", "machineDetection", "statusCallback"})
_LEFT_OUT: Mapping[str, frozenset[str]] = {
    "Dial": frozenset({"hangupOnStar", "record"}),
    "Number": _OF_LEGS,
    "Client": _OF_LEGS,
    "Sip": _OF_LEGS,
    "Conference": frozenset({"coach", "eventCallbackUrl", "muted", "record", "statusCallback", "waitUrl"}),
}
"""The attributes that this phone does not carry out."""

_OFF = frozenset({"", "false", "do-not-record"})
"""The values that switch such an attribute off."""


class Leg(Protocol):
    """The flow of a dialed party's call."""

    @property
    def status(self) -> str: ...
    async def run(self) -> None: ...
    def complete(self) -> None: ...


class Flow(Protocol):
    """The flow of the call that dials."""

    line: Line
    fields: Mapping[str, str]
    network: Network | None
    caller_ids: Callable[[], frozenset[str]] | None

    def leg(
        self,
        line: Line,
        fields: Mapping[str, str],
        whisper: Verb | None,
        *,
        far_end: Any,
        talk: Callable[[], Coroutine[Any, Any, None]],
        time_limit: float,
    ) -> Leg: ...


async def carry_out(flow: Flow, verb: Verb, *, streaming: bool) -> dict[str, str]:
    """Carry out a Dial; return the form fields of its action. `streaming`: the stream of a Start carries the talk."""
    for what in _left_out(verb):
        flow.line.report(f"{what} is more than the simulated phone can carry out")
    network, conference = flow.network, _conference(verb)
    if network is not None and conference is not None:
        return await _confer(flow.line, verb, conference, network)
    if (address := _address(flow, verb)) is None:
        return _fields("failed", 0)
    if network is None or not (network.parties or network.conferences):
        return await _imagine(flow.line, verb, streaming=streaming)
    return await _Leg(flow, verb, network.parties.get(address) or _Nobody(address)).run()


async def _imagine(line: Line, verb: Verb, *, streaming: bool) -> dict[str, str]:
    """Dial on a phone without a network: the other party answers and soon hangs up, and the caller stays.

    If a stream carries their talk, it lasts until `Line.callee_hangs_up`.
    """
    began, seconds = time.monotonic(), _limit(verb)
    gone = await line.wait_callee_gone(min(DIALLED_SECONDS, seconds))
    if streaming and not gone and line.dial_status == "completed":
        await line.wait_callee_gone(seconds - DIALLED_SECONDS)
    return _fields(line.dial_status, time.monotonic() - began)


async def _confer(line: Line, verb: Verb, conference: Verb, network: Network) -> dict[str, str]:
    began = time.monotonic()
    flags = {
        name: conference.attributes.get(attribute, default) == "true"
        for name, attribute, default in (
            ("starts", "startConferenceOnEnter", "true"),
            ("ends", "endConferenceOnExit", "false"),
        )
    }
    with suppress(TimeoutError):
        async with asyncio.timeout(_limit(verb)):
            await network.join(conference.text, line, **flags)
    return _fields("answered", time.monotonic() - began)


def _left_out(verb: Verb) -> list[str]:
    """Return what this phone does not carry out of a Dial."""
    found = ["a <Dial> of several parties"] if len(verb.children) > 1 else []
    for each in (verb, *verb.children):
        names = _LEFT_OUT.get(each.name)
        if names is None:
            found.append(f"<{each.name}> inside <Dial>")
        else:
            wanted = [name for name, value in each.attributes.items() if name in names and value not in _OFF]
            found += [f"<{each.name} {name}>" for name in wanted]
    return found


def _limit(verb: Verb) -> float:
    return float(verb.attributes.get("timeLimit", MAX_SECONDS))


def _conference(verb: Verb) -> Verb | None:
    return next((child for child in verb.children if child.name == "Conference"), None)


def _fields(status: str, seconds: float, *, sid: str = "", bridged: bool | None = None) -> dict[str, str]:
    """Return the form fields for the action of a Dial."""
    talked = status in ("completed", "answered")
    fields = {"DialCallStatus": status, "DialCallDuration": str(round(seconds)) if talked else "0"}
    if sid:
        fields["DialCallSid"] = sid
    if bridged is not None:
        fields["DialBridged"] = str(bridged).lower()
    return fields


def _address(flow: Flow, verb: Verb) -> str | None:
    """Return the address of the party that is dialed; None, with an alert, if Twilio would not dial it."""
    noun = verb.children[0] if verb.children else verb
    address = _SCHEMES.get(noun.name, "") + noun.text
    if noun.name in ("Dial", "Number"):
        address = _e164(address)
        if not _NUMBER.fullmatch(address):
            flow.line.report(alert(13223, "a number to dial is not in E.164"))
            return None
    shown = caller_id(flow.fields, verb)
    if not _CALLER_ID.fullmatch(shown) or (flow.caller_ids is not None and shown not in flow.caller_ids()):
        flow.line.report(alert(13214, "the callerId is no number of the account's, and not one of the call's"))
        return None
    return address


def _e164(number: str) -> str:
    """Return a number as Twilio reads it: without punctuation, and a US number without its + too."""
    digits = _PUNCTUATION.sub("", number)
    return "+1" + digits.removeprefix("1") if re.fullmatch("1?[2-9][0-9]{9}", digits) else digits


def caller_id(fields: Mapping[str, str], verb: Verb) -> str:
    """Return the number that the dialed party sees."""
    return verb.attributes.get("callerId", fields["From"])


class _Nobody:
    """The party for a number that does not exist."""

    def __init__(self, number: str) -> None:
        self.number = number

    async def conduct(self, line: Line) -> None:
        """Never answer."""

    async def ring(self, timeout: float) -> str:
        return "failed"

    async def note(self, line: Line | None = None) -> None:
        """Record nothing."""


class _Leg:
    """The leg of a dialed party: a separate call, whose parent is the caller's."""

    def __init__(self, flow: Flow, verb: Verb, party: Party) -> None:
        self._flow = flow
        self._party = party
        self._seconds = float(verb.attributes.get("timeout", RING_SECONDS))
        self._line = Line(
            call_sid="CA" + secrets.token_hex(16), account_sid=flow.line.account_sid, microphone=flow.line.callee
        )
        noun = verb.children[0] if verb.children else verb
        whisper = noun if noun.attributes.get("url") else None
        fields = {
            **flow.fields,
            "CallSid": self._line.call_sid,
            "ParentCallSid": flow.line.call_sid,
            "From": caller_id(flow.fields, verb),
            "To": party.number,
            "Caller": caller_id(flow.fields, verb),
            "Called": party.number,
            "Direction": "outbound-dial",
        }
        self._bridged_at: float | None = None
        self._ringing = ExitStack()
        self._leg = flow.leg(self._line, fields, whisper, far_end=self, talk=self._talk, time_limit=_limit(verb))

    async def run(self) -> dict[str, str]:
        """Ring and connect the party; return the fields of the action when the leg is over."""
        running = asyncio.create_task(self._leg.run())
        try:
            with self._ringing:
                self._ringing.enter_context(self._flow.line.announcing("Ringing", ""))
                await asyncio.wait({running})
        finally:
            self._leg.complete()  # if it is not over, the caller is gone
            await asyncio.wait({running})
            await self._party.note()
            try:
                running.result()  # raises what the party raised
            except CallFailed as failure:  # of the whisper, which ends this leg alone
                self._flow.line.report(str(failure))
        seconds = 0.0 if self._bridged_at is None else time.monotonic() - self._bridged_at
        status, bridged = self._leg.status, self._bridged_at is not None
        return _fields(status, seconds, sid=self._line.call_sid, bridged=bridged)

    async def _talk(self) -> None:
        """Connect the party to the caller, until either hangs up."""
        self._bridged_at = time.monotonic()
        self._ringing.close()  # the caller hears the party
        self._line.bridged.set()
        self._flow.line.bridged.set()
        await asyncio.get_running_loop().create_future()

    # --- the far end of the leg ---

    async def ring(self) -> str:
        return await self._party.ring(self._seconds)

    async def answer(self, line: Line, notify: Callable[[str, Mapping[str, str], str], None]) -> None:
        await self._party.note(line)
        try:
            await self._party.conduct(line)
        except (CallFailed, TimeoutError):
            if line.ended_by is None:
                raise
