"""A Twilio phone with a caller, for tests and demonstrations: it calls any server that speaks Twilio.

    async with Phone("http://127.0.0.1:8000/twilio/voice", auth_token="secret").dial() as line:
        await line.wait_for_silence()
        await line.say(audio)
        ...
    assert not line.violations

The phone posts a signed voice webhook, carries out the TwiML, opens the media socket and plays the audio it receives in
real time. It is strict: it refuses what Twilio would refuse, and records a violation where Twilio would warn.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote

from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.amd import detect
from phoneagent.sim.twilio.call_flow import MAX_CALL_SECONDS, CallFlow, FarEnd, Next
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.microphone import Microphone
from phoneagent.sim.twilio.network import Network
from phoneagent.sim.twilio.playout import Playout
from phoneagent.sim.twilio.quirks import Quirks
from phoneagent.sim.twilio.rest import PlacedCall, TwilioRest
from phoneagent.sim.twilio.webhook import Web

__all__ = ["CallFailed", "Line", "Phone"]

ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
"""The default account of calls."""

CALLER, CALLED = "+15550100001", "+15550100002"
"""The default parties of calls."""


class Phone:
    """A phone that calls the server with the voice webhook `webhook_url`.

    Args:
        webhook_url: the address at which the server is reachable.
        auth_token: signs every request as Twilio does; None sends no signature.
        public_url: the public address in place of the server's scheme and host; its path is put before the server's.
            Signatures and `Host` use it; connections still go to `webhook_url`.
        account_sid, caller, called: as in the webhook; `caller` None is a withheld number.
        delay_ms: the latency of the media socket, in each direction.
        method: the webhook's method, POST or GET.
        extra_params: additional form fields for the webhook, or other values for the default ones.
        status_callback: the URL that gets the end of the call, absolute or relative to the webhook.
        voice_fallback_url: the URL that is requested, with ErrorCode and ErrorUrl, if a document cannot be fetched;
            absolute or relative to the webhook. Without one the call ends.
        rest: the account's REST API. It lists this phone's calls, and can end or redirect them; a call that it makes
            rings here (`answer`).
        quirks: undocumented behavior of Twilio; may be changed between calls.
        network: the parties that a `<Dial>` reaches. Without any party, each `<Dial>` that is valid has the outcome
            `Line.dial_status`.

    Raises:
        ValueError: an address is invalid, or `rest` belongs to another account.
    """

    def __init__(
        self,
        webhook_url: str,
        *,
        auth_token: str | None = None,
        public_url: str | None = None,
        account_sid: str = ACCOUNT_SID,
        caller: str | None = CALLER,
        called: str = CALLED,
        delay_ms: float = 0,
        method: str = "POST",
        extra_params: Mapping[str, str] | None = None,
        status_callback: str | None = None,
        voice_fallback_url: str | None = None,
        rest: TwilioRest | None = None,
        quirks: Quirks | None = None,
        network: Network | None = None,
    ) -> None:
        self._address = (webhook_url, public_url, auth_token)
        self._account_sid = account_sid
        self._caller = caller
        self._called = called
        self._delay_ms = delay_ms
        self._method = method
        self._extra_params = dict(extra_params or {})
        self._status_callback = status_callback
        self._voice_fallback_url = voice_fallback_url
        self._rest = rest
        self.quirks = quirks or Quirks()
        self.network = network or Network()
        if rest is not None and rest.account["sid"] != account_sid:
            raise ValueError("rest is the API of another account; give both the same account_sid")
        Web(*self._address)  # raises for an invalid address

    @property
    def rest(self) -> TwilioRest | None:
        """The account's REST API."""
        return self._rest

    @asynccontextmanager
    async def dial(
        self, *, call_sid: str | None = None, microphone: Microphone | None = None, playout: Playout | None = None
    ) -> AsyncIterator[Line]:
        """Call, and yield the `Line` once its stream has started. Leaving hangs up and waits for the end of the call.

        A call that needs no stream, because its TwiML gathers keys or dials, is yielded when it is over.

        `microphone` and `playout` are those of a sound card; without them the line simulates both.

        Raises:
            CallFailed: the server refused the call or its TwiML never reached a stream.
        """
        line = Line(
            call_sid=call_sid or "CA" + secrets.token_hex(16),
            account_sid=self._account_sid,
            microphone=microphone,
            playout=playout,
        )
        async with Web(*self._address, quirks=self.quirks, report=line.report) as web:
            flow = CallFlow(
                line,
                web,
                self._fields(line, self._caller or "anonymous", self._called),
                Next(web.entry, self._method),
                self._delay_ms,
                Next(self._status_callback, "POST") if self._status_callback else None,
                fallback_url=self._voice_fallback_url,
                quirks=self.quirks,
                network=self.network,
            )
            async with self._running(flow):
                yield line

    @asynccontextmanager
    async def answer(self, *, timeout: float = 60) -> AsyncIterator[Line]:
        """Wait for a call that the server makes by the REST API, answer it, and yield the `Line` as `dial` does.

        The server determines everything about the call: its TwiML or the TwiML's URL, its callbacks and its fallback.
        Its answering machine detection hears what the line says.

        Raises:
            ValueError: the phone has no REST API.
            TimeoutError: no call was made within `timeout` seconds.
            CallFailed: its TwiML never reached a stream.
        """
        if self._rest is None:
            raise ValueError("answer() takes calls that are made by a REST API; give one: Phone(..., rest=rest)")
        placed = await self._rest.wait_for_call(timeout)
        async with self._placed(placed) as flow:
            flow.far_end = _Answered(placed)
            async with self._running(flow):
                yield flow.line

    async def ring(self, placed: PlacedCall, far_end: FarEnd) -> None:
        """Ring the far end of a call that a client made by the REST API, and carry the call out to its end.

        Raises:
            CallFailed: it was answered, and its TwiML never reached a stream.
            Exception: what the far end raised.
        """
        async with self._placed(placed) as flow:
            flow.far_end = far_end
            self._register(flow)
            running = asyncio.create_task(flow.run())
            try:
                await asyncio.wait({running})
            finally:  # it is over, unless this task is being canceled
                running.cancel()
                await asyncio.wait({running})
                if not running.cancelled():
                    running.result()

    @asynccontextmanager
    async def _placed(self, placed: PlacedCall) -> AsyncIterator[CallFlow]:
        """Prepare a call that a client made by the REST API."""
        form = placed.params
        line = Line(call_sid=placed.sid, account_sid=self._account_sid)
        async with Web(*self._address, quirks=self.quirks, report=line.report) as web:
            first: Next | bytes = form.get("Twiml", "").encode()
            if form.get("Url"):
                first = Next(form["Url"], form.get("Method", "POST"))
            callback = form.get("StatusCallback")
            yield CallFlow(
                line,
                web,
                self._fields(line, form["From"], form["To"]) | {"Direction": "outbound-api"},
                first,
                self._delay_ms,
                Next(callback, form.get("StatusCallbackMethod", "POST")) if callback else None,
                status_events=frozenset(form.get("StatusCallbackEvent", "completed").split()),
                fallback_url=form.get("FallbackUrl"),
                fallback_method=form.get("FallbackMethod", "POST"),
                quirks=self.quirks,
                placed=True,
                network=self.network,
                time_limit=float(form.get("TimeLimit", MAX_CALL_SECONDS)),
            )

    @asynccontextmanager
    async def _running(self, flow: CallFlow) -> AsyncIterator[None]:
        """Run a call: enter when its stream has started, hang up on leaving."""
        line = flow.line
        self._register(flow)
        running = asyncio.create_task(flow.run())
        try:
            await flow.wait_up(running)
            yield
        finally:
            try:
                await line.hang_up()
                await asyncio.wait({running})
            finally:
                running.cancel()  # already over, unless this task is being canceled
                await asyncio.wait({running})
        await running

    def _register(self, flow: CallFlow) -> None:
        """Let the REST API list and control a call."""
        if self._rest is not None:
            parties = {"from": flow.fields["From"], "to": flow.fields["To"]}
            flow.note_status = self._rest.add_live_call(flow.line.call_sid, flow, **parties)
            rest, own = self._rest, frozenset(parties.values())
            flow.caller_ids = lambda: own | rest.own_numbers

    def _fields(self, line: Line, caller: str, called: str) -> dict[str, str]:
        """Return the form fields of a call's webhook. Twilio sends and signs empty ones too."""
        fields = {
            "CallSid": line.call_sid,
            "AccountSid": self._account_sid,
            "From": caller,
            "To": called,
            "Caller": caller,
            "Called": called,
            "CallStatus": "ringing",
            "ApiVersion": "2010-04-01",
            "Direction": "inbound",
            "StirVerstat": "TN-Validation-Passed-A",
            "CallToken": quote(json.dumps({"parentCallInfoToken": secrets.token_urlsafe(48)})),
        }
        for party in ("From", "To", "Caller", "Called"):
            country = "US" if fields[party].startswith("+1") else ""
            fields |= {f"{party}City": "", f"{party}State": "", f"{party}Zip": "", f"{party}Country": country}
        return fields | self._extra_params


class _Answered:
    """The far end of a call that `Phone.answer` takes. The code that holds the line acts for it."""

    def __init__(self, placed: PlacedCall) -> None:
        self._form = placed.params

    async def ring(self) -> str:
        return "in-progress"

    async def answer(self, line: Line, notify: Callable[[str, Mapping[str, str], str], None]) -> None:
        await detect(line, self._form, notify, line.report)
