"""What Twilio takes on a media socket, what it refuses, and what it writes."""

from __future__ import annotations

import base64
import json

import pytest

from phoneagent.sim.twilio.messages import Mark, Media, Wipe, Writer, read

SID = "MZ" + "a" * 32


def test_the_three_messages():
    assert read(f'{{"event":"media","streamSid":"{SID}","media":{{"payload":"AAEC"}}}}', SID) == Media(b"\0\1\2")
    assert read(f'{{"event":"mark","streamSid":"{SID}","mark":{{"name":"m"}}}}', SID) == Mark("m")
    assert read(f'{{"event":"clear","streamSid":"{SID}"}}', SID) == Wipe()


def test_a_binary_frame():
    violation = read(b"{}", SID)
    assert isinstance(violation, str)
    assert violation.startswith("31950 Stream - Protocol - Malformed Message: ")


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        ("hello", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ({}, "the event None"),
        ({"event": "stop", "streamSid": SID}, "the event 'stop'"),
        ({"event": ["media"], "streamSid": SID}, "the event ['media']"),
        ({"event": "clear"}, "without streamSid"),
        ({"event": "clear", "streamSid": "MZ0"}, "not this stream's"),
        ({"event": "clear", "stream_sid": SID}, "without streamSid"),
        ({"event": "clear", "streamSid": SID, "sequenceNumber": "1"}, "extra field 'sequenceNumber'"),
        ({"event": "media", "streamSid": SID}, "without media"),
        ({"event": "media", "streamSid": SID, "media": "AAAA"}, "'media' is not an object"),
        ({"event": "media", "streamSid": SID, "media": {}}, "without payload"),
        (
            {"event": "media", "streamSid": SID, "media": {"payload": "AAAA", "track": "outbound"}},
            "extra field 'track'",
        ),
        ({"event": "media", "streamSid": SID, "media": {"payload": "AAA"}}, "not base64"),
        ({"event": "media", "streamSid": SID, "media": {"payload": "AA\nAA"}}, "not base64"),
        ({"event": "media", "streamSid": SID, "media": {"payload": 7}}, "not base64"),
        ({"event": "media", "streamSid": SID, "media": {"payload": "é==="}}, "not base64"),
        ({"event": "mark", "streamSid": SID, "name": "m"}, "without mark"),
        ({"event": "mark", "streamSid": SID, "mark": {"name": ""}}, "not a text"),
        ({"event": "mark", "streamSid": SID, "mark": {"name": 1}}, "not a text"),
    ],
)
def test_an_invalid_message(message: object, detail: str):
    violation = read(message if isinstance(message, str) else json.dumps(message), SID)
    assert isinstance(violation, str)
    assert violation.startswith("31951 Stream - Protocol - Invalid Message: ")
    assert detail in violation
    assert len(violation) < 200


def test_what_is_written_is_json_with_numbers_as_strings():
    writer = Writer(SID, "CA1", "AC1")
    frame = base64.b64encode(bytes(160)).decode()
    connected, start, silent, loud, key, mark, stop = map(
        json.loads,
        [
            writer.connected(),
            writer.start({"k": 'a "quoted" value'}),
            writer.media(None, 1, 57),
            writer.media(frame, 2, 77),
            writer.dtmf("#"),
            writer.mark("m"),
            writer.stop(),
        ],
    )
    assert connected == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    assert start == {
        "event": "start",
        "sequenceNumber": "1",
        "streamSid": SID,
        "start": {
            "accountSid": "AC1",
            "streamSid": SID,
            "callSid": "CA1",
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"k": 'a "quoted" value'},
        },
    }
    silence = "/" * 213 + "w=="
    inbound = {"track": "inbound", "chunk": "1", "timestamp": "57", "payload": silence}
    assert silent == {"event": "media", "sequenceNumber": "2", "streamSid": SID, "media": inbound}
    assert loud["media"] == {"track": "inbound", "chunk": "2", "timestamp": "77", "payload": frame}
    assert key["dtmf"] == {"track": "inbound_track", "digit": "#"}
    assert (mark["mark"], stop["stop"]) == ({"name": "m"}, {"accountSid": "AC1", "callSid": "CA1"})
    assert [each["sequenceNumber"] for each in (loud, key, mark, stop)] == ["3", "4", "5", "6"]
