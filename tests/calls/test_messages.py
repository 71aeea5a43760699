"""The log of a call's messages: what passes is in it, but no audio, no secret and no digit that is gathered."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from phoneagent.calls import messages
from phoneagent.calls.messages import (
    MAX_AUDIO_MESSAGES,
    MAX_CALLS,
    MAX_MESSAGES,
    LoggedCaller,
    LoggedModel,
    MessageLog,
    MessageLogs,
    elided,
)
from phoneagent.errors import ProtocolError
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Audio, Clear, Key, SendMark
from phoneagent.protocol.mediastream import MediaStream
from tests.bridge.rig import ulaw
from tests.calls.shell import Line, Model


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


class Wire(Line):
    """A line that decodes as Twilio's does."""

    def __init__(self) -> None:
        super().__init__()
        self._stream = MediaStream()

    def decode(self, raw: Any) -> Any:
        return self._stream.decode(raw)


def media(**fields: Any) -> str:
    return json.dumps({"streamSid": "MZ1", **fields})


def log_of(*given: str, secret: bool = False) -> tuple[MessageLog, list[Any]]:
    log, line = MessageLog(), Wire()
    caller = LoggedCaller(line, log, lambda: secret)
    decoded = []
    for raw in given:
        try:
            decoded.append(caller.decode(raw))
        except ProtocolError as error:
            decoded.append(error)
    return log, decoded


def text_of(log: MessageLog) -> str:
    return msgspec.json.encode(log.after(0)).decode()


def test_audio_is_left_out_and_its_size_is_there() -> None:
    frame = media(event="media", media={"payload": ulaw(20), "timestamp": "40", "track": "inbound"})
    log, _ = log_of(frame)
    (message,) = log.after(0)
    assert (message.side, message.direction, message.type, message.bytes) == ("caller", "in", "media", len(frame))
    assert message.data["media"] == {"payload": "(160 bytes)", "timestamp": "40", "track": "inbound"}
    assert ulaw(20)[:20] not in text_of(log)


def test_a_key_is_in_it_but_not_a_secret_one() -> None:
    key = media(event="dtmf", dtmf={"track": "inbound_track", "digit": "7"})
    log, _ = log_of(key)
    assert log.after(0)[0].data["dtmf"]["digit"] == "7"
    log, _ = log_of(key, secret=True)
    assert log.after(0)[0].type == "dtmf"
    assert "7" not in json.dumps(log.after(0)[0].data)


def test_the_call_gets_the_key_that_the_log_does_not() -> None:
    start = {"streamSid": "MZ1", "callSid": "CA1", "accountSid": "AC1"}
    key = media(event="dtmf", dtmf={"track": "inbound_track", "digit": "7"})
    log, decoded = log_of(media(event="start", start=start), key, secret=True)
    assert decoded[1] == Key("7")
    assert "7" not in json.dumps([each.data for each in log.after(1)])


@pytest.mark.parametrize(
    "odd",
    [
        '{"event":"dtmf","digit":"7"}',
        '{"event":"dtmf","dtmf":"7"}',
        '{"event":"key","key":{"digit":"7"}}',
        '{"dtmf":{"digit":"7"}}',
        '{"event":["dtmf"],"dtmf":{"digit":"7"}}',
        '{"event":"dtmf","dtmf":{"digit":"7"}',
        '["7"]',
    ],
)
def test_an_odd_message_shows_no_secret_key_either(odd: str) -> None:
    log, _ = log_of(odd, secret=True)
    assert "7" not in json.dumps(log.after(0)[0].data)


def test_what_is_sent_to_the_caller_is_in_it() -> None:
    log, line = MessageLog(), Line()
    sent = [Audio(ulaw(100)), SendMark("1.1"), Clear()]
    LoggedCaller(line, log, lambda: False).write(iter(sent))
    assert line.sent == sent
    assert [(each.direction, each.type) for each in log.after(0)] == [
        ("out", "media"),
        ("out", "mark"),
        ("out", "clear"),
    ]
    assert log.after(0)[1].data["mark"] == {"name": "1.1"}


