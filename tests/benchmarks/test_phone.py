from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from twilio.request_validator import RequestValidator

from benchmarks.call import Call
from benchmarks.flow import DOWN, payload_head
from benchmarks.phone import AUTH_TOKEN, PUBLIC_URL, Phone, Signer, form_of, stream_of
from benchmarks.sound import REST
from benchmarks.wire import server_frame
from tests.benchmarks.conftest import Wire

pytestmark = pytest.mark.anyio
URL = "wss://bench.example/media/token"
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n"


@pytest.fixture
async def wire() -> Wire:
    return Wire()


@pytest.fixture
async def phone(call: Call, wire: Wire) -> AsyncIterator[Phone]:
    phone = Phone(call, URL, {"caller": "+15550100001"}, Signer())
    phone.connection_made(wire)  # type: ignore[arg-type]
    yield phone
    call.over = True
    phone.connection_lost(None)


def down(number: int) -> bytes:
    return server_frame(
        json.dumps({"event": "media", "media": {"payload": payload_head(DOWN, number) + REST}}).encode()
    )


def message(event: str, **fields: object) -> bytes:
    return server_frame(json.dumps({"event": event, "streamSid": "MZ", **fields}).encode())


def test_the_stream_is_read_from_the_answer() -> None:
    twiml = (
        '<Response><Connect action="https://bench.example/after?a=1"><Stream url="wss://bench.example/m?a=1&amp;b=2" '
        'name="x"><Parameter name="caller" value="&lt;none&gt;"/></Stream></Connect></Response>'
    )
    assert stream_of(twiml) == ("wss://bench.example/m?a=1&b=2", {"caller": "<none>"})
    with pytest.raises(ValueError, match="connects to no stream"):
        stream_of("<Response><Reject/></Response>")


def test_requests_are_signed(call: Call) -> None:
    form = form_of(call, "ringing")
    headers = Signer().headers(PUBLIC_URL + "/twilio/voice", form)
    valid = RequestValidator(AUTH_TOKEN).validate(PUBLIC_URL + "/twilio/voice", form, headers["X-Twilio-Signature"])
    assert valid


async def test_the_socket_is_opened_and_begins_as_twilios(call: Call, phone: Phone, wire: Wire) -> None:
    request = wire.written.decode().split("\r\n")
    assert request[0] == "GET /media/token HTTP/1.1"
    assert "Host: bench.example" in request
    wire.written = b""
    phone.data_received(ACCEPTED)
    connected, start, media = wire.events()
    assert phone.opened.done()
    assert (connected["event"], start["event"], media["event"]) == ("connected", "start", "media")
    assert start["start"]["customParameters"] == {"caller": "+15550100001"}
    assert start["start"]["callSid"] == call.sid
    assert media["streamSid"] == call.stream_sid


async def test_frames_have_numbers_of_any_length(call: Call, phone: Phone, wire: Wire) -> None:
    phone.data_received(ACCEPTED)
    wire.events()
    for _ in range(1100):
        phone.tick(0.0)
    frames = wire.events()
    assert [int(each["media"]["chunk"]) for each in frames] == list(range(2, 1102))
    assert {each["streamSid"] for each in frames} == {call.stream_sid}
    assert call.up.sent == 1101


async def test_a_refused_socket_is_an_error(phone: Phone, wire: Wire) -> None:
    phone.data_received(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    assert wire.closed
    with pytest.raises(ConnectionError, match="refused"):
        await phone.opened


async def test_a_mark_comes_back_when_the_audio_before_it_was_played(
    call: Call, phone: Phone, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone.data_received(ACCEPTED)
    monkeypatch.setattr("benchmarks.phone.perf_counter", lambda: 10.0)
    phone.data_received(down(0) + down(1) + message("mark", mark={"name": "1.1"}))
    wire.events()
    phone.tick(10.039)
    assert [each["event"] for each in wire.events()] == ["media"]
    phone.tick(10.041)
    _, mark = wire.events()
    assert mark["event"] == "mark"
    assert mark["mark"] == {"name": "1.1"}
    assert call.greeted_at == 10.0


async def test_a_clear_gives_all_marks_back_and_is_the_reaction(
    call: Call, phone: Phone, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone.data_received(ACCEPTED)
    monkeypatch.setattr("benchmarks.phone.perf_counter", lambda: 10.0)
    phone.data_received(b"".join(map(down, range(50))) + message("mark", mark={"name": "1.1"}))
    call.speech_at = 9.75
    wire.events()
    phone.data_received(message("clear"))
    assert [each["mark"]["name"] for each in wire.events()] == ["1.1"]
    assert call.reactions == [0.25]
    assert call.resumed_at is None
    phone.data_received(down(50))
    assert call.resumed_at == 10.0


async def test_an_end_that_the_caller_did_not_want_is_a_fault(call: Call, phone: Phone) -> None:
    phone.data_received(ACCEPTED)
    call.fail("the first fault stays")
    call.fail("a later one")
    assert call.fault == "the first fault stays"


async def test_a_closed_socket_does_not_stop_the_clock_of_the_others(call: Call, phone: Phone, wire: Wire) -> None:
    phone.data_received(ACCEPTED)
    wire.close()
    wire.written = b""
    phone.tick(0.0)
    assert wire.written == b""


async def test_a_hang_up_is_a_stop_and_a_close(call: Call, phone: Phone, wire: Wire) -> None:
    phone.data_received(ACCEPTED)
    wire.events()
    phone.hang_up()
    assert b"\x88\x82" in wire.written  # a masked close with a code
    assert call.over
    call.fail("closed")
    assert call.fault is None
