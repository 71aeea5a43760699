"""Finding a tunnel at a fake ngrok agent, and opening one with a fake ngrok package."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web

from phoneagent.cli.tunnel import TunnelFailed, running_tunnel, tunnel

pytestmark = pytest.mark.anyio

PORT, TOKEN = 8000, "2abcDEF_a-token-of-ngrok"
NOBODY = ("http://127.0.0.1:1",)


class Agent:
    """The local API of an ngrok agent: what it says at each path, and where it is."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        page = self.pages.get(request.path)
        if page is None:
            raise web.HTTPNotFound
        return web.Response(text=page) if isinstance(page, str) else web.json_response(page)

    def endpoints(self, *pairs: tuple[str, str]) -> None:
        self.pages["/api/endpoints"] = {
            "endpoints": [{"name": "a", "url": url, "upstream": {"url": upstream}} for url, upstream in pairs]
        }

    def tunnels(self, *pairs: tuple[str, str]) -> None:
        self.pages["/api/tunnels"] = {
            "tunnels": [{"name": "a", "public_url": url, "config": {"addr": address}} for url, address in pairs]
        }


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    made = Agent()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.answer)
    runner = web.AppRunner(app, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.mark.parametrize("upstream", ["http://localhost:8000", "http://127.0.0.1:8000/", "localhost:8000", "8000"])
async def test_a_tunnel_to_our_port_is_found(agent: Agent, upstream: str) -> None:
    agent.endpoints(("https://other.ngrok.app", "http://localhost:80"), ("https://ours.ngrok.app/", upstream))
    assert (await running_tunnel(PORT, (*NOBODY, agent.url)))[0] == "https://ours.ngrok.app"


async def test_an_older_agent_is_understood(agent: Agent) -> None:
    agent.pages["/api/endpoints"] = {"endpoints": []}
    agent.tunnels(("https://ours.ngrok.app", "http://localhost:8000"))
    async with tunnel(PORT, None, agent_apis=[agent.url]) as url:
        assert url == "https://ours.ngrok.app"


@pytest.mark.parametrize(
    "pair", [("http://ours.ngrok.app", "http://localhost:8000"), ("tcp://0.tcp.ngrok.io:1", "localhost:8000")]
)
async def test_only_https_will_do(agent: Agent, pair: tuple[str, str]) -> None:
    agent.endpoints(pair)
    assert await running_tunnel(PORT, [agent.url]) == (None, True)


@pytest.mark.parametrize("page", ["hello", [], {"endpoints": [{}]}, {"endpoints": None}, {"endpoints": ["x"]}])
async def test_something_that_is_no_agent(agent: Agent, page: Any) -> None:
    agent.pages["/api/endpoints"] = page
    assert await running_tunnel(PORT, [agent.url]) == (None, False)


class Ngrok(ModuleType):
    """The official package, as far as it is used."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__("ngrok")
        self.error = error
        self.asked: tuple[Any, ...] = ()
        self.closed = False

    async def forward(self, port: int, *, authtoken: str) -> Ngrok:
        self.asked = (port, authtoken)
        if self.error is not None:
            raise self.error
        return self

    def url(self) -> str:
        return "https://mine.ngrok.app"

    async def close(self) -> None:
        self.closed = True


async def test_a_tunnel_is_opened_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Ngrok()
    monkeypatch.setitem(sys.modules, "ngrok", package)
    async with tunnel(PORT, TOKEN, agent_apis=NOBODY) as url:
        assert (url, package.asked, package.closed) == ("https://mine.ngrok.app", (PORT, TOKEN), False)
    assert package.closed


async def refusal(monkeypatch: pytest.MonkeyPatch, package: Any, token: str | None, apis: Any = NOBODY) -> str:
    monkeypatch.setitem(sys.modules, "ngrok", package)
    with pytest.raises(TunnelFailed) as raised:
        async with tunnel(PORT, token, agent_apis=apis):
            pass
    assert TOKEN not in str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)


async def test_no_package_and_no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    words = await refusal(monkeypatch, None, TOKEN)
    assert "no ngrok agent is running" in words
    assert "ngrok http 8000" in words
    assert "--public-url" in words


async def test_an_agent_whose_tunnels_lead_elsewhere(monkeypatch: pytest.MonkeyPatch, agent: Agent) -> None:
    agent.endpoints(("https://other.ngrok.app", "http://localhost:80"))
    assert "no tunnel of the ngrok agent leads to port 8000" in await refusal(monkeypatch, None, TOKEN, [agent.url])


async def test_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "NGROK_AUTHTOKEN is missing" in await refusal(monkeypatch, Ngrok(), None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ValueError("failed to connect session", f"authentication failed: {TOKEN} is wrong\n\nERR_NGROK_105"),
            "ngrok refuses NGROK_AUTHTOKEN (ERR_NGROK_105)",
        ),
        (ValueError("limited to 1 simultaneous session. ERR_NGROK_108"), "another ngrok session"),
        (ValueError("no such domain", "ERR_NGROK_319"), "docs/errors/err_ngrok_319"),
        (ValueError("failed to connect session", "failed to establish tcp connection"), "could not be reached"),
        (TimeoutError(), "no tunnel within"),
    ],
)
async def test_a_refused_tunnel_is_explained(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    assert words in await refusal(monkeypatch, Ngrok(error), TOKEN)
