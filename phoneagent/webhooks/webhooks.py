"""Twilio's voice webhooks, answered with TwiML.

A webhook decides whether a new call is taken, what an answered call does after its media stream has ended, and where a
call goes while this process drains.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import Response

from phoneagent import telemetry
from phoneagent.agent.call import Call
from phoneagent.agent.destinations import MAX_ASK_CHARS
from phoneagent.billing.ratelimits import RateLimitReserve
from phoneagent.bridge.steps import Transfer
from phoneagent.calls.admission import DENIED, DRAINING, LIMITED, Admission, Refusal
from phoneagent.calls.calls import Calls
from phoneagent.calls.journal import CallJournal, Continuation, may_recover
from phoneagent.calls.state import restore
from phoneagent.calls.warm import CONFERENCE, DIALED, WarmTransfers
from phoneagent.errors import RequestRefused, StoreError, shown
from phoneagent.events import CallTransferred, TransferOutcome
from phoneagent.protocol.mediastream import CALL_SID
from phoneagent.settings import Settings
from phoneagent.twilio import AFTER_PATH, AMD_PATH, MEDIA_PATH, PARTY_PATH, STATUS_PATH, VOICE_PATH, twiml
from phoneagent.twilio.browser import is_browser_call
from phoneagent.twilio.parameters import call_of_form, redirected, shown_by_forward, stream_parameters
from phoneagent.twilio.verification import Verifier

if TYPE_CHECKING:
    from phoneagent.calls.outbound import Outbound

log = logging.getLogger("phoneagent.webhooks")

MAX_RETRIES = 8
"""How often a call is sent to the webhook again while this process drains, after a second each time."""

STATE = ("faults", "since", "after")
"""What the query of AFTER_PATH says of a call (see `Webhooks._connect`)."""

RETRIES = "again"
"""What the query of VOICE_PATH or AFTER_PATH says of the retries while a process drains."""

SCREENED = "screened"
"""What the query of AFTER_PATH says after a transfer whose party had to press a key."""

ANSWERED = "in-progress"
"""Twilio's CallStatus of a call that was answered and is not over."""

OVER = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})
"""Twilio's CallStatus values of a call that is over."""


