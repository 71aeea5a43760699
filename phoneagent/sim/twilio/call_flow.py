"""The flow of one call at Twilio: the webhook, the verbs of its TwiML, the stream, and the verbs after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

from phoneagent.sim.twilio import dial, gather
from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.call_streams import CallStreams
from phoneagent.sim.twilio.callbacks import Callbacks
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.network import Network
from phoneagent.sim.twilio.quirks import Quirks
from phoneagent.sim.twilio.twiml import Document, Verb, parse
from phoneagent.sim.twilio.webhook import Web, urldefragged

MAX_DOCUMENTS = 50
"""How many TwiML documents one call may have. More than this count as a redirect loop."""

PLAY_SECONDS = 1.0
"""The duration of a `<Play>`. The file itself is not fetched."""

MAX_CALL_SECONDS = 4 * 3600.0
"""The default time limit of a call that a client makes."""

_SIP_CODES = {"completed": "200", "busy": "486", "failed": "404", "no-answer": "487", "canceled": "487"}

MAX_TIMES = 1000
"""How often a Say or Play is repeated if its `loop` is 0."""

CONDUCT_SECONDS = 5.0
"""How long the conduct of a far end that has waited for the end of its call may go on after it."""

SPEECH_RATE = 14.0
"""The speed of `<Say>`, in characters per second."""


class FarEnd(Protocol):
    """The callee of a placed call."""

    async def ring(self) -> str:
        """Ring, and return the call's status: in-progress once it is answered."""

    async def answer(self, line: Line, notify: Callable[[str, Mapping[str, str], str], None]) -> None:
        """Act as the party on the answered call until it is over. `notify` delivers a callback.

        An exception ends the call, and `CallFlow.run` raises it.
        """


