"""The input audio buffer of the simulated Realtime server, and the turns that it detects.

Time here is *audio time*, the milliseconds received so far, as in the real server: audio that stops in mid-word never
ends a turn, and a backlog that arrives at once counts as if it had been spoken in real time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from phoneagent.protocol.audio import BYTES_PER_MS, FRAME_BYTES
from phoneagent.sim.model.vad import FRAME_MS, Vad

ONSET_FRAMES = 3
"""The consecutive frames of speech (60 ms) that start a turn: a click is shorter."""

MAX_TURN_MS = 600_000
"""The buffer's maximum; older audio is dropped."""

MAX_QUIET_BUFFER_MS = 5_000
"""The buffer's maximum while detection is on and the caller is silent."""

SEMANTIC_SILENCE_MS = {"low": 2000, "medium": 1000, "auto": 1000, "high": 600}
"""Silence that ends a turn under `semantic_vad`, by eagerness. The real server weighs words; this one only waits."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """`audio_start_ms` includes the prefix padding; `speech_start_ms` is where speech began."""

    audio_start_ms: int
    speech_start_ms: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """`audio_end_ms` includes the silence that ended the turn; `audio` is the whole turn as µ-law."""

    audio_end_ms: int
    speech_end_ms: int
    audio: bytes


@dataclass(frozen=True, slots=True)
class IdleTimeout:
    """The caller was silent for `idle_timeout_ms`, from `audio_start_ms` to `audio_end_ms`."""

    audio_start_ms: int
    audio_end_ms: int


BufferEvent = SpeechStarted | SpeechStopped | IdleTimeout


class InputBuffer:
    """Collects input audio and detects turns in it. `make_vad(threshold)` makes the detector of speech."""

    def __init__(self, make_vad: Callable[[float], Vad]) -> None:
        self._make_vad = make_vad
        self._detection: Mapping[str, Any] | None = None
        self._vad: Vad | None = None
        self._received = 0
        self._buffer = bytearray()
        self._partial = b""
        self._idle_from_ms: int | None = None
        self._reset_turn()

    def _reset_turn(self) -> None:
        self._run = 0
        self._speech_start: int | None = None
        self._turn_start = 0
        self._speech_end = 0

    @property
    def position_ms(self) -> int:
        """All audio received so far, in ms."""
        return self._received // BYTES_PER_MS

    @property
    def buffered_ms(self) -> int:
        """The length of the buffer, in ms: what a commit would take."""
        return len(self._buffer) // BYTES_PER_MS

    @property
    def speaking(self) -> bool:
        """Whether a turn has begun and not ended."""
        return self._speech_start is not None

    @property
    def speech_span_ms(self) -> tuple[int, int]:
        """The start of speech (or of the buffer, without speech) and the newest audio, in ms of audio time."""
        start = self._received - len(self._buffer) if self._speech_start is None else self._speech_start
        return start // BYTES_PER_MS, self.position_ms

    def configure(self, detection: Mapping[str, Any] | None) -> None:
        """Use these turn-detection settings from here on. A turn that has begun is discarded; the buffer stays."""
        if detection == self._detection:
            return
        self._detection = detection
        self._vad = None if detection is None else self._make_vad(detection.get("threshold", 0.5))
        self._reset_turn()

    def expect_answer(self, after_ms: int | None) -> None:
        """Start the idle timer `after_ms` of audio from now, when the model's answer will have been played.

        None stops the timer: the model begins an answer.
        """
        self._idle_from_ms = None if after_ms is None else self.position_ms + after_ms

    def clear(self) -> None:
        """Discard the buffer, and a turn that has begun."""
        self._buffer.clear()
        self._reset_turn()

    def take(self) -> bytes:
        """Return the whole buffer and empty it, as a commit does."""
        audio = bytes(self._buffer)
        self.clear()
        return audio

    def feed(self, ulaw: bytes) -> list[BufferEvent]:
        """Append audio and return the events in it, in order."""
        if self._vad is None:
            self._partial = b""
            self._append(ulaw, MAX_TURN_MS)
            return []
        events: list[BufferEvent] = []
        data = self._partial + ulaw
        whole = len(data) - len(data) % FRAME_BYTES
        self._partial = data[whole:]
        for start in range(0, whole, FRAME_BYTES):
            frame = data[start : start + FRAME_BYTES]
            self._append(frame, MAX_TURN_MS if self.speaking else MAX_QUIET_BUFFER_MS)
            if event := self._frame(self._vad.feed(frame)):
                events.append(event)
        return events

    def _append(self, audio: bytes, limit_ms: int) -> None:
        self._buffer += audio
        self._received += len(audio)
        excess = len(self._buffer) - limit_ms * BYTES_PER_MS
        # Cutting the front of a bytearray moves the rest, so cut a second's worth at a time.
        if excess > 1000 * BYTES_PER_MS:
            del self._buffer[:excess]

    def _frame(self, speech: bool) -> BufferEvent | None:
        if speech:
            self._run += 1
            if self._speech_start is None:
                return self._start() if self._run >= ONSET_FRAMES else None
            self._speech_end, self._idle_from_ms = self._received, None
            return None
        self._run = 0
        if self._speech_start is None:
            return self._idle()
        if self._received - self._speech_end >= self._silence_ms() * BYTES_PER_MS:
            return self._stop()
        return None

    def _start(self) -> SpeechStarted:
        assert self._detection is not None
        begin = self._received - self._run * FRAME_BYTES
        padding = self._detection.get("prefix_padding_ms", 300) * BYTES_PER_MS
        self._turn_start = max(begin - padding, self._received - len(self._buffer))
        self._speech_start, self._speech_end, self._idle_from_ms = begin, self._received, None
        return SpeechStarted(self._turn_start // BYTES_PER_MS, begin // BYTES_PER_MS)

    def _stop(self) -> SpeechStopped:
        oldest = self._received - len(self._buffer)
        audio = bytes(self._buffer[max(0, self._turn_start - oldest) :])
        speech_end_ms = self._speech_end // BYTES_PER_MS
        self.clear()
        return SpeechStopped(self.position_ms, speech_end_ms, audio)

    def _silence_ms(self) -> int:
        assert self._detection is not None
        if self._detection["type"] == "semantic_vad":
            return SEMANTIC_SILENCE_MS[self._detection.get("eagerness", "auto")]
        return max(FRAME_MS, int(self._detection.get("silence_duration_ms", 500)))

    def _idle(self) -> IdleTimeout | None:
        limit = self._detection.get("idle_timeout_ms") if self._detection else None
        if limit is None or self._idle_from_ms is None or self.position_ms < self._idle_from_ms + limit:
            return None
        start, self._idle_from_ms = self._idle_from_ms, None
        return IdleTimeout(start, self.position_ms)
