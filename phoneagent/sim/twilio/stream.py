"""The media socket of a call, from Twilio's end: a frame out every 20 ms; audio, marks and clears in.

One task writes and one reads. The writer keeps the frame clock: frame n of the call holds the speech from n x 20 to
(n + 1) x 20 ms after the stream's start. It leaves at the end of that time, plus the line's delay.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, assert_never
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI

from phoneagent.sim.twilio.alerts import CallFailed, alert
from phoneagent.sim.twilio.faults import no_connection, tls_failure
from phoneagent.sim.twilio.messages import MAX_MESSAGE_BYTES, Mark, Media, Wipe, Writer, read
from phoneagent.sim.twilio.microphone import FRAME_MS, Microphone
from phoneagent.sim.twilio.playout import Playout

FRAME_SECONDS = FRAME_MS / 1000

CONNECT_SECONDS = 5.0

CLOSE_SECONDS = 2.0
"""The time that the server gets to answer our closing frame; then the connection is cut."""

CONGESTED_SECONDS = 5.0
"""A server that does not read for this long is congested: frames are dropped."""

_USER_AGENT = "Twilio.TmeWs/1.0"


class StreamOwner(Protocol):
    """The owner of a stream (`Line`): its speech, its playback, and the faults of the line."""

    microphone: Microphone
    playout: Playout
    sent_log: list[float]
    media_paused: bool
    lose_marks: bool
    stall_reading: bool
    mark_delay_ms: float

    def report(self, violation: str) -> None:
        """Record a rule that the server broke."""

    def note(self) -> None:
        """Wake the owner's waiting methods: something has changed."""


