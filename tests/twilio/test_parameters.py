"""The parameters of a call: from the webhook's form, through the media stream, to the call."""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.twilio.parameters import (
    MAX_CHARS,
    MAX_PARAMETER_CHARS,
    MAX_PARAMETERS,
    MAX_REDIRECTED_CHARS,
    bounded,
    call_of_form,
    call_of_stream,
    redirected,
    shown_by_forward,
    stream_parameters,
)
from phoneagent.twilio.twiml import connect_stream

SID = "CA" + "5" * 32
ANNA, OURS = "+15550100001", "+15550100002"
FORM = {
    "CallSid": SID,
    "AccountSid": "AC" + "0" * 32,
    "From": ANNA,
    "To": OURS,
    "Caller": ANNA,
    "Called": OURS,
    "Direction": "inbound",
    "CallStatus": "ringing",
    "ApiVersion": "2010-04-01",
    "CallToken": "a secret",
    "CallerCity": "OSLO",
    "FromCity": "OSLO",
    "FromZip": "",
    "StirVerstat": "TN-Validation-Passed-A",
    "SipHeader_X-Queue": "vip",
    "tenant": "7",
}


def test_a_call_has_what_the_form_says() -> None:
    call = call_of_form(SID, FORM)
    assert (call.sid, call.caller, call.called, call.direction) == (SID, ANNA, OURS, "inbound")
    assert call.parameters == {
        "SipHeader_X-Queue": "vip",
        "tenant": "7",
        "FromCity": "OSLO",
        "StirVerstat": "TN-Validation-Passed-A",
    }
    assert "vip" not in repr(call)


def test_an_address_in_another_spelling_is_kept_as_it_was_sent() -> None:
    sent = {"From": f"sip:{ANNA}@pbx.example:5061", "To": OURS}
    call = call_of_form(SID, FORM | sent)
    assert (call.caller, call.parameters["From"], "To" in call.parameters) == (ANNA, sent["From"], False)
    assert call_of_form(SID, {"From": "Anonymous"}).parameters == {"From": "Anonymous"}


def test_the_query_s_names_are_no_facts_of_the_call() -> None:
    call = call_of_form(SID, {"From": "", "caller": "x", "direction": "outbound", "again": "1"}, ("again",))
    assert (call.caller, call.direction) == (None, "inbound")
    assert call.parameters == {"caller": "x", "direction": "outbound"}
    assert call_of_form(SID, {"Direction": "<&>"}).direction == "inbound"


def test_a_call_has_what_its_stream_was_given_and_nothing_empty() -> None:
    call = call_of_stream(SID, {"caller": ANNA, "called": "", "direction": "outbound-api", "tenant": "7", "x": ""})
    assert (call.caller, call.called, call.direction) == (ANNA, None, "outbound-api")
    assert call.parameters == {"tenant": "7"}
    assert call_of_stream(SID, {}).direction == "inbound"


names = st.one_of(st.sampled_from(["caller", "_caller", "__called", "direction", "tenant", "_", "From"]), st.text())


@given(st.dictionaries(names, st.text()))
def test_a_stream_carries_every_parameter_unchanged(form: dict[str, str]) -> None:
    call = call_of_form(SID, FORM | form)
    assert call_of_stream(SID, stream_parameters(call)).parameters == call.parameters


@given(st.dictionaries(names, st.text()))
def test_the_twiml_of_any_parameter_is_xml(form: dict[str, str]) -> None:
    call = call_of_form(SID, FORM | form)
    twiml = connect_stream("wss://a.example/m", stream_parameters(call))
    given_there = {each.attrib["name"]: each.attrib["value"] for each in ET.fromstring(twiml).iter("Parameter")}
    assert given_there == {name: value for name, value in stream_parameters(call).items() if value}


def test_parameters_are_bounded_and_what_is_lost_is_counted_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    assert bounded({"n": "x" * (MAX_PARAMETER_CHARS - 2)}, SID)
    assert bounded({"secret": "x" * (MAX_PARAMETER_CHARS - 6)}, SID) == {}
    assert len(bounded({f"n{number}": "x" for number in range(100)}, SID)) == MAX_PARAMETERS
    many = bounded({f"n{number}": "x" * 400 for number in range(60)}, SID)
    assert sum(len(name) + len(value) for name, value in many.items()) <= MAX_CHARS
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert "lacks 1 of Twilio's" in caplog.messages[0]
    assert "secret" not in caplog.text


def test_what_twilio_repeats_is_lost_before_what_it_does_not() -> None:
    form = {"FromCity": "OSLO"} | {f"n{number}": "x" for number in range(MAX_PARAMETERS)}
    assert "FromCity" not in call_of_form(SID, form).parameters


def test_a_redirect_repeats_what_twilio_does_not() -> None:
    assert redirected(call_of_form(SID, FORM)) == {"SipHeader_X-Queue": "vip", "tenant": "7"}
    long = {f"n{number}": "x" * 400 for number in range(4)}
    assert list(redirected(call_of_form(SID, long))) == ["n0", "n1"]
    assert 2 * 402 < MAX_REDIRECTED_CHARS < 3 * 402


@pytest.mark.parametrize(
    ("caller", "called", "shown"),
    [
        (ANNA, OURS, None),
        ("anonymous", OURS, OURS),
        ("client:anna", "+15550100003", "+15550100003"),
        ("sip:anna@host", "sip:shop@host", "+15550100009"),
    ],
)
def test_a_forward_shows_a_number_that_twilio_takes(caller: str, called: str, shown: str | None) -> None:
    assert shown_by_forward(call_of_form(SID, {**FORM, "From": caller, "To": called}), "+15550100009") == shown
