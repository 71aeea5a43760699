"""The control API over HTTP: its answers, its refusals, its streams, and that without access there is nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from phoneagent import Agent, Call, CallEnded, CallStarted, PhoneApp, Settings, Trouble
from phoneagent.console import api, streaming
from phoneagent.console.api import MAX_LIMIT
from phoneagent.errors import StoreError
from phoneagent.events import Event
from phoneagent.sim import serving
from tests.asgi import Answer, request, scope
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
TOKEN = {"Authorization": "Bearer let-me-in"}
STARTED = CallStarted(call_sid="CA1", stream_sid="MZ1", caller="+15550100001", called=None, direction="inbound")
ENDED = CallEnded(call_sid="CA1", ended_by="caller", reason="x", duration_ms=9, transcript=())
ACCOUNT = {"twilio_account_sid": "AC" + "0" * 32, "twilio_auth_token": "a-token-for-tests"}
PATHS = ("/calls", "/calls/CA1", "/calls/CA1/events", "/calls/CA1/audio.wav", "/events")


def app_with(store: Any = None, **changes: Any) -> PhoneApp:
    given = {**ACCOUNT, "public_url": "https://agent.example", "realtime_url": "ws://127.0.0.1:1/?model=m", **changes}
    return PhoneApp(Agent(instructions="x"), settings=Settings(**given), store=store)


def with_token(**options: Any) -> PhoneApp:
    return app_with(api_token=SecretStr("let-me-in"), **options)


async def get(app: PhoneApp, path: str, query: str = "", headers: dict[str, str] = TOKEN) -> Answer:
    return await request(app, "GET", path, query=query, headers=headers)


def trouble(what: str) -> Trouble:
    return Trouble(call_sid="CA1", at_ms=1, what=what)


# --- access ---


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_without_a_token_in_the_settings_nothing_is_there(path: str, method: str) -> None:
    app = app_with()
    found, unknown = await request(app, method, path, headers=TOKEN), await request(app, method, "/unknown")
    assert (found.status, found.text, found.headers) == (unknown.status, unknown.text, unknown.headers)
    assert found.status == 404


@pytest.mark.parametrize("path", PATHS)
async def test_with_one_a_request_needs_it(path: str) -> None:
    app = with_token()
    for headers in ({}, {"Authorization": "Bearer let-me-out"}):
        answer = await get(app, path, headers=headers)
        assert (answer.status, answer.headers["content-type"]) == (401, "application/problem+json")
    answer = await request(app, "POST", path, headers={})
    assert answer.status == 401  # a stranger does not learn which methods there are
    answer = await request(app, "DELETE", path, headers=TOKEN)
    methods = ["GET", "POST"] if path == "/calls" else ["GET"]
    assert (answer.status, answer.headers["allow"]) == (405, ", ".join(methods))
    verb = "is" if len(methods) == 1 else "are"
    assert json.loads(answer.text)["detail"] == f"only {' and '.join(methods)} {verb} possible here"


@pytest.mark.parametrize("changes", [{"insecure": True}, {"local_api": True}])
async def test_it_is_open_on_this_machine_where_the_command_line_says_so(changes: dict[str, Any]) -> None:
    app = app_with(**changes)
    assert (await get(app, "/calls", headers={})).status == 200
    for headers in ({"host": "agent.example"}, {"x-forwarded-for": "203.0.113.9"}, {"origin": "https://x.example"}):
        assert (await get(app, "/calls", headers=headers)).status == 404


async def test_no_variable_opens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_API", "1")
    assert app_with().settings.local_api is False


async def test_a_route_of_the_user_comes_first() -> None:
    app = with_token()

    async def own(request: Request) -> PlainTextResponse:
        return PlainTextResponse("mine")

    app.add_route("/calls", own)
    assert (await get(app, "/calls", headers={})).text == "mine"
    assert (await get(app, "/events/")).status == 404


# --- calls ---


async def test_the_list_of_calls() -> None:
    app = with_token()
    assert json.loads((await get(app, "/calls")).text) == {"calls": [], "next": None}
    call = Call(sid="CA1", caller="+15550100001", called=None, direction="inbound", started_at=datetime.now(UTC))
    app.calls["CA1"] = call
    app._parts.emit(STARTED, "MZ1")
    answer = await get(app, "/calls", "state=live&limit=1")
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    (found,) = json.loads(answer.text)["calls"]
    assert (found["call_sid"], found["state"], found["caller"]) == ("CA1", "live", "+1••••••01")
    assert json.loads((await get(app, "/calls", "numbers=full")).text)["calls"][0]["caller"] == "+15550100001"
    one = json.loads((await get(app, "/calls/CA1")).text)
    assert one == {**found, "record": None, "call_state": {}}
    assert json.loads((await get(app, "/calls", "state=ended")).text)["calls"] == []


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        *(
            (f"limit={limit}", f"limit must be a number from 1 to {MAX_LIMIT}")
            for limit in ("0", "x", "-1", "201", "٣")
        ),
        ("limit=" + "9" * 5000, f"limit must be a number from 1 to {MAX_LIMIT}"),
        ("state=dead", "state is not one of live, open, ended: correct it, or leave it out"),
        ("numbers=1", "numbers is not one of full, masked: correct it, or leave it out"),
        ("ended_by=cat", "ended_by is not one of agent, caller, line, error: correct it, or leave it out"),
        ("words=" + "x" * 201, "words is not a text of up to 200 characters: shorten it"),
        ("party=1%00", "party is not a text of up to 200 characters: shorten it"),
        *(
            (f"since={moment}", "since is not a date with a time zone: write it like 2026-11-29T12:00:00Z")
            for moment in (
                "yesterday",
                "2026-11-29T12:00:00",
                "0001-01-01T00:00:00%2B23:59",
                "9999-12-31T23:59:59-23:59",
            )
        ),
        ("after=x", "the cursor is not from an answer of this API: begin again without it"),
    ],
)
async def test_what_is_asked_for_wrongly_is_refused_with_a_remedy(query: str, detail: str) -> None:
    answer = await get(with_token(), "/calls", query)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert json.loads(answer.text)["detail"] == detail


async def test_a_path_that_is_not_there() -> None:
    for path in ("/calls/CA1/fly", "/calls/", "/campaigns/7/x"):
        for method in ("GET", "POST"):
            answer = await request(with_token(), method, path, headers=TOKEN)
            assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
            assert "GET /openapi.json lists" in answer.text
            assert (await request(with_token(), method, path)).status == 401


async def test_a_call_that_is_not_there() -> None:
    for path in ("/calls/CA9", "/calls/CA9/events", "/calls/%2B15550100001", "/calls/<script>"):
        answer = await get(with_token(), path)
        assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
        assert "GET /calls" in json.loads(answer.text)["detail"]
        assert "555" not in answer.text
        assert "script" not in answer.text


class Away:
    """A store whose database does not answer."""

    empty = False
    events = None

    def tell(self, event: Event, *, stream_sid: str) -> None: ...

    async def calls(self, limit: int, **options: Any) -> Any:
        raise StoreError("the database does not answer")

    async def call(self, call_sid: str) -> Any:
        raise StoreError("the database does not answer")

    keep_state = keep_unfinished = claim = tell


async def test_records_that_cannot_be_read_are_a_problem_and_live_calls_are_listed() -> None:
    app = with_token(store=Away())
    for path in ("/calls", "/calls/CA1"):
        answer = await get(app, path)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert "the database does not answer" in json.loads(answer.text)["detail"]
    assert (await get(app, "/calls", "state=live")).status == 200


# --- streams, over real sockets ---


class Stream:
    """A client of a stream of events."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.last_id: str | None = None

    async def next(self) -> dict[str, Any] | None:
        """Return the data of the next event; None at the end."""
        data: dict[str, Any] | None = None
        async with asyncio.timeout(HANG_SECONDS):
            while line := await self.answer.content.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    self.last_id = value
                elif name == "data":
                    data = json.loads(value)
                elif not name and data is not None:
                    return data
        return None

    async def rest(self) -> list[str]:
        names = []
        while (data := await self.next()) is not None:
            names.append(data["type"])
        return names


