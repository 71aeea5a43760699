"""The verb `<Dial>`: the other party's leg of a call, from its ring to the moment when both are connected."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from typing import Any, Protocol

from phoneagent.sim.twilio.alerts import alert
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.network import Network, Party
from phoneagent.sim.twilio.twiml import Verb

DIALLED_SECONDS = 1.0
"""The duration of a `<Dial>` on a phone without a network, including ringing and talking."""

RING_SECONDS = 30.0
"""How long a party rings by default."""

_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
_CALLER_ID = re.compile(r"\+[1-9][0-9]{6,14}|client:\S+|sips?:\S+")
_SCHEMES = {"Number": "", "Client": "client:", "Sip": ""}


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
    ) -> Leg: ...


async def carry_out(flow: Flow, verb: Verb) -> dict[str, str]:
    """Carry out a Dial; return the form fields of its action."""
    network = flow.network
    if network is None or not (network.parties or network.conferences or _conference(verb)):
        await asyncio.sleep(DIALLED_SECONDS)  # the other party answers and soon hangs up; the caller stays
        return _fields(flow.line.dial_status, DIALLED_SECONDS)
    if (conference := _conference(verb)) is not None:
        began = time.monotonic()
        flags = {
            name: conference.attributes.get(attribute, default) == "true"
            for name, attribute, default in (
                ("starts", "startConferenceOnEnter", "true"),
                ("ends", "endConferenceOnExit", "false"),
            )
        }
        await network.join(conference.text, flow.line, **flags)
        return _fields("answered", time.monotonic() - began)
    if (party := _party(flow, verb, network)) is None:
        return _fields("failed", 0)
    return await _Leg(flow, verb, party).run()


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


def _party(flow: Flow, verb: Verb, network: Network) -> Party | None:
    """Return the party that is dialed; None, with an alert, if Twilio would not dial it."""
    noun = verb.children[0] if verb.children else verb
    address = _SCHEMES.get(noun.name, "") + noun.text
    if noun.name in ("Dial", "Number") and not _NUMBER.fullmatch(address):
        flow.line.report(alert(13223, "a number to dial is not in E.164"))
        return None
    shown = caller_id(flow.fields, verb)
    if not _CALLER_ID.fullmatch(shown) or (flow.caller_ids is not None and shown not in flow.caller_ids()):
        flow.line.report(alert(13214, "the callerId is no number of the account's, and not one of the call's"))
        return None
    return network.parties.get(address) or _Nobody(address)


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
        self._line = Line(call_sid="CA" + secrets.token_hex(16), account_sid=flow.line.account_sid)
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
        self._leg = flow.leg(self._line, fields, whisper, far_end=self, talk=self._talk)

    async def run(self) -> dict[str, str]:
        """Ring and connect the party; return the fields of the action when the leg is over."""
        running = asyncio.create_task(self._leg.run())
        try:
            with self._ringing:
                self._ringing.enter_context(self._flow.line.announcing("Ringing", ""))
                await asyncio.shield(running)
        finally:
            self._leg.complete()  # if it is not over, the caller is gone
            await asyncio.wait({running})
            await self._party.note()
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
        await self._party.conduct(line)
