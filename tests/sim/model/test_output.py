"""A message item that grows while it is sent."""

from __future__ import annotations

from typing import Any

from phoneagent.sim.model.output import OutputMessage
from phoneagent.sim.model.records import AudioItem, ResponseRecord


class Response:
    """What an item needs of its response: it keeps what is emitted."""

    def __init__(self) -> None:
        self.record = ResponseRecord("resp_1", "client", 0.0)
        self.bytes_per_ms = 8
        self.delta_bytes = 800
        self.emitted: list[tuple[str, Any]] = []
        self.closed: list[tuple[str, Any]] = []

    def new_item_id(self) -> str:
        return "item_1"

    def emit(self, kind: str, *, item: dict[str, Any], **fields: Any) -> None:
        self.emitted.append((kind.removeprefix("response."), fields.get("delta")))

    def open_item(self, item: dict[str, Any]) -> None:
        assert item["content"] == []

    def close_item(self, item: dict[str, Any], status: str) -> None:
        self.closed.append((status, item["content"]))

    def store(self, audio_item: AudioItem) -> None: ...

    def audio_sent(self, now: float) -> None: ...


def test_parts_that_come_later_are_sent_after_the_first() -> None:
    response = Response()
    message = OutputMessage(response, spoken=True)
    message.begin()
    message.whole = False
    message.add("One.", b"\x10" * 1000)
    message.send()
    assert not message.complete
    message.send()
    assert message.complete
    message.add("Two.", b"\x20" * 100)
    message.send()
    message.end("completed")

    deltas = [what for kind, what in response.emitted if kind == "output_audio_transcript.delta"]
    assert "".join(deltas) == "One. Two."
    assert response.closed == [("completed", [{"type": "output_audio", "transcript": "One. Two."}])]
    assert len(message.record.audio) == 1100
    assert message.record.text == "One. Two."
    assert message.record.parts == [("One.", 1000), ("Two.", 100)]


def test_an_item_of_which_more_would_come_was_interrupted() -> None:
    message = OutputMessage(Response(), spoken=True)
    message.begin()
    message.whole = False
    message.add("One.", b"\x10" * 800)
    message.send()
    message.end("incomplete")
    assert message.record.interrupted
