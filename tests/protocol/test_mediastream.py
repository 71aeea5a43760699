from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.errors import ProtocolError
from phoneagent.protocol import mediastream
from phoneagent.protocol.mediastream import (
    Audio,
    Clear,
    Connected,
    Dtmf,
    Ignored,
    Mark,
    Media,
    SendMark,
    Start,
    Stop,
    decode,
    encode,
)

SID = "MZ" + "0" * 32


def media(**fields: Any) -> str:
    details = {"track": "inbound", "chunk": "1", "timestamp": "57", "payload": "/" * 213 + "w=="} | fields
    return json.dumps({"event": "media", "sequenceNumber": "2", "media": details, "streamSid": SID})


# --- what Twilio sends ---


def test_connected() -> None:
    assert isinstance(decode('{"event":"connected","protocol":"Call","version":"1.0.0"}'), Connected)


def test_start_with_all_it_carries() -> None:
    format_ = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    details = {"accountSid": "AC1", "callSid": "CA1", "streamSid": SID, "tracks": ["inbound"], "mediaFormat": format_}
    text = json.dumps({
        "event": "start", "sequenceNumber": "1", "streamSid": SID,
        "start": {**details, "customParameters": {"token": "t"}},
    })  # fmt: skip
    start = decode(text)
    assert isinstance(start, Start)
    assert (start.stream_sid, start.start.call_sid, start.start.account_sid) == (SID, "CA1", "AC1")
    assert start.start.media_format == mediastream.MediaFormat("audio/x-mulaw", 8000, 1)
    assert start.start.custom_parameters == {"token": "t"}


def test_start_without_what_may_be_missing() -> None:
    start = decode(json.dumps({"event": "start", "streamSid": SID, "start": {"accountSid": "AC1", "callSid": "CA1"}}))
    assert isinstance(start, Start)
    assert start.start.custom_parameters == {}


def test_media_keeps_its_payload_as_text() -> None:
    message = decode(media())
    assert isinstance(message, Media)
    assert (message.stream_sid, message.media.timestamp, len(message.media.payload)) == (SID, "57", 216)


def test_dtmf_mark_and_stop() -> None:
    dtmf = decode(json.dumps({"event": "dtmf", "streamSid": SID, "dtmf": {"track": "inbound_track", "digit": "5"}}))
    mark = decode(json.dumps({"event": "mark", "sequenceNumber": "9", "streamSid": SID, "mark": {"name": "1.2"}}))
    stop = decode(json.dumps({"event": "stop", "streamSid": SID, "stop": {"accountSid": "AC1", "callSid": "CA1"}}))
    assert isinstance(dtmf, Dtmf)
    assert dtmf.dtmf.digit == "5"
    assert isinstance(mark, Mark)
    assert mark.mark.name == "1.2"
    assert isinstance(stop, Stop)
    assert stop.stream_sid == SID


def test_an_event_that_twilio_may_add_is_ignored() -> None:
    assert decode('{"event":"video","frame":{"a":[1,2]}}') == Ignored("video")


# --- bad input: one exception, whatever came ---

DEEP = "[" * 30_000 + "]" * 30_000
BAD = {
    "empty": "",
    "not JSON": "hello",
    "cut off": '{"event":"media","me',
    "not an object": '["media"]',
    "null": "null",
    "no event": '{"streamSid":"MZ1"}',
    "event is a number": '{"event":1}',
    "media without media": '{"event":"media","streamSid":"MZ1"}',
    "media without a stream": '{"event":"media","media":{"payload":"AAAA"}}',
    "payload is a number": media(payload=1),
    "payload is not base64": media(payload="*" * 216),
    "payload is cut": media(payload="AAA"),
    "timestamp is a number": media(timestamp=57),
    "timestamp is a word": media(timestamp="soon"),
    "timestamp is empty": media(timestamp=""),
    "timestamp is negative": media(timestamp="-5"),
    "timestamp has digits of another script": media(timestamp="٣"),
    "timestamp of more digits than Python reads": media(timestamp="1" * 5000),
    "mark without a name": '{"event":"mark","streamSid":"MZ1","mark":{}}',
    "start without a call": '{"event":"start","streamSid":"MZ1","start":{"accountSid":"AC1"}}',
    "lone surrogate": '{"event":"\\ud800"}',
    "deep": f'{{"event":"x","a":{DEEP[:60_000]}}}',
    "deep and no event": f'{{"a":{DEEP[:60_000]}}}',
    "deep in a known event": '{"event":"stop","a":' + "[" * 60_000,
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_bad_input_is_a_protocol_error_of_one_line(text: str) -> None:
    with pytest.raises(ProtocolError, match="ignored: ") as error:
        decode(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_known_event_that_lacks_something_is_named() -> None:
    with pytest.raises(ProtocolError, match="`dtmf` ignored"):
        decode('{"event":"dtmf","streamSid":"MZ1"}')


def test_a_message_beyond_the_limit_is_refused_unread() -> None:
    assert isinstance(decode(media(payload="A" * 60_000)), Media)
    with pytest.raises(ProtocolError, match="limit is 65536"):
        decode(media(payload="A" * 65_536))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["connected", "start", "media", "dtmf", "mark", "stop", "other"])


@given(
    st.fixed_dictionaries(
        {"event": names | json_values},
        optional=dict.fromkeys(("streamSid", "start", "media", "dtmf", "mark", "stop"), json_values),
    )
)
def test_any_json_is_a_message_or_a_protocol_error(value: dict[str, Any]) -> None:
    with contextlib.suppress(ProtocolError):
        decode(json.dumps(value))


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_a_message_or_a_protocol_error(text: str) -> None:
    with pytest.raises(ProtocolError):
        decode(text)


# --- what it takes ---


def test_exactly_the_documented_fields_are_sent() -> None:
    assert json.loads(encode(Audio("AAAA"), SID)) == {"event": "media", "streamSid": SID, "media": {"payload": "AAAA"}}
    assert json.loads(encode(SendMark("1.7"), SID)) == {"event": "mark", "streamSid": SID, "mark": {"name": "1.7"}}
    assert json.loads(encode(Clear(), SID)) == {"event": "clear", "streamSid": SID}