def test_both_directions_of_the_models_side_are_in_it() -> None:
    log, model = MessageLog(), Model()
    model.effective = {
        "model": "m",
        "tools": [{"type": "mcp", "authorization": "Bearer s3cret", "headers": {"k": "s3cret"}}],
    }
    logged = LoggedModel(model, log)
    logged.write([realtime.AudioAppend(ulaw(20)), realtime.ResponseCreate(event_id="create_1")])
    delta = {"type": "response.output_audio.delta", "response_id": "r1", "item_id": "i1", "delta": ulaw(100)}
    logged.decode(json.dumps(delta).encode())
    logged.decode(json.dumps({"type": "response.output_audio_transcript.delta", "delta": "Good "}).encode())
    assert len(model.sent) == 2
    found = log.after(0)
    assert [(each.direction, each.type) for each in found] == [
        ("in", "session.updated"),
        ("out", "input_audio_buffer.append"),
        ("out", "response.create"),
        ("in", "response.output_audio.delta"),
        ("in", "response.output_audio_transcript.delta"),
    ]
    assert found[1].data["audio"] == "(160 bytes)"
    assert found[3].data["delta"] == "(800 bytes)"
    assert found[4].data["delta"] == "Good "
    assert "s3cret" not in text_of(log)
    assert ulaw(100)[:20] not in text_of(log)


def test_what_is_refused_is_in_it_as_well() -> None:
    log, decoded = log_of("not json")
    assert isinstance(decoded[0], ProtocolError)
    assert (log.after(0)[0].type, log.after(0)[0].bytes) == ("(unreadable)", 8)


def test_long_texts_and_deep_messages_are_cut() -> None:
    assert elided({"text": "x" * 9000})["text"].endswith("… (9000 characters)")
    deep: Any = "x"
    for _ in range(200):
        deep = {"a": [deep]}
    assert "…" in json.dumps(elided(deep), ensure_ascii=False)


def test_it_is_bounded_and_audio_does_not_drive_out_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    log = MessageLog()
    log.add("model", "in", "first", 10, {})
    for _ in range(MAX_AUDIO_MESSAGES + 5):
        log.add("caller", "in", "media", 200, {})
    assert log.after(0)[0].type == "first"
    assert len(log.after(0, 10**6)) == MAX_AUDIO_MESSAGES + 1
    assert log.dropped == 0
    for _ in range(MAX_MESSAGES):
        log.add("model", "in", "event", 10, {})
    assert log.dropped == 1
    monkeypatch.setattr(messages, "MAX_BYTES", 1000)
    log.add("model", "in", "large", 900, {})
    log.add("model", "in", "larger", 5000, {})
    assert [each.type for each in log.after(log.number - 1)] == ["larger"]


def test_it_is_read_on_from_a_number() -> None:
    log = MessageLog()
    for number in range(1, 8):
        log.add("caller", "in", "media" if number % 2 else "mark", 1, {})
    assert [each.number for each in log.after(0, 3)] == [1, 2, 3]
    assert [each.number for each in log.after(3)] == [4, 5, 6, 7]
    assert log.after(7) == []


def test_the_oldest_call_goes_first_and_a_stream_that_follows_goes_on_with_its_log() -> None:
    logs = MessageLogs()
    first = logs.begin("CA0")
    for number in range(1, MAX_CALLS):
        logs.begin(f"CA{number}")
    assert logs.begin("CA0") is first
    logs.begin("CA99")
    assert logs.get("CA1") is None
    assert logs.get("CA0") is first


@pytest.mark.anyio
async def test_a_log_is_forgotten_a_while_after_the_call_unless_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "KEEP_SECONDS", 3)
    logs = MessageLogs()
    for call_sid in ("CA1", "CA2"):
        logs.begin(call_sid)
        logs.end(call_sid)
    await asyncio.sleep(2)
    assert logs.get("CA1") is not None
    logs.begin("CA2")
    await asyncio.sleep(2)
    assert logs.get("CA1") is None
    assert logs.get("CA2") is not None
    logs.end("CA2")
    logs.end("CA3")
    await asyncio.sleep(4)
    assert logs.get("CA2") is None
