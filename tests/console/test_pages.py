"""The pages of the console over HTTP: where they are, what they need, and what a sid may hold."""

from __future__ import annotations

import pytest

from phoneagent.console.encoding import NAMES
from tests.asgi import request
from tests.console.test_api import app_with, with_token

pytestmark = pytest.mark.anyio
PAGES = ("/console", "/console/past", "/console/calls/CA1")


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_open_on_this_machine(path: str) -> None:
    for app in (app_with(insecure=True), app_with(local_api=True)):
        answer = await request(app, "GET", path)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (await request(app_with(insecure=True), "POST", path)).status == 405


@pytest.mark.parametrize("path", [*PAGES, "/console/", "/console/sign-in", "/console/sign-out"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_without_a_token_in_the_settings_there_is_none(path: str, method: str) -> None:
    app = app_with()
    found, unknown = await request(app, method, path), await request(app, method, "/unknown")
    assert (found.status, found.text, found.headers) == (unknown.status, unknown.text, unknown.headers)
    assert found.status == 404


async def test_a_name_that_leads_to_this_machine_does_not_open_them() -> None:
    answer = await request(app_with(insecure=True), "GET", "/console", headers={"host": "rebound.example"})
    assert answer.status == 404


@pytest.mark.parametrize(
    ("path", "query", "place"),
    [
        ("/console", "", "%2Fconsole"),
        ("/console/calls/CA1", "", "%2Fconsole%2Fcalls%2FCA1"),
        ("/console/past", "words=a+b", "%2Fconsole%2Fpast%3Fwords%3Da%2Bb"),
    ],
)
async def test_a_browser_that_is_not_signed_in_is_led_to_the_sign_in_and_back(
    path: str, query: str, place: str
) -> None:
    answer = await request(with_token(), "GET", path, query=query)
    assert (answer.status, answer.headers["location"]) == (303, f"/console/sign-in?next={place}")


async def test_the_token_opens_them_too() -> None:
    answer = await request(with_token(), "GET", "/console", headers={"Authorization": "Bearer let-me-in"})
    assert answer.status == 200


async def test_a_sid_is_text_and_no_html() -> None:
    answer = await request(app_with(insecure=True), "GET", '/console/calls/"><script>alert(1)</script>')
    assert "<script>alert" not in answer.text


async def test_a_call_has_the_places_of_other_modules_and_the_names_of_the_events() -> None:
    text = (await request(app_with(insecure=True), "GET", "/console/calls/CA1")).text
    for place in ("call-actions", "call-audio", "call-log"):
        assert f'<section id="{place}" data-call-sid="CA1"' in text
    assert f'data-events="{" ".join([*NAMES.values(), "missed"])}"' in text


async def test_the_slash_at_the_end_is_forgiven() -> None:
    answer = await request(app_with(insecure=True), "GET", "/console/")
    assert (answer.status, answer.headers["location"]) == (308, "/console")
