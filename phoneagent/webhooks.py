"""What Twilio is answered about a call: who is put through, how a call goes on whose media stream has ended, and what
a process says that is about to end. Every answer is TwiML.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

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
from phoneagent.calls.journal import Answer, CallJournal, may_recover
from phoneagent.calls.state import unpack
from phoneagent.errors import ProtocolError, RequestRefused, StoreError
from phoneagent.settings import Settings
from phoneagent.twilio import twiml
from phoneagent.twilio.signatures import Ticket
from phoneagent.twilio.socket import TwilioSocket, read_start
from phoneagent.twilio.verification import Verifier

log = logging.getLogger("phoneagent.webhooks")

VOICE_PATH = "/twilio/voice"
AFTER_PATH = "/twilio/after"
STATUS_PATH = "/twilio/status"
MEDIA_PATH = "/twilio/media/"

MAX_ASKED_AGAIN = 8
"""How often a call is sent round while this process drains, a second each time."""

_CALL_SID = re.compile(r"CA[0-9a-fA-F]{32}")

LIVE = "in-progress"
OVER = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})
"""What Twilio calls the status of a call that is up, and of one that is over."""


class Webhooks:
    """Answers Twilio's webhooks, whose signed parameters it is given: `form`.

    `draining` tells whether this process is about to end; without `afterwards` a call ends with its media stream.
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
    ) -> None:
        self._settings = settings
        self._verifier = verifier
        self._calls = calls
        self._journal = journal
        self._reserve = reserve
        self._metrics = metrics
        self._draining = draining
        self._admission = Admission(
            max_calls=settings.max_calls,
            max_calls_per_caller=settings.max_calls_per_caller,
            allow=settings.allow_callers,
            deny=settings.deny_callers,
        )

    async def answer(self, request: Request, path: str) -> Response:
        """Answer a request of Twilio to `path`, which is one of the three above."""
        form = await self._read(request, path)
        if isinstance(form, Response):
            return form
        if path == STATUS_PATH:
            await self._status(form)
            return Response(status_code=204)
        text = await (self._voice(form) if path == VOICE_PATH else self._after(form))
        return Response(text, media_type="application/xml")

    async def _read(self, request: Request, path: str) -> ImmutableMultiDict[str, str] | Response:
        """Return the parameters of a webhook of a call, CallSid and CallStatus among them, or how to refuse it."""
        try:
            form = await self._verifier.webhook(request, path)
        except RequestRefused as refused:
            self._metrics.refused("webhook")
            log.warning("webhook refused: %s", refused)
            return Response("forbidden\n", status_code=403, media_type="text/plain")
        if not _CALL_SID.fullmatch(form.get("CallSid", "")):
            log.warning("webhook refused: its CallSid is not CA and 32 hexadecimal digits")
            return Response("CallSid is missing\n", status_code=400, media_type="text/plain")
        return ImmutableMultiDict({"CallStatus": "", **form})

    async def _status(self, form: Mapping[str, str]) -> None:
        """The status of a call has changed, or that of its media stream."""
        call_sid, status = form["CallSid"], form["CallStatus"]
        if form.get("StreamEvent") == "stream-error":
            log.warning("Twilio lost the media stream: %.200s", form.get("StreamError"), extra={"call_sid": call_sid})
        elif status in OVER:
            await self._ended(call_sid, status)

    async def _voice(self, form: Mapping[str, str]) -> str:
        """A call comes in, or comes back, or (the number's fallback) nobody answered somewhere else."""
        failed = urlsplit(form.get("ErrorUrl", ""))
        if form["CallStatus"] == LIVE and failed.path.endswith(AFTER_PATH):
            # Nobody answered there, and this is the number's fallback: the call goes on where it was.
            return await self._go_on(form, dict(parse_qsl(failed.query)))
        refused = self._refused(form)
        if self._draining() and refused is not DENIED:
            if (again := self._round(form, VOICE_PATH)) is not None:
                return again
            refused = DRAINING
        if refused is not None:
            return self._turn_away(form, refused)
        return self._connect(form, await self._came_back(form), since=int(time.time()))

    def _refused(self, form: Mapping[str, str]) -> Refusal | None:
        """Return why a new call is not taken."""
        calls = self._calls.answered
        calls.pop(form["CallSid"], None)  # Twilio asks once more for a call that it has asked for
        refused = self._admission.refuse(call_of(form["CallSid"], form).party, [call.party for call in calls.values()])
        if refused is None and form["CallStatus"] != LIVE and self._reserve.short(time.monotonic()):
            return LIMITED  # in favour of those that are live
        return refused

    def _turn_away(self, form: Mapping[str, str], refusal: Refusal) -> str:
        self._metrics.turned_away(refusal.reason)
        log.warning("call turned away: %s", refusal.reason, extra={"call_sid": form["CallSid"]})
        answered = form["CallStatus"] == LIVE  # and then it can no more be rejected
        if refusal.answer != "fallback":
            return twiml.hang_up() if answered else twiml.turn_away(None, reason=refusal.answer)
        number = self._settings.fallback_number
        return twiml.fall_back(number) if answered else twiml.turn_away(number)

    async def _came_back(self, form: Mapping[str, str]) -> Answer | None:
        """Return how a call goes on that has been here before, and that other TwiML had since; None if it has not."""
        if form["CallStatus"] != LIVE or self._journal is None:  # a new one rings, unless others answer, or we dial
            return None
        return await self._journal.comes_back(form["CallSid"])

    async def _after(self, form: Mapping[str, str]) -> str:
        """The media stream of a call has ended."""
        return await self._go_on(form, form)

    async def _go_on(self, form: Mapping[str, str], state: Mapping[str, str]) -> str:
        """Answer how a call goes on whose media stream has ended; `state` is what its address says of the call."""
        call_sid = form["CallSid"]
        if form["CallStatus"] != LIVE:
            await self._ended(call_sid, form["CallStatus"])
            return twiml.nothing()
        faults, since = _number(state.get("faults")), _number(state.get("since")) or int(time.time())
        answer = Answer("apologise") if self._journal is None else await self._journal.answer(call_sid)
        step = answer.kind
        goes_on = step in ("resume", "recover", "apologise")  # also where only this process knows nothing
        if goes_on and self._draining() and (again := self._round({**form, **state}, AFTER_PATH)) is not None:
            return again
        if step == "resume" and state.get("after") == answer.stream_sid:
            step = "recover"  # it was to go on after that stream before, and no other one has come
        if step == "recover" and not may_recover(faults, time.time() - since):
            log.error("the call's stream broke %d times: given up", faults + 1, extra={"call_sid": call_sid})
            step = "apologise"
        if step in ("resume", "recover"):
            return self._connect(form, answer, faults=faults + (step == "recover"), since=since)
        if step == "hang_up":
            return twiml.hang_up()
        return twiml.fall_back(self._settings.fallback_number, apologise=step == "apologise")

    def _round(self, form: Mapping[str, str], path: str) -> str | None:
        """Send a call round while this process drains, so that the next one takes it; None if it was long enough."""
        again = _number(form.get("again"))
        if again >= MAX_ASKED_AGAIN:
            return None
        query = {name: form[name] for name in ("faults", "since", "after") if name in form} | {"again": str(again + 1)}
        return twiml.ask_again(self._verifier.url(path, query=urlencode(query)))

    def _connect(self, form: Mapping[str, str], goes_on: Answer | None, *, faults: int = 0, since: int) -> str:
        """Answer with the address of the call's media socket, and with that of what comes after it.

        The latter says how often the call has broken, since when it is up, and after which stream it goes on.
        """
        call, after = call_of(form["CallSid"], form), ""
        gone_through: dict[str, Any] = {"faults": faults, "since": since}
        if goes_on is not None:
            after = gone_through["after"] = goes_on.stream_sid
            call.state.update(unpack(goes_on.state))
        action = callback = elsewhere = None
        if self._journal is not None:
            action = self._verifier.url(AFTER_PATH, query=urlencode(gone_through))
            callback = self._verifier.url(STATUS_PATH)
            elsewhere = partial(self._journal.went_on, call.sid, after)
        # With several processes the media socket may come to another one.
        self._calls.expect(call, prepare=self._settings.web_concurrency == 1, elsewhere=elsewhere)
        parameters = {"caller": call.caller or "", "called": call.called or "", "direction": call.direction}
        url = self._verifier.media_url(MEDIA_PATH, call.sid, resumes=goes_on is not None)
        return twiml.connect_stream(url, parameters, action=action, status_callback=callback)

    async def _ended(self, call_sid: str, status: str) -> None:
        """Take it from Twilio that a call is over, in whatever order that comes."""
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
        self._calls.unfinished += 1  # a drain waits for the handshake too
        try:
            try:
                ticket = await self._verifier.socket(websocket, MEDIA_PATH)
            except RequestRefused as refused:
                self._metrics.refused("socket")
                log.warning("media socket refused: %s", telemetry.hidden(str(refused)))
                await websocket.close()  # before accept: HTTP 403
                return
            await websocket.accept()
            await self._run(TwilioSocket(websocket), ticket)
        finally:
            self._calls.unfinished -= 1

    async def _run(self, socket: TwilioSocket, ticket: Ticket) -> None:
        call_sid = ticket.call_sid
        number = self._calls.arrived(call_sid)
        try:
            start = await read_start(socket, call_sid, self._account_sid)
            call = call_of(call_sid, start.start.custom_parameters)
            past = await self._past(ticket, call)
            if not self._calls.is_newest(call_sid, number):
                raise ProtocolError("a newer media socket of the call has come")
            await self._calls.run(call, start, socket, past)
        except (ProtocolError, RequestRefused, StoreError) as error:
            log.warning("media socket closed: %s", str(error), extra={"call_sid": call_sid})
            await socket.close()
        except asyncio.CancelledError:  # the server stops, and this was the last thing it waited for
            log.warning("cut off: the process ends", extra={"call_sid": call_sid})
        finally:
            self._calls.left(call_sid, number)

    async def _past(self, ticket: Ticket, call: Call) -> Past | None:
        """Return where a call was that goes on in this socket, None for one that begins.

        Raises:
            ProtocolError, RequestRefused, StoreError: it cannot go on.
        """
        pending = self._calls.supersede(ticket.call_sid)
        if pending is None and not ticket.resumes:
            return None
        if self._journal is None:
            raise ProtocolError("a call goes on that nobody has recorded: give the app a store")
        past = await self._journal.past(ticket.call_sid, pending)
        if past is not None:
            call.state.update(unpack(past.state))
        return past


def _number(text: str | None) -> int:
    """Read a number that we wrote into an address; 0 for anything else."""
    return int(text) if text is not None and text.isdecimal() and len(text) < 12 else 0


def call_of(call_sid: str, given: Mapping[str, str]) -> Call:
    """Make a call of a webhook's form, or of the parameters that it gave to its stream."""
    return Call(
        sid=call_sid,
        caller=given.get("From") or given.get("caller") or None,
        called=given.get("To") or given.get("called") or None,
        direction=given.get("Direction") or given.get("direction") or "inbound",
        started_at=datetime.now(UTC),
    )
