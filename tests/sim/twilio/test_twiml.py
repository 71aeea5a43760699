"""TwiML as Twilio reads it."""

from __future__ import annotations

import pytest

from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.twiml import Verb, check_stream, parse

XML = "text/xml; charset=utf-8"


def refused(body: str | bytes, content_type: str = XML) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        parse(body.encode() if isinstance(body, str) else body, content_type)
    return caught.value


def test_a_connect_with_a_stream():
    document = parse(
        b'<?xml version="1.0" encoding="UTF-8"?><Response><Connect action="/after"><Stream url="wss://a.example/m">'
        b'<Parameter name="k" value="a &amp; b"/></Stream></Connect><Say voice="x">Good <emphasis>bye</emphasis>!</Say>'
        b"<Hangup/></Response>",
        XML,
    )
    connect, say, hangup = document.verbs
    assert document.alerts == ()
    assert (connect.name, connect.attributes) == ("Connect", {"action": "/after"})
    assert connect.children[0].attributes == {"url": "wss://a.example/m"}
    assert connect.children[0].children[0].attributes == {"name": "k", "value": "a & b"}
    assert (say.text, hangup.name) == ("Good bye!", "Hangup")


@pytest.mark.parametrize(
    ("inside", "alert"),
    [
        ("<say>Hello</say>", "<say> is not known inside <Response>"),
        ("<Shout/>", "<Shout> is not known"),
        ("<Stream url='wss://a.example/'/>", "<Stream> is not known inside <Response>"),
        ("<Hangup now='yes'/>", "<Hangup> has no attribute 'now'"),
        ("<Pause length='long'/>", "<Pause length='long'>"),
        ("<Redirect method='PUT'>/x</Redirect>", "<Redirect method='PUT'>"),
        ("<Redirect/>", "<Redirect> names no URL"),
        ("<Connect/>", "exactly one thing"),
        ("hello", "<Response> holds text"),
        ("<Connect>x<Stream url='wss://a.example/'/></Connect>", "<Connect> holds text"),
        (
            "<Connect><Stream url='wss://a.example/'><Parameter name='k'/></Stream></Connect>",
            "needs a name and a value",
        ),
        (
            f"<Connect><Stream url='wss://a.example/'><Parameter name='k' value='{'v' * 499}'/></Stream></Connect>",
            "<Parameter> has 500 characters",
        ),
    ],
)
def test_what_the_schema_does_not_know_is_an_alert(inside: str, alert: str):
    (found,) = parse(f"<Response>{inside}</Response>".encode(), XML).alerts
    assert found.startswith("12200 Schema validation warning: ")
    assert alert in found


def test_unknown_verbs_and_attributes_are_ignored():
    document = parse(b"<Response><Shout/><Pause length='-1'/><Say loud='1'>Hello</Say></Response>", XML)
    assert [(verb.name, dict(verb.attributes)) for verb in document.verbs] == [("Pause", {}), ("Say", {})]
    assert len(document.alerts) == 3


def test_the_longest_parameter_that_is_allowed():
    parameter = f"<Parameter name='k' value='{'v' * 498}'/>"
    body = f"<Response><Connect><Stream url='wss://a/'>{parameter}</Stream></Connect></Response>"
    assert parse(body.encode(), XML).alerts == ()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", 12100),
        ("<Response><Say>", 12100),
        ("<Response>&</Response>", 12100),
        (' <?xml version="1.0"?><Response/>', 12100),
        ("<response/>", 12100),
        ("Internal Server Error", 12100),
        ('<!DOCTYPE r [<!ENTITY a "aaaa">]><Response>&a;</Response>', 12100),
        (b"\xff\xfe<\x00", 12100),
        ("<Response>" + "<Hangup/>" * 8000 + "</Response>", 11750),
    ],
)
def test_what_is_no_twiml_fails_the_call(body: str | bytes, code: int):
    assert refused(body).code == code


def test_the_type_decides_how_an_answer_is_read():
    for kind in ("text/xml", "application/xml", "text/html", "text/plain", "TEXT/XML;charset=utf-8"):
        assert parse(b"<Response><Hangup/></Response>", kind).verbs[0].name == "Hangup"
    assert parse(b"Please call later.", "text/plain").verbs == (Verb("Say", {}, "Please call later."),)
    assert parse(b"RIFF", "audio/wav").verbs[0].name == "Play"
    assert refused("{}", "application/json").code == 12300
    assert refused("<Response/>", "").code == 12300


def test_a_document_of_64_kb_is_read():
    body = b"<Response>" + b" " * (64 * 1024 - 21) + b"</Response>"
    assert len(body) == 64 * 1024
    assert parse(body, XML).verbs == ()


def test_good_twiml_that_the_phone_cannot_carry_out_is_no_mistake():
    document = parse(b"<Response><Enqueue>support</Enqueue><Stop/></Response>", XML)
    assert document.alerts == ()
    assert [verb.simulated for verb in document.verbs] == [False, False]
    relay = parse(b"<Response><Connect><ConversationRelay url='wss://a/'/></Connect></Response>", XML)
    assert (relay.alerts, relay.verbs[0].simulated) == ((), False)


def test_a_verb_shows_neither_numbers_nor_tokens():
    (verb,) = parse(b"<Response><Dial callerId='+15550100009'>+15550100003</Dial></Response>", XML).verbs
    assert verb.text == "+15550100003"
    assert "1555" not in repr(verb)


@pytest.mark.parametrize(
    ("attributes", "url", "code"),
    [
        ({"track": "both_tracks", "url": "wss://a.example/m"}, "wss://a.example/m", 31941),
        ({}, "", 31923),
        ({"url": " wss://a.example/m"}, "wss://a.example/m", 31923),
        ({"url": "wss:///m"}, "wss:///m", 31923),
        ({"url": "ws://a.example/m"}, "ws://a.example/m", 31922),
        ({"url": "https://a.example/m"}, "https://a.example/m", 31922),
        ({"url": "wss://a.example/m?token=secret"}, "wss://a.example/m?token=secret", 31920),
    ],
)
def test_a_stream_that_is_not_dialled(attributes: dict[str, str], url: str, code: int):
    with pytest.raises(CallFailed) as caught:
        check_stream(Verb("Stream", attributes, ""), url, allow_ws=False)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


def test_a_plain_stream_may_be_allowed():
    check_stream(Verb("Stream", {"url": "ws://127.0.0.1/m"}, ""), "ws://127.0.0.1/m", allow_ws=True)
    check_stream(Verb("Stream", {"url": "wss://a/m", "track": "inbound_track"}, ""), "wss://a/m", allow_ws=False)


@pytest.mark.parametrize("track", ["inbound_track", "outbound_track", "both_tracks"])
def test_a_stream_beside_the_call_may_have_any_track(track: str) -> None:
    check_stream(Verb("Stream", {"url": "wss://a/m", "track": track}, ""), "wss://a/m", allow_ws=False, started=True)
    with pytest.raises(CallFailed, match="31941"):
        check_stream(
            Verb("Stream", {"url": "wss://a/m", "track": "all"}, ""), "wss://a/m", allow_ws=False, started=True
        )


def test_start_needs_one_thing_to_start() -> None:
    assert "exactly one thing to start" in parse(b"<Response><Start/></Response>", XML).alerts[0]
    document = parse(b"<Response><Start><Stream url='wss://a/m' track='both_tracks'/></Start></Response>", XML)
    assert document.alerts == ()
    assert document.verbs[0].simulated