@asynccontextmanager
async def stream(url: str, path: str, last_id: str | None = None) -> AsyncIterator[Stream]:
    headers = TOKEN if last_id is None else {**TOKEN, "Last-Event-ID": last_id}
    async with aiohttp.ClientSession() as http, http.get(f"{url}{path}", headers=headers) as answer:
        yield Stream(answer)


async def until_readers(app: PhoneApp, count: int) -> None:
    assert app._parts.console is not None
    async with asyncio.timeout(HANG_SECONDS):
        while len(app._parts.console._readers) != count:
            await asyncio.sleep(0.001)


async def test_a_reader_sees_a_call_until_its_end_and_needs_not_come_back() -> None:
    app = with_token()
    async with serving(app) as url:
        app._parts.emit(STARTED, "MZ1")
        async with stream(url, "/calls/CA1/events") as reader:
            assert reader.answer.status == 200
            assert reader.answer.headers["content-type"].startswith("text/event-stream")
            assert (reader.answer.headers["cache-control"], reader.answer.headers["x-accel-buffering"]) == (
                "no-store",
                "no",
            )
            started = await reader.next()
            assert started is not None
            assert (started["type"], started["caller"]) == ("call_started", "+1••••••01")
            app._parts.emit(trouble("one"), "MZ1")
            app._parts.emit(ENDED, "MZ1")
            assert await reader.rest() == ["trouble", "call_ended"]
        async with stream(url, "/calls/CA1/events", reader.last_id) as again:
            assert again.answer.status == 204
        async with stream(url, "/calls/CA1/events?numbers=full") as whole:
            started = await whole.next()
            assert started is not None
            assert started["caller"] == "+15550100001"
        await until_readers(app, 0)


