from __future__ import annotations

import base64
import json

import pytest

from benchmarks.call import Call
from benchmarks.flow import UP, payload_head
from benchmarks.model import GREETING_FRAMES, ModelServer
from benchmarks.sound import REST
from benchmarks.wire import client_frame
from tests.benchmarks.conftest import Wire

pytestmark = pytest.mark.anyio
HANDSHAKE = (
    b"GET /?model=x HTTP/1.1\r\nHost: localhost\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"X-Bench-Call: CA1\r\n\r\n"
)


class Session:
    """A session with a client that writes events."""

    def __init__(self, call: Call) -> None:
        self.asked: list[str] = []
        self.ended: list[ModelServer] = []
        self.wire = Wire()
        self.model = ModelServer(lambda sid, model: self.asked.append(sid) or call, self.ended.append)  # type: ignore[func-returns-value]
        self.model.connection_made(self.wire)  # type: ignore[arg-type]
        self.model.data_received(HANDSHAKE[:20])
        self.model.data_received(HANDSHAKE[20:])

    def send(self, kind: str, **fields: object) -> None:
        self.model.data_received(client_frame(json.dumps({"type": kind, **fields}).encode()))

    def kinds(self) -> list[str]:
        return [each["type"] for each in self.wire.events()]


@pytest.fixture
async def session(call: Call) -> Session:
    return Session(call)


async def test_the_handshake_names_the_call_and_the_session_is_announced(session: Session) -> None:
    assert session.asked == ["CA1"]
    assert session.wire.written.startswith(b"HTTP/1.1 101 ")
    assert session.kinds() == ["session.created"]


async def test_an_update_is_acknowledged_with_what_was_asked(session: Session) -> None:
    session.kinds()
    pcmu = {"input": {"format": {"type": "audio/pcmu"}}, "output": {"format": {"type": "audio/pcmu"}}}
    session.send("session.update", session={"type": "realtime", "audio": pcmu})
    (updated,) = session.wire.events()
    assert updated["type"] == "session.updated"
    assert updated["session"]["audio"] == pcmu


async def test_the_greeting_ends_and_the_next_response_does_not(session: Session, call: Call) -> None:
    session.kinds()
    session.send("response.create")
    for _ in range(GREETING_FRAMES + 5):
        session.model.tick(1.0)
    events = session.wire.events()
    deltas = [each for each in events if each["type"] == "response.output_audio.delta"]
    assert [each["type"] for each in events[:2]] == ["response.created", "response.output_item.added"]
    assert events[-1]["type"] == "response.done"
    assert events[-1]["response"]["status"] == "completed"
    assert len(deltas) == GREETING_FRAMES == call.down.sent
    assert len(base64.b64decode(deltas[0]["delta"], validate=True)) == 160
    assert not call.talking
    session.send("response.create")
    for _ in range(3 * GREETING_FRAMES):
        session.model.tick(1.0)
    assert "response.done" not in session.kinds()
    assert call.talking


async def test_answers_end_if_the_load_limits_them(session: Session) -> None:
    session.model.answer_frames = 5
    session.send("response.create")
    for _ in range(GREETING_FRAMES):  # the greeting has its own length
        session.model.tick(1.0)
    session.kinds()
    for _ in range(2):
        session.send("response.create")
        for _ in range(10):
            session.model.tick(1.0)
        events = session.wire.events()
        assert len([each for each in events if each["type"] == "response.output_audio.delta"]) == 5
        assert events[-1]["response"]["status"] == "completed"


async def test_audio_of_the_caller_is_counted(session: Session, call: Call) -> None:
    call.up.send(0.0)
    call.up.send(0.0)
    for number in range(2):
        session.send("input_audio_buffer.append", audio=payload_head(UP, number) + REST)
    assert call.accepted_at is not None
    assert call.up.lost(0, 2) == 0


async def test_speech_stops_the_response_only_if_the_session_says_so(session: Session, call: Call) -> None:
    audio = {"input": {"turn_detection": {"type": "server_vad", "interrupt_response": False}}}
    session.send("session.update", session={"audio": audio})
    session.send("response.create")
    session.kinds()
    session.model.barge_in()
    assert call.speaking
    session.model.hear_turn(interrupts=True)
    assert session.kinds() == ["input_audio_buffer.speech_started"]
    assert call.speech_at is not None
    session.send("response.cancel")
    assert session.wire.events()[-1]["response"]["status"] == "cancelled"
    session.send("conversation.item.truncate", item_id="item_1", content_index=0, audio_end_ms=40)
    assert session.kinds() == ["conversation.item.truncated"]


async def test_by_default_the_server_stops_its_response_itself(session: Session) -> None:
    session.send("response.create")
    session.kinds()
    session.model.hear_turn(interrupts=True)
    assert session.kinds()[-1] == "response.done"


async def test_the_end_of_a_session_is_told(session: Session, call: Call) -> None:
    session.model.connection_lost(None)
    assert session.ended == [session.model]
    assert session.model.closed.done()
    assert call.fault == "the bridge closed the model's socket"
    session.model.tick(1.0)
    assert call.down.sent == 0
