"""A call made by hand: the two simulators' records as they would be, without running anything."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from phoneagent.protocol.audio import FRAME_BYTES, SILENCE, tone
from phoneagent.sim.model.records import AudioItem, CommittedTurn, ToolCallRecord, Truncation
from phoneagent.sim.twilio.playout import Playout

START = 1000.0
"""The monotonic moment at which the hand-made streams start."""


class HandmadeCall:
    """Builds the records of a call: what the agent says goes to the model's record and, through a bridge of
    `bridge_ms`, to a real `Playout`; what the caller says goes to the phone's record and to the model's."""

    def __init__(self, bridge_ms: float = 2.0) -> None:
        self.bridge_seconds = bridge_ms / 1000
        self.playout = Playout(START)
        self.end_ms = 0.0
        self.caller = bytearray()
        self.line = SimpleNamespace(
            call_sid="CA" + "0" * 32,
            started_at=START,
            ended_by="agent",
            violations=[],
            speech=[],
            sent_log=[],
            clears=self.playout.clears,
            received=self.playout.received,
            received_log=self.playout.received_log,
        )
        self.session = SimpleNamespace(
            audio_items=[], truncations=[], tool_calls=[], caller_turns=[], append_log=[], responses=[]
        )

    def agent(self, name: str, text: str, audio: bytes, at_ms: float, *, reaching: int | None = None) -> AudioItem:
        """The model sends an item at once; its first `reaching` bytes reach the phone."""
        item = AudioItem(name, "resp_" + name, text, audio=bytearray(audio))
        now = START + at_ms / 1000
        for end in range(1200, len(audio) + 1200, 1200):
            item.delta_log.append((now, min(end, len(audio))))
        reaching = len(audio) if reaching is None else reaching
        for begin in range(0, reaching, 1200):
            self.playout.media(audio[begin : min(begin + 1200, reaching)], now + self.bridge_seconds)
        self.session.audio_items.append(item)
        return item

    def clear(self, at_ms: float) -> None:
        self.playout.clear(START + at_ms / 1000)

    def truncate(self, name: str, audio_end_ms: int, *, ok: bool = True) -> None:
        self.session.truncations.append(Truncation(name, audio_end_ms, START, ok))

    def says(self, text: str, start_ms: float, end_ms: float, *, understood: str | None = None) -> None:
        """The caller speaks: 100 ms of silence, a tone, 200 ms of silence."""
        self.caller += SILENCE * (round(end_ms * 8) - len(self.caller))
        voice = tone(300, round(end_ms - start_ms - 300))
        first = round((start_ms + 100) * 8)
        self.caller[first : first + len(voice)] = voice
        self.line.speech.append(SimpleNamespace(text=text, start_ms=start_ms, end_ms=end_ms))
        began = START + (start_ms + 160) / 1000
        self.session.caller_turns.append(
            CommittedTurn("c" + str(len(self.line.speech)), 0, 0, began, understood or text)
        )

    def tool(self, name: str, arguments: dict[str, object], output: str, at_ms: float, ms: float) -> None:
        at = START + at_ms / 1000
        record = ToolCallRecord(name, "call_1", json.dumps(arguments), at, output, at + ms / 1000)
        self.session.tool_calls.append(record)

    def end(self, at_ms: float) -> None:
        """Close the books: the phone's tracks, and frames that each took `bridge_ms` to the model."""
        now = START + at_ms / 1000
        self.playout.stop(now)
        self.line.heard = self.playout.spans(now)
        length = round(at_ms) * 8
        self.caller += SILENCE * (length - len(self.caller))
        self.line.caller_audio = lambda: bytes(self.caller[:length])
        self.line.heard_audio = lambda: self.playout.audio(length, now)
        for frame in range(length // FRAME_BYTES):
            sent = START + frame * 0.02
            self.line.sent_log.append(sent)
            self.session.append_log.append((max(sent, START + 0.3) + self.bridge_seconds, (frame + 1) * FRAME_BYTES))


@pytest.fixture
def handmade() -> HandmadeCall:
    return HandmadeCall()
