"""The gate: no route answers without access, whatever it is, and a stranger learns nothing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Router
from starlette.websockets import WebSocket

from phoneagent.console.access import Access
from phoneagent.console.gate import Gate
from phoneagent.console.problems import BadRequest
from phoneagent.console.sessions import COOKIE
from phoneagent.errors import StoreError
from tests.asgi import Answer, Socket, request, scope

pytestmark = pytest.mark.anyio
TOKEN = SecretStr("let-me-in")
BEARER = {"authorization": "Bearer let-me-in"}


async def answer(request: Request) -> Response:
    return PlainTextResponse(f"{request.method} answered")


async def ask_badly(request: Request) -> Response:
    raise BadRequest("x is wrong: correct it")


async def fail(request: Request) -> Response:
    raise StoreError("no such database")


async def run(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


class World:
    def __init__(self, token: SecretStr | None = TOKEN, *, local: bool = False) -> None:
        self.access = Access(token, local=local, public_url="https://agent.example")
        gate = Gate(self.access, PlainTextResponse("nothing here", 404))
        self.router = Router(
            [
                gate.route("/page", {"GET": answer, "POST": answer}, page=True),
                gate.route("/act", {"POST": answer}),
                gate.route("/public", {"GET": answer, "POST": answer}, public=True),
                gate.route("/bad", {"GET": ask_badly}),
                gate.route("/failing", {"GET": fail}),
                gate.socket("/socket", run),
            ]
        )

    @property
    def cookie(self) -> dict[str, str]:
        assert self.access.sessions is not None
        return {"cookie": f"{COOKIE}={self.access.sessions.issue()}"}

    async def ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> Answer:
        return await request(self.router, method, path, headers=headers or {})

    async def connect(self, headers: dict[str, str] | None = None) -> list[str]:
        client = Socket()
        router: Any = self.router  # its types are wider than what a test needs
        await router(scope("websocket", "/socket", headers=headers or {}), client.receive, client.send)
        return client.did


async def test_each_method_has_its_answer() -> None:
    world = World()
    for method, path in (("GET", "/page"), ("POST", "/page"), ("POST", "/act"), ("GET", "/public")):
        assert (await world.ask(method, path, BEARER)).text == f"{method} answered"
    refused = await world.ask("DELETE", "/page", BEARER)
    assert (refused.status, refused.headers["allow"]) == (405, "GET, POST")


async def test_without_access_there_is_no_answer() -> None:
    world = World()
    for method, path in (("POST", "/page"), ("POST", "/act"), ("DELETE", "/act"), ("GET", "/bad")):
        assert (await world.ask(method, path)).status == 401
    assert (await world.ask("GET", "/page")).status == 303
    assert await world.connect() == ["close"]
    hidden = World(None)
    for path in ("/page", "/act", "/public"):
        assert (await hidden.ask("GET", path)).text == "nothing here"
    assert await hidden.connect() == ["close"]


async def test_a_socket_runs_with_access() -> None:
    world = World()
    assert await world.connect(BEARER) == ["accept", "send", "close"]
    assert await world.connect({**world.cookie, "origin": "http://127.0.0.1:8000"}) == ["accept", "send", "close"]
    assert await world.connect({**world.cookie, "origin": "https://agent.example"}) == ["accept", "send", "close"]


FOREIGN: list[dict[str, str]] = [
    {"origin": "https://elsewhere.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:9999"},  # another server on this machine is another site
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},  # a form that posts itself
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_a_page_of_another_site_acts_neither_by_the_cookie_nor_from_this_machine(headers: dict[str, str]) -> None:
    world, here = World(), World(None, local=True)
    assert (await world.ask("POST", "/act", {**world.cookie, **headers})).status == 403
    assert (await world.ask("POST", "/public", headers)).status == 403
    assert await world.connect({**world.cookie, **headers}) == ["close"]
    assert (await here.ask("POST", "/act", headers)).status == 404
    assert await here.connect(headers) == ["close"]


@pytest.mark.parametrize(
    "headers", [{}, {"sec-fetch-site": "same-origin"}, {"origin": "http://127.0.0.1:8000"}], ids=str
)
async def test_our_own_pages_and_programs_do(headers: dict[str, str]) -> None:
    world, here = World(), World(None, local=True)
    assert (await world.ask("POST", "/act", {**world.cookie, **headers})).status == 200
    assert (await here.ask("POST", "/act", headers)).status == 200
    assert await here.connect(headers) == ["accept", "send", "close"]


async def test_a_page_of_the_public_address_is_another_site_to_what_is_open_without_a_token() -> None:
    here = World(None, local=True)
    assert (await here.ask("POST", "/act", {"origin": "https://agent.example"})).status == 404


async def test_another_site_may_lead_a_browser_to_a_page() -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert (await World(None, local=True).ask("GET", "/page", headers)).status == 200


async def test_a_name_that_was_pointed_at_this_machine_opens_nothing() -> None:
    headers = {"host": "rebound.example", "sec-fetch-site": "same-origin", "origin": "http://rebound.example"}
    here = World(None, local=True)
    assert (await here.ask("GET", "/page", headers)).status == 404
    assert (await here.ask("GET", "/public", headers)).status == 404
    assert await here.connect(headers) == ["close"]


async def test_faults_are_problems() -> None:
    world = World()
    bad, failed = await world.ask("GET", "/bad", BEARER), await world.ask("GET", "/failing", BEARER)
    assert (bad.status, failed.status, failed.headers["retry-after"]) == (400, 503, "5")
    assert "x is wrong: correct it" in bad.text


async def test_an_origin_that_cannot_be_read_is_foreign() -> None:
    world: Any = World()
    assert (await world.ask("POST", "/act", {**world.cookie, "origin": "http://[x"})).status == 403
