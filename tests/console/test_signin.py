"""Signing in and out: the cookie, the limited tries, and where the browser goes on to."""

from __future__ import annotations

from http.cookies import Morsel, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from phoneagent import PhoneApp
from phoneagent.console.access import MAX_TRIES
from phoneagent.console.sessions import COOKIE, SESSION_SECONDS
from phoneagent.console.signin import MAX_BODY_BYTES, inside
from tests.asgi import Answer, request
from tests.console.test_api import app_with, with_token

pytestmark = pytest.mark.anyio
STRANGER = ("203.0.113.9", 4711)


async def sign_in(app: PhoneApp, token: str = "let-me-in", **options: Any) -> Answer:
    form = {"token": token, **options.pop("form", {})}
    return await request(app, "POST", "/console/sign-in", form=form, **options)


def cookie_of(answer: Answer) -> Morsel[str]:
    return SimpleCookie(answer.headers["set-cookie"])[COOKIE]


async def test_the_token_gives_a_session_that_opens_the_pages_and_the_api() -> None:
    app = with_token()
    answer = await sign_in(app, form={"next": "/console/past?words=a"})
    assert (answer.status, answer.headers["location"]) == (303, "/console/past?words=a")
    cookie = cookie_of(answer)
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "strict", "/")
    assert int(cookie["max-age"]) == SESSION_SECONDS
    assert "let-me-in" not in cookie.value
    signed_in = {"cookie": f"{COOKIE}={cookie.value}"}
    for path in ("/console", "/calls"):
        assert (await request(app, "GET", path, headers=signed_in, client=STRANGER)).status == 200
    assert "Sign out" in (await request(app, "GET", "/console", headers=signed_in)).text
    again = await request(app, "GET", "/console/sign-in", headers=signed_in)
    assert (again.status, again.headers["location"]) == (303, "/console")


@pytest.mark.parametrize(
    ("headers", "public_url", "secure"),
    [
        ({}, "https://agent.example", True),
        ({"origin": "https://agent.example"}, "https://agent.example", True),
        ({"origin": "http://127.0.0.1:8000"}, "https://agent.example", False),  # a browser keeps no secure one there
        ({}, "http://127.0.0.1:8000", False),
    ],
)
async def test_the_cookie_is_secure_where_the_browser_came_by_https(
    headers: dict[str, str], public_url: str, secure: bool
) -> None:
    app = with_token()
    app.settings = app.settings.model_copy(update={"public_url": public_url})  # as `serve --insecure` does
    answer = await sign_in(app, headers=headers, client=STRANGER)
    assert bool(cookie_of(answer)["secure"]) is secure


