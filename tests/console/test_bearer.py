"""The bearer token of a request."""

from __future__ import annotations

import pytest
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from phoneagent.console.bearer import has_token
from tests.asgi import scope

TOKEN = SecretStr("a-long-random-text")


def connection(**headers: str) -> HTTPConnection:
    return HTTPConnection(scope("http", "/calls", headers=headers))


def test_the_token_is_found() -> None:
    assert has_token(connection(authorization="Bearer a-long-random-text"), TOKEN)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        "a-long-random-text",
        "Basic a-long-random-text",
        "Bearer a-long-random-texT",
        "Bearer \xe9",
        "bearer a-long-random-text",
        "Bearer a-long-random-text ",
    ],
)
def test_nothing_else_is_taken_for_it(given: str) -> None:
    assert not has_token(connection(authorization=given), TOKEN)
    assert not has_token(connection(), TOKEN)
