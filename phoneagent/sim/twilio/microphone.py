"""The caller's speech, cut into the 20 ms frames of the line."""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from dataclasses import dataclass, field

from phoneagent.protocol.audio import FRAME_BYTES, SILENCE

FRAME_MS = 20


@dataclass(slots=True)
class Utterance:
    """One line of the caller, with its `text` if known. Milliseconds count from the start of the stream.

    While the line is being spoken, `end_ms` is its planned end; if the call ends earlier, so does the utterance.
    """

    text: str | None
    start_ms: float
    end_ms: float


@dataclass(slots=True)
class _Line:
    text: str | None
    frames: deque[bytes]
    finished: asyncio.Future[Utterance]
    utterance: Utterance | None = None
    length_ms: int = field(init=False)

    def __post_init__(self) -> None:
        self.length_ms = len(self.frames) * FRAME_MS


class Microphone:
    """The queue of the caller's lines. Each frame of the call takes its next 20 ms."""

    def __init__(self) -> None:
        self.speech: list[Utterance] = []
        self._lines: deque[_Line] = deque()
        self._spoken: list[tuple[int, bytes]] = []

    async def say(self, ulaw: bytes, text: str | None) -> Utterance:
        """Speak `ulaw` from the next free frame on; return when its last frame was taken or the line was broken off.

        Cancellation breaks the line off.
        """
        padded = ulaw + SILENCE * (-len(ulaw) % FRAME_BYTES) or SILENCE * FRAME_BYTES
        frames = deque(padded[at : at + FRAME_BYTES] for at in range(0, len(padded), FRAME_BYTES))
        line = _Line(text, frames, asyncio.get_running_loop().create_future())
        self._lines.append(line)
        try:
            return await line.finished
        except asyncio.CancelledError:
            if line in self._lines:
                self._lines.remove(line)
                self._cut(line)
            raise

    def frame(self, number: int) -> str | None:
        """Return frame `number` of the call in base64, None for silence. Must be called once per frame."""
        if not self._lines:
            return None
        line = self._lines[0]
        start_ms = number * FRAME_MS
        if line.utterance is None:
            line.utterance = Utterance(line.text, start_ms, start_ms + line.length_ms)
            self.speech.append(line.utterance)
        audio = line.frames.popleft()
        self._spoken.append((number, audio))
        if not line.frames:
            self._lines.popleft()
            line.utterance.end_ms = start_ms + FRAME_MS
            if not line.finished.done():
                line.finished.set_result(line.utterance)
        return base64.b64encode(audio).decode()

    def pause(self) -> None:
        """Break off the line that is being spoken: its stream has ended. Lines not begun stay queued."""
        if self._lines and self._lines[0].utterance is not None:
            line = self._lines.popleft()
            utterance = self._cut(line)
            if utterance is not None and not line.finished.done():
                line.finished.set_result(utterance)

    def shut(self, at_ms: float) -> None:
        """Break off all lines: the call ended at `at_ms`."""
        while self._lines:
            line = self._lines.popleft()
            utterance = self._cut(line) or Utterance(line.text, at_ms, at_ms)
            if not line.finished.done():
                line.finished.set_result(utterance)

    def audio(self, length: int) -> bytes:
        """Return the speech as µ-law from the start of the stream: `length` bytes, with silence between the lines."""
        track = bytearray(SILENCE * length)
        for number, audio in self._spoken:
            start = number * FRAME_BYTES
            piece = audio[: max(length - start, 0)]
            track[start : start + len(piece)] = piece
        return bytes(track)

    @staticmethod
    def _cut(line: _Line) -> Utterance | None:
        if line.utterance is not None:
            line.utterance.end_ms -= len(line.frames) * FRAME_MS
        return line.utterance