async def test_a_wrong_token_is_told_and_counted_with_those_of_the_api() -> None:
    app = with_token()
    for _ in range(MAX_TRIES // 2):
        answer = await sign_in(app, "no", client=STRANGER)
        assert answer.status == 401
        assert "this is not PHONEAGENT_API_TOKEN" in answer.text
        assert "set-cookie" not in answer.headers
        await request(app, "GET", "/calls", headers={"Authorization": "Bearer no"}, client=STRANGER)
    answer = await sign_in(app, client=STRANGER)
    assert (answer.status, "retry-after" in answer.headers) == (429, True)
    assert (await sign_in(app)).status == 303  # another address has tries of its own


async def test_a_session_goes_on_while_its_address_may_try_no_more() -> None:
    app = with_token()
    cookie = cookie_of(await sign_in(app, client=STRANGER)).value
    for _ in range(MAX_TRIES):
        await sign_in(app, "no", client=STRANGER)
    headers = {"cookie": f"{COOKIE}={cookie}"}
    assert (await request(app, "GET", "/calls", headers=headers, client=STRANGER)).status == 200
    page = await request(app, "GET", "/console", client=STRANGER)
    assert (page.status, page.headers["location"]) == (303, "/console/sign-in?next=%2Fconsole")


async def test_signing_out_ends_the_session() -> None:
    app = with_token()
    headers = {"cookie": f"{COOKIE}={cookie_of(await sign_in(app)).value}"}
    answer = await request(app, "POST", "/console/sign-out", headers=headers)
    assert (answer.status, answer.headers["location"]) == (303, "/console/sign-in")
    assert cookie_of(answer)["max-age"] == "0"
    assert (await request(app, "GET", "/calls", headers=headers)).status == 401
    assert (await request(app, "GET", "/console/sign-out", headers=headers)).status == 405


async def test_another_site_signs_no_browser_in_or_out() -> None:
    app = with_token()
    foreign = {"origin": "https://elsewhere.example", "sec-fetch-site": "cross-site"}
    assert (await sign_in(app, headers=foreign)).status == 403
    headers = {"cookie": f"{COOKIE}={cookie_of(await sign_in(app)).value}"}
    assert (await request(app, "POST", "/console/sign-out", headers={**headers, **foreign})).status == 403
    assert (await request(app, "GET", "/calls", headers=headers)).status == 200


async def next_of(place: str) -> str:
    """Return where the sign-in page goes on to, if a place has led there."""
    path, _, query = place.partition("?")
    sent = (await request(with_token(), "GET", path, query=query)).headers["location"]
    found = parse_qs(urlsplit(sent).query)
    assert list(found) == ["next"]
    return found["next"][0]


@pytest.mark.parametrize(
    "place",
    [
        "/console",
        "/console/past?words=a%20b",
        "/console/calls/CA1",
        "/console/past?words=a*&agent=(host)",
        "/console/past?words=https://elsewhere.example/../[1]!$',;@?",
    ],
)
async def test_a_place_of_the_console_is_gone_on_to(place: str) -> None:
    assert inside(place) == place
    assert await next_of(place) == place
    answer = await sign_in(with_token(), form={"next": place})
    assert answer.headers["location"] == place


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("/console?token=my-secret", "/console"),
        ("/console/past?words=a&%74oken=my-secret&token&agent=host", "/console/past?words=a&agent=host"),
    ],
)
async def test_a_token_in_a_link_gets_into_no_other_one(given: str, wanted: str) -> None:
    assert await next_of(given) == wanted
    assert inside(given) == wanted


@pytest.mark.parametrize(
    "place",
    [
        "",
        "/",
        "/calls",
        "//elsewhere.example",
        "/console//elsewhere.example",
        "/console/../calls",
        "/\\elsewhere.example",
        "/console\\@elsewhere.example",
        "/console@elsewhere.example",
        "/consoles",
        "https://elsewhere.example/console",
        "javascript:alert(1)",
        "/console\n",
        "/console?a#//elsewhere.example",
        "/console?a b",
        "/console?a\r\nSet-Cookie: x=y",
        "/console#@elsewhere.example",
        "@elsewhere.example/console?a",
        "/console/\r\nSet-Cookie: x=y",
        " /console",
    ],
)
def test_no_other_place_is(place: str) -> None:
    assert inside(place) == "/console"


async def test_what_was_tried_is_not_shown_again() -> None:
    answer = await sign_in(with_token(), "my-secret", form={"next": '"><script>'})
    assert "my-secret" not in answer.text
    assert '"><script>' not in answer.text


async def test_a_form_that_is_too_large_is_refused() -> None:
    answer = await sign_in(with_token(), "x" * (MAX_BODY_BYTES + 1))
    assert answer.status == 400
    answer = await sign_in(with_token(), form={str(number): "x" for number in range(50)})
    assert answer.status == 400


async def test_where_no_token_is_needed_there_is_nothing_to_sign_in_to() -> None:
    app = app_with(insecure=True)
    for answer in (await sign_in(app), await request(app, "GET", "/console/sign-in")):
        assert (answer.status, answer.headers["location"]) == (303, "/console")
