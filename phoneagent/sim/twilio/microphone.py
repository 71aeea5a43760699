"""What the caller says, cut into the 20 ms frames that the line takes."""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from dataclasses import dataclass, field

from phoneagent.protocol.audio import FRAME_BYTES, SILENCE

FRAME_MS = 20


@dataclass(slots=True)
class Utterance:
    """One line of the caller's, `text` if it is known. Milliseconds count from the start of the stream.

    While it is being spoken `end_ms` is when it will end; if the call ends earlier, so does the utterance.
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
    """The caller's mouth: lines wait for one another, and each frame of the call takes the next 20 ms."""

    def __init__(self) -> None:
        self.speech: list[Utterance] = []
        self._lines: deque[_Line] = deque()
        self._spoken: list[tuple[int, bytes]] = []

    async def say(self, ulaw: bytes, text: str | None) -> Utterance:
        """Speak `ulaw` from the next free frame on; return when the last frame was spoken or the mouth was shut.

        Cancelling it breaks the line off.
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
        """Return the base64 of frame `number` of the call, None for silence. To be called once for every frame."""
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
        """Break off the line that is being spoken: nobody takes its frames any more. Those not begun stay."""
        if self._lines and self._lines[0].utterance is not None:
            line = self._lines.popleft()
            utterance = self._cut(line)
            if utterance is not None and not line.finished.done():
                line.finished.set_result(utterance)

    def shut(self, at_ms: float) -> None:
        """Break off everything: the call is over, at `at_ms`."""
        while self._lines:
            line = self._lines.popleft()
            utterance = self._cut(line) or Utterance(line.text, at_ms, at_ms)
            if not line.finished.done():
                line.finished.set_result(utterance)

    def audio(self, length: int) -> bytes:
        """What was said, as µ-law from the start of the stream: `length` bytes, with silence between the words."""
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
