"""One call from the caller's side: what was said, heard and cut off, with the clock of whoever held the phone."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from phoneagent.protocol.audio import BYTES_PER_MS
from phoneagent.sim.recording import write_stereo
from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.microphone import Microphone, Utterance
from phoneagent.sim.twilio.playout import Clear, MarkEcho, Playout, Span
from phoneagent.sim.twilio.stream import MediaStream

MAX_VIOLATIONS = 200

KEY_SECONDS = 0.1
"""From one key to the next when several are pressed."""

_KEYS = re.compile("[0-9A-D*#]+")


@dataclass(slots=True)
class StreamSpan:
    """One media stream of the call. Milliseconds are on the call's clock, moments in seconds of `time.monotonic()`.

    While it is running `ended_at`, `end_ms`, `ended_by` and `close_code` are None. `ended_by` is as in `Line`.
    """

    sid: str
    started_at: float
    start_ms: float
    ended_at: float | None = None
    end_ms: float | None = None
    ended_by: str | None = None
    close_code: int | None = None


class Line:
    """A call that is up, in the caller's hand; `Phone.dial` makes it.

    Milliseconds count from `started_at`, moments are seconds of `time.monotonic()`, audio is µ-law at 8 kHz.

    Attributes:
        call_sid, account_sid, stream_sid: Twilio's names for it; `stream_sid` is that of the latest stream.
        streams: every media stream of the call, in order. They share one clock, that of the first.
        started_at: when `start` was sent, on the first stream; 0 before.
        ended_at: when the call was over; None before.
        ended_by: "agent" (the server closed the socket, its TwiML ended, or it ended the call by the REST API),
            "caller" (`hang_up`), "line" (the connection broke) or "error" (the server did what Twilio ends calls for);
            None while the call is up.
        close_code: the code with which the socket was closed, 1006 if it broke.
        violations: each rule that the server broke, once, in Twilio's words.
        verbs: the TwiML verbs carried out, with their text: "Connect", "Say Goodbye.", "Pause 3", "Hangup", and
            whom a Dial called.
        digits: the keys pressed, each with its moment.
        sent_log: the moment at which each frame of the caller's was sent; frames that the line lost are not in it.
        dial_status: how a `<Dial>` will end: completed, busy, no-answer, failed.
        lose_marks: set it, and marks are never given back.
        mark_delay_ms: how long after its moment a mark received from now on is given back; a clear returns it at once.
        stall_reading: set it, and the socket is not read any more, so that the server's writes back up.
    """

    def __init__(self, *, call_sid: str, account_sid: str) -> None:
        self.call_sid = call_sid
        self.account_sid = account_sid
        self.stream_sid = ""
        self.streams: list[StreamSpan] = []
        self.started_at = 0.0
        self.ended_at: float | None = None
        self.ended_by: str | None = None
        self.close_code: int | None = None
        self.violations: list[str] = []
        self.verbs: list[str] = []
        self.digits: list[tuple[str, float]] = []
        self.dial_status = "completed"
        self.hung_up = False
        self.lose_marks = False
        self.mark_delay_ms = 0.0
        self.stall_reading = False
        self.media_paused = False
        self.sent_log: list[float] = []
        self.microphone = Microphone()
        self.playout = Playout(0.0)
        self.stream: MediaStream | None = None
        self._changed = asyncio.Event()
        self._over = asyncio.Event()
        self._break_off: Callable[[], object] = lambda: None

    # What was said and heard.

    @property
    def speech(self) -> list[Utterance]:
        """The caller's lines, in order."""
        return self.microphone.speech

    @property
    def heard(self) -> list[Span]:
        """The agent's audio as it was heard until now; silence separates the spans, and a clear cuts them."""
        return self.playout.spans(self._now())

    def heard_during(self, stream: StreamSpan) -> list[Span]:
        """The part of `heard` that came over one of the `streams`."""
        end_ms = float("inf") if stream.end_ms is None else stream.end_ms
        return [span for span in self.heard if stream.start_ms <= span.start_ms < end_ms]

    @property
    def gaps_ms(self) -> list[float]:
        """How long the caller was without a stream, before the second one, the third one, and so on."""
        return [later.start_ms - (earlier.end_ms or 0) for earlier, later in pairwise(self.streams)]

    @property
    def received(self) -> bytearray:
        """Every byte of audio received, heard or not, up to one hour of it."""
        return self.playout.received

    @property
    def received_log(self) -> list[tuple[float, int]]:
        """For each media message: its moment, and how many bytes had been received with it."""
        return self.playout.received_log

    @property
    def clears(self) -> list[Clear]:
        """Each `clear`, and how far playback was when it took effect."""
        return self.playout.clears

    @property
    def marks(self) -> list[MarkEcho]:
        """Each mark; its moments are those at the phone, before the line's delay."""
        return self.playout.marks

    @property
    def playing(self) -> bool:
        """Whether audio of the agent's is queued and unheard."""
        return self.playout.queued_ms(self._now()) > 0

    @property
    def duration_ms(self) -> float:
        """From the start of the stream to the end of the call, or until now."""
        return (self._now() - self.started_at) * 1000

    def caller_audio(self) -> bytes:
        """What the caller said, from `started_at` until the end (or now): byte n is n/8 ms."""
        return self.microphone.audio(self._length())

    def heard_audio(self) -> bytes:
        """What the caller heard, on the same clock and as long as `caller_audio` at the same moment."""
        return self.playout.audio(self._length(), self._now())

    def recording(self) -> bytes:
        """The call as a stereo WAV file: the caller left, what the caller heard right."""
        length, now = self._length(), self._now()
        return write_stereo(self.microphone.audio(length), self.playout.audio(length, now))

    # What the caller does.

    async def say(self, ulaw: bytes, text: str | None = None) -> Utterance:
        """Speak `ulaw` in frames of 20 ms, from the next one on (or after a line that is still being spoken).

        Returns when its last frame was spoken. If the stream ends meanwhile, the utterance is what was said until then;
        words not begun wait for the next stream of the call.

        Raises:
            CallFailed: the call is over.
        """
        if self.ended_by is not None:
            raise CallFailed(f"cannot say something: the call is over (ended by {self.ended_by})")
        return await self.microphone.say(ulaw, text)

    async def press(self, digits: str) -> None:
        """Press keys (0 to 9, A to D, * and #), a tenth of a second apart.

        Raises:
            ValueError: there is no such key.
            CallFailed: the call is over.
        """
        if not _KEYS.fullmatch(digits):
            raise ValueError(f"{digits!r} has a key that no telephone has; use 0-9, A-D, * and #")
        for index, digit in enumerate(digits):
            if index:
                await asyncio.sleep(KEY_SECONDS)
            self._require("press a key").press(digit)
            self.digits.append((digit, time.monotonic()))

    async def hang_up(self) -> None:
        """Put the receiver down: `stop`, then the socket is closed, then the callbacks that were asked for.

        Does nothing if the call is over. Returns when nothing is left of it.
        """
        if self._over.is_set():
            return
        self.hung_up = True
        self._break_off()
        await self._over.wait()

    async def wait_ended(self, timeout: float = 60) -> None:
        """Wait until the call is over: the socket closed, the TwiML after it carried out.

        Raises:
            TimeoutError: it is not, after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            await self._over.wait()

    # What the caller waits for.

    async def wait_for_agent(self, *, ms: float = 1, timeout: float = 20) -> None:
        """Wait until `ms` of the agent's audio were heard since the end of the caller's last line.

        Before the first line it counts from the start of the call; what is heard during a line does not count.

        Raises:
            TimeoutError: not within `timeout` seconds.
            CallFailed: the call ended before.
        """

        def missing() -> float | None:
            heard, _ = self.playout.heard(self._since_ms(), self._now())
            if heard >= ms:
                return 0
            return (ms - heard) / 1000 if self.playing else None

        await self._until(missing, timeout, "the agent was heard")

    async def wait_for_silence(self, *, ms: float = 700, timeout: float = 60) -> None:
        """Wait until the agent was heard since the caller's last line, and has then been silent for `ms`.

        Raises:
            TimeoutError: not within `timeout` seconds.
            CallFailed: the call ended before.
        """

        def missing() -> float | None:
            now = self._now()
            queued_ms = self.playout.queued_ms(now)
            if queued_ms:
                return (queued_ms + ms) / 1000
            _, ended_ms = self.playout.heard(self._since_ms(), now)
            return None if ended_ms is None else max(ended_ms + ms - (now - self.started_at) * 1000, 0) / 1000

        await self._until(missing, timeout, "the agent had fallen silent")

    async def wait_for_clear(self, timeout: float = 10) -> Clear:
        """Wait for the first `clear` since the caller's last line began, and return it.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            CallFailed: the call ended before.
        """
        since_ms = self.speech[-1].start_ms if self.speech else 0.0

        def found() -> list[Clear]:
            return [clear for clear in self.clears if clear.at_ms >= since_ms]

        await self._until(lambda: 0 if found() else None, timeout, "a clear came")
        return found()[0]

    async def wait_for_stream(self, number: int = 1, timeout: float = 20) -> StreamSpan:
        """Wait until the call's n-th stream has started, from 1, and return it.

        Raises:
            TimeoutError: it has not, after `timeout` seconds.
            CallFailed: the call ended before.
        """
        started = f"stream {number} had started"
        await self._until(lambda: 0 if len(self.streams) >= number else None, timeout, started)
        return self.streams[number - 1]

    # Faults.

    async def send_raw(self, data: str | bytes) -> None:
        """Send anything to the server: a `str` as a text frame, `bytes` as a binary one."""
        self._require("send").post_raw(data)

    def pause_media(self, paused: bool) -> None:
        """Lose the caller's frames on the way, or stop losing them; timestamps go on either way."""
        self.media_paused = paused

    def drop(self) -> None:
        """Cut the connection as a dying network does: no `stop`, no closing frame."""
        self._require("drop").drop()

    # For the course of the call, which drives the line.

    def report(self, violation: str) -> None:
        """Note a rule that the server broke; the same one is noted once."""
        if violation not in self.violations and len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(violation)
            self.note()

    def note(self) -> None:
        """Something changed: whoever waits looks again."""
        self._changed.set()

    def attach(self, stream: MediaStream, started_at: float) -> None:
        """A stream has started. The clock of the call is that of its first stream."""
        self.stream, self.stream_sid = stream, stream.stream_sid
        if not self.started_at:
            self.started_at = self.playout.started_at = started_at
        self.streams.append(StreamSpan(stream.stream_sid, started_at, (started_at - self.started_at) * 1000))
        self.note()

    def detach(self) -> None:
        """The stream is over."""
        assert self.stream is not None
        span = self.streams[-1]
        span.ended_at = time.monotonic()
        span.end_ms = (span.ended_at - self.started_at) * 1000
        span.ended_by, span.close_code = self.stream.ended_by, self.stream.close_code
        self.close_code = self.stream.close_code
        self.stream = None
        self.microphone.pause()
        self.note()

    def on_break_off(self, action: Callable[[], object]) -> None:
        """Have `action` called if the caller hangs up."""
        self._break_off = action

    def end(self, ended_by: str) -> None:
        """The call is over, and why; the callbacks may still be under way."""
        self.ended_by, self.ended_at = ended_by, time.monotonic()
        self.microphone.shut(self.duration_ms)
        self.note()

    def finish(self) -> None:
        """Nothing is left of the call."""
        self._over.set()

    # Within.

    def _now(self) -> float:
        return time.monotonic() if self.ended_at is None else self.ended_at

    def _length(self) -> int:
        return max(int(self.duration_ms * BYTES_PER_MS), 0) if self.started_at else 0

    def _since_ms(self) -> float:
        return self.speech[-1].end_ms if self.speech else 0.0

    def _require(self, what: str) -> MediaStream:
        if self.stream is None:
            why = f"the call is over (ended by {self.ended_by})" if self.ended_by else "no stream is running"
            raise CallFailed(f"cannot {what}: {why}")
        return self.stream

    async def _until(self, missing: Callable[[], float | None], timeout: float, what: str) -> None:
        """Wait until `missing()` is 0; otherwise it tells in how many seconds to look again, None for at any change."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self._changed.clear()
                    seconds = missing()
                    if seconds == 0:
                        return
                    if self.ended_by is not None:
                        raise CallFailed(f"the call ended (by {self.ended_by}) before {what}")
                    timer = None if seconds is None else loop.call_later(seconds, self._changed.set)
                    try:
                        await self._changed.wait()
                    finally:
                        if timer is not None:
                            timer.cancel()
        except TimeoutError:
            raise TimeoutError(f"{timeout:g} s passed before {what}") from None
