"""The media streams of one call: that of a `<Connect>`, or that of a `<Start>`, which runs alongside later verbs."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit, urlunsplit

from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.callbacks import Callbacks
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.messages import Writer
from phoneagent.sim.twilio.stream import MediaStream, open_socket
from phoneagent.sim.twilio.twiml import TRACKS, Verb, check_stream
from phoneagent.sim.twilio.webhook import Web


@dataclass(slots=True)
class CallStreams:
    """Opens and runs the streams of a call, one at a time, and reports them to their status callbacks.

    `up` is set once the first one is up. `ended_by` is the end of the latest one, as in `Line`; `refusal` is why the
    first failed one did not open. A `base` is the URL of the document that a verb is from.
    """

    line: Line
    web: Web
    callbacks: Callbacks
    delay_ms: float
    up: asyncio.Event = field(default_factory=asyncio.Event)
    ended_by: str | None = None
    refusal: CallFailed | None = None
    _started: asyncio.Task[None] | None = None

    @property
    def beside(self) -> bool:
        """Whether the call's stream is that of a Start, which only the end of the call ends."""
        return self._started is not None

    async def connect(self, connect: Verb, base: str) -> None:
        """Carry out a Connect. A stream that does not open is reported, and Twilio continues with the next verb."""
        if not connect.children:
            return  # the parser has raised the alert
        if self._started is not None:
            raise CallFailed("two streams at a time are more than the simulated phone can carry out")
        stream = _Stream(connect.children[0], base)
        try:
            self.ended_by = await self._run(stream)
        except CallFailed as failure:
            self.ended_by = "error"
            self._refuse(stream, failure)

    async def start(self, start: Verb, base: str) -> None:
        """Carry out a Start: its stream runs alongside the verbs that follow, which run even if it does not open."""
        if not start.children:
            return  # the parser has raised the alert
        if self.line.stream is not None:
            raise CallFailed("two streams at a time are more than the simulated phone can carry out")
        stream, up = _Stream(start.children[0], base), asyncio.Event()

        async def run() -> None:
            try:
                self.ended_by = await self._run(stream, up)
            except CallFailed as failure:
                self._refuse(stream, failure)
            finally:
                up.set()

        self._started = asyncio.create_task(run())
        await up.wait()

    async def end_started(self) -> None:
        """End the stream of a Start with the call."""
        if self._started is not None:
            if self.line.stream is not None:
                self.line.stream.hang_up("caller" if self.line.hung_up else "agent")
            else:  # it is over, or its handshake is under way
                self._started.cancel()
            await asyncio.gather(self._started, return_exceptions=True)

    async def _run(self, wanted: _Stream, started: asyncio.Event | None = None) -> str:
        """Run one media stream to its end; return its `ended_by`. That of a Start sets `started` once it is up."""
        attributes = wanted.element.attributes
        url = wanted.url
        check_stream(wanted.element, url, allow_ws=self.web.allows_ws, started=started is not None)
        at = urlsplit(self.web.local(url))
        socket = await open_socket(
            urlunsplit((at.scheme, urlsplit(url).netloc, at.path, "", "")),
            host=at.hostname or "",
            port=at.port or (443 if at.scheme == "wss" else 80),
            headers={**self.web.signature(url, {}), **self.web.forwarded(url)},
        )
        microphones = {"inbound": self.line.microphone, "outbound": self.line.callee}
        tracks = TRACKS[attributes.get("track", "inbound_track")]
        stream = MediaStream(
            socket,
            Writer(wanted.sid, self.line.call_sid, self.line.account_sid),
            wanted.sid,
            self.line,
            delay_ms=self.delay_ms,
            tracks=None if started is None else {track: microphones[track] for track in tracks},
        )
        self.line.attach(stream, await stream.start(wanted.parameters))
        self._post(wanted, "stream-started")
        self.up.set()
        if started is not None:
            started.set()
        try:
            ended_by = await stream.run()
        finally:
            self.line.detach()
        if ended_by in {"line", "error"}:
            self._post(wanted, "stream-error", "the connection was lost")
        else:
            self._post(wanted, "stream-stopped")
        return ended_by

    def _refuse(self, stream: _Stream, failure: CallFailed) -> None:
        """Report a stream that did not open."""
        self.refusal = self.refusal or failure
        self.line.report(str(failure))
        self._post(stream, "stream-error", failure.reason)

    def _post(self, stream: _Stream, event: str, error: str | None = None) -> None:
        attributes = stream.element.attributes
        if (url := attributes.get("statusCallback")) is None:
            return
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:  # unlike other URLs, it is never relative
            self.line.report(f"a Stream's statusCallback must be an absolute URL, and {url[:40]!r} is not one")
            return
        method, name = attributes.get("statusCallbackMethod", "POST"), attributes.get("name", stream.sid)
        self.callbacks.post_stream(url, method, stream.sid, name, event, error)


@dataclass(frozen=True, slots=True)
class _Stream:
    """A `<Stream>` in the document at `base`, and the sid that its media stream gets."""

    element: Verb
    base: str
    sid: str = field(default_factory=lambda: "MZ" + secrets.token_hex(16))

    @property
    def url(self) -> str:
        """The URL of the socket; "" if there is none. A relative one refers to the document's server."""
        url = self.element.attributes.get("url")
        return urljoin("ws" + self.base.removeprefix("http"), url) if url else ""

    @property
    def parameters(self) -> dict[str, str]:
        """The custom parameters."""
        found = [each.attributes for each in self.element.children if {"name", "value"} <= each.attributes.keys()]
        return {each["name"]: each["value"] for each in found}
