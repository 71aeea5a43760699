"""A take: an uninterrupted recording of a media stream, written about once a second.

The event loop only notes facts; a thread turns them into audio and writes it. So no frame waits for a disk, and if a
process is killed, everything up to about a second before is on disk.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from datetime import UTC, datetime
from typing import Any, TypeVar

from phoneagent.bridge.tape import AgentAudio, CallerFrame, Cleared, Entry, Tape
from phoneagent.calls.writer import CallerSocket, TappedSocket
from phoneagent.errors import PhoneAgentError
from phoneagent.protocol import carrier
from phoneagent.protocol.audio import base64_bytes
from phoneagent.store.recordings import Recordings, Track

log = logging.getLogger("phoneagent.calls.take")

WRITE_SECONDS = 0.8
"""How often it is written. With a fifth of a second to write it, what was heard is durable within a second."""

MAX_UNWRITTEN_BYTES = 30 * 16_000
"""Half a minute of both sides is kept while a place refuses it; then the recording ends."""

MAX_WRITE_SECONDS = 30.0
"""A write that takes longer ends the recording, because memory holds the audio of that time."""

CLOSE_SECONDS = 5.0
"""How long the last write may take."""

THREADS = 8
"""A place that does not answer blocks only these threads, and none of the tools' threads."""

_T = TypeVar("_T")


class TapedSocket(TappedSocket):
    """A media socket that notes each message. While `secret` returns true, it does not note the caller's audio."""

    def __init__(self, socket: CallerSocket, note: Callable[[Entry], None], secret: Callable[[], bool]) -> None:
        super().__init__(socket)
        self._note = note
        self._secret = secret
        self._now = asyncio.get_running_loop().time

    def decode(self, raw: str | bytes) -> carrier.FromCarrier | None:
        """Return a message, and note it if it is audio."""
        message = self.socket.decode(raw)
        if isinstance(message, carrier.AudioIn):
            payload = message.payload
            heard = None if self._secret() else payload
            self._note(CallerFrame(self._now(), heard, base64_bytes(payload), message.at_ms))
        return message

    def write(self, messages: Iterable[carrier.ToCarrier]) -> None:
        """Write messages at once, and note those that are heard."""
        messages = list(messages)
        self.socket.write(messages)
        now = self._now()
        for message in messages:
            if isinstance(message, carrier.Audio):
                self._note(AgentAudio(now, message.payload))
            elif isinstance(message, carrier.Clear):
                self._note(Cleared(now))