class _NoRedirect(connect):
    """A client without redirects: Twilio treats any answer but 101 as a refusal."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def open_socket(url: str, *, host: str, port: int, headers: dict[str, str]) -> ClientConnection:
    """Open a WebSocket as Twilio does. The connection goes to `host` and `port`, with the name in `url` as `Host`.

    Raises:
        CallFailed: the server did not accept it; `status` is its HTTP status if it gave one.
    """
    parts = urlsplit(url)
    dialled = f"{parts.scheme}://{parts.netloc} at {host}:{port}"  # the path may carry a token
    try:
        return await _NoRedirect(
            url,
            origin=None,
            compression=None,
            user_agent_header=_USER_AGENT,
            additional_headers={"Accept-Encoding": "gzip", **headers},
            proxy=None,
            open_timeout=CONNECT_SECONDS,
            ping_interval=None,
            close_timeout=CLOSE_SECONDS,
            max_size=MAX_MESSAGE_BYTES,
            host=host,
            port=port,
        )
    except InvalidStatus as error:
        status = error.response.status_code
        raise CallFailed(f"{dialled} answered HTTP {status}, not 101", status=status, code=31920) from None
    except InvalidMessage as error:
        raise CallFailed(f"{dialled} closed the connection during the handshake", code=31920) from error
    except (InvalidHandshake, InvalidURI) as error:
        raise CallFailed(f"the handshake with {dialled} failed: {error}", code=31920) from error
    except TimeoutError:
        raise CallFailed(f"no answer from {dialled} within {CONNECT_SECONDS:.0f} s", code=31901) from None
    except OSError as error:
        if why := tls_failure(error):
            raise CallFailed(f"{why}; dialled {dialled}", code=31910) from error
        code = 31901 if isinstance(error, socket.gaierror) else 31902
        raise CallFailed(f"{no_connection(error)}; dialled {dialled}", code=code) from error


@dataclass(slots=True)
class StreamSpan:
    """One media stream of the call. Milliseconds are on the call's clock, moments in seconds of `time.monotonic()`.

    While it is running, `ended_at`, `end_ms`, `ended_by` and `close_code` are None. `ended_by` is as in `Line`.
    """

    sid: str
    started_at: float
    start_ms: float
    ended_at: float | None = None
    end_ms: float | None = None
    ended_by: str | None = None
    close_code: int | None = None


class MediaStream:
    """One stream of a call on an open socket. `run` drives it to its end.

    `delay_ms` is the latency of each message, in both directions. With `tracks`, by their names, the stream is
    unidirectional: it takes nothing from the server and sends no keys. Without them, it carries the owner's speech.
    """

    def __init__(
        self,
        connection: ClientConnection,
        writer: Writer,
        stream_sid: str,
        owner: StreamOwner,
        *,
        delay_ms: float,
        tracks: Mapping[str, Microphone] | None = None,
    ) -> None:
        self.stream_sid = stream_sid
        self.close_code: int | None = None
        self.ended_by: str | None = None
        self._connection = connection
        self._writer = writer
        self._owner = owner
        self._unidirectional = tracks is not None
        self._tracks = tracks or {"inbound": owner.microphone}
        self.delay_seconds = delay_ms / 1000
        self._outbox: deque[tuple[float, Callable[[], str | bytes]]] = deque()
        self._inbox: deque[tuple[float, str | bytes]] = deque()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._frame = 0
        self._chunks = dict.fromkeys(self._tracks, 0)
        self._first_frame = 0
        self._first_timestamp = 50 + secrets.randbelow(131)

    async def start(self, parameters: dict[str, str]) -> float:
        """Send `connected` and `start`; return the moment when `start` was sent (monotonic, in seconds).

        Raises:
            CallFailed: the server closed the socket first.
        """
        try:
            await self._send(self._writer.connected())
            await self._send(self._writer.start(parameters, self._tracks))
        except ConnectionClosed:
            raise CallFailed("the server closed the socket before the stream had started", code=31903) from None
        except asyncio.CancelledError:
            self._connection.transport.abort()  # the caller has hung up already
            raise
        return time.monotonic()

    async def run(self) -> str:
        """Carry the call's audio until the stream ends; return its `ended_by`: agent, caller, line or error."""
        now = time.monotonic()
        self._first_frame = self._frame = max(0, int((now - self._owner.playout.started_at) / FRAME_SECONDS))
        writing = asyncio.create_task(self._write())
        try:
            await self._read()
        except ConnectionClosed as closed:
            await self._drain_inbox()
            self._settle(closed)
        finally:
            writing.cancel()
            for timer in self._timers.values():
                timer.cancel()
            self._owner.playout.stop(time.monotonic())
            self._connection.transport.abort()
            await asyncio.gather(writing, return_exceptions=True)
        assert self.ended_by is not None
        return self.ended_by

    # Actions of the phone.

    def press(self, digit: str) -> None:
        """Send one key."""
        if not self._unidirectional:
            self._post(lambda: self._writer.dtmf(digit))

    def post_raw(self, data: str | bytes) -> None:
        """Send `data` unchanged, as a text or a binary frame."""
        self._post(lambda: data)

    def hang_up(self, by: str) -> None:
        """End the stream from Twilio's side: playback stops, `stop` is sent, then the socket is closed."""
        if self.ended_by is None:
            self.ended_by = by
            now = time.monotonic()
            self._owner.playout.stop(now)
            self._post(self._writer.stop)
            # The writer may block if the server does not read.
            self._arm("hang-up", now + 2 * CLOSE_SECONDS + self.delay_seconds, self.drop)

    def drop(self) -> None:
        """Cut the connection, without `stop` or a closing frame."""
        self.ended_by = self.ended_by or "line"
        self._connection.transport.abort()

    # Writing.

    def _post(self, compose: Callable[[], str | bytes]) -> None:
        self._outbox.append((time.monotonic() + self.delay_seconds, compose))
        self._wake.set()

    async def _write(self) -> None:
        try:
            while True:
                while self.ended_by is None and self._frame_due() <= time.monotonic():
                    self._queue_frame()
                while self._outbox and self._outbox[0][0] <= time.monotonic():
                    await self._send(self._outbox.popleft()[1]())
                if self.ended_by is not None and not self._outbox:
                    await self._connection.close(1000)
                    return
                due = self._frame_due() if self.ended_by is None else float("inf")
                await self._sleep_until(min(due, self._outbox[0][0]) if self._outbox else due)
        except ConnectionClosed:
            return  # the reader sees the cause

    def _frame_due(self) -> float:
        return self._owner.playout.started_at + (self._frame + 1) * FRAME_SECONDS

    def _queue_frame(self) -> None:
        """Take the next 20 ms of each track's speech. Frames that the line loses are spoken too."""
        due = self._frame_due()
        payloads = [(track, microphone.frame(self._frame)) for track, microphone in self._tracks.items()]
        timestamp = self._first_timestamp + (self._frame - self._first_frame) * FRAME_MS
        self._frame += 1
        if self._owner.media_paused or time.monotonic() - due > CONGESTED_SECONDS:
            return
        for track, payload in payloads:
            compose = partial(self._media, track, payload, timestamp)
            self._outbox.append((due + self.delay_seconds, compose))

    def _media(self, track: str, payload: str | None, timestamp: int) -> str:
        self._chunks[track] += 1
        self._owner.sent_log.append(time.monotonic())
        return self._writer.media(payload, self._chunks[track], timestamp, track)

    async def _send(self, data: str | bytes) -> None:
        began = time.monotonic()
        await self._connection.send(data)
        if time.monotonic() - began > CONGESTED_SECONDS:
            self._owner.report(alert(31930, "the server does not read; frames of the caller's are dropped"))

    async def _sleep_until(self, moment: float) -> None:
        """Wait until `moment`, or for a new message in the outbox."""
        # A timer and an event cost less than a timeout, and this runs for every frame.
        timer = None
        if moment != float("inf"):
            timer = asyncio.get_running_loop().call_later(max(moment - time.monotonic(), 0), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._wake.clear()

    # Reading.

    async def _read(self) -> None:
        while True:
            while self._owner.stall_reading and self.ended_by is None:  # noqa: ASYNC110 - a fault, set from anywhere
                await asyncio.sleep(FRAME_SECONDS)
            message = await self._connection.recv()
            if self.delay_seconds:
                self._inbox.append((time.monotonic() + self.delay_seconds, message))
                self._arm("inbox", self._inbox[0][0], self._take_due)
            else:
                self._take(message)

    def _take_due(self) -> None:
        while self._inbox and self._inbox[0][0] <= time.monotonic():
            self._take(self._inbox.popleft()[1])
        if self._inbox:
            self._arm("inbox", self._inbox[0][0], self._take_due)

    async def _drain_inbox(self) -> None:
        """Let delayed messages arrive: the server sent them before its close."""
        while self._inbox:
            await asyncio.sleep(max(self._inbox[-1][0] - time.monotonic(), 0))
            self._take_due()

    def _take(self, message: str | bytes) -> None:
        """Apply one message from the server now."""
        if self.ended_by is not None:
            return
        if self._unidirectional:
            self._owner.report(alert(31951, "a message on a unidirectional stream, which takes none"))
            return
        now = time.monotonic()
        playout = self._owner.playout
        match read(message, self.stream_sid):
            case Media(audio):
                playout.media(audio, now)
            case Mark(name):
                playout.mark(name, now, delay_ms=self._owner.mark_delay_ms)
                self.echo_marks()
            case Wipe():
                self.echo_marks()  # marks that were due before it, in case their timer is late
                playout.clear(now)
                self.echo_marks()
            case str(violation):
                self._owner.report(violation)
            case unknown:
                assert_never(unknown)
        self._owner.note()

    def echo_marks(self) -> None:
        """Send back the marks that are due now."""
        now = time.monotonic()
        for mark in self._owner.playout.due(now):
            if not self._owner.lose_marks:
                mark.echoed_at = now
                self._post(lambda name=mark.name: self._writer.mark(name))  # type: ignore[misc]
        due = self._owner.playout.next_due()
        if due is not None and self.ended_by is None:
            self._arm("marks", due, self.echo_marks)

    def _arm(self, name: str, moment: float, action: Callable[[], None]) -> None:
        """Call `action` at `moment`; this replaces the timer of the same `name`."""
        if name in self._timers:
            self._timers[name].cancel()
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(max(moment - time.monotonic(), 0), action)

    # The end.

    def _settle(self, closed: ConnectionClosed) -> None:
        """Determine `ended_by`, and report an end that Twilio would warn about."""
        self.close_code = closed.rcvd.code if closed.rcvd else 1006
        if self.ended_by is not None:
            return
        if closed.sent is not None and not closed.rcvd_then_sent:
            self.ended_by, self.close_code = "error", closed.sent.code
            self._owner.report(alert(31924, f"the socket was closed with {closed.sent.code} {closed.sent.reason}"))
        elif closed.rcvd is None:
            self.ended_by = "line"
            self._owner.report(alert(31903, "the connection ended without a closing frame"))
        else:
            self.ended_by = "agent"
