"""Addresses that Twilio may request instead of the one under PUBLIC_URL."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from starlette.requests import Request

from phoneagent.twilio.misdirection import MAX_PLACES, hosts_of, places
from tests.asgi import scope

PATH = "/twilio/voice"


def urls(public: str, path: str = PATH, **headers: str) -> list[str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(scope("http", path, headers={"host": "10.0.0.7:8000", **named}))
    return [place.url for place in places(request, PATH, urlsplit(public))]


@pytest.mark.parametrize(
    ("public", "path", "headers", "expected"),
    [
        ("https://a.example/phone", PATH, {}, "https://a.example/twilio/voice"),
        ("https://a.example", f"/phone{PATH}", {}, "https://a.example/phone/twilio/voice"),
        ("https://a.example", f"/phone{PATH}/", {}, "https://a.example/phone/twilio/voice"),
        ("https://a.example", PATH, {}, "http://a.example/twilio/voice"),
        ("https://a.example", PATH, {}, "https://a.example/twilio/voice/"),
        ("https://a.example", PATH, {"host": "B.example"}, "https://B.example/twilio/voice"),
        ("https://a.example", PATH, {"x_forwarded_host": "b.example, c"}, "https://b.example/twilio/voice"),
        ("https://a.example", PATH, {"x_forwarded_prefix": "/phone/"}, "https://a.example/phone/twilio/voice"),
        ("https://a.example", PATH, {"x_original_uri": f"/p{PATH}?x=1"}, "https://a.example/p/twilio/voice"),
        ("https://a.example", PATH, {"x_original_url": f"https://z/p{PATH}"}, "https://a.example/p/twilio/voice"),
    ],
)
def test_headers_and_path_hint_at_the_address(public: str, path: str, headers: dict[str, str], expected: str) -> None:
    assert expected in urls(public, path, **headers)


def test_what_is_no_address_is_no_hint() -> None:
    plain = urls("https://a.example")
    assert urls("https://a.example", x_forwarded_host="a b\n", x_forwarded_prefix="/a b", x_original_uri="/x") == plain
    assert urls("https://a.example", x_forwarded_prefix="/" + "x" * 300) == plain
    many = {f"x_{name}": f"/{name}{PATH}" for name in ("forwarded_uri", "original_uri", "original_url", "rewrite_url")}
    assert len(urls("https://a.example/p", x_forwarded_host="b", x_original_host="c", **many)) == MAX_PLACES


def test_hosts_are_named_as_they_are_spelled() -> None:
    request = Request(scope("http", PATH, headers={"host": "A.example", "x-forwarded-host": "A.example,b"}))
    assert hosts_of(request) == ["A.example"]


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (0, "set PUBLIC_URL=https://a.example, or have it request E"),
        (-1, "PUBLIC_URL has no such address, so have it request E"),
    ],
)
def test_the_remedy_names_the_setting_and_the_address(index: int, said: str) -> None:
    request = Request(scope("http", PATH, headers={"host": "a.example"}))
    place = list(places(request, PATH, urlsplit("https://a.example")))[index]
    assert place.remedy("E") == f"wrong signature for E: Twilio signed {place.url}; {said}"
