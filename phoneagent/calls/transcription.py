"""The I/O shell of a call that is transcribed: it reads the media stream, and each track has a model session.

Nothing is sent to the people on the call, and nothing here ends it. Every rule is in `bridge/tracks`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Never, Protocol, TypeAlias

from phoneagent.bridge.tracks import Track, TranscribedCall
from phoneagent.calls.opening import BRIEF_SECONDS
from phoneagent.calls.writer import SocketWriter
from phoneagent.errors import EndpointError, EndpointUnreachable, ProtocolError
from phoneagent.events import EndedBy, Event, ModelEvent
from phoneagent.protocol import carrier, realtime

log = logging.getLogger("phoneagent.calls.transcription")

MAX_FAILURES = 8
"""How many sessions in a row may fail to open, or be lost at once, before a call continues without a transcript."""

PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 10.0
SETTLE_SECONDS = 1.5
FINISH_SECONDS = 8.0
"""How long to wait for the last words after the end of a call: at least the first time, at most the second."""

CLOSE_SECONDS = 2.0
"""How long the sockets may take to close."""

STOPPED = "one of the two hung up, or Twilio ended the stream"


class TrackedSocket(Protocol):
    """The media socket of a call, read only."""

    def take_both_tracks(self) -> None: ...
    async def read(self, take: Callable[[str | bytes], None], resumed: Callable[[], None]) -> None: ...
    def decode(self, raw: str | bytes) -> carrier.FromCarrier | None: ...
    async def close(self) -> None: ...


class RecognizerSession(Protocol):
    """A configured session that only transcribes."""

    dropped: Any
    effective: Any

    @property
    def writable(self) -> bool: ...
    def write(self, messages: Iterable[realtime.ToModel]) -> None: ...
    async def read(self, take: Callable[[bytes], None], resumed: Callable[[], None]) -> Never: ...
    def decode(self, raw: bytes) -> realtime.FromModel: ...
    async def close(self) -> None: ...
    def abort(self) -> None: ...


OpenRecognizer: TypeAlias = Callable[[], Awaitable[RecognizerSession]]


class Transcription:
    """One media stream of a call between two people, from its start to its end."""

    def __init__(
        self,
        call_sid: str,
        transcribed: TranscribedCall,
        socket: TrackedSocket,
        open_session: OpenRecognizer,
        emit: Callable[[Event], None],
        *,
        max_seconds: float,
        model_events: bool = False,
    ) -> None:
        self._call_sid = call_sid
        self._transcribed = transcribed
        self._socket = socket
        self._open_session = open_session
        self._emit = emit
        self._max_seconds = max_seconds
        self._model_events = model_events
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[Track, RecognizerSession] = {}
        self._writers = {
            track: SocketWriter(lambda _now, number, track=track: track.take(number), EndpointError)  # type: ignore[misc]
            for track in transcribed.tracks
        }
        self._over = asyncio.Event()
        self._end: tuple[EndedBy, str] = ("error", "the server stopped the call")

    def end(self, by: EndedBy, reason: str) -> None:
        """End the transcript, as another source reports; the first reason counts."""
        if not self._over.is_set():
            self._end = (by, reason)
            self._over.set()

    async def run(self) -> None:
        """Transcribe the call; returns when it is over and its last words have come."""
        self._socket.take_both_tracks()
        self._transcribed.start(self._loop.time())
        sessions = [asyncio.create_task(self._hold(track)) for track in self._transcribed.tracks]
        reader = asyncio.create_task(self._read())
        for task in (reader, *sessions):
            task.add_done_callback(self._on_done)
        try:
            try:
                async with asyncio.timeout(self._max_seconds):
                    await self._over.wait()
            except TimeoutError:
                self.end("error", f"the call was longer than {self._max_seconds:g} s")
            if self._end[0] != "error":
                await self._finish()
        finally:
            await self._close([reader, *sessions])

    async def _read(self) -> None:
        await self._socket.read(self._take_message, lambda: None)
        self.end("line", "the media socket closed without a stop")

    def _take_message(self, raw: str | bytes) -> None:
        try:
            message = self._socket.decode(raw)
            if isinstance(message, carrier.Stopped):
                self.end("caller", STOPPED)
            elif isinstance(message, carrier.AudioIn) and not self._over.is_set():
                self._write(self._transcribed.hear(message))
        except ProtocolError as error:
            self._trouble(str(error))
        except Exception as error:  # noqa: BLE001 - it ends this transcript, and no other one
            self._fail(error)

    # --- the sessions ---

    async def _hold(self, track: Track) -> None:
        """Hold a session for a track, and open another one if it is lost, until the call is over."""
        failures = 0
        while failures < MAX_FAILURES:
            try:
                session = await self._open_session()
                opened_at = self._loop.time()
                await self._use(track, session)
            except EndpointUnreachable as error:
                lasted = track in self._sessions and self._loop.time() - opened_at >= BRIEF_SECONDS
                failures = 1 if lasted else failures + 1
                if not self._over.is_set():
                    self._trouble(f"the session of the {track.speaker}'s track is lost: {error}")
            except EndpointError as error:  # it would be refused again
                self.end("error", f"the {track.speaker}'s track cannot be transcribed: {error}")
                return
            finally:
                self._sessions.pop(track, None)
            await asyncio.sleep(min(MAX_PAUSE_SECONDS, PAUSE_SECONDS * 2 ** (failures - 1)))
        self.end("error", f"no session stays open for the {track.speaker}'s track")

    async def _use(self, track: Track, session: RecognizerSession) -> Never:
        for refused in session.dropped:
            self._trouble(f"the session runs without {refused}")
        track.new_session(session.effective)
        self._sessions[track] = session
        self._write(track)
        try:
            await session.read(partial(self._take_event, track, session), partial(self._write, track))
        finally:
            session.abort()

    def _take_event(self, track: Track, session: RecognizerSession, raw: bytes) -> None:
        try:
            event = session.decode(raw)
            if self._model_events:
                data = realtime.as_dict(raw)
                self._emit(ModelEvent(call_sid=self._call_sid, type=data["type"], data=data))
            self._transcribed.receive(track, event, self._loop.time())
            self._tell()
            if self._transcribed.over_budget:
                self.end("error", "the call reached its cost limit: it goes on without a transcript")
        except ProtocolError as error:
            self._trouble(str(error))
        except Exception as error:  # noqa: BLE001 - it ends this transcript, and no other one
            self._fail(error)

    def _write(self, track: Track) -> None:
        """Write as much of a track as its session accepts; the rest waits for the session, or the next one."""
        try:
            self._writers[track].write(self._sessions.get(track), self._loop.time())
        except Exception as error:  # noqa: BLE001 - it ends this transcript, and no other one
            self._fail(error)

    # --- the end ---

    async def _finish(self) -> None:
        """Let the recognizers finish: they still have to hear the last words, and write them."""
        for track in self._transcribed.tracks:
            track.finish()
            self._write(track)
        settled_at, until = self._loop.time() + SETTLE_SECONDS, self._loop.time() + FINISH_SECONDS
        while (now := self._loop.time()) < until:
            if now >= settled_at and all(track.settled for track in self._transcribed.tracks):
                return
            await asyncio.sleep(0.05)

    async def _close(self, tasks: list[asyncio.Task[None]]) -> None:
        sessions = list(self._sessions.values())
        self._over.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                closing = (self._socket.close(), *(session.close() for session in sessions))
                await asyncio.gather(*closing, return_exceptions=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._transcribed.end(*self._end, self._loop.time())
        self._tell()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        log.error(
            "internal error in phoneagent: the call goes on without a transcript",
            exc_info=error,
            extra={"call_sid": self._call_sid},
        )
        self.end("error", f"internal fault: {type(error).__name__}")

    def _trouble(self, what: str) -> None:
        self._transcribed.reporter.trouble(what, self._loop.time())
        self._tell()

    def _tell(self) -> None:
        events = self._transcribed.reporter.events
        while events:
            self._emit(events.popleft())
