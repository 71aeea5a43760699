"""TwiML that Twilio can read."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from phoneagent.twilio.twiml import (
    APOLOGY,
    RETRY,
    ask_again,
    connect_stream,
    fall_back,
    hang_up,
    nothing,
    transcribe_and_dial,
    turn_away,
)

FALLBACK = "+15550100009"


def verbs(twiml: str) -> list[tuple[str, dict[str, str], str | None]]:
    return [(each.tag, dict(each.attrib), each.text) for each in ET.fromstring(twiml)]


@pytest.mark.parametrize("reason", ["busy", "rejected"])
def test_a_call_that_is_not_taken_is_rejected_or_forwarded(reason: str) -> None:
    assert verbs(turn_away(None, reason=reason)) == [("Reject", {"reason": reason}, None)]
    assert verbs(turn_away(FALLBACK, reason=reason)) == [("Dial", {}, FALLBACK)]
    assert verbs(turn_away(FALLBACK, caller_id="+1")) == [("Dial", {"callerId": "+1"}, FALLBACK)]


def test_a_call_that_cannot_go_on_hears_an_apology_and_is_forwarded_or_ended() -> None:
    assert verbs(fall_back(None)) == [("Say", {}, APOLOGY), ("Hangup", {}, None)]
    assert verbs(fall_back(FALLBACK)) == [("Say", {}, APOLOGY), ("Dial", {}, FALLBACK)]
    assert verbs(fall_back(FALLBACK, apologize=False)) == [("Dial", {}, FALLBACK)]
    assert verbs(fall_back(FALLBACK, apologize=False, caller_id="+1")) == [("Dial", {"callerId": "+1"}, FALLBACK)]


def test_a_call_is_ended_or_left_alone() -> None:
    assert verbs(hang_up()) == [("Hangup", {}, None)]
    assert verbs(nothing()) == []


def test_another_process_is_asked_after_a_second() -> None:
    pause, redirect = verbs(ask_again("https://a.example/after?x=1&y=2"))
    assert pause == ("Pause", {"length": "1"}, None)
    assert redirect == ("Redirect", {"method": "POST"}, "https://a.example/after?x=1&y=2" + RETRY)


def test_a_stream_names_what_comes_after_it_and_where_its_state_is_reported() -> None:
    root = ET.fromstring(
        connect_stream(
            "wss://a.example/m/t", {}, action="https://a.example/after", status_callback="https://a.example/s"
        )
    )
    connect = root.find("Connect")
    stream = root.find("Connect/Stream")
    assert connect is not None
    assert stream is not None
    assert connect.attrib == {"action": "https://a.example/after" + RETRY, "method": "POST"}
    assert stream.attrib["statusCallback"] == "https://a.example/s"


def test_twiml_connects_the_stream_and_escapes() -> None:
    twiml = connect_stream(
        "wss://a.example/m/t", {"caller": '<"&>', "called": "", "direction": "inbound", "x": "y" * 600}
    )
    root = ET.fromstring(twiml)
    stream = root.find("./Connect/Stream")
    assert stream is not None
    assert stream.attrib == {"url": "wss://a.example/m/t"}
    parameters = {each.attrib["name"]: each.attrib["value"] for each in stream}
    assert parameters == {"caller": '<"&>', "direction": "inbound"}
    assert [child.tag for child in root] == ["Connect"]


@pytest.mark.parametrize(
    ("party", "noun", "text"),
    [
        (FALLBACK, "Number", FALLBACK),
        ("sip:anna@host;x=<&>", "Sip", "sip:anna@host;x=<&>"),
        ("client:anna", "Client", "anna"),
    ],
)
def test_a_call_that_is_transcribed_has_a_stream_of_both_tracks_beside_it(party: str, noun: str, text: str) -> None:
    twiml = transcribe_and_dial(
        "wss://a.example/m/t",
        {"caller": "<&>"},
        party,
        caller_id="+1",
        announcement="This call is transcribed.",
        time_limit_seconds=3600,
        status_callback="https://a.example/s",
    )
    root = ET.fromstring(twiml)
    assert [each.tag for each in root] == ["Say", "Start", "Dial"]
    stream, dial = root.find("Start/Stream"), root.find("Dial")
    assert stream is not None
    assert dial is not None
    assert stream.attrib == {
        "url": "wss://a.example/m/t",
        "track": "both_tracks",
        "statusCallback": "https://a.example/s",
    }
    assert [each.attrib for each in stream] == [{"name": "caller", "value": "<&>"}]
    assert dial.attrib == {"callerId": "+1", "timeLimit": "3600"}
    assert [(each.tag, each.text) for each in dial] == [(noun, text)]
