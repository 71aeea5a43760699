"""The caller's audio on its way to the model, and the caller's turn.

Every frame goes to the model in order, and waits until the model listens. Holes are filled with silence: the model's
voice activity detection counts *audio* time. If a line stops delivering in the middle of a word, no silence ever comes
and the turn never ends; so silence is inserted, but not a second time when the line returns with a jump in its
timestamps.
"""

from __future__ import annotations

import base64
import math
from binascii import a2b_base64
from collections import deque
from collections.abc import Iterable, Sequence

from phoneagent.bridge.conversation import MAX_OUTBOX
from phoneagent.bridge.requests import Verdict
from phoneagent.bridge.turn_signs import COMMIT_SECONDS
from phoneagent.protocol.audio import (
    BYTES_PER_MS,
    FRAME_BYTES,
    FRAME_MS,
    SILENCE,
    base64_bytes,
    piece_levels,
    rms,
    silence,
)
from phoneagent.protocol.realtime import AudioAppend, AudioClear, AudioCommit, ToModel

MAX_HELD_BYTES = 10_000 * BYTES_PER_MS
"""Ten seconds of the caller's audio wait for a model that is not ready or does not read; the oldest is dropped first.
The same amount of what one model was given is kept for the next, unless it is understood or answered."""

MAX_FILL_MS = 10_000
"""The most silence that is inserted into one hole."""

LINE_LOST_SECONDS = 15.0
"""Twilio sends silence too, so after this long without any media the line is dead."""

STALL_SECONDS = 0.75
"""After this long without media while the caller speaks, the line stalls, and silence is inserted."""

FILL_MS = 100
"""A stalled line is filled in steps of this length."""

SLACK_BYTES = 100 * BYTES_PER_MS
"""Old audio is dropped in pieces of this length, because dropping it with each frame would move all the rest."""

NOTICED_MS = 300
"""The latest audio that shows whether the caller has just begun to speak."""

PIECE_MS = 100
PIECE_BYTES = PIECE_MS * BYTES_PER_MS
"""The pieces of the caller's audio whose loudness is measured when the model does not report speech."""

KEPT_BYTES = 1_500 * BYTES_PER_MS
"""A responsive server has reported the caller's speech until about a second ago: older silence need not be kept."""

SPEECH_RMS = 400
"""Speech on a telephone is several times as loud, and a quiet line far less; out of 32,767."""

REPLAY_SECONDS = 3.0
"""How long a model may take to find the turn in audio that it hears again; if it finds none, the call goes on."""

_FILL = base64.b64encode(silence(FILL_MS)).decode()


class CallerTurn:
    """The caller's turn: open while they speak, and after that until it is committed. `now` is in seconds."""

    def __init__(self) -> None:
        self.speaking = False
        self._open_until = -math.inf

    def begin(self) -> None:
        """Note that the caller speaks."""
        self.speaking, self._open_until = True, math.inf

    def stop(self, now: float) -> None:
        """Note that the caller has stopped; the commit follows."""
        self.speaking, self._open_until = False, now + COMMIT_SECONDS

    def commit(self) -> None:
        """End the turn, unless the caller has kept speaking."""
        self._open_until = math.inf if self.speaking else -math.inf

    def forget(self) -> None:
        """Note that no end of the turn follows: the session that heard it is gone, or has discarded it."""
        self.speaking, self._open_until = False, -math.inf

    def replayed(self, now: float) -> None:
        """Note that another model hears the turn again, and will report its end."""
        self._open_until = now + REPLAY_SECONDS

    def open(self, now: float) -> bool:
        """Return whether the turn is not over."""
        return now < self._open_until

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        return self._open_until if math.isfinite(self._open_until) else None

    def handle_timer(self, now: float) -> None:
        """Give up waiting for the commit, if it is time."""
        if now >= self._open_until:
            self._open_until = -math.inf


