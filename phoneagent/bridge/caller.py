"""What the model hears of the caller: every frame in order, held until the model listens, with silence in the holes.

The model's voice activity detection counts *audio* time. When a line stops delivering in the middle of a word, no
silence ever comes and the turn never ends; so silence is made up for it, and not made up twice when the line returns
with a jump in its timestamps.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Iterator

from phoneagent.protocol.audio import BYTES_PER_MS, FRAME_BYTES, base64_bytes, rms, silence
from phoneagent.protocol.realtime import AudioAppend

MAX_HELD_BYTES = 10_000 * BYTES_PER_MS
"""Ten seconds of the caller wait for a model that is not ready or does not read; the oldest audio goes first. As much
of what was given to one is kept for another, unless it is understood or answered."""

MAX_FILL_MS = 10_000
"""At most so much silence is made up for one hole."""

STALL_SECONDS = 0.75
"""So long without media while the caller speaks means that the line stalls."""

FILL_MS = 100
"""A stalled line is filled in steps of so many milliseconds."""

COMMIT_SECONDS = 1.0
"""So long after the end of speech its turn may take to be committed; until then the server may answer by itself."""

NOTICED_FRAMES = 15
"""So many of the latest frames (300 ms) tell whether somebody has just begun to speak."""

SPEECH_RMS = 400
"""Speech on a telephone is several times as loud, and a quiet line far less; of 32,767."""

REPLAY_SECONDS = 3.0
"""How long it may take a model to find the turn in what it hears once more; if there is none, the call goes on."""

FRAME_MS = FRAME_BYTES // BYTES_PER_MS
_FILL = base64.b64encode(silence(FILL_MS)).decode()


class CallerTurn:
    """Whether the caller has a turn that is not over: they speak, or have stopped and it is not committed yet."""

    def __init__(self) -> None:
        self.speaking = False
        self._open_until = -math.inf

    def begin(self) -> None:
        self.speaking, self._open_until = True, math.inf

    def stop(self, now: float) -> None:
        self.speaking, self._open_until = False, now + COMMIT_SECONDS

    def commit(self) -> None:
        """It is over, unless the caller has gone on speaking."""
        self._open_until = math.inf if self.speaking else -math.inf

    def forget(self) -> None:
        """Who heard it is gone."""
        self.speaking, self._open_until = False, -math.inf

    def replayed(self, now: float) -> None:
        """Another model hears it once more, and is to tell when it was over."""
        self._open_until = now + REPLAY_SECONDS

    def open(self, now: float) -> bool:
        return now < self._open_until

    def get_timer(self) -> float | None:
        return self._open_until if math.isfinite(self._open_until) else None

    def handle_timer(self, now: float) -> None:
        """Give up waiting for the commit, if it is time."""
        if now >= self._open_until:
            self._open_until = -math.inf


class CallerAudio:
    """The caller's audio on its way to the model. All of `now` is in seconds."""

    def __init__(self) -> None:
        self._queue: deque[tuple[str, int]] = deque()
        self._held = 0
        self._next_timestamp: int | None = None
        self._media_at: float | None = None
        self.speaking = self.by_hand = False
        self._filled_ms = 0
        self._filled_at: float | None = None
        self._given: deque[tuple[str, int]] = deque()
        self._given_bytes = 0
        self.unsettled = False
        """Whether the caller has said something that is neither answered nor understood: another model must hear it."""
        self.dropped_bytes = 0
        """How much was lost because the model did not take it."""
        self.sent_bytes = 0
        """How much the model was given so far; its clock (`audio_start_ms`) counts this."""

    def frame(self, payload: str, timestamp_ms: int, now: float) -> None:
        """Take a frame: base64 of µ-law, and its time on the caller's clock."""
        expected = self._next_timestamp
        if expected is not None and timestamp_ms > expected:
            hole = min(timestamp_ms - expected, MAX_FILL_MS) - self._filled_ms
            if hole >= FRAME_MS:  # less is jitter of Twilio's clock
                self._put(base64.b64encode(silence(hole)).decode())
        size = base64_bytes(payload)
        self._next_timestamp = max(timestamp_ms, expected or 0) + size // BYTES_PER_MS
        self._media_at = now
        self._filled_ms = 0
        self._filled_at = None
        if size:
            self._put(payload)

    def speech(self, speaking: bool, *, by_hand: bool = False) -> None:
        """Note whether the caller speaks: as the model hears it, or (`by_hand`) as the user's code says."""
        self.speaking, self.by_hand = speaking, by_hand
        self.unsettled = self.unsettled or speaking

    def settled(self) -> None:
        """What the caller said is understood, or answered."""
        if self.unsettled:
            self.unsettled = False
            self.forget_given()

    def get_timer(self) -> float | None:
        """Return when silence has to be made up, unless media comes before."""
        if not self.speaking or self._media_at is None or self._filled_ms >= MAX_FILL_MS:
            return None
        if self._filled_at is None:
            return self._media_at + STALL_SECONDS
        return self._filled_at + FILL_MS / 1000

    def handle_timer(self, now: float) -> None:
        """Make up silence if it is due."""
        due = self.get_timer()
        if due is not None and now >= due:
            self._filled_at = now
            self._filled_ms += FILL_MS
            self._put(_FILL)

    def pop(self) -> AudioAppend | None:
        """Return what is next for the model."""
        if not self._queue:
            return None
        payload, size = self._queue.popleft()
        self._held -= size
        self.sent_bytes += size
        self._given.append((payload, size))
        self._given_bytes += size
        while self._given_bytes > MAX_HELD_BYTES:
            self._given_bytes -= self._given.popleft()[1]
        return AudioAppend(payload)

    def take(self) -> Iterator[AudioAppend]:
        """Take everything that waits."""
        while (message := self.pop()) is not None:
            yield message

    def silent(self) -> bool:
        """Tell whether nothing was heard of the caller lately; of speech the model tells some 200 ms later."""
        latest = (*self._given, *self._queue)[-NOTICED_FRAMES:]
        return rms(b"".join(base64.b64decode(payload) for payload, _ in latest)) < SPEECH_RMS

    def forget(self) -> None:
        """Drop everything so far: nobody is to hear it."""
        self._queue.clear()
        self._held = 0
        self.forget_given()

    def forget_given(self) -> None:
        """Do not have it heard once more."""
        self._given.clear()
        self._given_bytes = 0

    def behind_ms(self, model_ms: float) -> float:
        """Return how long ago a time on the model's clock was, which counts the audio it was given."""
        return max(0.0, self.sent_bytes / BYTES_PER_MS - model_ms)

    @property
    def mid_turn(self) -> bool:
        """Whether the caller speaks; who holds a key for longer than is kept has let go of it."""
        return self.speaking and not (self.by_hand and self._given_bytes >= MAX_HELD_BYTES - FRAME_BYTES)

    @property
    def again(self) -> bool:
        """Whether another model would hear once more what is not settled."""
        return self.unsettled and bool(self._given)

    def new_session(self) -> None:
        """Begin the model's clock anew; what is held stays.

        What is not settled is to be heard once more: a turn, or the last seconds, in which one may have begun.
        """
        if self._given:
            self._queue.extendleft(reversed(self._given))
            self._held += self._given_bytes
        self.forget_given()
        self.sent_bytes = 0
        self.speaking = self.speaking and self.by_hand

    def _put(self, payload: str) -> None:
        size = base64_bytes(payload)
        self._queue.append((payload, size))
        self._held += size
        while self._held > MAX_HELD_BYTES:
            _, lost = self._queue.popleft()
            self._held -= lost
            self.dropped_bytes += lost