async def test_a_reader_that_is_cut_off_comes_back_and_misses_nothing() -> None:
    app = with_token()
    async with serving(app) as url:
        async with stream(url, "/events") as reader:
            await until_readers(app, 1)
            app._parts.emit(trouble("one"), "MZ1")
            assert (await reader.next() or {})["what"] == "one"
        await until_readers(app, 0)
        for what in ("two", "three"):
            app._parts.emit(trouble(what), "MZ1")
        async with stream(url, "/events", reader.last_id) as again:
            assert [(await again.next() or {})["what"] for _ in range(2)] == ["two", "three"]
        async with stream(url, "/events", "an-older-process-7") as late:
            assert [(await late.next() or {})["type"] for _ in range(2)] == ["missed", "trouble"]


async def test_a_server_that_stops_ends_the_streams_first() -> None:
    app = with_token()
    async with serving(app) as url, stream(url, "/events") as reader:
        await until_readers(app, 1)
        app.end_streams()
        assert await reader.rest() == []
    app_with().end_streams()  # where there are none


async def test_the_streams_that_are_open_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_READERS", 1)
    app = with_token()
    async with serving(app) as url:
        async with stream(url, "/events") as first:
            await until_readers(app, 1)
            async with stream(url, "/events") as second:
                assert (second.answer.status, second.answer.headers["retry-after"]) == (503, "10")
            app._parts.emit(trouble("one"), "MZ1")
            assert (await first.next() or {})["what"] == "one"
        await until_readers(app, 0)
        async with stream(url, "/events") as third:
            assert third.answer.status == 200


async def test_streams_that_wait_for_the_database_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_READERS", 1)
    app = with_token()
    asked, answers = asyncio.Event(), asyncio.Event()

    async def silent(*_: Any, **__: Any) -> str:
        asked.set()
        await answers.wait()
        return "unknown"

    assert app._parts.console is not None
    monkeypatch.setattr(app._parts.console.feed, "open", silent)
    async with serving(app) as url:
        waiting = asyncio.ensure_future(status_of(url, "/events"))
        await asked.wait()
        assert await status_of(url, "/events") == 503
        answers.set()
        assert await waiting == 404
        assert await status_of(url, "/events") == 404


async def status_of(url: str, path: str) -> int:
    async with stream(url, path) as reader:
        return int(reader.answer.status)


async def test_a_reader_that_takes_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.01)
    app = with_token()
    begun = asyncio.Event()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        begun.set()
        await asyncio.Event().wait()  # the socket's buffers are full

    async with asyncio.timeout(HANG_SECONDS):
        await app({**scope("http", "/events", headers=TOKEN), "method": "GET"}, receive, send)
    assert begun.is_set()
    await until_readers(app, 0)
