"""What opens the control API: a token, or this machine where that is enough; and how many wrong tokens may come."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from phoneagent.console.access import (
    MAX_ADDRESSES,
    MAX_TRIES,
    TRIES_SECONDS,
    Access,
    Hidden,
)
from phoneagent.console.sessions import COOKIE
from phoneagent.twilio.verification import PROXY_HEADERS
from tests.asgi import LOOPBACK, scope

TOKEN = SecretStr("a-long-random-text")
STRANGER = ("203.0.113.9", 4711)


def connection(authorization: str | None = None, client: Any = LOOPBACK, **headers: str) -> HTTPConnection:
    given = {} if authorization is None else {"authorization": authorization}
    return HTTPConnection(scope("http", "/calls", headers={**given, **headers}, client=client))


class Watch:
    """A clock that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def status(access: Access, given: HTTPConnection) -> int:
    """Return the status of the refusal, 200 for none, 404 for a client that learns of nothing."""
    try:
        refusal = access.check(given)
    except Hidden:
        return 404
    return 200 if refusal is None else refusal.status_code


def test_the_token_opens_it_from_anywhere() -> None:
    assert status(Access(TOKEN, local=False), connection("Bearer a-long-random-text", STRANGER)) == 200


@pytest.mark.parametrize("authorization", [None, "Bearer no"])
def test_nothing_else_does(authorization: str | None) -> None:
    refusal = Access(TOKEN, local=False).check(connection(authorization, STRANGER))
    assert refusal is not None
    assert (refusal.status_code, refusal.headers["www-authenticate"]) == (401, "Bearer")
    assert TOKEN.get_secret_value() not in bytes(refusal.body).decode()


def test_without_a_token_there_is_nothing_to_find() -> None:
    for given in (None, "Bearer ", "Bearer None"):
        assert status(Access(None, local=False), connection(given)) == 404


def test_programs_on_this_machine_need_none_where_the_settings_say_so() -> None:
    for token in (None, TOKEN):
        access = Access(token, local=True)
        assert status(access, connection()) == 200
        assert status(access, connection(client=("::1", 5))) == 200
        assert status(access, connection(host="localhost:8000")) == 200
    assert status(Access(TOKEN, local=False), connection()) == 401


@pytest.mark.parametrize(
    "options",
    [
        {"client": STRANGER},
        {"client": None},
        {"host": "agent.example"},  # a tunnel, or a name that an attacker has pointed at loopback
        {"host": "a{b.example:8000"},  # which a browser sends as it is
        {"host": "127.0.0.1.agent.example"},
        {"host": "user@127.0.0.1"},
        {"host": ""},
        {"host": "["},
        {"origin": "https://elsewhere.example"},
        *({header: "203.0.113.9"} for header in PROXY_HEADERS),
    ],
)
def test_what_only_looks_like_this_machine_needs_the_token(options: dict[str, Any]) -> None:
    given = connection(**options)
    assert status(Access(None, local=True), given) == 404
    assert status(Access(TOKEN, local=True), given) == 401


def test_an_address_has_so_many_tries_and_others_have_their_own() -> None:
    watch = Watch()
    access = Access(TOKEN, local=False, clock=watch)
    wrong, right = connection("Bearer no", STRANGER), connection("Bearer a-long-random-text", STRANGER)
    for _ in range(MAX_TRIES):
        assert status(access, right) == 200
        assert status(access, wrong) == 401
    refusal = access.check(right)  # else it could be found out by trying
    assert refusal is not None
    assert (refusal.status_code, refusal.headers["retry-after"]) == (429, str(int(TRIES_SECONDS) + 1))
    assert status(access, connection("Bearer a-long-random-text", ("203.0.113.10", 1))) == 200
    watch.now += TRIES_SECONDS - 0.5
    assert status(access, right) == 429
    watch.now += 1
    assert status(access, right) == 200
    assert status(access, wrong) == 401


def test_a_request_without_a_token_is_no_try() -> None:
    access = Access(TOKEN, local=False, clock=Watch())
    assert {status(access, connection(None, STRANGER)) for _ in range(3 * MAX_TRIES)} == {401}


def test_a_network_of_ipv6_counts_as_one_address() -> None:
    access = Access(TOKEN, local=False, clock=Watch())
    for host in range(MAX_TRIES):
        assert status(access, connection("Bearer no", (f"2001:db8::{host:x}", 1))) == 401
    assert status(access, connection("Bearer no", ("2001:db8::ffff:1", 1))) == 429
    assert status(access, connection("Bearer no", ("2001:db8:0:1::1", 1))) == 401


def test_the_addresses_that_are_remembered_are_bounded() -> None:
    access = Access(TOKEN, local=False, clock=Watch())
    for number in range(MAX_ADDRESSES + 50):
        access.check(connection("Bearer no", (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)))
    assert len(access._tries) == MAX_ADDRESSES


def test_behind_a_proxy_wrong_tokens_count_for_the_client_that_the_proxy_saw() -> None:
    access = Access(TOKEN, local=False)
    for _ in range(MAX_TRIES + 1):
        wrong = connection("Bearer wrong", LOOPBACK, **{"x-forwarded-for": "198.51.100.7, 203.0.113.9"})
        refused = status(access, wrong)
    assert refused == 429
    right = {"x-forwarded-for": "203.0.113.10"}
    assert status(access, connection("Bearer a-long-random-text", LOOPBACK, **right)) == 200
    odd = {"x-forwarded-for": "unknown"}
    assert status(access, connection("Bearer a-long-random-text", LOOPBACK, **odd)) == 200


def test_a_client_without_a_proxy_does_not_choose_its_address() -> None:
    access = Access(TOKEN, local=False)
    for number in range(MAX_TRIES + 1):
        refused = status(
            access, connection("Bearer wrong", ("8.8.8.8", 1), **{"x-forwarded-for": f"203.0.113.{number}"})
        )
    assert refused == 429


def test_a_session_that_ends_ends_what_it_had_opened() -> None:
    access = Access(TOKEN, local=False)
    assert access.sessions is not None
    cookie = access.sessions.issue()
    signed_in = connection(client=STRANGER, cookie=f"{COOKIE}={cookie}")
    assert access.still_allows(signed_in)
    access.sessions.end(cookie)
    assert not access.still_allows(signed_in)
    assert access.still_allows(connection("Bearer a-long-random-text", STRANGER))
    assert not access.still_allows(connection(client=STRANGER))
    assert Access(None, local=True).still_allows(connection())
