"""Twilio's voice webhooks, answered with TwiML, and its media sockets, each run as a call.

A webhook decides whether a new call is taken, what an answered call does after its media stream has ended, and where a
call goes while this process drains.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from phoneagent import telemetry
from phoneagent.agent.call import Call
from phoneagent.billing.ratelimits import RateLimitReserve
from phoneagent.bridge.history import Past
from phoneagent.calls.admission import DENIED, DRAINING, LIMITED, Admission, Refusal
from phoneagent.calls.calls import Calls
from phoneagent.calls.journal import CallJournal, Continuation, may_recover
from phoneagent.calls.state import restore
from phoneagent.errors import ProtocolError, RequestRefused, StoreError, shown
from phoneagent.settings import Settings
from phoneagent.twilio import twiml
from phoneagent.twilio.parameters import call_of_form, call_of_stream, redirected, stream_parameters
from phoneagent.twilio.signatures import Ticket
from phoneagent.twilio.socket import TwilioSocket, read_start
from phoneagent.twilio.verification import Verifier

log = logging.getLogger("phoneagent.webhooks")

VOICE_PATH = "/twilio/voice"
AFTER_PATH = "/twilio/after"
STATUS_PATH = "/twilio/status"
MEDIA_PATH = "/twilio/media/"

MAX_RETRIES = 8
"""How often a call is sent to the webhook again while this process drains, after a second each time."""

STATE = ("faults", "since", "after")
"""What the query of AFTER_PATH says of a call (see `Webhooks._connect`)."""

RETRIES = "again"
"""What the query of VOICE_PATH or AFTER_PATH says of the retries while a process drains."""

_CALL_SID = re.compile(r"CA[0-9a-fA-F]{32}")

ANSWERED = "in-progress"
"""Twilio's CallStatus of a call that was answered and is not over."""

OVER = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})
"""Twilio's CallStatus values of a call that is over."""


