"""A simulated Twilio REST API, with the parts that a phone agent uses: the account, its numbers, calls and recordings.

    async with TwilioRest(account_sid=sid, auth_token=token) as rest:
        rest.add_number("+15550100002", voice_url="https://elsewhere.example/voice")
        ...  # point a client at rest.url instead of https://api.twilio.com: client.api.base_url = rest.url
        assert rest.violations == []

It refuses what Twilio refuses, with Twilio's codes. Twilio silently ignores unknown form fields; here each one is a
violation, and so is a field of a call that the simulated phone does not carry out.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate
from types import TracebackType
from typing import Any, Protocol, Self

from aiohttp import web

from phoneagent.sim.twilio.rest_dialing import COUNTRIES, country_permissions, verified_caller_ids
from phoneagent.sim.twilio.rest_forms import (
    BAD_VALUE,
    Refused,
    check_call,
    check_call_update,
    check_callee,
    check_number,
    left_out,
    unknown_fields,
)
from phoneagent.sim.twilio.rest_http import basic_credentials, error_body, page_of, same_credentials, snake_case
from phoneagent.sim.twilio.rest_recordings import Recordings

VERSION = "2010-04-01"
MAX_REQUESTS = 1000
"""How many requests are kept; the oldest is dropped first."""

MAX_BODY_BYTES = 64 * 1024

MAX_PLACED = 100
"""How many calls may wait for a phone to answer them. More are refused."""

_CALL_FILTERS = {"To": "to", "From": "from", "Status": "status", "ParentCallSid": "parent_call_sid"}

ENDED = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})
"""The statuses of a call that is over."""

_MESSAGES = {
    20003: "Authenticate",
    20404: "The requested resource {path} was not found",
    20429: "Too Many Requests",
    20500: "An internal server error has occurred",
    20503: "Service unavailable",
    10004: "Call concurrency limit exceeded",
    21220: "Call is not in-progress. Cannot redirect.",
}


@dataclass(frozen=True, slots=True)
class RestRequest:
    """A request to the API, and the status of its answer. The parameters hold phone numbers."""

    method: str
    path: str
    params: Mapping[str, str] = field(repr=False)
    status: int


@dataclass(frozen=True, slots=True)
class PlacedCall:
    """A call that a client made, before it is answered. The parameters are those of its form."""

    sid: str
    params: Mapping[str, str] = field(repr=False)


class LiveCall(Protocol):
    """A call in progress, as the API controls it."""

    def complete(self) -> None:
        """End the call."""

    def redirect(self, *, url: str | None, twiml: str | None, method: str) -> None:
        """Continue the call with other TwiML: that of `url`, or `twiml` itself."""

    def notify(self, url: str, fields: Mapping[str, str], method: str) -> None:
        """Deliver a status callback, signed like the call's others."""


