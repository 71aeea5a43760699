"""Requests as Twilio makes them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from twilio.request_validator import RequestValidator

from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.quirks import Quirks
from phoneagent.sim.twilio.webhook import Web, WebhookAnswer
from tests.patience import HANG_SECONDS
from tests.sim.conftest import Seen, Server

pytestmark = pytest.mark.anyio

TOKEN = "12345"
PARAMS = {"CallSid": "CA1", "From": "+15550100001", "FromCity": "", "Name": "Zoë & co"}


def signed(url: str, params: dict[str, str], seen: Seen) -> bool:
    return bool(RequestValidator(TOKEN).validate(url, params, seen.headers["x-twilio-signature"]))


async def ask(server: Server, *, public_url: str | None = None, method: str = "POST", url: str = "") -> WebhookAnswer:
    async with Web(server.url, public_url, TOKEN) as web:
        return await web.request(url or web.entry, PARAMS, method)


async def test_a_post_has_twilios_headers_all_fields_and_a_signature(server: Server):
    answer = await ask(server)
    (seen,) = server.requests
    assert (answer.status, answer.content_type) == (200, "text/xml; charset=utf-8")
    assert seen.form == PARAMS
    assert seen.headers["user-agent"] == "TwilioProxy/1.1"
    assert seen.headers["content-type"] == "application/x-www-form-urlencoded; charset=UTF-8"
    assert "x-forwarded-proto" not in seen.headers
    assert signed(server.url, PARAMS, seen)


async def test_a_get_has_its_parameters_in_the_signed_query(server: Server):
    await ask(server, method="GET", url=server.url + "?a=1")
    (seen,) = server.requests
    assert (seen.method, seen.form) == ("GET", {})
    assert seen.query.startswith("a=1&CallSid=CA1&From=%2B15550100001&FromCity=&")
    assert signed(f"{server.url}?{seen.query}", {}, seen)


async def test_without_a_token_nothing_is_signed(server: Server):
    async with Web(server.url, None, None) as web:
        await web.request(web.entry, PARAMS)
    assert "x-twilio-signature" not in server.requests[0].headers


async def test_behind_a_public_address_that_is_what_is_signed(server: Server):
    await ask(server, public_url="https://agent.example/base/")
    (seen,) = server.requests
    assert seen.path == "/voice"
    assert seen.headers["host"] == "agent.example"
    assert seen.headers["x-forwarded-proto"] == "https"
    assert signed("https://agent.example/base/voice", PARAMS, seen)


def test_public_addresses_and_where_they_are_served():
    web = Web("http://127.0.0.1:8000/voice", "https://agent.example/base", None)
    assert web.entry == "https://agent.example/base/voice"
    assert web.local("https://agent.example/base/after?x=1") == "http://127.0.0.1:8000/after?x=1"
    assert web.local("wss://AGENT.example:443/base/media/t") == "ws://127.0.0.1:8000/media/t"
    for elsewhere in (
        "https://agent.example/based/x",
        "https://other.example/base/x",
        "wss://agent.example:8443/base/x",
    ):
        assert web.local(elsewhere) == elsewhere
    plain = Web("http://127.0.0.1:8000/voice#rc=2", None, None)
    assert plain.entry == "http://127.0.0.1:8000/voice#rc=2", "it is read before the request is made"
    assert Web("http://x@127.0.0.1/v?a=1#rc=2", "https://b.example/b", None).entry == "https://b.example/b/v?a=1#rc=2"
    assert plain.local("ws://127.0.0.1:8000/m") == "ws://127.0.0.1:8000/m"


def test_only_a_proxy_adds_forwarded_headers():
    web = Web("http://127.0.0.1:8000/voice", "https://agent.example/base", None)
    assert web.forwarded("wss://agent.example/base/media")["X-Forwarded-Proto"] == "https"
    assert web.forwarded("https://other.example/base/media") == {}
    assert Web("http://127.0.0.1:8000/voice", None, None).forwarded("http://127.0.0.1:8000/voice") == {}
    plain = Web("http://127.0.0.1:8000/voice", "http://agent.example:8080", None)
    assert plain.forwarded("http://agent.example:8080/voice") == {
        "X-Forwarded-For": "203.0.113.1",
        "X-Forwarded-Host": "agent.example:8080",
        "X-Forwarded-Proto": "http",
    }


def test_where_a_plain_stream_is_allowed():
    assert Web("http://localhost:1/", None, None).allows_ws
    assert not Web("http://localhost:1/", "https://agent.example", None).allows_ws
    assert not Web("http://agent.example/", None, None).allows_ws


def test_https_is_signed_without_its_port_and_http_with_it():
    validator = RequestValidator(TOKEN)
    web = Web("https://agent.example/", None, TOKEN)
    for url, as_signed in (
        ("https://agent.example:8443/v?a=1", "https://agent.example/v?a=1"),
        ("http://agent.example:8080/v", "http://agent.example:8080/v"),
        ("wss://agent.example/m", "wss://agent.example/m"),
    ):
        assert web.signature(url, {}) == {"X-Twilio-Signature": validator.compute_signature(as_signed, {})}


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://127.0.0.1/", "http://"])
def test_an_address_that_is_none(address: str):
    with pytest.raises(ValueError, match="webhook_url"):
        Web(address, None, None)
    with pytest.raises(ValueError, match="public_url"):
        Web("http://127.0.0.1/", address, None)


@pytest.mark.parametrize(("status", "method", "form"), [(302, "GET", {}), (303, "GET", {}), (307, "POST", PARAMS)])
async def test_redirects_are_followed_and_signed_again(server: Server, status: int, method: str, form: dict[str, str]):
    server.pages["/old"] = lambda request: RedirectResponse("/voice?moved=1", status)
    answer = await ask(server, url=server.url.replace("/voice", "/old"))
    seen = server.requests[-1]
    assert answer.url == server.url + "?moved=1"
    assert (seen.method, seen.form) == (method, form)
    assert signed(server.url + "?moved=1", form, seen)


async def test_cookies_are_kept_for_the_call(server: Server):
    def page(request: Request) -> Response:
        response = Response("<Response/>", media_type="text/xml")
        response.set_cookie("call", "7", secure=True)
        return response

    server.pages["/voice"] = page
    async with Web(server.url, "https://agent.example", TOKEN) as web:
        for _ in range(2):
            await web.request(web.entry, PARAMS)
    assert [seen.headers.get("cookie") for seen in server.requests] == [None, "call=7"]


async def failure(server: Server) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await ask(server)
    return caught.value


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_status_that_is_not_2xx(server: Server, status: int):
    server.pages["/voice"] = lambda request: Response("no", status)
    failed = await failure(server)
    assert (failed.status, failed.code) == (status, 11200)


async def test_redirects_in_a_circle(server: Server):
    server.pages["/voice"] = lambda request: RedirectResponse("/voice", 307)
    assert (await failure(server)).code == 11215
    assert len(server.requests) == 11


@pytest.mark.parametrize("headers", [{}, {"location": "/voice"}])
async def test_a_redirect_that_is_none(server: Server, headers: dict[str, str]):
    server.pages["/voice"] = lambda request: Response("", 308 if headers else 302, headers)
    assert (await failure(server)).code == 11216


async def test_nothing_listens_at_the_address(server: Server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with Web(f"http://127.0.0.1:{port}/", None, None) as web:
        with pytest.raises(CallFailed) as caught:
            await web.request(web.entry, {})
    assert caught.value.code == 11205


@pytest.mark.parametrize(("fragment", "seconds"), [("tt=200", "0.2"), ("rt=100", "0.1")])
async def test_an_answer_that_never_comes(fragment: str, seconds: str):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with Web(f"http://127.0.0.1:{silent.getsockname()[1]}/#{fragment}", None, None) as web:
            with pytest.raises(CallFailed, match=f"no answer within {seconds} s") as caught:
                await web.request(web.entry, {})
    assert caught.value.code == 11200


async def test_an_endless_answer_is_not_read_to_its_end(server: Server):
    server.pages["/voice"] = lambda request: Response("x" * 10_000_000, media_type="text/xml")
    assert 65_536 < len((await ask(server)).body) < 200_000


# Retries.


@dataclass
class Troubled:
    """A server that answers each request with the next thing in `plan`: a status, "break" or "stall"."""

    url: str
    plan: list[int | str]
    requests: list[bytes] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        what = self.plan.pop(0)
        if isinstance(what, int):
            writer.write(f"HTTP/1.1 {what} X\r\nContent-Length: 0\r\nContent-Type: text/xml\r\n\r\n".encode())
        elif what == "stall":
            await reader.read(-1)  # until the phone gives up
        writer.close()

    def tokens(self) -> set[bytes]:
        return {line for each in self.requests for line in each.splitlines() if line.startswith(b"I-Twilio-Idem")}


@asynccontextmanager
async def troubled(*plan: int | str) -> AsyncIterator[Troubled]:
    server = Troubled("", list(plan))
    async with await asyncio.start_server(server.answer, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/voice"
        yield server


async def persist(url: str, *, wait_seconds: float = 0.0) -> int:
    async with Web(url, None, None, quirks=Quirks(retry_waits_seconds=(wait_seconds,))) as web:
        return (await web.request(web.entry, {"CallSid": "CA1"})).status


@pytest.mark.parametrize(
    ("fragment", "plan"),
    [
        ("", [200]),
        ("rc=2&rp=5xx", [503, 500, 200]),
        ("rc=5&rp=4xx", [404, 429, 404, 404, 404, 200]),
        ("rc=1&rp=rt&rt=2000", ["stall", 200]),
        ("rc=1&rp=rt", ["break", 200]),
        ("rc=3&rp=all&rt=2000", [500, "stall", "break", 200]),
        ("rp=5xx,rt", [500, 200]),
    ],
)
async def test_a_request_is_repeated_after_the_failures_that_its_fragment_names(fragment: str, plan: list[int | str]):
    async with troubled(*plan) as server:
        assert await persist(f"{server.url}#{fragment}") == 200
    assert len(server.requests) == len(plan)
    assert len(server.tokens()) == 1, "they are one request"
    assert all(request.startswith(b"POST /voice HTTP") for request in server.requests), "the fragment is not sent"


@pytest.mark.parametrize(
    ("fragment", "plan", "code"),
    [
        ("", [503, 200], 11200),
        ("", ["break", 200], 11205),
        ("rc=5", [503, 200], 11200),
        ("rc=0&rp=all", [503, 200], 11200),
        ("rc=1&rp=5xx", [503, 503, 200], 11200),
        ("rc=5&rp=5xx", [503, 404, 200], 11200),
        ("rc=5&rp=5xx,ct", ["break", 200], 11205),
    ],
)
async def test_a_request_is_not_repeated_beyond_what_its_fragment_says(fragment: str, plan: list[int | str], code: int):
    async with troubled(*plan) as server:
        with pytest.raises(CallFailed) as caught:
            await persist(f"{server.url}#{fragment}")
    assert caught.value.code == code
    assert server.plan == [200]


async def test_a_server_that_comes_up_late_is_found_by_a_retry():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    asking = asyncio.create_task(persist(f"http://127.0.0.1:{port}/#rc=5&rp=ct", wait_seconds=1.0))
    server = Troubled("", [200])
    async with await asyncio.start_server(server.answer, "127.0.0.1", port):
        assert await asyncio.wait_for(asking, HANG_SECONDS) == 200


async def test_retries_end_with_the_total_time():
    async with troubled(*[503] * 6) as server:
        with pytest.raises(CallFailed, match=r"no answer within 2 s"):
            await persist(f"{server.url}#rc=5&rp=5xx&tt=2000", wait_seconds=30)
    assert len(server.requests) == 1


async def test_a_bad_override_is_reported_and_the_request_made(server: Server):
    reported: list[str] = []
    async with Web(server.url + "#rc=9", None, TOKEN, report=reported.append) as web:
        assert (await web.request(web.entry, PARAMS)).status == 200
    assert len(reported) == 1
    assert signed(server.url, PARAMS, server.requests[0]), "the fragment is not signed"
