"""Twilio's media socket, both ways: what it sends, what it must never send, and what it takes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.errors import ProtocolError
from phoneagent.protocol.carrier import Audio, AudioIn, Clear, FromCarrier, Key, Played, SendMark, Started, Stopped
from phoneagent.protocol.mediastream import MediaStream

SID = "MZ" + "0" * 32
OTHER = "MZ" + "1" * 32


def decode(text: str, stream_sid: str | None = SID) -> FromCarrier | None:
    """Decode a message in a stream that has started; with `stream_sid` None in one that has not."""
    return MediaStream(stream_sid).decode(text)


def test_a_binary_frame_is_not_twilios() -> None:
    with pytest.raises(ProtocolError, match="a binary frame"):
        MediaStream(SID).decode(media().encode())


def media(stream_sid: str = SID, **fields: Any) -> str:
    details = {"track": "inbound", "chunk": "1", "timestamp": "57", "payload": "/" * 213 + "w=="} | fields
    return json.dumps({"event": "media", "sequenceNumber": "2", "media": details, "streamSid": stream_sid})


def start(stream_sid: str = SID, **fields: Any) -> str:
    details = {"accountSid": "AC1", "callSid": "CA1", "streamSid": stream_sid} | fields
    return json.dumps({"event": "start", "sequenceNumber": "1", "streamSid": stream_sid, "start": details})


def messages(stream_sid: str) -> dict[str, str]:
    """Every kind of message that belongs to a stream."""
    return {
        "media": media(stream_sid),
        "mark": json.dumps({"event": "mark", "streamSid": stream_sid, "mark": {"name": "1.1"}}),
        "dtmf": json.dumps({"event": "dtmf", "streamSid": stream_sid, "dtmf": {"digit": "5"}}),
        "start": start(stream_sid),
        "stop": json.dumps({"event": "stop", "streamSid": stream_sid}),
    }


# --- what Twilio sends ---


@pytest.mark.parametrize("stream_sid", [None, SID])
def test_connected_is_nothing_that_a_call_needs(stream_sid: str | None) -> None:
    assert decode('{"event":"connected","protocol":"Call","version":"1.0.0"}', stream_sid) is None


def test_start_with_all_it_carries() -> None:
    format_ = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    stream = MediaStream()
    message = stream.decode(start(tracks=["inbound"], mediaFormat=format_, customParameters={"token": "t"}))
    assert message == Started(
        stream_sid=SID,
        call_sid="CA1",
        account_sid="AC1",
        parameters={"token": "t"},
        audio=("audio/x-mulaw", 8000, 1),
    )
    assert stream.stream_sid == SID


def test_start_names_any_other_audio_as_it_is() -> None:
    message = decode(start(mediaFormat={"encoding": "audio/x-l16", "sampleRate": 16000, "channels": 2}), None)
    assert isinstance(message, Started)
    assert message.audio == ("audio/x-l16", 16000, 2)


def test_start_without_what_may_be_missing() -> None:
    assert decode(start(), None) == Started(stream_sid=SID, call_sid="CA1", account_sid="AC1")


def test_media_keeps_its_payload_as_text() -> None:
    assert decode(media()) == AudioIn("/" * 213 + "w==", 57)


def test_media_without_a_time_is_at_the_start() -> None:
    assert decode(json.dumps({"event": "media", "streamSid": SID, "media": {"payload": "AAAA"}})) == AudioIn("AAAA", 0)


def test_dtmf_mark_and_stop() -> None:
    dtmf = json.dumps({"event": "dtmf", "streamSid": SID, "dtmf": {"track": "inbound_track", "digit": "5"}})
    mark = json.dumps({"event": "mark", "sequenceNumber": "9", "streamSid": SID, "mark": {"name": "1.2"}})
    stop = json.dumps({"event": "stop", "streamSid": SID, "stop": {"accountSid": "AC1", "callSid": "CA1"}})
    assert [decode(text) for text in (dtmf, mark, stop)] == [Key("5"), Played("1.2"), Stopped()]


def test_a_stop_that_names_no_stream_is_of_this_one() -> None:
    assert decode('{"event":"stop"}') == Stopped()


@pytest.mark.parametrize("stream_sid", [None, SID])
def test_an_event_that_twilio_may_add_is_skipped(stream_sid: str | None) -> None:
    assert decode('{"event":"video","frame":{"a":[1,2]}}', stream_sid) is None


# --- messages at the wrong place ---


@pytest.mark.parametrize("event", ["media", "mark", "dtmf", "start", "stop"])
def test_a_message_of_another_stream_is_refused_by_name(event: str) -> None:
    stream = MediaStream(SID)
    with pytest.raises(ProtocolError, match=f"`{event}` ignored: it came of another stream, or twice"):
        stream.decode(messages(OTHER)[event])
    assert stream.stream_sid == SID


@pytest.mark.parametrize("event", ["media", "mark", "dtmf", "stop"])
def test_a_message_before_start_is_refused_by_name(event: str) -> None:
    stream = MediaStream()
    with pytest.raises(ProtocolError, match=f"`{event}` ignored: it came before `start`"):
        stream.decode(messages(SID)[event])
    assert isinstance(stream.decode(start()), Started)  # and the stream may still begin


def test_a_stop_without_a_stream_is_refused_before_start_too() -> None:
    with pytest.raises(ProtocolError, match="before `start`"):
        decode('{"event":"stop"}', None)


def test_a_second_start_is_refused() -> None:
    stream = MediaStream()
    stream.decode(start())
    with pytest.raises(ProtocolError, match="`start` ignored"):
        stream.decode(start())
    assert stream.stream_sid == SID


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


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({"timestamp": 57}, AudioIn("AAAA", 57)),
        ({"timestamp": "soon"}, AudioIn("AAAA", 0)),
        ({"timestamp": ""}, AudioIn("AAAA", 0)),
        ({"timestamp": "-5"}, AudioIn("AAAA", 0)),
        ({"timestamp": "٣"}, AudioIn("AAAA", 0)),
        ({"timestamp": "1" * 5000}, AudioIn("AAAA", 0)),
        ({"timestamp": "57\n"}, AudioIn("AAAA", 0)),
        ({"payload": 1}, AudioIn("", 57)),
        ({"payload": "AA*A"}, AudioIn("", 57)),
        ({"payload": "AAA"}, AudioIn("AAA=", 57)),
        ({"payload": "_-A"}, AudioIn("/+A=", 57)),
        ({"chunk": [], "track": None}, AudioIn("AAAA", 57)),
    ],
)
def test_an_odd_field_of_a_frame_costs_that_field(fields: dict[str, Any], read: AudioIn) -> None:
    assert decode(media(**{"payload": "AAAA"} | fields)) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('{"event":"media","media":{"payload":"AAAA"}}', AudioIn("AAAA", 0)),
        ('{"event":"media","streamSid":null,"media":{"payload":"AAAA","timestamp":"8"}}', AudioIn("AAAA", 8)),
        ('{"event":"mark","mark":{"name":7}}', Played("7")),
        ('{"event":"mark","mark":{}}', Played("")),
        ('{"event":"dtmf","dtmf":{"digit":5}}', Key("5")),
        ('{"event":"dtmf","dtmf":{"digit":"12"}}', None),
        ('{"event":"dtmf"}', None),
        ('{"event":"stop","streamSid":{},"stop":NaN}', Stopped()),
    ],
)
def test_a_message_that_lacks_something_counts(text: str, read: FromCarrier | None) -> None:
    assert decode(text) == read
    if read is not None:
        with pytest.raises(ProtocolError, match="before `start`"):
            decode(text, None)


def test_start_names_its_stream_twice() -> None:
    stream = MediaStream()
    message = stream.decode(json.dumps({"event": "start", "start": {"streamSid": SID, "callSid": 7}}))
    assert message == Started(stream_sid=SID, call_sid="7", account_sid="")
    assert stream.stream_sid == SID


@pytest.mark.parametrize(
    ("tracks", "track", "heard"),
    [
        (["inbound"], "inbound", True),
        (["inbound", "outbound"], "inbound", True),
        (["inbound", "outbound"], "outbound", False),
        (["inbound_track", "outbound_track"], "outbound_track", False),
        (["outbound"], "outbound", False),
        (["outbound"], None, False),
        (["outbound"], "inbound", True),
        (["inbound", "outbound"], None, True),
        ([], None, True),
        ("both", 7, True),
    ],
)
def test_what_we_say_ourselves_is_not_the_caller(tracks: Any, track: Any, heard: bool) -> None:
    stream = MediaStream()
    stream.decode(start(tracks=tracks))
    if heard:
        assert stream.decode(media(track=track, payload="AAAA")) == AudioIn("AAAA", 57)
    else:
        with pytest.raises(ProtocolError, match="`media` ignored: the outbound track is not the caller"):
            stream.decode(media(track=track))


def test_a_message_beyond_the_limit_is_refused_unread() -> None:
    assert isinstance(decode(media(payload="A" * 60_000)), AudioIn)
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
    for stream_sid in (None, SID):
        with contextlib.suppress(ProtocolError):
            decode(json.dumps(value), stream_sid)


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_a_message_or_a_protocol_error(text: str) -> None:
    with pytest.raises(ProtocolError):
        decode(text)


# --- what it takes ---


def test_exactly_the_documented_fields_are_sent() -> None:
    stream = MediaStream(SID)
    sent = [json.loads(stream.encode(message)) for message in (Audio("AAAA"), SendMark("1.7"), Clear())]
    assert sent == [
        {"event": "media", "streamSid": SID, "media": {"payload": "AAAA"}},
        {"event": "mark", "streamSid": SID, "mark": {"name": "1.7"}},
        {"event": "clear", "streamSid": SID},
    ]


def test_what_is_sent_names_the_stream_that_started() -> None:
    stream = MediaStream()
    stream.decode(start(OTHER))
    assert json.loads(stream.encode(Clear())) == {"event": "clear", "streamSid": OTHER}


def test_both_tracks_are_taken_where_that_is_wanted() -> None:
    stream = MediaStream()
    started = stream.decode(start(tracks=["inbound", "outbound"]))
    assert isinstance(started, Started)
    assert started.both_tracks
    stream.takes_outbound = True
    assert stream.decode(media(track="outbound", payload="AAAA")) == AudioIn("AAAA", 57, outbound=True)
    assert stream.decode(media(track="inbound", payload="AAAA")) == AudioIn("AAAA", 57)


@pytest.mark.parametrize("tracks", [["inbound"], [], ["outbound"], ["sideways"]])
def test_a_stream_of_one_track_is_not_one_of_both(tracks: list[str]) -> None:
    started = MediaStream().decode(start(tracks=tracks))
    assert isinstance(started, Started)
    assert not started.both_tracks
