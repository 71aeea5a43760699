"""An app under a real server, for as long as a test needs it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from phoneagent.sim import hosting, serving

pytestmark = pytest.mark.anyio


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()


async def where(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{request.client.host if request.client else None} {request.url}")


APP = Starlette(routes=[Route("/where", where), WebSocketRoute("/echo", echo)])


async def test_an_app_answers_http_and_websockets_on_a_loopback_port() -> None:
    async with serving(APP) as url:
        async with aiohttp.ClientSession() as http, http.get(f"{url}/where") as answer:
            text = await answer.text()
        async with connect(url.replace("http", "ws", 1) + "/echo") as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
            assert "permessage-deflate" not in str(socket.response and socket.response.headers)

    assert text == f"127.0.0.1 {url}/where"


async def test_a_forwarded_address_is_not_believed() -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    async with serving(APP) as url, aiohttp.ClientSession() as http:
        answer = await http.get(f"{url}/where", headers=forwarded)
        assert (await answer.text()).startswith("127.0.0.1 ")


async def test_two_apps_have_two_ports_and_both_are_free_afterwards() -> None:
    async with serving(APP) as first, serving(APP) as second:
        assert first != second
    for url in (first, second):
        with pytest.raises(aiohttp.ClientConnectorError):
            async with aiohttp.ClientSession() as http, http.get(url):
                pass


async def test_an_app_that_does_not_start_is_an_error() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="did not start"):
        async with serving(broken):
            pass


async def test_the_start_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "START_SECONDS", 0.05)

    async def never(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with serving(never):
            pass


async def test_an_error_of_the_test_passes_through_and_stops_the_app() -> None:
    with pytest.raises(ZeroDivisionError):
        async with serving(APP) as url:
            raise ZeroDivisionError
    with pytest.raises(aiohttp.ClientConnectorError):
        async with aiohttp.ClientSession() as http, http.get(url):
            pass
