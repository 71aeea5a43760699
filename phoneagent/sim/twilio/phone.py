"""A Twilio phone with a caller, for tests and demonstrations: it calls any server that speaks Twilio.

    async with Phone("http://127.0.0.1:8000/twilio/voice", auth_token="secret").dial() as line:
        await line.wait_for_silence()
        await line.say(audio)
        ...
    assert not line.violations

The phone posts a signed voice webhook, carries out the TwiML, opens the media socket and plays what it is sent in real
time. It is strict: whatever Twilio would refuse, it refuses; whatever Twilio would warn about is a violation.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote

from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.call_flow import CallFlow
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.quirks import Quirks
from phoneagent.sim.twilio.rest import TwilioRest
from phoneagent.sim.twilio.webhook import Web

__all__ = ["CallFailed", "Line", "Phone"]

ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
"""The account that calls belong to unless another is named."""


class Phone:
    """Calls the server whose voice webhook is `webhook_url`.

    Args:
        webhook_url: where the server is to be reached.
        auth_token: signs every request as Twilio does; None sends no signature.
        public_url: the address that stands for scheme and host of the server, with a path before the server's own if it
            has one. It is what is signed and named in `Host`; connections still go to `webhook_url`.
        account_sid, caller, called: as in the webhook; `caller` None is a withheld number.
        delay_ms: what everything takes on the media socket, in each direction.
        method: of the webhook, POST or GET.
        extra_params: more form fields for the webhook, or other values for the usual ones.
        status_callback: where the end of the call is posted to, absolute or relative to the webhook.
        voice_fallback_url: what is asked when a document cannot be had, with ErrorCode and ErrorUrl; absolute or
            relative to the webhook. Without one such a call ends.
        rest: the account's REST API; it knows the calls of this phone, and ends or redirects them.
        quirks: what Twilio does that nobody knows for sure; may be set anew between calls.

    Raises:
        ValueError: an address is not one, or `rest` is another account's.
    """

    def __init__(
        self,
        webhook_url: str,
        *,
        auth_token: str | None = None,
        public_url: str | None = None,
        account_sid: str = ACCOUNT_SID,
        caller: str | None = "+15550100001",
        called: str = "+15550100002",
        delay_ms: float = 0,
        method: str = "POST",
        extra_params: Mapping[str, str] | None = None,
        status_callback: str | None = None,
        voice_fallback_url: str | None = None,
        rest: TwilioRest | None = None,
        quirks: Quirks | None = None,
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
        if rest is not None and rest.account["sid"] != account_sid:
            raise ValueError("rest is the API of another account; give both the same account_sid")
        Web(*self._address)  # complains of an address that is none

    @asynccontextmanager
    async def dial(self, *, call_sid: str | None = None) -> AsyncIterator[Line]:
        """Call; the `Line` is up, its stream started. Leaving hangs up and waits until nothing is left of the call.

        Raises:
            CallFailed: the server refused the call or its TwiML never reached a stream.
        """
        line = Line(call_sid=call_sid or "CA" + secrets.token_hex(16), account_sid=self._account_sid)
        async with Web(*self._address, quirks=self.quirks, report=line.report) as web:
            course = CallFlow(
                line,
                web,
                self._fields(line),
                self._method,
                self._delay_ms,
                self._status_callback,
                fallback_url=self._voice_fallback_url,
                quirks=self.quirks,
            )
            if self._rest is not None:
                parties = {"from": course.fields["From"], "to": course.fields["To"]}
                course.note_status = self._rest.add_live_call(line.call_sid, course, **parties)
            running = asyncio.create_task(course.run())
            try:
                await course.wait_up(running)
                yield line
            finally:
                try:
                    await line.hang_up()
                finally:
                    running.cancel()  # already over, unless we are being cancelled ourselves
                    await asyncio.wait({running})
            await running

    def _fields(self, line: Line) -> dict[str, str]:
        """The form fields of a call's webhook. Blank ones are sent too, and signed."""
        caller = self._caller or "anonymous"
        fields = {
            "CallSid": line.call_sid,
            "AccountSid": self._account_sid,
            "From": caller,
            "To": self._called,
            "Caller": caller,
            "Called": self._called,
            "CallStatus": "ringing",
            "ApiVersion": "2010-04-01",
            "Direction": "inbound",
            "StirVerstat": "TN-Validation-Passed-A",
            "CallToken": quote(json.dumps({"parentCallInfoToken": secrets.token_urlsafe(48)})),
        }
        for party in ("From", "To", "Caller", "Called"):
            fields |= {f"{party}City": "", f"{party}State": "", f"{party}Zip": "", f"{party}Country": "US"}
        return fields | self._extra_params
