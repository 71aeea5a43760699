"""One call from the caller's side: its speech, the audio heard, and its interruptions, on the phone's clock."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise

from phoneagent.protocol.audio import BYTES_PER_MS
from phoneagent.sim.recording import write_stereo
from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.gather import Gathering
from phoneagent.sim.twilio.microphone import Microphone, Utterance
from phoneagent.sim.twilio.noise import MAX_BYTES, is_pcm16
from phoneagent.sim.twilio.playout import Clear, MarkEcho, Playout, Span
from phoneagent.sim.twilio.stream import MediaStream, StreamSpan
from phoneagent.sim.twilio.waiting import Waiting

MAX_VIOLATIONS = 200

KEY_SECONDS = 0.1
"""The time between two key presses in a row."""

_KEYS = re.compile("[0-9A-D*#]+")


@dataclass(slots=True)
class Announcement:
    """A `<Say>` or `<Play>` that the caller heard. Moments are in seconds of `time.monotonic()`.

    `text` is the text of a Say; it is empty for a Play, whose file is not fetched. `ended_at` is None while it runs.
    """

    verb: str
    text: str
    started_at: float
    ended_at: float | None = None


class Line:
    """A live call, for a test to act as the caller; `Phone.dial` makes it.

    Milliseconds count from `started_at`, moments are in seconds of `time.monotonic()`, audio is µ-law at 8 kHz.

    Attributes:
        call_sid, account_sid, stream_sid: Twilio's ids of the call; `stream_sid` is that of the latest stream.
        streams: every media stream of the call, in order. They share the clock of the first one.
        started_at: when `start` was sent, on the first stream; 0 before.
        ended_at: when the call was over; None before.
        ended_by: "agent" (the server closed the socket, its TwiML ended, or it ended the call by the REST API),
            "caller" (`hang_up`), "line" (the connection broke) or "error" (the server made an error that Twilio ends
            calls for); None while the call is up.
        close_code: the close code of the socket, 1006 if the connection broke.
        violations: each rule that the server broke, listed once, in Twilio's words.
        verbs: the TwiML verbs carried out, with their text: "Connect", "Say Goodbye.", "Pause 3", "Hangup", and
            for a Dial the party called.
        announcements: each Say and Play that the caller heard, including those before the first stream. They are not
            part of `heard`, which is the audio of the streams.
        callee: the other person of a `<Dial>`; `callee.speech` are their lines.
        digits: the keys pressed, each with its moment.
        sent_log: the moment when each of the caller's frames was sent, without the frames that the line lost.
        dial_status: the outcome of a `<Dial>` on a phone without a network: completed, busy, no-answer, failed.
        lose_marks: if set, marks are never sent back.
        mark_delay_ms: the extra delay of marks received from now on; a clear sends them back at once.
        gathering: the `<Gather>` in progress, which gets the keys; None if there is none.
        bridged: set once a `<Dial>` has connected the call to another one.
        stall_reading: if set, the phone stops reading its socket, so the server's writes back up.
    """

    def __init__(
        self,
        *,
        call_sid: str,
        account_sid: str,
        microphone: Microphone | None = None,
        playout: Playout | None = None,
    ) -> None:
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
        self.announcements: list[Announcement] = []
        self.digits: list[tuple[str, float]] = []
        self.dial_status = "completed"
        self.hung_up = False
        self.lose_marks = False
        self.mark_delay_ms = 0.0
        self.stall_reading = False
        self.media_paused = False
        self.gathering: Gathering | None = None
        self.bridged = asyncio.Event()
        self.sent_log: list[float] = []
        self.microphone = microphone or Microphone()
        self.playout = playout or Playout(0.0)
        self.callee = Microphone()
        self._callee_gone = asyncio.Event()
        self.stream: MediaStream | None = None
        self._received_before = 0
        self._waiting = Waiting()
        self._over = asyncio.Event()
        self._awaited_by: set[asyncio.Task[object] | None] = set()
        self._break_off: Callable[[], object] = lambda: None

    # The audio said and heard.

    @property
    def speech(self) -> list[Utterance]:
        """The caller's lines, in order."""
        return self.microphone.speech

    @property
    def heard(self) -> list[Span]:
        """The agent's audio heard so far. Silence separates the spans, and a clear cuts them."""
        return self.playout.spans(self._now())

    def heard_during(self, stream: StreamSpan) -> list[Span]:
        """The part of `heard` that came over one of the `streams`."""
        end_ms = float("inf") if stream.end_ms is None else stream.end_ms
        return [span for span in self.heard if stream.start_ms <= span.start_ms < end_ms]

    @property
    def gaps_ms(self) -> list[float]:
        """The time without a stream before the second stream, before the third one, and so on."""
        return [later.start_ms - (earlier.end_ms or 0) for earlier, later in pairwise(self.streams)]

    @property
    def received(self) -> bytearray:
        """Every byte of audio received, heard or not, up to one hour of it."""
        return self.playout.received

    @property
    def received_log(self) -> list[tuple[float, int]]:
        """For each media message, its moment and the total bytes received by then."""
        return self.playout.received_log

    @property
    def clears(self) -> list[Clear]:
        """Each `clear`, with the playback position when it took effect."""
        return self.playout.clears

    @property
    def marks(self) -> list[MarkEcho]:
        """Each mark. Its moments are taken at the phone, without the line's delay."""
        return self.playout.marks

    @property
    def playing(self) -> bool:
        """Whether some of the agent's audio is still queued."""
        return self.playout.queued_ms(self._now()) > 0

    @property
    def duration_ms(self) -> float:
        """The time from the start of the first stream to the end of the call, or until now; 0 without a stream."""
        return (self._now() - self.started_at) * 1000 if self.started_at else 0.0

    def caller_audio(self) -> bytes:
        """Return the caller's audio from `started_at` until the end (or now): byte n is at n/8 ms."""
        return self.microphone.audio(self._length())

    def heard_audio(self) -> bytes:
        """Return the audio that the caller heard, on the clock of `caller_audio` and of the same length."""
        return self.playout.audio(self._length(), self._now())

    def recording(self) -> bytes:
        """Return the call as a stereo WAV file: the caller on the left, the audio heard on the right."""
        length, now = self._length(), self._now()
        return write_stereo(self.microphone.audio(length), self.playout.audio(length, now))

    # The caller's actions.

    async def say(self, ulaw: bytes, text: str | None = None) -> Utterance:
        """Speak `ulaw` in frames of 20 ms, from the next one on (or after a line that is still being spoken).

        Returns when its last frame was spoken. If the stream ends earlier, the utterance ends there too; a line that
        has not begun waits for the next stream of the call.

        Raises:
            CallFailed: the call is over.
        """
        if self.ended_by is not None:
            raise CallFailed(f"cannot say something: the call is over (ended by {self.ended_by})")
        return await self.microphone.say(ulaw, text)

    async def press(self, digits: str) -> None:
        """Press keys (0 to 9, A to D, * and #), a tenth of a second apart.

        Raises:
            ValueError: a telephone has no such key.
            CallFailed: the call is over.
        """
        if not _KEYS.fullmatch(digits):
            raise ValueError(f"{digits!r} has a key that no telephone has; use 0-9, A-D, * and #")
        for index, digit in enumerate(digits):
            if index:
                await asyncio.sleep(KEY_SECONDS)
            if self.gathering is not None:
                self.gathering.press(digit)
            else:
                self._require("press a key").press(digit)
            self.digits.append((digit, time.monotonic()))

    async def callee_says(self, ulaw: bytes, text: str | None = None) -> Utterance:
        """Have the other person of a `<Dial>` speak, like `say` for the caller. A `<Start><Stream>` carries it.

        Raises:
            CallFailed: the call is over.
        """
        if self.ended_by is not None:
            raise CallFailed(f"the other person cannot speak: the call is over (ended by {self.ended_by})")
        return await self.callee.say(ulaw, text)

    def callee_hangs_up(self) -> None:
        """Have the other person of a `<Dial>` hang up."""
        self._callee_gone.set()

    async def wait_callee_gone(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until the other person of the `<Dial>` has hung up; return whether they have."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._callee_gone.wait()
        gone = self._callee_gone.is_set()
        self._callee_gone.clear()  # another Dial has another person
        return gone

    async def hang_up(self) -> None:
        """Hang up: Twilio sends `stop`, closes the socket, and delivers the status callbacks.

        Does nothing if the call is over. Returns when all of that is done.
        """
        if self._over.is_set():
            return
        self.hung_up = True
        self._break_off()
        await self._until_over()

    async def wait_ended(self, timeout: float = 60) -> None:
        """Wait until the call is over: the socket is closed, and the TwiML after it is carried out.

        Raises:
            TimeoutError: the call is still up after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            await self._until_over()

    # Waiting.

    async def wait_for_agent(self, *, ms: float = 1, timeout: float = 20) -> None:
        """Wait until `ms` of the agent's audio has been heard since the end of the caller's last line.

        Before the first line the count begins with the call. Audio heard during a line does not count.

        Raises:
            TimeoutError: not within `timeout` seconds.
            CallFailed: the call ended before.
        """

        def missing() -> float | None:
            heard, _ = self.playout.heard(self._since_ms(), self._now())
            if heard >= ms:
                return 0
            return (ms - heard) / 1000 if self.playing else None

        await self._waiting.until(missing, timeout, "the agent was heard")

    async def wait_for_silence(self, *, ms: float = 700, timeout: float = 60) -> None:
        """Wait until the agent has been heard since the caller's last line, and has then been silent for `ms`.

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

        await self._waiting.until(missing, timeout, "the agent had fallen silent")

    async def wait_for_words(self, words: str, *, timeout: float = 60) -> Announcement:
        """Wait until a `<Say>` that contains `words` has begun, and return it.

        Raises:
            TimeoutError: not within `timeout` seconds.
            CallFailed: the call ended before.
        """

        def found() -> list[Announcement]:
            return [each for each in self.announcements if words in each.text]

        await self._waiting.until(lambda: 0 if found() else None, timeout, f"{words!r} was said")
        return found()[0]

    async def wait_for_clear(self, timeout: float = 10) -> Clear:
        """Wait for the first `clear` since the caller's last line began, and return it.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            CallFailed: the call ended before.
        """
        since_ms = self.speech[-1].start_ms if self.speech else 0.0

        def found() -> list[Clear]:
            return [clear for clear in self.clears if clear.at_ms >= since_ms]

        await self._waiting.until(lambda: 0 if found() else None, timeout, "a clear came")
        return found()[0]

    async def wait_for_stream(self, number: int = 1, timeout: float = 20) -> StreamSpan:
        """Wait until the call's n-th stream, counted from 1, has started, and return it.

        Raises:
            TimeoutError: it has not started within `timeout` seconds.
            CallFailed: the call ended before.
        """
        started = f"stream {number} had started"
        await self._waiting.until(lambda: 0 if len(self.streams) >= number else None, timeout, started)
        return self.streams[number - 1]

    # Faults.

    async def send_raw(self, data: str | bytes) -> None:
        """Send anything to the server: a `str` as a text frame, `bytes` as a binary one."""
        self._require("send").post_raw(data)

    def pause_media(self, paused: bool) -> None:
        """Lose the caller's frames on the way, or stop losing them. Timestamps continue either way."""
        self.media_paused = paused

    def drop(self) -> None:
        """Cut the connection as a network failure does: no `stop`, no closing frame."""
        self._require("drop").drop()

    # For `CallFlow`, `MediaStream` and a sound card, which drive the line.

    def report(self, violation: str) -> None:
        """Record a rule that the server broke; each one is recorded once."""
        if violation not in self.violations and len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(violation)
            self.note()

    def note(self) -> None:
        """Wake every waiting method to check again: something has changed."""
        self._waiting.note()

    @contextmanager
    def announcing(self, verb: str, text: str) -> Iterator[None]:
        """Record a Say or Play, which lasts as long as this context."""
        announcement = Announcement(verb, text, time.monotonic())
        self.announcements.append(announcement)
        self.note()
        try:
            yield
        finally:
            announcement.ended_at = time.monotonic()
            self.note()

    def sound_played(self) -> None:
        """Send back the marks that are due: the sound card has played more of the agent's audio."""
        if self.stream is not None:
            self.stream.echo_marks()
        self.note()

    def attach(self, stream: MediaStream, started_at: float) -> None:
        """Record a stream that has started. The first one starts the call's clock."""
        self.stream, self.stream_sid = stream, stream.stream_sid
        self._received_before = len(self.received)
        if not self.started_at:
            self.started_at = self.playout.started_at = started_at
        self.streams.append(StreamSpan(stream.stream_sid, started_at, (started_at - self.started_at) * 1000))
        self.note()

    def detach(self) -> None:
        """Record the end of the stream."""
        assert self.stream is not None
        span = self.streams[-1]
        span.ended_at = time.monotonic()
        span.end_ms = (span.ended_at - self.started_at) * 1000
        span.ended_by, span.close_code = self.stream.ended_by, self.stream.close_code
        self.close_code = self.stream.close_code
        self.stream = None
        begin = self._received_before
        if is_pcm16(bytes(self.received[begin : begin + MAX_BYTES])):
            self.report("the audio looks like 16-bit PCM, and Twilio plays it as µ-law: send audio/x-mulaw at 8000 Hz")
        self.microphone.pause()
        self.callee.pause()
        self.note()

    def on_break_off(self, action: Callable[[], object]) -> None:
        """Call `action` if the caller hangs up."""
        self._break_off = action

    def end(self, ended_by: str) -> None:
        """Record the end of the call and its cause. Callbacks may still be under way."""
        self.ended_by, self.ended_at = ended_by, time.monotonic()
        self.microphone.shut(self.duration_ms)
        self.callee.shut(self.duration_ms)
        self._waiting.end(ended_by)

    def finish(self) -> None:
        """Release `wait_ended` and `hang_up`: the callbacks have been delivered too."""
        self._over.set()

    def awaited_by(self, task: asyncio.Task[None]) -> bool:
        """Whether `wait_ended` or `hang_up` is holding a task up, or has just been released."""
        return task in self._awaited_by

    # Helpers.

    async def _until_over(self) -> None:
        task = asyncio.current_task()
        self._awaited_by.add(task)
        try:
            await self._over.wait()
        finally:
            self._awaited_by.discard(task)

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