class CallerAudio:
    """The caller's audio on its way to the model. `now` is in seconds."""

    def __init__(self) -> None:
        self._queue: deque[tuple[str, int]] = deque()
        self._held = 0
        self._next_timestamp: int | None = None
        self._media_at: float | None = None
        self.speaking = False
        self.by_hand = False
        """Whether user code marks the turns, as for push-to-talk."""
        self._filled_ms = 0
        self._filled_at: float | None = None
        self._given = bytearray()  # µ-law, because base64 in frames takes twice the memory, for each call
        self.replayed = False
        """Whether the current session hears audio again that an earlier one was given."""
        self.unsettled = False
        """Whether the caller has said something that is neither answered nor understood: another model must hear it."""
        self.muted = False
        """Whether no model may hear the caller: silence replaces their audio."""
        self.dropped_bytes = 0
        """How much audio was lost because the model did not accept it."""
        self.sent_bytes = 0
        """How much audio the session has been given; its clock (`audio_start_ms`) counts this."""

    def start(self, now: float) -> None:
        """Note that the media stream begins: its first frame is due."""
        self._media_at = now

    def frame(self, payload: str, timestamp_ms: int, now: float) -> bool:
        """Handle a frame: base64 of µ-law, and its time on the caller's clock.

        Return whether a deadline may have come nearer: with the first frame, or after a stall. A line that keeps
        delivering only moves its deadlines later, so the timer may stay as it is.
        """
        expected = self._next_timestamp
        if expected is not None and timestamp_ms > expected:
            hole = min(timestamp_ms - expected, MAX_FILL_MS) - self._filled_ms
            if hole >= FRAME_MS:  # less is jitter in Twilio's clock
                self._put(base64.b64encode(silence(hole)).decode())
        size = base64_bytes(payload)
        self._next_timestamp = max(timestamp_ms, expected or 0) + size // BYTES_PER_MS
        self._media_at = now
        if size:
            if self.muted:
                payload = base64.b64encode(SILENCE * size).decode()
            self._queue.append((payload, size))
            self._held += size
            if self._held > MAX_HELD_BYTES:
                self._drop_oldest()
        if self._filled_at is None:
            return expected is None
        self._filled_ms, self._filled_at = 0, None
        return True

    def speech(self, speaking: bool, *, by_hand: bool = False) -> None:
        """Note whether the caller speaks: as the model hears it, or (`by_hand`) as the user's code says."""
        self.speaking, self.by_hand = speaking, by_hand
        self.unsettled = self.unsettled or speaking

    def mute(self, muted: bool) -> None:
        """Let no model hear the caller, until they are unmuted."""
        self.muted = muted

    def settled(self) -> None:
        """Note that what the caller said is understood, or answered."""
        if self.unsettled:
            self.unsettled = False
            self.forget_given()
        elif len(self._given) > KEPT_BYTES + SLACK_BYTES:
            del self._given[:-KEPT_BYTES]

    def get_timer(self) -> float | None:
        """Return when silence must be inserted, or the line is dead, unless media comes before."""
        if self._media_at is None:
            return None
        lost_at = self._media_at + LINE_LOST_SECONDS
        fill_at = self._fill_at()
        return lost_at if fill_at is None else min(lost_at, fill_at)

    def _fill_at(self) -> float | None:
        if self._media_at is None or self._next_timestamp is None:  # before the first frame, nothing stalls
            return None
        if not self.speaking or self._filled_ms >= MAX_FILL_MS:
            return None
        if self._filled_at is None:
            return self._media_at + STALL_SECONDS
        return self._filled_at + FILL_MS / 1000

    def handle_timer(self, now: float) -> Verdict | None:
        """Insert silence, or give up the line, if it is time."""
        if self._media_at is not None and now >= self._media_at + LINE_LOST_SECONDS:
            return Verdict("line_lost", f"no audio came from the caller's line for {LINE_LOST_SECONDS:.0f} s")
        fill_at = self._fill_at()
        if fill_at is not None and now >= fill_at:
            self._filled_at = now
            self._filled_ms += FILL_MS
            self._put(_FILL)
        return None

    def take(self, limit: int | None = None, after: Sequence[ToModel] = ()) -> list[ToModel]:
        """Return `after`, then what is next for the model: all of it, or up to `limit` frames.

        What the model was given is kept, in case another model has to hear it.
        """
        queue, given = self._queue, self._given
        taken = [*after]
        for _ in range(len(queue) if limit is None else min(len(queue), limit)):
            payload, size = queue.popleft()
            given += a2b_base64(payload)
            taken.append(AudioAppend(payload))
            self._held -= size
            self.sent_bytes += size
        if len(given) > MAX_HELD_BYTES + SLACK_BYTES:
            del given[:-MAX_HELD_BYTES]
        return taken

    def latest(self, ms: int) -> bytes:
        """Return the latest `ms` milliseconds of the caller's audio, as µ-law, or as much of it as is kept."""
        if ms <= 0:
            return b""
        size = ms * BYTES_PER_MS
        waiting = [a2b_base64(payload) for payload, _ in list(self._queue)[-(size // FRAME_BYTES + 1) :]]
        return b"".join((self._given[-size:], *waiting))[-size:]

    def silent(self) -> bool:
        """Return whether nothing was heard from the caller lately; the model reports speech about 200 ms late."""
        return rms(self.latest(NOTICED_MS)) < SPEECH_RMS

    def levels(self, pieces: int) -> list[int]:
        """Return how loud each of the latest pieces of the caller's audio was, oldest first."""
        return piece_levels(self.latest(pieces * PIECE_MS), PIECE_BYTES)

    def unheard(self) -> None:
        """Note that the caller said something that this session does not hear: another one must."""
        self.unsettled = True

    def forget(self) -> None:
        """Drop everything so far: no model may hear it."""
        self._queue.clear()
        self._held = 0
        self.forget_given()

    def forget_given(self) -> None:
        """Let no other model hear what this one was given."""
        self._given.clear()

    def behind_ms(self, model_ms: float) -> float:
        """Return how long ago a time on the model's clock was; that clock counts the audio it was given."""
        return max(0.0, self.sent_bytes / BYTES_PER_MS - model_ms)

    @property
    def mid_turn(self) -> bool:
        """Whether the caller speaks. A push-to-talk turn longer than the kept audio counts as released."""
        return self.speaking and not (self.by_hand and len(self._given) >= MAX_HELD_BYTES - FRAME_BYTES)

    @property
    def again(self) -> bool:
        """Whether another model would hear again what is not settled."""
        return self.unsettled and bool(self._given)

    def new_session(self) -> None:
        """Replace a lost session and its voice activity detection; a turn marked by user code goes on."""
        if not self.by_hand:
            self.speech(False)

    def replay(self, waiting: Iterable[ToModel]) -> None:
        """Begin the clock of the next session; what waits stays.

        What is not settled is heard again: a turn, or the last seconds, in which one may have begun.
        """
        if any(isinstance(message, AudioAppend) for message in waiting):
            self.forget_given()  # user code has since marked a turn: all of it waits there
        self.replayed = self.again
        given = self._given[-MAX_HELD_BYTES:]
        for end in range(len(given), 0, -FRAME_BYTES):  # the latest piece first
            piece = given[max(0, end - FRAME_BYTES) : end]
            self._queue.appendleft((base64.b64encode(piece).decode(), len(piece)))
            self._held += len(piece)
        self.forget_given()
        self.sent_bytes = 0
        self.speaking = self.speaking and self.by_hand

    def _put(self, payload: str) -> None:
        size = base64_bytes(payload)
        self._queue.append((payload, size))
        self._held += size
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        while self._held > MAX_HELD_BYTES:
            _, lost = self._queue.popleft()
            self._held -= lost
            self.dropped_bytes += lost


class PushToTalk:
    """The turns that user code marks (`call.clear`, `call.commit`). `commit` and `clear` return False if too much
    waits.
    """

    def __init__(self, outbox: deque[ToModel], caller_audio: CallerAudio) -> None:
        self._outbox = outbox
        self._caller_audio = caller_audio

    def commit(self) -> bool:
        """Make a turn of the caller's audio so far, including what waits; it is not answered by itself."""
        if len(self._outbox) >= MAX_OUTBOX:
            return False
        self._caller_audio.speech(False, by_hand=True)
        self._outbox.extend(self._caller_audio.take())
        self._outbox.append(AudioCommit())
        return True

    def commit_again(self) -> None:
        """Tell another model, which hears the turn again, that the turn is over, if it is."""
        if self._caller_audio.replayed and self._caller_audio.by_hand and not self._caller_audio.speaking:
            self.commit()

    def clear(self) -> bool:
        """Forget the caller's audio that is not in a turn, including what waits."""
        self._caller_audio.forget()
        self._caller_audio.speech(True, by_hand=True)  # new audio is meant to be heard
        if len(self._outbox) >= MAX_OUTBOX:
            return False
        self._outbox.append(AudioClear())
        return True