class Webhooks:
    """Answers Twilio's webhooks.

    `draining` returns whether this process is about to end. Without a `journal` a call ends with its media stream.
    `worker` is this process's number, by which media sockets find it; None if nothing passes them.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        verifier: Verifier,
        calls: Calls,
        journal: CallJournal | None,
        reserve: RateLimitReserve,
        metrics: telemetry.Metrics,
        draining: Callable[[], bool],
        worker: int | None = None,
    ) -> None:
        self._settings = settings
        self._verifier = verifier
        self._calls = calls
        self._journal = journal
        self._reserve = reserve
        self._metrics = metrics
        self._draining = draining
        self._worker = worker
        self._admission = Admission(
            max_calls=settings.max_calls,
            max_calls_per_caller=settings.max_calls_per_caller,
            allow=settings.allow_callers,
            deny=settings.deny_callers,
        )

    async def answer(self, request: Request, path: str) -> Response:
        """Answer Twilio's request to `path`: VOICE_PATH, AFTER_PATH or STATUS_PATH."""
        form = await self._read(request, path)
        if isinstance(form, Response):
            return form
        if path == STATUS_PATH:
            await self._status(form)
            return Response(status_code=204)
        text = await (self._voice(form) if path == VOICE_PATH else self._after(form))
        return Response(text, media_type="application/xml")

    async def explain(self, request: Request) -> None:
        """Log why Twilio requests a path where nothing is, if its signature proves that it is Twilio."""
        came = request.url.path.rstrip("/")
        for path in (VOICE_PATH, AFTER_PATH, STATUS_PATH):
            if came.endswith(path) and (why := await self._verifier.misdirected(request, path)) is not None:
                self._metrics.refused("webhook")
                log.warning("webhook refused: %s", why)

    async def _read(self, request: Request, path: str) -> ImmutableMultiDict[str, str] | Response:
        """Return the request's parameters, always with a CallSid and a CallStatus, or the response that refuses it."""
        try:
            form = await self._verifier.webhook(request, path)
        except RequestRefused as refused:
            self._metrics.refused("webhook")
            log.warning("webhook refused: %s", refused)
            return Response("forbidden\n", status_code=403, media_type="text/plain")
        if not _CALL_SID.fullmatch(form.get("CallSid", "")):
            log.warning("webhook refused: its CallSid is not CA followed by 32 hexadecimal digits")
            return Response("CallSid is missing\n", status_code=400, media_type="text/plain")
        return ImmutableMultiDict({"CallStatus": "", **form})

    async def _status(self, form: Mapping[str, str]) -> None:
        """Handle a changed status of a call or of its media stream."""
        call_sid, status = form["CallSid"], form["CallStatus"]
        if form.get("StreamEvent") == "stream-error":
            log.warning(
                "Twilio lost the media stream: %s", shown(form.get("StreamError"), 200), extra={"call_sid": call_sid}
            )
        elif status in OVER:
            await self._ended(call_sid, status)

    async def _voice(self, form: Mapping[str, str]) -> str:
        """Answer for a call that comes in, that comes back, or whose AFTER_PATH failed."""
        failed = urlsplit(form.get("ErrorUrl", ""))
        if form["CallStatus"] == ANSWERED and failed.path.endswith(AFTER_PATH):
            # This URL is also the number's fallback, which Twilio requests after AFTER_PATH gave no answer. The query
            # of the failed request has what is known of the call, so the call continues as it would have there.
            return await self._continue(form, dict(parse_qsl(failed.query)))
        call = call_of_form(form["CallSid"], form, (RETRIES,))
        refusal = self._refusal(call, form["CallStatus"])
        if self._draining() and refusal is not DENIED:
            if (retry := self._retry(form, VOICE_PATH, redirected(call))) is not None:
                return retry
            refusal = DRAINING
        if refusal is not None:
            return self._turn_away(call, form["CallStatus"], refusal)
        return self._connect(call, await self._came_back(form), since=int(time.time()))

    def _refusal(self, call: Call, status: str) -> Refusal | None:
        """Return why a new call is not taken, None if it is."""
        calls = self._calls.answered
        calls.pop(call.sid, None)  # Twilio may repeat a webhook; a call does not compete with itself
        refusal = self._admission.refuse(call.party, [each.party for each in calls.values()])
        if refusal is None and status != ANSWERED and self._reserve.short(time.monotonic()):
            return LIMITED  # what is left of the rate limits is reserved for live calls
        return refusal

    def _turn_away(self, call: Call, status: str, refusal: Refusal) -> str:
        self._metrics.turned_away(refusal.reason)
        log.warning("call turned away: %s", refusal.reason, extra={"call_sid": call.sid})
        answered = status == ANSWERED  # an answered call can no longer be rejected, only ended
        if refusal.answer != "fallback":
            return twiml.hang_up() if answered else twiml.turn_away(None, reason=refusal.answer)
        number, caller_id = self._settings.fallback_number, self._caller_id(call)
        return (twiml.fall_back if answered else twiml.turn_away)(number, caller_id=caller_id)

    def _caller_id(self, call: Call) -> str | None:
        """Return the number that a forward shows; None for the caller's own, which Twilio takes only if it is one."""
        if call.caller is not None and call.caller.startswith("+"):
            return None
        called = call.called if call.called is not None and call.called.startswith("+") else None
        return called or self._settings.twilio_phone_number

    async def _came_back(self, form: Mapping[str, str]) -> Continuation | None:
        """Return how a call continues that was here before and that other TwiML controlled since; None for a new call.

        A new call rings, unless other TwiML answered it first or we dialed it, so only an answered one is looked up.
        """
        if form["CallStatus"] != ANSWERED or self._journal is None:
            return None
        return await self._journal.comes_back(form["CallSid"])

    async def _after(self, form: Mapping[str, str]) -> str:
        """Answer for a call whose media stream has ended."""
        return await self._continue(form, form)

    async def _continue(self, form: Mapping[str, str], state: Mapping[str, str]) -> str:
        """Answer with what a call does after its media stream; `state` is what `_connect` wrote into the action URL."""
        call_sid = form["CallSid"]
        if form["CallStatus"] != ANSWERED:
            await self._ended(call_sid, form["CallStatus"])
            return twiml.nothing()
        call = call_of_form(call_sid, form, (*STATE, RETRIES))
        faults, since = _number(state.get("faults")), _number(state.get("since")) or int(time.time())
        answer = Continuation("apologise") if self._journal is None else await self._journal.answer(call_sid)
        step = answer.kind
        # "apologise" is retried too: another process may know of the call what this one could not read.
        lives_on = step in ("resume", "recover", "apologise")
        known = {name: state[name] for name in STATE if name in state}
        if lives_on and self._draining() and (retry := self._retry({**form, **state}, AFTER_PATH, known)) is not None:
            return retry
        if step == "resume" and state.get("after") == answer.stream_sid:
            step = "recover"  # it was resumed after this stream once already, and no newer stream has come
        if step == "recover" and not may_recover(faults, time.time() - since):
            log.error("the call's media stream broke %d times: giving up", faults + 1, extra={"call_sid": call_sid})
            step = "apologise"
        if step in ("resume", "recover"):
            return self._connect(call, answer, faults=faults + (step == "recover"), since=since)
        if step == "hang_up":
            return twiml.hang_up()
        number, caller_id = self._settings.fallback_number, self._caller_id(call)
        return twiml.fall_back(number, apologise=step == "apologise", caller_id=caller_id)

    def _retry(self, form: Mapping[str, str], path: str, query: Mapping[str, str]) -> str | None:
        """Answer that Twilio should request `path` again with that query, so that another process takes the call.

        None after MAX_RETRIES.
        """
        retries = _number(form.get(RETRIES))
        if retries >= MAX_RETRIES:
            return None
        return twiml.ask_again(self._verifier.url(path, query={**query, RETRIES: retries + 1}))

    def _connect(self, call: Call, earlier: Continuation | None, *, faults: int = 0, since: int) -> str:
        """Connect the call to a media socket; `earlier` is how a call continues, None for one that begins.

        The action URL, which Twilio requests after the stream, carries how often the stream broke (`faults`), when the
        call began (`since`, seconds since the epoch), and the stream that this one follows (`after`).
        """
        after = ""
        state: dict[str, Any] = {"faults": faults, "since": since}
        if earlier is not None:
            after = state["after"] = earlier.stream_sid
            restore(call, earlier.state)
        action = callback = elsewhere = None
        if self._journal is not None:
            action = self._verifier.url(AFTER_PATH, query=state)
            callback = self._verifier.url(STATUS_PATH)
            elsewhere = partial(self._journal.went_on, call.sid, after)
        # With several processes the media socket may come to another one. Unless that passes it on, nothing is opened
        # ahead for it here.
        comes_here = self._settings.web_concurrency == 1 or self._worker is not None
        self._calls.expect(call, prepare=comes_here, elsewhere=elsewhere)
        url = self._verifier.media_url(MEDIA_PATH, call.sid, resumes=earlier is not None, worker=self._worker)
        return twiml.connect_stream(url, stream_parameters(call), action=action, status_callback=callback)

    async def _ended(self, call_sid: str, status: str) -> None:
        """Close a call that Twilio reports as over. The report may come before or after our own end of the call."""
        reason = f"Twilio reports that it is {status}"
        await self._calls.forget(call_sid)
        if not self._calls.end(call_sid, reason) and self._journal is not None:
            await self._journal.settle(call_sid, "caller", reason)