class TwilioRest:
    """The API of one account, on 127.0.0.1 while the context is entered.

    Args:
        account_sid, auth_token: the credentials of clients; any others get 401 and code 20003.
        api_key: the sid and the secret of an API key of the account, which are also valid credentials.
        port: 0 takes a free one.
        clock_skew_seconds: how far the `Date` of its answers is ahead of this machine's clock.

    Attributes:
        account: the account as JSON; set its `status` to "suspended" or "closed".
        caller_ids: the verified caller IDs, from which calls may also be made.
        permitted: the prefixes of the numbers that may be called (the geo permissions).
        numbers, calls: the resources as JSON, by sid. Change them to simulate changes at Twilio.
        requests: the requests so far, in order.
        violations: every rule that a client broke.
    """

    def __init__(
        self,
        *,
        account_sid: str,
        auth_token: str,
        api_key: tuple[str, str] | None = None,
        port: int = 0,
        clock_skew_seconds: float = 0,
    ) -> None:
        self.account: dict[str, Any] = {
            "sid": account_sid,
            "friendly_name": "A simulated account",
            "status": "active",
            "type": "Full",
            "owner_account_sid": account_sid,
        }
        self.caller_ids: list[str] = []
        self.permitted: tuple[str, ...] = ("+",)
        self.numbers: dict[str, dict[str, Any]] = {}
        self.calls: dict[str, dict[str, Any]] = {}
        self.requests: deque[RestRequest] = deque(maxlen=MAX_REQUESTS)
        self.violations: list[str] = []
        self._live: dict[str, LiveCall] = {}
        self.clock_skew_seconds = clock_skew_seconds
        self._sid = account_sid
        self._credentials = [(account_sid, auth_token), *([api_key] if api_key else [])]
        self._port = port
        self._placed: asyncio.Queue[PlacedCall] = asyncio.Queue(MAX_PLACED)
        self._recordings = Recordings(lambda: f"{self.url}{self._base}")
        self._failures: deque[tuple[int, int]] = deque()
        self._lost = 0
        self._runner: web.AppRunner | None = None

    # --- the account behind the API ---

    def add_number(self, phone_number: str, **fields: Any) -> str:
        """Give the account a phone number (E.164) and return its sid; `fields` are as in the API's JSON."""
        sid = "PN" + secrets.token_hex(16)
        self.numbers[sid] = {
            "sid": sid,
            "account_sid": self._sid,
            "phone_number": phone_number,
            "friendly_name": phone_number,
            "capabilities": {"voice": True, "sms": True, "mms": False, "fax": False},
            "voice_url": "",
            "voice_method": "POST",
            "voice_fallback_url": "",
            "voice_fallback_method": "POST",
            "status_callback": "",
            "status_callback_method": "POST",
            "voice_application_sid": "",
            "trunk_sid": None,
            "voice_receive_mode": "voice",
            "origin": "twilio",
            "status": "in-use",
            "api_version": VERSION,
            **fields,
        }
        return sid

    @property
    def own_numbers(self) -> frozenset[str]:
        """The numbers that the account may show: its own, and the verified caller IDs."""
        return frozenset({number["phone_number"] for number in self.numbers.values()} | set(self.caller_ids))

    def add_call(self, call_sid: str | None = None, **fields: Any) -> str:
        """Add a call, in progress unless `fields` say otherwise, and return its sid."""
        sid = call_sid or "CA" + secrets.token_hex(16)
        self.calls[sid] = {
            "sid": sid,
            "account_sid": self._sid,
            "status": "in-progress",
            "direction": "inbound",
            "answered_by": None,
            "duration": None,
            "date_created": format_datetime(datetime.now(UTC)),
            "api_version": VERSION,
            **fields,
        }
        return sid

    def add_live_call(self, call_sid: str, live: LiveCall, **fields: Any) -> Callable[[str], None]:
        """Let the API control a ringing call through `live`; return the function that updates its status."""
        if call_sid in self.calls:
            self.calls[call_sid] |= {"status": "ringing", **fields}
        else:
            self.add_call(call_sid, status="ringing", **fields)
        self._live[call_sid] = live

        def note_status(status: str) -> None:
            call = self.calls[call_sid]
            if call["status"] not in ENDED:
                call["status"] = status
            if status in ENDED:
                self._recordings.end_call(call_sid)
                self._live.pop(call_sid, None)

        return note_status

    async def wait_for_call(self, timeout: float = 60) -> PlacedCall:
        """Wait for a client to make a call, and return it. Each call is returned once.

        Raises:
            TimeoutError: not within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(None if timeout == math.inf else timeout):
                while True:
                    placed = await self._placed.get()
                    if self.calls[placed.sid]["status"] == "queued":  # not canceled by now
                        return placed
        except TimeoutError:
            raise TimeoutError(f"{timeout:g} s passed before a call was made by the REST API") from None

    def fail_next(self, status: int, *, times: int = 1) -> None:
        """Answer the next requests with an HTTP status: 429 (code 20429) or 5xx."""
        code = {429: 20429, 503: 20503}.get(status, 20500)
        self._failures.extend([(status, code)] * times)

    def lose_answers(self, times: int = 1) -> None:
        """Carry out the next requests that change something, but cut their connections instead of answering."""
        self._lost += times

    # --- the server ---

    @property
    def url(self) -> str:
        """The address in place of `https://api.twilio.com`. Only while the server runs."""
        if self._runner is None:
            raise RuntimeError("the simulated API does not run; enter it first: async with TwilioRest(...) as rest")
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        self._runner = runner
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        form = await request.post()
        # A list is a field that is repeated, like StatusCallbackEvent.
        params = dict(request.query) | {name: " ".join(str(each) for each in form.getall(name)) for name in form}
        try:
            self._admit(request)
            status, body = self._route(request.method, request.path, params)
        except Refused as refused:
            message = refused.message or _MESSAGES[refused.code].format(path=request.path)
            status, body = refused.status, error_body(refused.status, refused.code, message)
        self.requests.append(RestRequest(request.method, request.path, params, status))
        if self._lost and request.method == "POST" and status < 300 and request.transport is not None:
            self._lost -= 1
            request.transport.abort()
        headers = {"Date": formatdate(time.time() + self.clock_skew_seconds, usegmt=True)}
        if status == 204:
            return web.Response(status=status, headers=headers)
        return web.json_response(body, status=status, headers=headers)

    def _admit(self, request: web.Request) -> None:
        if self._failures:
            raise Refused(*self._failures.popleft())
        offered = basic_credentials(request.headers.get("Authorization", ""))
        if not any(same_credentials(offered, each) for each in self._credentials):
            raise Refused(401, 20003)

    @property
    def _base(self) -> str:
        return f"/{VERSION}/Accounts/{self._sid}"

    def _route(self, method: str, path: str, params: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        rest = path.removeprefix(self._base)
        if method == "GET" and path.startswith(COUNTRIES):
            return 200, country_permissions(path.removeprefix(COUNTRIES), self.permitted)
        if rest == path or not rest.endswith(".json"):
            raise Refused(404, 20404)
        match method, [part for part in rest.removesuffix(".json").split("/") if part]:
            case "GET", []:
                return 200, self.account
            case "GET", ["IncomingPhoneNumbers"]:
                return 200, self._list_numbers(path, params)
            case "GET", ["IncomingPhoneNumbers", sid] if sid in self.numbers:
                return 200, self.numbers[sid]
            case "POST", ["IncomingPhoneNumbers", sid] if sid in self.numbers:
                return 200, self._update_number(sid, params)
            case "GET", ["OutgoingCallerIds"]:
                found = verified_caller_ids(self.caller_ids, params.get("PhoneNumber", ""), self._sid)
                return 200, page_of("outgoing_caller_ids", found, path, params)
            case "GET", ["Calls"]:
                return 200, self._list_calls(path, params)
            case "POST", ["Calls"]:
                return 201, self._create_call(params)
            case "GET", ["Calls", sid] if sid in self.calls:
                return 200, self.calls[sid]
            case "POST", ["Calls", sid] if sid in self.calls:
                return 200, self._update_call(sid, params)
            case _, ["Calls", sid, "Recordings", *which] if sid in self.calls:
                return self._route_recordings(method, path, sid, which, params)
            case "POST", ["Calls", sid, "Streams"] if sid in self.calls:
                # A bidirectional stream is not part of this resource: its socket or the call is closed instead.
                raise Refused(400, BAD_VALUE, "a one-way stream is more than the simulated phone can carry out")
        raise Refused(404, 20404)

    # --- the resources ---

    def _list_numbers(self, path: str, params: Mapping[str, str]) -> dict[str, Any]:
        self._note_unknown("IncomingPhoneNumbers, list", "list", params)
        # Twilio also matches parts of numbers, so a client must compare the results.
        wanted = params.get("PhoneNumber", "").replace("*", "")
        found = [number for number in self.numbers.values() if wanted in number["phone_number"]]
        return page_of("incoming_phone_numbers", found, path, params)

    def _update_number(self, sid: str, params: Mapping[str, str]) -> dict[str, Any]:
        self._note_unknown("IncomingPhoneNumbers, update", "number", params)
        check_number(params)
        self.numbers[sid] |= {snake_case(name): value for name, value in params.items()}
        return self.numbers[sid]

    def _list_calls(self, path: str, params: Mapping[str, str]) -> dict[str, Any]:
        self._note_unknown("Calls, list", "calls", params)
        if any("Time" in name for name in params):
            raise Refused(400, BAD_VALUE, "the simulated API does not filter calls by time")
        wanted = {key: params[name] for name, key in _CALL_FILTERS.items() if name in params}
        found = [call for call in self.calls.values() if wanted.items() <= call.items()]
        return page_of("calls", found[::-1], path, params)  # the latest first

    def _route_recordings(
        self, method: str, path: str, call_sid: str, which: list[str], params: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        match method, which:
            case "GET", []:
                self._note_unknown("Recordings, list", "recordings", params)
                return 200, page_of("recordings", self._recordings.of(call_sid, params), path, params)
            case "POST", []:
                self._note_unknown("Recordings, create", "recording", params)
                live = self._live.get(call_sid)
                notify = live.notify if live is not None else lambda *callback: None
                return 201, self._recordings.start(self.calls[call_sid], params, notify)
            case "GET", [sid]:
                return 200, self._recordings.get(call_sid, sid)
            case "POST", [sid]:
                self._note_unknown("Recordings, update", "recording update", params)
                return 200, self._recordings.update(call_sid, sid, params)
            case "DELETE", [sid]:
                self._recordings.delete(call_sid, sid)
                return 204, {}
        raise Refused(404, 20404)

    def _create_call(self, params: Mapping[str, str]) -> dict[str, Any]:
        self._note_unknown("Calls, create", "call", params)
        check_call(params, self.own_numbers)
        trial = self.account["type"] == "Trial" and params["To"] not in self.caller_ids
        check_callee(params["To"], permitted=self.permitted, trial=trial)
        if self._placed.full():
            raise Refused(429, 10004)
        call = {"to": params["To"], "from": params["From"], "status": "queued", "direction": "outbound-api"}
        sid = self.add_call(**call)
        self._placed.put_nowait(PlacedCall(sid, params))
        return self.calls[sid]

    def _update_call(self, sid: str, params: Mapping[str, str]) -> dict[str, Any]:
        self._note_unknown("Calls, update", "call update", params)
        call = self.calls[sid]
        redirected = bool(params.get("Url") or params.get("Twiml"))
        if redirected and call["status"] != "in-progress":
            raise Refused(400, 21220)
        if call["status"] in ENDED:
            raise Refused(404, 20404)
        check_call_update(params, call["status"])
        live = self._live.get(sid)
        if status := params.get("Status"):
            call["status"] = status
            if live is not None:
                live.complete()
        elif redirected and live is not None:
            live.redirect(url=params.get("Url"), twiml=params.get("Twiml"), method=params.get("Method", "POST"))
        return call

    def _note_unknown(self, where: str, form: str, params: Mapping[str, str]) -> None:
        self.violations += [f"{where}: Twilio knows no field {name!r}" for name in unknown_fields(form, params)]
        self.violations += [
            f"{where}: {name} is more than the simulated phone can carry out" for name in left_out(form, params)
        ]
