"""The HTTP side of the simulated REST API."""

from __future__ import annotations

import base64

import pytest

from phoneagent.sim.twilio.rest_forms import Refused
from phoneagent.sim.twilio.rest_http import basic_credentials, error_body, page_of, same_credentials, snake_case


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_a_list_comes_page_by_page() -> None:
    found = [{"n": index} for index in range(5)]
    page = page_of("numbers", found, "/list.json", {"PageSize": "2", "PhoneNumber": "+1"})
    assert (page["numbers"], page["page"], page["page_size"]) == (found[:2], 0, 2)
    assert page["next_page_uri"] == "/list.json?PageSize=2&PhoneNumber=%2B1&Page=1"
    last = page_of("numbers", found, "/list.json", {"PageSize": "2", "Page": "2"})
    assert (last["numbers"], last["next_page_uri"]) == (found[4:], None)
    assert page_of("numbers", [], "/list.json", {})["numbers"] == []


@pytest.mark.parametrize("params", [{"PageSize": "0"}, {"PageSize": "1001"}, {"Page": "-1"}, {"PageSize": "x"}])
def test_a_bad_page_is_refused(params: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        page_of("numbers", [], "/list.json", params)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (basic("AC1:the token:1"), ("AC1", "the token:1")),
        (basic("AC1:").replace("Basic", "basic"), ("AC1", "")),
        ("", ("", "")),
        ("Bearer abc", ("", "")),
        ("Basic %%%", ("", "")),
        ("Basic /w==", ("", "")),
    ],
)
def test_credentials_of_a_header(header: str, expected: tuple[str, str]) -> None:
    assert basic_credentials(header) == expected


def test_credentials_are_the_same_as_a_whole() -> None:
    assert same_credentials(("AC1", "tokén"), ("AC1", "tokén"))
    assert not same_credentials(("AC1", "token"), ("AC1", "other"))
    assert not same_credentials(("AC2", "token"), ("AC1", "token"))


def test_an_error_names_its_code_and_where_to_read_of_it() -> None:
    body = error_body(404, 20404, "not found")
    assert body == {
        "code": 20404,
        "message": "not found",
        "more_info": "https://www.twilio.com/docs/errors/20404",
        "status": 404,
    }


def test_names_of_fields() -> None:
    assert [snake_case(name) for name in ("VoiceUrl", "StatusCallbackMethod", "Status")] == [
        "voice_url",
        "status_callback_method",
        "status",
    ]
