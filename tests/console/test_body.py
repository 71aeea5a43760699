"""The body of a request: its size, its media type, and what it must fit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import Struct
from starlette.requests import Request

from phoneagent.console.body import MAX_BODY_BYTES, Body, decode, read_body
from phoneagent.console.problems import BadRequest
from tests.asgi import scope

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


class Wish(Struct):
    what: str


def sent(chunks: list[bytes], media_type: str = "application/json") -> tuple[Request, list[bytes]]:
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return Request(scope("http", "/", headers={"content-type": media_type}), receive), left


async def test_it_comes_in_pieces() -> None:
    request, _ = sent([b'{"what": ', b'"tea"}'], "Application/JSON; charset=utf-8")
    assert await read_body(request, Wish) == (Wish("tea"), b'{"what": "tea"}')


async def test_one_that_is_too_large_is_not_read_to_its_end() -> None:
    request, left = sent([b"x" * MAX_BODY_BYTES, b"x", b"more"])
    with pytest.raises(BadRequest, match="larger than 64 KiB") as caught:
        await read_body(request, Wish)
    assert caught.value.status == 413
    assert left == [b"more"]


async def test_one_that_does_not_arrive_is_given_up() -> None:
    async def wait() -> Any:
        await asyncio.Event().wait()

    async def leave() -> Any:
        return {"type": "http.disconnect"}

    for receive in (wait, leave):
        request = Request(scope("http", "/", headers={"content-type": "application/json"}), receive)
        with pytest.raises(BadRequest, match="did not arrive within 10 s: send it again"):
            await read_body(request, Wish)


async def test_another_media_type_is_refused_before_it_is_read() -> None:
    request, left = sent([b"what=tea"], "application/x-www-form-urlencoded")
    with pytest.raises(BadRequest, match="Content-Type: application/json") as caught:
        await read_body(request, Wish)
    assert caught.value.status == 415
    assert left == [b"what=tea"]


async def test_one_that_does_not_fit_is_told_where() -> None:
    with pytest.raises(BadRequest, match=r"Expected `str`, got `int` - at `\$.what`"):
        await read_body(sent([b'{"what": 5}'])[0], Wish)
    with pytest.raises(BadRequest, match="not JSON"):
        await read_body(sent([b"{"])[0], Wish)


def test_its_values_are_not_in_its_repr() -> None:
    class Digits(Body):
        digits: str

    assert repr(Digits("739154")) == "Digits(…)"
    with pytest.raises(BadRequest, match="unknown field"):
        decode(b'{"digits": "1", "more": 1}', Digits)
