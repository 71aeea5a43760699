"""The flow of one call at Twilio: the webhook, the verbs of its TwiML, the stream, and the verbs after it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit, urlunsplit

from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.callbacks import Callbacks
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.messages import Writer
from phoneagent.sim.twilio.quirks import Quirks
from phoneagent.sim.twilio.stream import MediaStream, open_socket
from phoneagent.sim.twilio.twiml import Document, Verb, check_stream, parse
from phoneagent.sim.twilio.webhook import Web, urldefragged

MAX_DOCUMENTS = 50
"""TwiML documents of one call. More than this are taken for a redirect loop."""

PLAY_SECONDS = 1.0
"""The duration of a `<Play>`. The file itself is not fetched."""

DIALLED_SECONDS = 1.0
"""The duration of a `<Dial>`, ringing and talking."""

SPEECH_RATE = 14.0
"""The speed of `<Say>`, in characters per second."""


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
    events of the call that the status callback gets. The REST API can intervene: `complete`, `redirect`.
    """

    line: Line
    web: Web
    fields: Mapping[str, str]
    first: Next | bytes
    delay_ms: float
    status_callback: Next | None
    status_events: frozenset[str] = frozenset({"completed"})
    fallback_url: str | None = None
    quirks: Quirks = field(default_factory=Quirks)
    placed: bool = False
    note_status: Callable[[str], object] = lambda status: None
    _callbacks: Callbacks = field(init=False)
    _up: asyncio.Event = field(default_factory=asyncio.Event)
    _url: str = ""
    _status: str = "ringing"
    _began_at: float = 0.0
    _documents: int = 0
    _stream_end: str | None = None
    _refusal: CallFailed | None = None
    # The verbs in progress, and whether a hang-up or the REST API broke them off.
    _verbs: asyncio.Task[None] | None = None
    _broken_off: bool = False
    _over: bool = False
    _redirected_to: Next | bytes | None = None
    # The action of the Connect or Dial in progress.
    _action: Next | None = None

    def __post_init__(self) -> None:
        self._callbacks = Callbacks(self.line, self.web, self.quirks)

    async def run(self) -> None:
        """Carry out the whole call.

        Raises:
            CallFailed: it ended before a stream was up.
        """
        self._began_at = time.monotonic()
        ended_by = "error"
        self.line.on_break_off(lambda: self._end_by("caller"))
        try:
            if self.placed:
                self._report("initiated", "initiated")
                self._report("ringing", "ringing")
                self._answer()
            await self._follow_documents()
            ended_by = "agent" if self._broken_off else self._stream_end or "agent"
        except CallFailed as failure:
            self._fail(failure)
        finally:
            self.line.end("caller" if self.line.hung_up else ended_by)
            status = "completed" if self._status == "in-progress" else "no-answer"
            self.note_status(status)
            try:
                self._report("completed", status)
                await self._callbacks.finish()
            finally:
                self.line.finish()
        if not self._up.is_set():
            self._fail(self._refusal or CallFailed("the call ended without a media stream"))

    async def wait_up(self, running: asyncio.Task[None]) -> None:
        """Wait until the stream is up. `running` is the task of `run`; its failure is raised here."""
        up = asyncio.create_task(self._up.wait())
        try:
            await asyncio.wait({up, running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if not self._up.is_set():
            await running

    def _fail(self, failure: CallFailed) -> None:
        """Report a failure: as a violation once the call has a stream, as an exception before."""
        if self._up.is_set():
            self.line.report(str(failure))
            return
        failure.verbs, failure.violations = tuple(self.line.verbs), tuple(self.line.violations)
        raise failure

    def _report(self, event: str, status: str) -> None:
        """Deliver an event of the call to its status callback: initiated, ringing, answered or completed."""
        if self.status_callback is None or event not in self.status_events:
            return
        seconds = round(time.monotonic() - self._began_at) if event == "completed" else None
        to = self.status_callback
        self._callbacks.post_status(urljoin(self.web.entry, to.url), self.fields, status, to.method, seconds)

    # Orders of the caller and of the REST API.

    def complete(self) -> None:
        """End the call, as a hang-up does."""
        self._end_by("agent")

    def redirect(self, *, url: str | None, twiml: str | None, method: str) -> None:
        """Break off the verbs in progress, and continue with other TwiML: that of `url`, or `twiml` itself."""
        self._redirected_to = Next(url, method) if url else (twiml or "").encode()
        self._break_off("agent")

    def notify(self, url: str, fields: Mapping[str, str], method: str) -> None:
        """Deliver a status callback of the REST API's."""
        self._callbacks.post(urljoin(self.web.entry, url), fields, method)

    def _end_by(self, by: str) -> None:
        self._over = True
        self._break_off(by)

    def _break_off(self, by: str) -> None:
        """End the verb in progress: a stream with `stop` and a close, any other verb at once."""
        self._broken_off = True
        if self.line.stream is not None:
            self.line.stream.hang_up(by)
        elif self._verbs is not None:
            self._verbs.cancel()

    async def _follow_documents(self) -> None:
        """Carry out the webhook's document and those that follow from it, and then each redirect of the REST API."""
        upcoming: Next | bytes | None = self.first
        while upcoming is not None and not self._over:
            self._broken_off = False
            self._verbs = asyncio.create_task(self._carry_out(upcoming))
            try:
                await self._verbs
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if not self._broken_off or (current is not None and current.cancelling()):
                    raise
            upcoming, self._redirected_to = self._redirected_to, None
            await self._request_action(redirected=not self._over)

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
        return await self._fetch(Next(urljoin(self.web.entry, self.fallback_url), "POST", fields))

    async def _fetch(self, wanted: Next | bytes) -> Document:
        if isinstance(wanted, bytes):
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
                    raise CallFailed(f"the call was rejected: {verb.attributes.get('reason', 'rejected')}")
                case "Reject" | "Hangup":
                    return None
                case "Redirect":
                    return self._next(verb.text, verb.attributes)
                case "Connect" | "Dial":
                    self._answer()
                    if action := await self._connect_or_dial(verb):
                        return action
                    if self._broken_off:
                        return None
                case "Pause":  # one before the first sound does not answer the call
                    await asyncio.sleep(float(verb.attributes.get("length", "1")))
                case _:
                    self._answer()
                    await self._announce(verb)
        return None

    async def _announce(self, verb: Verb) -> None:
        """Carry out a Say or Play."""
        times = max(int(verb.attributes.get("loop", "1")), 1)
        seconds = times * (len(verb.text) / SPEECH_RATE if verb.name == "Say" else PLAY_SECONDS)
        if not seconds or "digits" in verb.attributes:  # nothing that a caller would take for a greeting
            await asyncio.sleep(seconds)
            return
        with self.line.announcing(verb.name, verb.text if verb.name == "Say" else ""):
            await asyncio.sleep(seconds)

    def _answer(self) -> None:
        """Answer the call, unless it is already answered."""
        if self._status == "ringing":
            self._status = "in-progress"
            self.note_status(self._status)
            self._report("answered", self._status)

    def _next(self, url: str, attributes: Mapping[str, str], fields: Mapping[str, str] | None = None) -> Next:
        return Next(urljoin(self._url, url), attributes.get("method", "POST"), fields or {})

    async def _connect_or_dial(self, verb: Verb) -> Next | None:
        """Carry out a Connect or Dial; return its action, None if it has none or was broken off."""
        fields = {} if verb.name == "Connect" else _dialled(self.line.dial_status)
        if "action" in verb.attributes:
            self._action = self._next(verb.attributes["action"], verb.attributes, fields)
        if verb.name == "Connect":
            await self._connect(verb)
        else:
            await asyncio.sleep(DIALLED_SECONDS)  # the other party answers and soon hangs up; the caller stays
        if self._broken_off:
            return None
        action, self._action = self._action, None
        return action

    async def _connect(self, connect: Verb) -> None:
        if not connect.children:
            return  # the parser has raised the alert
        element = connect.children[0]
        sid = "MZ" + secrets.token_hex(16)
        try:
            self._stream_end = await self._stream(element, sid)
        except CallFailed as failure:
            # Twilio continues with the next verb, which may bring a stream after all.
            self._stream_end = "error"
            self._refusal = self._refusal or failure
            self.line.report(str(failure))
            self._post_stream(element, sid, "stream-error", failure.reason)

    async def _stream(self, element: Verb, sid: str) -> str:
        """Run one media stream to its end; return its `ended_by`."""
        attributes = element.attributes
        url = urljoin(_websocket(self._url), attributes.get("url", "")) if attributes.get("url") else ""
        check_stream(element, url, allow_ws=self.web.allows_ws)
        at = urlsplit(self.web.local(url))
        socket = await open_socket(
            urlunsplit((at.scheme, urlsplit(url).netloc, at.path, "", "")),
            host=at.hostname or "",
            port=at.port or (443 if at.scheme == "wss" else 80),
            headers={**self.web.signature(url, {}), **self.web.forwarded(url)},
        )
        stream = MediaStream(
            socket, Writer(sid, self.line.call_sid, self.line.account_sid), sid, self.line, delay_ms=self.delay_ms
        )
        parameters = [child.attributes for child in element.children if {"name", "value"} <= child.attributes.keys()]
        self.line.attach(stream, await stream.start({each["name"]: each["value"] for each in parameters}))
        self._post_stream(element, sid, "stream-started")
        self._up.set()
        try:
            ended_by = await stream.run()
        finally:
            self.line.detach()
        if ended_by in {"line", "error"}:
            self._post_stream(element, sid, "stream-error", "the connection was lost")
        else:
            self._post_stream(element, sid, "stream-stopped")
        return ended_by

    def _post_stream(self, element: Verb, sid: str, event: str, error: str | None = None) -> None:
        if url := element.attributes.get("statusCallback"):
            method = element.attributes.get("statusCallbackMethod", "POST")
            name = element.attributes.get("name", sid)
            self._callbacks.post_stream(urljoin(self._url, url), method, sid, name, event, error)


def _dialled(status: str) -> dict[str, str]:
    """Return the fields that the action of a Dial gets."""
    return {"DialCallStatus": status, "DialCallDuration": str(round(DIALLED_SECONDS)) if status == "completed" else "0"}


def _websocket(url: str) -> str:
    """Return a document's address with a WebSocket scheme, the base of a relative Stream url."""
    return "ws" + url.removeprefix("http")