@dataclass(frozen=True, slots=True)
class Next:
    """A document to request, with extra form fields."""

    url: str
    method: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class CallFlow:
    """Drives `line` through a call, from its `first` document on. `fields` are the form fields of its requests.

    A call that is `placed` by the REST API is answered before that document is requested. `status_events` are the
    events of the call that the status callback gets. The REST API can intervene: `complete`, `redirect`. The leg of a
    dialed party has a `talk`, which follows its documents; `caller_ids` are the numbers that a Dial may show.
    """

    line: Line
    web: Web
    fields: Mapping[str, str]
    first: Next | bytes
    delay_ms: float
    status_callback: Next | None
    status_events: frozenset[str] = frozenset({"completed"})
    fallback_url: str | None = None
    fallback_method: str = "POST"
    quirks: Quirks = field(default_factory=Quirks)
    placed: bool = False
    far_end: FarEnd | None = None
    time_limit: float = MAX_CALL_SECONDS
    network: Network | None = None
    caller_ids: Callable[[], frozenset[str]] | None = None
    talk: Callable[[], Coroutine[Any, Any, None]] | None = None
    needs_stream: bool = True
    note_status: Callable[[str], object] = lambda status: None
    _callbacks: Callbacks = field(init=False)
    _streams: CallStreams = field(init=False)
    _url: str = ""
    _status: str = "ringing"
    _answered_at: float | None = None
    _documents: int = 0
    # The verbs in progress, and whether a hang-up or the REST API broke them off.
    _verbs: asyncio.Task[Any] | None = None
    _broken_off: bool = False
    _over: bool = False
    _hung_up: bool = False
    _redirected_to: Next | bytes | None = None
    # The action of the Connect or Dial in progress.
    _action: Next | None = None
    # The task of a placed call's far end, and when its time is up.
    _conduct: asyncio.Task[None] | None = None
    _limit: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self._callbacks = Callbacks(self.line, self.web, self.quirks)
        self._streams = CallStreams(self.line, self.web, self._callbacks, self.delay_ms)

    async def run(self) -> None:
        """Carry out the whole call.

        Raises:
            CallFailed: it ended before a stream was up.
            Exception: what the far end raised.
        """
        ended_by = "error"
        self.line.on_break_off(lambda: self._end_by("caller"))
        try:
            if self.placed:
                self._report("initiated", "initiated")
                self._report("ringing", "ringing")
                await self._ring()
                if self._answered_at is not None:
                    self._limit = asyncio.get_running_loop().call_later(self.time_limit, self.complete)
            await self._follow_documents()
            await self._connected()
            ended_by = "agent" if self._broken_off else self._streams.ended_by or "agent"
        except CallFailed as failure:
            self._answer()  # unless it was rejected, the caller hears of an application error
            self._fail(failure)
        finally:
            await self._streams.end_started()
            self.line.end("caller" if self.line.hung_up else ended_by)
            if self._limit is not None:
                self._limit.cancel()
            status = self.status
            self.note_status(status)
            try:
                self._report("completed", status)
                await self._callbacks.finish()
            finally:
                self.line.finish()
                await self._end_conduct()
        if self.needs_stream and not self._streams.up.is_set() and self._status not in _SIP_CODES:
            self._fail(self._streams.refusal or CallFailed("the call ended without a media stream"))

    async def _ring(self) -> None:
        """Ring the far end of a placed call until it answers. Without one, the call is answered at once."""
        if self.far_end is None:
            self._answer()
            return
        self._verbs = ringing = asyncio.create_task(self.far_end.ring())
        try:
            status = await ringing
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if not self._broken_off or (current is not None and current.cancelling()):
                raise
            status = "canceled"
        if status != "in-progress":
            self._status, self._over = status, True
            return
        self._answer()
        self._conduct = asyncio.create_task(self.far_end.answer(self.line, self.notify))
        self._conduct.add_done_callback(self._conducted)

    def _conducted(self, conduct: asyncio.Task[None]) -> None:
        """End the call if its far end has failed, because it can no longer hang up."""
        if not conduct.cancelled() and conduct.exception() is not None and self.line.ended_by is None:
            self.line.hung_up = True
            self._end_by("caller")

    async def _end_conduct(self) -> None:
        """End the far end's task, after what it does once the end that it waits for has come; raise its failure."""
        if (conduct := self._conduct) is None:
            return
        try:
            if self.line.awaited_by(conduct):
                await asyncio.wait({conduct}, timeout=CONDUCT_SECONDS)
        finally:
            conduct.cancel()
            await asyncio.wait({conduct})
            if not conduct.cancelled():
                conduct.result()

    @property
    def status(self) -> str:
        """Twilio's CallStatus of the call, which is over."""
        return {"in-progress": "completed", "ringing": "no-answer"}.get(self._status, self._status)

    def leg(
        self,
        line: Line,
        fields: Mapping[str, str],
        whisper: Verb | None,
        *,
        far_end: FarEnd,
        talk: Callable[[], Coroutine[Any, Any, None]],
        time_limit: float,
    ) -> CallFlow:
        """Return the flow of a dialed party's leg: the `whisper`'s document, and then `talk`."""
        first: Next | bytes = b"<Response/>"
        if whisper is not None:
            first = self.following(whisper.attributes["url"], whisper.attributes)
        leg = CallFlow(line, self.web, fields, first, self.delay_ms, None, quirks=self.quirks, placed=True)
        leg.far_end, leg.network, leg.talk, leg.needs_stream = far_end, self.network, talk, False
        leg.time_limit = time_limit
        return leg

    async def _connected(self) -> None:
        """Connect to the call that has dialed this one, if the documents have not hung up."""
        if self.talk is None or self._over or self._hung_up or self._status != "in-progress":
            return
        self._verbs = asyncio.create_task(self.talk())
        await self._until_broken_off(self._verbs)

    async def wait_up(self, running: asyncio.Task[None]) -> None:
        """Wait until the stream is up. `running` is the task of `run`; its failure is raised here."""
        up = asyncio.create_task(self._streams.up.wait())
        try:
            await asyncio.wait({up, running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if not self._streams.up.is_set():
            await running

    def _fail(self, failure: CallFailed) -> None:
        """Report a failure: as a violation once the call has a stream, as an exception before."""
        if self._streams.up.is_set():
            self.line.report(str(failure))
            return
        failure.verbs, failure.violations = tuple(self.line.verbs), tuple(self.line.violations)
        raise failure

    def _report(self, event: str, status: str) -> None:
        """Deliver an event of the call to its status callback: initiated, ringing, answered or completed."""
        if self.status_callback is None or event not in self.status_events:
            return
        seconds = None
        if event == "completed":
            seconds = 0 if self._answered_at is None else round(time.monotonic() - self._answered_at)
        to = self.status_callback
        code = {"SipResponseCode": _SIP_CODES[status]} if self.placed and event == "completed" else {}
        self._callbacks.post_status(
            urljoin(self.web.entry, to.url), {**self.fields, **code}, status, to.method, seconds
        )

    # Orders of the caller and of the REST API.

    def complete(self) -> None:
        """End the call, as a hang-up does."""
        self._end_by("agent")

    def redirect(self, *, url: str | None, twiml: str | None, method: str) -> None:
        """Break off the verbs in progress, and continue with other TwiML: that of `url`, or `twiml` itself."""
        self._redirected_to = Next(url, method) if url else (twiml or "").encode()
        self._break_off("agent")

    def notify(self, url: str, fields: Mapping[str, str], method: str) -> None:
        """Deliver a status callback of the REST API."""
        self._callbacks.post(urljoin(self.web.entry, url), fields, method)

    def _end_by(self, by: str) -> None:
        self._over = True
        self._break_off(by)

    def _break_off(self, by: str) -> None:
        """End the verb in progress: a stream with `stop` and a close, any other verb at once."""
        self._broken_off = True
        if self.line.stream is not None and not self._streams.beside:
            self.line.stream.hang_up(by)
        elif self._verbs is not None:
            self._verbs.cancel()

    async def _follow_documents(self) -> None:
        """Carry out the webhook's document and those that follow from it, and then each redirect of the REST API."""
        upcoming: Next | bytes | None = self.first
        while upcoming is not None and not self._over:
            self._broken_off = False
            self._verbs = asyncio.create_task(self._carry_out(upcoming))
            await self._until_broken_off(self._verbs)
            upcoming, self._redirected_to = self._redirected_to, None
            await self._request_action(redirected=not self._over)

    async def _until_broken_off(self, task: asyncio.Task[None]) -> None:
        """Wait for a task that a hang-up or the REST API may cancel."""
        try:
            await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if not self._broken_off or (current is not None and current.cancelling()):
                raise

    async def _request_action(self, *, redirected: bool) -> None:
        """Request the action of the verb that was broken off, if the quirks say so, and ignore the answer."""
        action, self._action = self._action, None
        if action is None or not self._broken_off:
            return
        if self.quirks.action_after_update if redirected else self.quirks.action_after_hang_up:
            status = self._status if redirected else "completed"
            try:
                await self.web.request(
                    action.url, {**self.fields, "CallStatus": status, **action.fields}, action.method
                )
            except CallFailed as failure:
                self.line.report(f"{failure} (action)")

    # Documents and verbs.

    async def _carry_out(self, upcoming: Next | bytes) -> None:
        following: Next | bytes | None = upcoming
        while following is not None:
            self._documents += 1
            if self._documents > MAX_DOCUMENTS:
                words = f"more than {MAX_DOCUMENTS} TwiML documents; do they redirect in a circle?"
                raise CallFailed(words, code=11215)
            following = await self._verbs_of(await self._document(following))
        self._answer()  # even if there was nothing to do

    async def _document(self, wanted: Next | bytes) -> Document:
        """Return a document; if that fails, the fallback's, once.

        Raises:
            CallFailed: neither gave a document.
        """
        try:
            return await self._fetch(wanted)
        except CallFailed as failure:
            if self.fallback_url is None:
                raise
            self.line.report(str(failure))
            failed = wanted.url if isinstance(wanted, Next) else self._url
            fields = {"ErrorCode": str(failure.code), "ErrorUrl": urldefragged(failed)}
        return await self._fetch(Next(urljoin(self.web.entry, self.fallback_url), self.fallback_method, fields))

    async def _fetch(self, wanted: Next | bytes) -> Document:
        if isinstance(wanted, bytes):
            self._url = ""
            document = parse(wanted, "text/xml")
        else:
            fields = {**self.fields, "CallStatus": self._status, **wanted.fields}
            answer = await self.web.request(wanted.url, fields, wanted.method)
            self._url = answer.url
            document = parse(answer.body, answer.content_type)
        for violation in document.alerts:
            self.line.report(violation)
        return document

    async def _verbs_of(self, document: Document) -> Next | None:
        """Carry out one document; return the next one to request, None at the end of the call."""
        for verb in document.verbs:
            if not verb.simulated:
                raise CallFailed(f"<{verb.name}> is more than the simulated phone can carry out")
            self.line.verbs.append(f"{verb.name} {verb.attributes.get('length', verb.text)}".strip())
            match verb.name:
                case "Reject" if self._status == "ringing":
                    reason = verb.attributes.get("reason", "rejected")
                    self._status = "busy" if reason == "busy" else "no-answer"
                    raise CallFailed(f"the call was rejected: {reason}")
                case "Reject" | "Hangup":
                    self._answer()
                    self._hung_up = True
                    return None
                case "Gather":
                    self._answer()
                    if action := await self._gather(verb):
                        return action
                case "Redirect":
                    return self.following(verb.text, verb.attributes)
                case "Start":
                    await self._streams.start(verb, self._url)
                case "Connect" | "Dial" if self.talk is not None:
                    raise CallFailed(f"<{verb.name}> before a dialed party is connected", code=13201)
                case "Connect" | "Dial":
                    self._answer()
                    if action := await self._connect_or_dial(verb):
                        return action
                    if self._broken_off:
                        return None
                case "Pause":  # before the first sound, it does not answer the call
                    await asyncio.sleep(float(verb.attributes.get("length", "1")))
                case _:
                    self._answer()
                    await self._announce(verb)
        return None

    async def _announce(self, verb: Verb) -> None:
        """Carry out a Say or Play."""
        times = int(verb.attributes.get("loop", "1")) or MAX_TIMES
        seconds = times * (len(verb.text) / SPEECH_RATE if verb.name == "Say" else PLAY_SECONDS)
        if not seconds or "digits" in verb.attributes:  # not a sound that a caller would take for a greeting
            await asyncio.sleep(seconds)
            return
        with self.line.announcing(verb.name, verb.text if verb.name == "Say" else ""):
            await asyncio.sleep(seconds)

    def _answer(self) -> None:
        """Answer the call, unless it is already answered."""
        if self._status == "ringing":
            self._status, self._answered_at = "in-progress", time.monotonic()
            self.note_status(self._status)
            self._report("answered", self._status)

    def following(self, url: str, attributes: Mapping[str, str], fields: Mapping[str, str] | None = None) -> Next:
        """Return the document that a verb with these attributes names in its `url`.

        Raises:
            CallFailed: the address is relative, and the TwiML has none itself.
        """
        if not self._url and not urlsplit(url).scheme:
            raise CallFailed("inline TwiML has no address of its own, so its URLs must be absolute", code=11100)
        return Next(urljoin(self._url, url), attributes.get("method", "POST"), fields or {})

    async def _connect_or_dial(self, verb: Verb) -> Next | None:
        """Carry out a Connect or Dial; return its action, None if it has none or was broken off."""
        if "action" in verb.attributes:
            fields = {} if verb.name == "Connect" else {"DialCallStatus": "completed"}
            self._action = self.following(verb.attributes["action"], verb.attributes, fields)
        fields = {}
        if verb.name == "Connect":
            await self._streams.connect(verb, self._url)
        else:
            # If a Start did not open, the two people would talk on, and a test would wait for its stream in vain.
            self.needs_stream = self.needs_stream and self._streams.beside
            fields = await dial.carry_out(self, verb, streaming=self._streams.beside and self.line.stream is not None)
        if self._broken_off:
            return None
        action, self._action = self._action, None
        return None if action is None else replace(action, fields=fields)

    async def _gather(self, verb: Verb) -> Next | None:
        """Carry out a Gather; return its action with the digits, None if there are none."""
        self.needs_stream = False
        digits = await gather.carry_out(self.line, verb, self._announce)
        if not digits and verb.attributes.get("actionOnEmptyResult") != "true":
            return None
        return self.following(verb.attributes.get("action", self._url), verb.attributes, {"Digits": digits})