class MediaSockets:
    """Runs a call in each media socket that Twilio opens; `account_sid` is the account of the calls, None for any."""

    def __init__(
        self,
        *,
        verifier: Verifier,
        calls: Calls,
        journal: CallJournal | None,
        metrics: telemetry.Metrics,
        account_sid: str | None,
    ) -> None:
        self._verifier = verifier
        self._calls = calls
        self._journal = journal
        self._metrics = metrics
        self._account_sid = account_sid

    async def run(self, websocket: WebSocket) -> None:
        """Run the call of a media socket; return when nothing of it is left."""
        with self._calls.handshake():
            try:
                ticket = await self._verifier.socket(websocket, MEDIA_PATH)
            except RequestRefused as refused:
                self._metrics.refused("socket")
                log.warning("media socket refused: %s", telemetry.hidden(str(refused)))
                await websocket.close()  # before accept: HTTP 403
                return
            await websocket.accept()
            await self._run(TwilioSocket(websocket), ticket)

    async def _run(self, socket: TwilioSocket, ticket: Ticket) -> None:
        call_sid = ticket.call_sid
        number = self._calls.arrived(call_sid)
        try:
            start = await read_start(socket, call_sid, self._account_sid)
            call = call_of_stream(call_sid, start.parameters)
            past = await self._past(ticket, call)
            if not self._calls.is_newest(call_sid, number):
                raise ProtocolError("the call has a newer media socket")
            await self._calls.run(call, start, socket, past)
        except (ProtocolError, RequestRefused, StoreError) as error:
            log.warning("media socket closed: %s", str(error), extra={"call_sid": call_sid})
            await socket.close()
        except asyncio.CancelledError:  # the server stops and cancels what is left; this call is over
            log.warning("cut off: the process ends", extra={"call_sid": call_sid})
        finally:
            self._calls.left(call_sid, number)

    async def _past(self, ticket: Ticket, call: Call) -> Past | None:
        """Return the past of a call that continues in this socket, None for a call that begins.

        Raises:
            ProtocolError, RequestRefused, StoreError: the call cannot continue.
        """
        pending = self._calls.supersede(ticket.call_sid)
        if pending is None and not ticket.resumes:
            return None
        if self._journal is None:
            raise ProtocolError("the call cannot continue because it was not recorded: give the app a store")
        past = await self._journal.past(ticket.call_sid, pending)
        if past is not None:
            restore(call, past.state)
        return past


def _number(text: str | None) -> int:
    """Return a number that `_connect` or `_retry` wrote into a URL; 0 for anything else."""
    return int(text) if text is not None and text.isdecimal() and len(text) < 12 else 0
