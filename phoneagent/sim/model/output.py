"""A message item of a response while it is being sent, delta by delta."""

from __future__ import annotations

import re
import time
from typing import Any, Protocol

from phoneagent.sim.model.config import Json
from phoneagent.sim.model.events import encode_audio
from phoneagent.sim.model.records import AudioItem, ResponseRecord

_TRANSCRIPT_LEAD = 1.5
"""How much faster an item's transcript is sent than its audio."""


class Sender(Protocol):
    """The response that an item belongs to."""

    record: ResponseRecord
    bytes_per_ms: int
    delta_bytes: int

    def new_item_id(self) -> str: ...
    def emit(self, kind: str, *, item: Json, **fields: Any) -> None: ...
    def open_item(self, item: Json) -> None: ...
    def close_item(self, item: Json, status: str) -> None: ...
    def store(self, audio_item: AudioItem) -> None: ...
    def audio_sent(self, now: float) -> None: ...


class _Part:
    """A piece of a message: its words, and its audio in deltas."""

    def __init__(self, text: str, audio: bytes, step: int) -> None:
        self.words = re.findall(r"\s*\S+|\s+", text)
        self.deltas = [audio[at : at + step] for at in range(0, len(audio), step)] or [b""]
        self.words_sent = self.deltas_sent = 0

    @property
    def complete(self) -> bool:
        return self.deltas_sent == len(self.deltas)

    def advance(self) -> tuple[bytes, str]:
        """Return the next piece of audio, and the words of the transcript that are due by then."""
        self.deltas_sent += 1
        share = min(1.0, _TRANSCRIPT_LEAD * self.deltas_sent / len(self.deltas))
        due = len(self.words) if self.complete else round(share * len(self.words))
        words, self.words_sent = "".join(self.words[self.words_sent : due]), due
        return self.deltas[self.deltas_sent - 1], words


class OutputMessage:
    """One message item while it is being sent, as speech or as text. Parts may still be added."""

    def __init__(self, response: Sender, *, spoken: bool) -> None:
        self.whole = True
        """Whether no more parts will come."""
        self._response = response
        self._spoken = spoken
        self._parts: list[_Part] = []
        self._text_sent = ""
        self.item: Json = {
            "id": response.new_item_id(),
            "object": "realtime.item",
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        self.record = AudioItem(self.item["id"], response.record.id, "", response.bytes_per_ms)

    @property
    def complete(self) -> bool:
        """Whether everything added has been sent."""
        return all(part.complete for part in self._parts[-1:])

    def add(self, text: str, audio: bytes | None) -> None:
        """Add words at the end, with their audio if they are spoken."""
        if text and self._parts and self._spoken:
            text = f" {text}"
        self._parts.append(_Part(text, audio or b"", self._response.delta_bytes))
        self.record.text += text
        self.record.parts.append((text.strip(), len(audio or b"")))

    def begin(self) -> None:
        """Announce the item and its only content part."""
        self._response.open_item(self.item)
        if self._spoken:
            self._response.store(self.record)
        part = {"type": "audio", "transcript": ""} if self._spoken else {"type": "text", "text": ""}
        self._emit("response.content_part.added", part=part)

    def send(self) -> None:
        """Send the next piece of audio, and the words of the transcript that are due by then."""
        audio, words = next(part for part in self._parts if not part.complete).advance()
        self._text_sent += words
        if words:
            kind = "response.output_audio_transcript.delta" if self._spoken else "response.output_text.delta"
            self._emit(kind, delta=words)
        self._fill_content()
        if audio:
            self._emit("response.output_audio.delta", delta=encode_audio(audio))
            now = time.monotonic()
            self.record.audio += audio
            self.record.delta_log.append((now, len(self.record.audio)))
            self._response.audio_sent(now)

    def end(self, status: str) -> None:
        """Announce the end of the content part and of the item."""
        self.record.interrupted = status != "completed" and not (self.complete and self.whole)
        text = self._text_sent
        if self._spoken:
            self._emit("response.output_audio.done")
            self._emit("response.output_audio_transcript.done", transcript=text)
            self._emit("response.content_part.done", part={"type": "audio", "transcript": text})
        else:
            self._emit("response.output_text.done", text=text)
            self._emit("response.content_part.done", part={"type": "text", "text": text})
        self._fill_content()
        self._response.close_item(self.item, status)

    def _fill_content(self) -> None:
        # The item holds no more than was said. A truncation removed its transcript, so it must not come back.
        if self.record.truncated_ms is None:
            text = self._text_sent
            spoken, written = {"type": "output_audio", "transcript": text}, {"type": "output_text", "text": text}
            self.item["content"] = [spoken if self._spoken else written]

    def _emit(self, kind: str, **fields: Any) -> None:
        self._response.emit(kind, item=self.item, content_index=0, **fields)