class Webhooks:
    """Answers Twilio's webhooks.

    `draining` returns whether this process is about to end. Without a `journal` a call ends with its media stream.
    `outbound` are the calls that the app makes. `worker` is this process's number, by which media sockets find it; None
    if nothing passes them.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        verifier: Verifier,
        calls: Calls,
        journal: CallJournal | None,
        warm: WarmTransfers | None = None,
        reserve: RateLimitReserve,
        metrics: telemetry.Metrics,
        draining: Callable[[], bool],
        worker: int | None = None,
        outbound: Outbound | None = None,
    ) -> None:
        self._settings = settings
        self._outbound = outbound
        self._verifier = verifier
        self._calls = calls
        self._journal = journal
        self._warm = warm
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
        """Answer Twilio's request to `path`: VOICE_PATH, AFTER_PATH, STATUS_PATH, PARTY_PATH or AMD_PATH."""
        form = await self._read(request, path)
        if isinstance(form, Response):
            return form
        try:
            text = await self.respond(path, form)
        except StoreError as error:  # Twilio sends it again, and another process may get it
            words = (
                "a webhook at %s failed because the database did not answer; Twilio will be asked to send it again: %s"
            )
            log.error(words, path, error, extra={"call_sid": form["CallSid"]})
            return Response("try again\n", status_code=503, media_type="text/plain")
        return Response(text, media_type="application/xml") if text else Response(status_code=204)

    async def respond(self, path: str, form: Mapping[str, str]) -> str:
        """Return the TwiML for a verified form with a CallSid and a CallStatus; "" for a path of callbacks.

        Raises:
            StoreError: the database does not answer, at PARTY_PATH or a path of callbacks.
        """
        if path in (STATUS_PATH, AMD_PATH):
            try:
                if self._outbound is not None and "dial" in form and "StreamEvent" not in form:
                    await (self._outbound.amd if path == AMD_PATH else self._outbound.tell)(form)
            finally:  # even without the database, the call ends in this process
                if path == STATUS_PATH:
                    await self._status(form)
            return ""
        if path == PARTY_PATH:
            return await self._party(form)
        return await (self._voice(form) if path == VOICE_PATH else self._after(form))

    async def explain(self, request: Request) -> None:
        """Log why Twilio requests a path that does not exist, if the signature proves that it is Twilio."""
        came = request.url.path.rstrip("/")
        for path in (VOICE_PATH, AFTER_PATH, STATUS_PATH, PARTY_PATH, AMD_PATH):
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
        if not CALL_SID.fullmatch(form.get("CallSid", "")):
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
        ours = None if self._outbound is None else await self._outbound.attach(call, answered=True)
        if ours is False:
            why = "a call that was made has been placed twice, or was forgotten while it rang: hanging up"
            log.error(why, extra={"call_sid": call.sid})
            return twiml.hang_up()
        refusal = None if ours else self._refusal(call, form["CallStatus"])
        earlier = None
        if refusal is not DENIED:
            if self._draining():
                if (retry := self._retry(form, VOICE_PATH, redirected(call))) is not None:
                    return retry
                refusal = DRAINING
            earlier = await self._came_back(form)
        if refusal is not None and earlier is None:  # a call that was taken before is no new one
            if ours and self._outbound is not None:
                await self._outbound.turned_away(call, refusal.reason)
            return self._turn_away(call, form["CallStatus"], refusal, forward=not ours)
        return await self._connect(call, earlier, since=int(time.time()))

    def _refusal(self, call: Call, status: str) -> Refusal | None:
        """Return why a new call is not taken, None if it is."""
        calls = self._calls.answered
        calls.pop(call.sid, None)  # Twilio may repeat a webhook; a call does not compete with itself
        refusal = self._admission.refuse(call.party, [each.party for each in calls.values()])
        if refusal is None and status != ANSWERED and self._reserve.short(time.monotonic()):
            return LIMITED  # what is left of the rate limits is reserved for live calls
        return refusal

    def _turn_away(self, call: Call, status: str, refusal: Refusal, *, forward: bool) -> str:
        """Refuse a call. Without `forward`, FALLBACK_NUMBER is not called: it would not know whom it called."""
        self._metrics.turned_away(refusal.reason)
        log.warning("call turned away: %s", refusal.reason, extra={"call_sid": call.sid})
        answered = status == ANSWERED  # an answered call can no longer be rejected, only ended
        if refusal.answer != "fallback":
            return twiml.hang_up() if answered else twiml.turn_away(None, reason=refusal.answer)
        number, caller_id = self._settings.fallback_number if forward else None, self._caller_id(call)
        return (twiml.fall_back if answered else twiml.turn_away)(number, caller_id=caller_id)

    def _caller_id(self, call: Call) -> str | None:
        return shown_by_forward(call, self._settings.twilio_phone_number)

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
        dialed = await self._dialed(call_sid, form, state)
        if form["CallStatus"] != ANSWERED:
            try:
                await self._ended(call_sid, form["CallStatus"])
            except StoreError as error:  # Twilio reports it at STATUS_PATH too, and there sends it again
                log.warning("the end of the call was not recorded: %s", error, extra={"call_sid": call_sid})
            return twiml.nothing()
        call = call_of_form(call_sid, form, [*STATE, RETRIES, DIALED, CONFERENCE, SCREENED, *filter(_of_dial, form)])
        faults, since = _number(state.get("faults")), _number(state.get("since")) or int(time.time())
        answer = dialed or Continuation("apologize")
        if dialed is None and self._journal is not None:
            answer = await self._journal.answer(call_sid)
        step = answer.kind
        # "apologize" is retried too: another process may know of the call what this one could not read.
        lives_on = step in ("resume", "recover", "apologize")
        known = {name: state[name] for name in STATE if name in state}
        if lives_on and self._draining() and (retry := self._retry({**form, **state}, AFTER_PATH, known)) is not None:
            return retry
        if step == "resume" and state.get("after") == answer.stream_sid:
            step = "recover"  # it was resumed after this stream once already, and no newer stream has come
        if step == "transfer" and answer.transfer is not None:
            conference = answer.transfer.conference
            if not conference or self._warm is None or await self._warm.join(conference):
                more = {CONFERENCE: conference} if conference else {SCREENED: "1"} if answer.transfer.screen else {}
                return self._dial(call, answer.transfer, {**known, **more, DIALED: answer.stream_sid})
            left = await self._transferred(call_sid, answer.stream_sid, "declined")
            return await self._connect(call, left or answer, faults=faults, since=since)
        if step == "recover" and not may_recover(faults, time.time() - since):
            log.error("the call's media stream broke %d times: giving up", faults + 1, extra={"call_sid": call_sid})
            step = "apologize"
        if step in ("resume", "recover"):
            restore(call, answer.state)
            if self._outbound is not None:
                await self._outbound.attach(call)
            return await self._connect(call, answer, faults=faults + (step == "recover"), since=since)
        if step == "hang_up":
            return twiml.hang_up()
        number, caller_id = self._settings.fallback_number, self._caller_id(call)
        return twiml.fall_back(number, apologize=step == "apologize", caller_id=caller_id)

    def _dial(self, call: Call, step: Transfer, query: Mapping[str, str]) -> str:
        """Answer that the call is connected to the party of a transfer; `query` goes into the action's URL."""
        caller_id = None if call.direction.startswith("outbound") else self._caller_id(call)
        if step.caller_id == "called" and not call.direction.startswith("outbound"):
            called = call.called if call.called is not None and call.called.startswith("+") else None
            caller_id = called or self._settings.twilio_phone_number
        heard = {"name": step.name} | ({"ask": step.ask, "language": step.language} if step.ask else {})
        screen = self._verifier.url(PARTY_PATH, query=heard) if step.screen else None
        action = self._verifier.url(AFTER_PATH, query=query)
        return twiml.dial(step, action=action, caller_id=caller_id, screen=screen)

    async def _dialed(self, call_sid: str, form: Mapping[str, str], state: Mapping[str, str]) -> Continuation | None:
        """Return how a call goes on whose transfer is over; None if the request is about no transfer."""
        if DIALED not in state or self._journal is None:
            return None
        outcome = _outcome(form, screened=SCREENED in state)
        if CONFERENCE in state and self._warm is not None and not await self._warm.finish(state[CONFERENCE]):
            outcome = "declined"  # the party had left when the caller came
        return await self._transferred(call_sid, state[DIALED], outcome)

    async def _transferred(self, call_sid: str, stream_sid: str, outcome: TransferOutcome) -> Continuation | None:
        """Write down and report what became of the transfer after that media stream; return how the call goes on."""
        if self._journal is None:
            return None
        answer = await self._journal.transferred(call_sid, stream_sid, outcome)
        if (step := answer.transfer) is not None:
            warm = bool(step.conference)
            event = CallTransferred(call_sid=call_sid, to_name=step.name, outcome=outcome, warm=warm)
            self._calls.tell(event, stream_sid)
        return answer

    async def _party(self, form: Mapping[str, str]) -> str:
        """Answer for the other party of a transfer, before it is connected."""
        if "transfer" in form and self._warm is not None:
            return await self._warm.answer(form)
        if "Digits" not in form:
            action = self._verifier.url(PARTY_PATH)
            ask, language = form.get("ask", "")[:MAX_ASK_CHARS], form.get("language", "")[:20]
            words = "" if ask else f"A call for {form.get('name', 'you')[:64]}."
            return twiml.ask_party(words, ask=ask, language=language, action=action)
        return twiml.nothing() if form["Digits"] == twiml.ACCEPT_KEY else twiml.hang_up()

    def _retry(self, form: Mapping[str, str], path: str, query: Mapping[str, str]) -> str | None:
        """Answer that Twilio should request `path` again with that query, so that another process takes the call.

        None after MAX_RETRIES.
        """
        retries = _number(form.get(RETRIES))
        if retries >= MAX_RETRIES:
            return None
        return twiml.ask_again(self._verifier.url(path, query={**query, RETRIES: retries + 1}))

    async def _connect(self, call: Call, earlier: Continuation | None, *, faults: int = 0, since: int) -> str:
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
        transcriber = await self._calls.transcriber(call)
        url = self._verifier.media_url(MEDIA_PATH, call.sid, resumes=earlier is not None, worker=self._worker)
        if transcriber is None:
            return twiml.connect_stream(url, stream_parameters(call), action=action, status_callback=callback)
        return twiml.transcribe_and_dial(
            url,
            stream_parameters(call),
            transcriber.dial,
            caller_id=transcriber.caller_id or self._caller_id(call),
            announcement=transcriber.announcement,
            time_limit_seconds=max(1, round(self._calls.max_seconds(call))),
            status_callback=callback,
        )

    async def _ended(self, call_sid: str, status: str) -> None:
        """Close a call that Twilio reports as over. The report may come before or after our own end of the call.

        Raises:
            StoreError: its end was not recorded.
        """
        reason = f"{'the browser' if is_browser_call(call_sid) else 'Twilio'} reports that it is {status}"
        await self._calls.forget(call_sid)
        if self._warm is not None:
            await self._warm.give_up(call_sid, over=True)
        if not self._calls.end(call_sid, reason) and self._journal is not None:
            await self._journal.settle(call_sid, "caller", reason)


def _outcome(form: Mapping[str, str], *, screened: bool) -> TransferOutcome:
    """Return what Twilio says of a `<Dial>` that is over; a party that was `screened` may have declined."""
    match form.get("DialCallStatus"):
        case "completed" | "answered":
            return "declined" if screened and form.get("DialBridged", "").lower() == "false" else "completed"
        case "busy" | "no-answer" | "failed" | "canceled" as outcome:
            return cast(TransferOutcome, outcome)
        case _:
            return "unknown"


def _of_dial(name: str) -> bool:
    """Tell whether a field of the form is about a `<Dial>`, and not about the call."""
    return name.startswith("Dial")


def _number(text: str | None) -> int:
    """Return a number that `_connect` or `_retry` wrote into a URL; 0 for anything else."""
    return int(text) if text is not None and text.isdecimal() and len(text) < 12 else 0
