"""The caller's side of a line, from a real microphone: blocks in at any pace, a frame out every 20 ms."""

from __future__ import annotations

import base64
from collections.abc import Callable

from phoneagent.protocol.audio import BYTES_PER_MS, FRAME_BYTES, rms
from phoneagent.sim.twilio.microphone import FRAME_MS, Microphone, Utterance
from phoneagent.sim.twilio.playout import MAX_CALL_MS

START_MS = 40
"""The audio needed before the first frame is taken, and again after a gap: the jitter that the buffer bridges."""

MAX_BACKLOG_MS = 200
"""More audio than this is waiting only after a stall, or if the card's clock is fast: the oldest is dropped."""

LOUD = 500
"""RMS (0 to 32767) above which a frame may be the caller's voice: between the noise of a room and quiet speech."""

IDLE_BACKLOG_MS = 80
"""With more than this waiting, quiet frames are skipped: otherwise the delay after a stall would stay."""

BEGIN_FRAMES = 3
"""A voice begins with this many loud frames in a row; a click is shorter."""

END_MS = 600
"""The silence after which an utterance is over."""

_SMOOTHING = 0.02
"""The weight of a new figure in the average delay."""


class JitterBuffer:
    """Audio between a card that delivers it in blocks and a line that takes it in frames. Bounded.

    Attributes:
        dropped_ms: the audio that was dropped because too much was waiting.
        gaps: how many times there was too little.
        average_ms: the average delay that the buffer adds.
    """

    def __init__(self, *, start_ms: int = START_MS, max_ms: int = MAX_BACKLOG_MS) -> None:
        self.dropped_ms = 0.0
        self.gaps = 0
        self.average_ms = 0.0
        self._start_bytes, self._max_bytes = start_ms * BYTES_PER_MS, max_ms * BYTES_PER_MS
        self._audio = bytearray()
        self._flowing = False

    @property
    def waiting_ms(self) -> float:
        """The audio that is waiting."""
        return len(self._audio) / BYTES_PER_MS

    def push(self, audio: bytes) -> None:
        """Add a block."""
        self._audio += audio
        if len(self._audio) > self._max_bytes:
            self.catch_up()

    def catch_up(self) -> None:
        """Keep only the newest audio, as much as a start needs."""
        excess = max(len(self._audio) - self._start_bytes, 0)
        self.dropped_ms += excess / BYTES_PER_MS
        del self._audio[:excess]

    def pull(self) -> bytes | None:
        """Take a frame; None while there is too little."""
        if not self._flowing:
            if len(self._audio) < self._start_bytes:
                return None
            self._flowing = True
        if len(self._audio) < FRAME_BYTES:
            self._flowing = False
            self.gaps += 1
            return None
        self.average_ms += _SMOOTHING * (self.waiting_ms - self.average_ms) if self.average_ms else self.waiting_ms
        frame = bytes(self._audio[:FRAME_BYTES])
        del self._audio[:FRAME_BYTES]
        return frame


class CardMicrophone(Microphone):
    """A `Microphone` that a sound card feeds. Its `speech` is found by loudness, and has no words.

    Lines that are said with `say` go first. While `muted()` is true, the line gets silence.
    """

    def __init__(self, *, muted: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self.muted = muted
        self.buffer = JitterBuffer()
        self._loud_frames = 0
        self._current: Utterance | None = None
        self._heard: list[tuple[int, bytes]] = []
        self._begun = False

    def take(self, ulaw: bytes) -> None:
        """Take a block from the card."""
        self.buffer.push(ulaw)

    def frame(self, number: int) -> str | None:
        """Return frame `number` of the call in base64, None for silence. Must be called once per frame."""
        if not self._begun:  # the card was open before the call
            self._begun = True
            self.buffer.catch_up()
        audio = self.buffer.pull()
        if audio is not None and self.buffer.waiting_ms > IDLE_BACKLOG_MS and rms(audio) <= LOUD:
            audio = self.buffer.pull()
        if self._lines:
            return super().frame(number)
        if audio is None or self.muted():
            self._listen(number, loud=False)
            return None
        self._listen(number, loud=rms(audio) > LOUD)
        if number * FRAME_MS < MAX_CALL_MS:
            self._heard.append((number, audio))
        return base64.b64encode(audio).decode()

    def pause(self) -> None:
        """End the utterance: the stream has ended."""
        super().pause()
        self._current = None

    def shut(self, at_ms: float) -> None:
        """End the utterance: the call ended at `at_ms`."""
        super().shut(at_ms)
        self._current = None

    def audio(self, length: int) -> bytes:
        """Return the speech as µ-law from the start of the stream: `length` bytes, with silence in the gaps."""
        track = bytearray(super().audio(length))
        for number, audio in self._heard:
            start = number * FRAME_BYTES
            piece = audio[: max(length - start, 0)]
            track[start : start + len(piece)] = piece
        return bytes(track)

    def _listen(self, number: int, *, loud: bool) -> None:
        """Note whether frame `number` is loud: utterances begin and end by that."""
        self._loud_frames = self._loud_frames + 1 if loud else 0
        end_ms = (number + 1) * FRAME_MS
        if self._current is None:
            if self._loud_frames >= BEGIN_FRAMES:
                self._current = Utterance(None, end_ms - BEGIN_FRAMES * FRAME_MS, end_ms)
                self.speech.append(self._current)
        elif loud:
            self._current.end_ms = end_ms
        elif end_ms - self._current.end_ms >= END_MS:
            self._current = None
