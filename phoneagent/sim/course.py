"""The course of one call at Twilio: the webhook, the verbs of its TwiML, the stream, and what follows it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import urljoin, urlsplit, urlunsplit

from phoneagent.sim.alerts import CallFailed
from phoneagent.sim.line import Line
from phoneagent.sim.messages import Writer
from phoneagent.sim.stream import MediaStream, open_socket
from phoneagent.sim.twiml import Document, Verb, check_stream, parse
from phoneagent.sim.webhook import Web

MOST_DOCUMENTS = 50
"""TwiML documents of one call: more than that are redirects in a circle."""

PLAY_SECONDS = 1.0
"""A `<Play>` takes this long; the file itself is not fetched."""

DIALLED_SECONDS = 1.0
"""How long a dialled party rings and talks."""

SPEECH_RATE = 14.0
"""Characters that `<Say>` speaks in a second."""


@dataclass(frozen=True, slots=True)
class _Next:
    """Where the call goes on: a document to ask for, with what is told beyond the usual fields."""

    url: str
    method: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Course:
    """Drives `line` through a call. `fields` are the form fields of its webhook."""

    line: Line
    web: Web
    fields: Mapping[str, str]
    method: str
    delay_ms: float
    status_callback: str | None
    _up: asyncio.Event = field(default_factory=asyncio.Event)
    _url: str = ""
    _status: str = "ringing"
    _stream_end: str | None = None
    _refusal: CallFailed | None = None
    _callbacks: set[asyncio.Task[None]] = field(default_factory=set)
    _in_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        """Carry out the whole call.

        Raises:
            CallFailed: it ended before a stream was up.
        """
        began = time.monotonic()
        ended_by = "error"
        verbs = asyncio.create_task(self._carry_out())
        self.line.on_break_off(verbs.cancel)
        try:
            await verbs
            ended_by = self._stream_end or "agent"
        except asyncio.CancelledError:
            if not self.line.hung_up:
                raise
        except CallFailed as failure:
            self._fail(failure)
        finally:
            self.line.end("caller" if self.line.hung_up else ended_by)
            try:
                self._post_completed(began)
                await asyncio.gather(*self._callbacks)
            finally:
                for callback in self._callbacks:
                    callback.cancel()
                self.line.finish()
        if not self._up.is_set():
            self._fail(self._refusal or CallFailed("the call ended without a media stream"))

    async def wait_up(self, running: asyncio.Task[None]) -> None:
        """Wait until the stream is up; `running` is the task of `run`, whose failure is raised here."""
        up = asyncio.create_task(self._up.wait())
        try:
            await asyncio.wait({up, running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if not self._up.is_set():
            await running

    def _fail(self, failure: CallFailed) -> None:
        """A call that is up has a violation more; one that is not comes to nothing."""
        if self._up.is_set():
            self.line.report(str(failure))
            return
        failure.verbs, failure.violations = tuple(self.line.verbs), tuple(self.line.violations)
        raise failure

    # Documents and verbs.

    async def _carry_out(self) -> None:
        upcoming: _Next | None = _Next(self.web.entry, self.method)
        for _ in range(MOST_DOCUMENTS):
            if upcoming is None:
                return
            upcoming = await self._verbs(await self._fetch(upcoming))
        raise CallFailed(f"more than {MOST_DOCUMENTS} TwiML documents; do they redirect in a circle?", code=11215)

    async def _fetch(self, wanted: _Next) -> Document:
        fields = {**self.fields, "CallStatus": self._status, **wanted.fields}
        answer = await self.web.request(wanted.url, fields, wanted.method)
        self._url = answer.url
        document = parse(answer.body, answer.content_type)
        for violation in document.alerts:
            self.line.report(violation)
        return document

    async def _verbs(self, document: Document) -> _Next | None:
        """Carry out one document; return the next one to ask for, or None when the call is over."""
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
                    self._status = "in-progress"
                    fields = await (self._connect(verb) if verb.name == "Connect" else self._dial())
                    if self.line.hung_up:
                        return None
                    if "action" in verb.attributes:
                        return self._next(verb.attributes["action"], verb.attributes, fields)
                case _:
                    self._status = "in-progress"
                    await asyncio.sleep(_seconds(verb))
        return None

    def _next(self, url: str, attributes: Mapping[str, str], fields: Mapping[str, str] | None = None) -> _Next:
        return _Next(urljoin(self._url, url), attributes.get("method", "POST"), fields or {})

    async def _dial(self) -> dict[str, str]:
        """The other party answers, and hangs up soon; the caller stays."""
        await asyncio.sleep(DIALLED_SECONDS)
        duration = str(round(DIALLED_SECONDS)) if self.line.dial_status == "completed" else "0"
        return {"DialCallStatus": self.line.dial_status, "DialCallDuration": duration}

    async def _connect(self, connect: Verb) -> dict[str, str]:
        if not connect.children:
            return {}  # reading it has raised the alert
        element = connect.children[0]
        sid = "MZ" + secrets.token_hex(16)
        try:
            self._stream_end = await self._stream(element, sid)
        except CallFailed as failure:
            # Twilio goes on with the next verb; whether that saves the call is the document's affair.
            self._stream_end = "error"
            self._refusal = self._refusal or failure
            self.line.report(str(failure))
            self._post_stream(element, sid, "stream-error", failure.reason)
        return {}

    async def _stream(self, element: Verb, sid: str) -> str:
        """Run one media stream to its end; return who ended it."""
        attributes = element.attributes
        url = urljoin(_websocket(self._url), attributes.get("url", "")) if attributes.get("url") else ""
        check_stream(element, url, allow_ws=self.web.allows_ws)
        at = urlsplit(self.web.local(url))
        socket = await open_socket(
            urlunsplit((at.scheme, urlsplit(url).netloc, at.path, "", "")),
            host=at.hostname or "",
            port=at.port or (443 if at.scheme == "wss" else 80),
            headers=self.web.signature(url, {}),
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

    # Callbacks: one after another, beside the call.

    def _post_stream(self, element: Verb, sid: str, event: str, error: str | None = None) -> None:
        url = element.attributes.get("statusCallback")
        if not url:
            return
        now = time.time_ns()
        stamp = datetime.fromtimestamp(now // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{now % 10**9:09d}Z"
        fields = {
            "AccountSid": self.line.account_sid,
            "CallSid": self.line.call_sid,
            "StreamSid": sid,
            "StreamName": element.attributes.get("name", sid),
            "StreamEvent": event,
            "Timestamp": stamp,
        }
        if error is not None:
            fields["StreamError"] = error
        self._post(urljoin(self._url, url), fields, element.attributes.get("statusCallbackMethod", "POST"))

    def _post_completed(self, began: float) -> None:
        if self.status_callback is None:
            return
        seconds = round(time.monotonic() - began)
        fields = {
            **self.fields,
            "CallStatus": "completed" if self._status == "in-progress" else "no-answer",
            "Timestamp": format_datetime(datetime.now(UTC)),
            "CallbackSource": "call-progress-events",
            "SequenceNumber": "0",
            "CallDuration": str(seconds),
            "Duration": str(seconds // 60 + 1),
        }
        self._post(urljoin(self.web.entry, self.status_callback), fields, "POST")

    def _post(self, url: str, fields: Mapping[str, str], method: str) -> None:
        async def post() -> None:
            async with self._in_turn:
                try:
                    await self.web.request(url, fields, method)
                except CallFailed as failure:
                    self.line.report(f"{failure} (status callback)")

        self._callbacks.add(asyncio.create_task(post()))


def _seconds(verb: Verb) -> float:
    """How long a verb takes that only sounds, in seconds."""
    times = max(int(verb.attributes.get("loop", "1")), 1)
    if verb.name == "Pause":
        return float(verb.attributes.get("length", "1"))
    return times * (len(verb.text) / SPEECH_RATE if verb.name == "Say" else PLAY_SECONDS)


def _websocket(url: str) -> str:
    """The address of a document with a WebSocket's scheme: what a relative Stream url is relative to."""
    return "ws" + url.removeprefix("http")
