"""The forms of Twilio's REST API: known fields, and the values that are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from phoneagent.sim.twilio.rest_forms import (
    BAD_VALUE,
    MAX_TWIML_CHARS,
    Refused,
    check_call,
    check_call_update,
    check_number,
    unknown_fields,
)

OWNED = {"+15550100002"}
CALL = {"To": "+15550100001", "From": "+15550100002", "Url": "https://agent.example/voice"}


def code_of(check: Callable[[], None]) -> int:
    with pytest.raises(Refused) as caught:
        check()
    assert caught.value.status == 400
    assert caught.value.message
    return caught.value.code


def test_unknown_fields_are_named_in_order() -> None:
    assert unknown_fields("call update", ["Status", "Zebra", "status", "Twiml"]) == ["Zebra", "status"]
    assert unknown_fields("list", {"PhoneNumber": "+1", "PageSize": "50"}) == []


def test_a_field_of_one_form_may_be_unknown_to_another() -> None:
    assert unknown_fields("number", ["VoiceUrl"]) == []
    assert unknown_fields("call", ["VoiceUrl"]) == ["VoiceUrl"]


@pytest.mark.parametrize("to", ["+15550100001", "client:alice", "sip:alice@example.com", "sips:alice@example.com"])
def test_parties_that_can_be_called(to: str) -> None:
    check_call({**CALL, "To": to}, OWNED)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"To": ""}, 21201),
        ({"To": "5550100001"}, 21211),
        ({"To": "+0123456789"}, 21211),
        ({"To": "+123456"}, 21211),
        ({"From": ""}, 21213),
        ({"From": "+15550100009"}, 21210),
        ({"Url": ""}, 21205),
        ({"Url": "agent.example/voice"}, 21205),
        ({"Url": "ftp://agent.example/voice"}, 21205),
        ({"Url": "https:///voice"}, 21205),
        ({"Method": "PUT"}, BAD_VALUE),
        ({"StatusCallbackMethod": "post"}, BAD_VALUE),
        ({"SendDigits": "hello!"}, BAD_VALUE),
        ({"SendDigits": "1" * 33}, BAD_VALUE),
        ({"Record": "maybe"}, BAD_VALUE),
        ({"RecordingChannels": "7"}, BAD_VALUE),
        ({"RecordingTrack": "left"}, BAD_VALUE),
    ],
)
def test_a_call_that_is_refused(change: Mapping[str, str], code: int) -> None:
    assert code_of(lambda: check_call({**CALL, **change}, OWNED)) == code


@pytest.mark.parametrize(
    "options",
    [
        {"SendDigits": "09AD#*wW" * 4},
        {"SendDigits": "1", "MachineDetection": "Enable"},  # the digits turn the detection off
        {"Record": "true", "RecordingChannels": "dual", "RecordingTrack": "both"},
    ],
)
def test_options_of_a_call(options: Mapping[str, str]) -> None:
    check_call({**CALL, **options}, OWNED)


@pytest.mark.parametrize("caller", ["client:front", "sip:front@example.com"])
def test_a_client_calls_without_owning_a_number(caller: str) -> None:
    check_call({**CALL, "From": caller}, set())


def test_a_call_needs_no_url_if_it_has_twiml() -> None:
    check_call({"To": CALL["To"], "From": CALL["From"], "Twiml": "<Response/>"}, OWNED)


def test_an_application_is_not_simulated() -> None:
    form = {"To": CALL["To"], "From": CALL["From"], "ApplicationSid": "AP1"}
    with pytest.raises(Refused) as caught:
        check_call(form, OWNED)
    assert "more than the simulated phone can carry out; give Url" in caught.value.message
    check_call({**form, "Url": CALL["Url"]}, OWNED)


def test_the_length_of_twiml_is_bounded() -> None:
    check_call({**CALL, "Twiml": "x" * MAX_TWIML_CHARS}, OWNED)
    assert code_of(lambda: check_call({**CALL, "Twiml": "x" * (MAX_TWIML_CHARS + 1)}, OWNED)) == BAD_VALUE


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"Status": "completed"}, "in-progress"),
        ({"Status": "canceled"}, "queued"),
        ({"Status": "canceled"}, "ringing"),
        ({"Twiml": "<Response/>"}, "in-progress"),
        ({"Url": "http://agent.example/next", "Method": "GET"}, "in-progress"),
        ({}, "in-progress"),
    ],
)
def test_a_change_that_is_taken(params: Mapping[str, str], status: str) -> None:
    check_call_update(params, status)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"Status": "busy"}, BAD_VALUE),
        ({"Status": ""}, BAD_VALUE),
        ({"Status": "canceled"}, BAD_VALUE),  # the call is up already
        ({"Url": "https://agent.example/next", "Twiml": "<Response/>"}, BAD_VALUE),
        ({"Url": "next"}, 21205),
        ({"Twiml": "<Response/>", "Method": "DELETE"}, BAD_VALUE),
    ],
)
def test_a_change_that_is_refused(params: Mapping[str, str], code: int) -> None:
    assert code_of(lambda: check_call_update(params, "in-progress")) == code


def test_a_number_takes_addresses_and_their_removal() -> None:
    check_number({"VoiceUrl": "https://agent.example/voice", "VoiceMethod": "GET", "StatusCallback": ""})


@pytest.mark.parametrize("name", ["VoiceUrl", "VoiceFallbackUrl", "StatusCallback", "SmsUrl", "SmsFallbackUrl"])
def test_a_number_refuses_what_is_no_address(name: str) -> None:
    with pytest.raises(Refused, match=f"400 {BAD_VALUE}") as caught:
        check_number({name: "agent.example"})
    assert name in caught.value.message


def test_a_number_refuses_other_methods() -> None:
    assert code_of(lambda: check_number({"VoiceMethod": "PATCH"})) == BAD_VALUE