class Refused(PhoneAgentError):
    """A place refused a part of a recording; the message has the remedy. If `final`, no more is written."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class TapeWriter:
    """The part of a take that works in threads, one call at a time. It begins at `now`, which is `wall` as a date.

    `forgotten` tells, in such a thread, whether the call was forgotten.
    """

    def __init__(
        self,
        recordings: Recordings,
        call_sid: str,
        stream_sid: str,
        now: float,
        wall: Callable[[], float] = time.time,
        forgotten: Callable[[], bool] = lambda: False,
    ) -> None:
        self._recordings = recordings
        self._sids = call_sid, stream_sid
        self._tape = Tape(now)
        self._began = now, wall()
        self._started_at = datetime.fromtimestamp(self._began[1], UTC)
        self._forgotten = forgotten
        self._track: Track | None = None
        self._unwritten = bytearray()

    def write(self, entries: Iterable[Entry], now: float, *, final: bool = False) -> None:
        """Write the audio of these facts.

        Raises:
            Refused: it was not written; unless this is final, it is tried again with the next facts.
        """
        for entry in entries:
            self._tape.add(entry)
        self._unwritten += self._tape.take(now, final=final)
        if not self._unwritten:
            return
        if self._track is None:
            self._end_if_forgotten()
        try:
            if self._track is None:
                now, wall = self._began
                began = wall + ((self._tape.origin or now) - now)
                self._track = self._recordings.begin(*self._sids, datetime.fromtimestamp(began, UTC))
            may_be_back = self._track.append(bytes(self._unwritten))
        except (OSError, PhoneAgentError) as error:
            self._end_if_forgotten()
            given_up = final or len(self._unwritten) > MAX_UNWRITTEN_BYTES
            raise Refused(self._recordings.refusal(error), final=given_up) from error
        self._unwritten.clear()
        if may_be_back:
            self._end_if_forgotten()

    def _end_if_forgotten(self) -> None:
        """End the recording if the call was forgotten, and delete it: its deletion may have missed the latest write.

        A call is marked as forgotten before its recording is deleted. So a write that the deletion misses is followed
        by this check, and the check sees the mark.
        """
        if not self._forgotten():
            return
        call_sid, _ = self._sids
        try:
            self._recordings.delete(call_sid, self._started_at)
        except (OSError, PhoneAgentError) as error:
            why = self._recordings.refusal(error)
            left = "the call was forgotten, but some of its audio may be left"
            raise Refused(f"{left}: {why}, and forget the call again by its SID", final=True) from error
        raise Refused("the call was forgotten", final=True)


class Take:
    """The part of a take that works on the event loop: `note` facts, and `finish` it. `broke` runs if it ends early.

    `complete` tells whether all of it was written.
    """

    def __init__(self, writer: TapeWriter, call_sid: str, broke: Callable[[], None]) -> None:
        self._writer = writer
        self._call_sid = call_sid
        self._broke = broke
        self._loop = asyncio.get_running_loop()
        self._entries: list[Entry] = []
        self.note = self._entries.append
        """Note a fact."""
        self._writing: asyncio.Future[None] | None = None
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(WRITE_SECONDS, self._look)
        self._warned = self._over = False
        self.complete = True

    def _look(self) -> None:
        self._timer = self._loop.call_later(WRITE_SECONDS, self._look)
        if self._writing is None:
            self._write(final=False)
        elif self._loop.time() - self._since > MAX_WRITE_SECONDS:
            self._writing.cancel()
            self._failed(Refused("RECORD_AUDIO does not answer: check that it works", final=True))

    def _write(self, *, final: bool) -> asyncio.Future[None]:
        entries = self._entries[:]
        self._entries.clear()
        self._since = self._loop.time()
        self._writing = in_thread(functools.partial(self._writer.write, entries, self._since, final=final))
        self._writing.add_done_callback(self._written)
        return self._writing

    def _written(self, writing: asyncio.Future[None]) -> None:
        self._writing = None
        if writing.cancelled():
            return
        if (error := writing.exception()) is None:
            return
        if isinstance(error, Refused):
            self._failed(error)
        else:
            log.error("internal error in phoneagent", exc_info=error, extra={"call_sid": self._call_sid})
            self._failed(Refused(f"internal fault: {type(error).__name__}", final=True))

    def _failed(self, error: Refused) -> None:
        if not self._warned:
            self._warned = True
            log.error("the call goes on, and is not recorded for now: %s", error, extra={"call_sid": self._call_sid})
        if error.final:
            self.complete = False
            if not self._over:
                self._end()
                self._broke()

    def _end(self) -> None:
        self._over = True
        self._entries.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def finish(self) -> None:
        """Write as much of the rest as the place takes within CLOSE_SECONDS."""
        if self._over:
            return
        entries = self._entries[:]
        self._end()
        self._entries.extend(entries)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._writing is not None:
                    await asyncio.wait([self._writing])
                await asyncio.wait([self._write(final=True)])
        except TimeoutError:
            self._failed(Refused("RECORD_AUDIO does not answer: check that it works", final=True))


def in_thread(work: Callable[..., _T], *arguments: Any) -> asyncio.Future[_T]:
    """Run `work` in one of the recording threads. Canceling the future drops work that has not begun."""
    return asyncio.get_running_loop().run_in_executor(_threads(), functools.partial(work, *arguments))


class _Threads(Executor):
    """A few daemon threads that work in order. Those of a ThreadPoolExecutor would keep the process from exiting."""

    def __init__(self, most: int) -> None:
        self._unstarted = most
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()

    def submit(self, work: Callable[..., _T], /, *arguments: Any, **options: Any) -> Future[_T]:
        future: Future[_T] = Future()
        self._work.put((future, functools.partial(work, *arguments, **options)))
        if self._unstarted:
            self._unstarted -= 1
            threading.Thread(target=self._run, name="phoneagent recording", daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            self._carry_out(*self._work.get())

    @staticmethod
    def _carry_out(future: Future[Any], work: Callable[[], Any]) -> None:
        """Do one piece of work. Nothing of it is kept here afterwards, as an idle thread would keep its audio."""
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised again where it was submitted
            future.set_exception(error)
        else:
            future.set_result(result)


@functools.cache
def _threads() -> _Threads:
    return _Threads(THREADS)
