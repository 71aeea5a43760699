"""The requests of a page, or of the server behind it: what is refused before anything is made."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr

from phoneagent import Agent, EndpointRefused, EndpointUnreachable, PhoneApp, RequestRefused, Settings
from phoneagent.calls.web_calls import WebCalls, WebSession
from phoneagent.model.web_calls import ClientSecret
from tests.asgi import Answer, request

pytestmark = pytest.mark.anyio
TOKEN = {"Authorization": "Bearer let-me-in"}
JSON = {**TOKEN, "Content-Type": "application/json"}
MADE = WebSession("WC1", ClientSecret("ek_1", 1_800_000_000, "https://model.example/v1/realtime/calls"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the requests ask for, of web calls that make nothing."""
    seen: list[Any] = []

    async def create(self: WebCalls, parameters: dict[str, str]) -> WebSession:
        seen.append(parameters)
        if isinstance(outcome := parameters.get("outcome"), str):
            raise {
                "full": RequestRefused("there are 100"),
                "refused": EndpointRefused("no"),
                "away": EndpointUnreachable("no"),
                "slow": TimeoutError(),
                "broken": KeyError("x"),
            }[outcome]
        return MADE

    async def connect(self: WebCalls, session_id: str, call_id: str) -> None:
        seen.append((session_id, call_id))
        if session_id == "gone":
            raise RequestRefused("there is no such session")

    monkeypatch.setattr(WebCalls, "create", create)
    monkeypatch.setattr(WebCalls, "connect", connect)
    return seen


def app(**changes: Any) -> PhoneApp:
    given = {
        "twilio_account_sid": "AC" + "0" * 32,
        "twilio_auth_token": "a-token-for-tests",
        "public_url": "https://agent.example",
        "realtime_url": "ws://127.0.0.1:1/?model=m",
        "api_token": SecretStr("let-me-in"),
        **changes,
    }
    return PhoneApp(Agent(instructions="x"), settings=Settings(**given))


async def post(
    path: str = "/console/session", body: Any = None, headers: dict[str, str] = JSON, **changes: Any
) -> Answer:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return await request(app(**changes), "POST", path, headers=headers, body=content)


async def test_a_key_is_made_and_not_kept_by_anyone(asked: list[Any]) -> None:
    answer = await post(body={"parameters": {"shop": "north"}})
    assert answer.status == 201
    assert answer.headers["cache-control"] == "no-store"
    assert json.loads(answer.text) == {
        "id": "WC1",
        "value": "ek_1",
        "expires_at": 1_800_000_000,
        "calls_url": "https://model.example/v1/realtime/calls",
    }
    assert asked == [{"shop": "north"}]
    assert (await post()).status == 201  # without a body


async def test_a_call_is_named(asked: list[Any]) -> None:
    assert (await post("/console/session/WC1/call", {"call_id": "rtc_1"})).status == 204
    assert asked == [("WC1", "rtc_1")]
    assert (await post("/console/session/gone/call", {"call_id": "rtc_1"})).status == 404


@pytest.mark.parametrize("path", ["/console/session", "/console/session/WC1/call"])
async def test_access(path: str, asked: list[Any]) -> None:
    assert (await post(path, headers={})).status == 401
    assert (await post(path, api_token=None)).status == 404
    assert (await request(app(), "GET", path, headers=TOKEN)).status == 405
    assert asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[" * 10_000,
        [],
        b"\xff",
        {"parameters": []},
        {"parameters": {"a": 1}},
        {"parameters": {"a": "x" * 600}},
        {"parameters": {str(n): "x" for n in range(40)}},
        b"{" + b" " * 20_000 + b"}",
    ],
)
async def test_bodies_that_are_refused(body: Any, asked: list[Any]) -> None:
    assert (await post(body=body)).status == 400
    assert asked == []


async def test_a_form_is_no_json(asked: list[Any]) -> None:
    """A page on another site could send one without asking first."""
    answer = await post(body=b"{}", headers={**TOKEN, "Content-Type": "text/plain"})
    assert answer.status == 400


@pytest.mark.parametrize("call_id", [None, 1, "", "../x", "a b", "x" * 200, "rtc_1\n"])
async def test_ids_of_calls_that_are_refused(call_id: Any, asked: list[Any]) -> None:
    assert (await post("/console/session/WC1/call", {"call_id": call_id})).status == 400
    assert asked == []


@pytest.mark.parametrize(
    ("outcome", "status"), [("full", 429), ("refused", 502), ("away", 503), ("slow", 503), ("broken", 500)]
)
async def test_what_goes_wrong_is_told(outcome: str, status: int, asked: list[Any]) -> None:
    assert (await post(body={"parameters": {"outcome": outcome}})).status == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://127.0.0.1:8000", 201), ("http://127.0.0.1:8001", 404), ("https://evil.example", 404), ("null", 404)],
)
async def test_on_this_machine_a_page_of_the_app_itself_needs_no_token(
    origin: str, status: int, asked: list[Any]
) -> None:
    headers = {"Content-Type": "application/json", "Origin": origin}
    answer = await post(body={}, headers=headers, api_token=None, local_api=True)
    assert answer.status == status
    assert len(asked) == (status == 201)


async def test_a_name_that_leads_to_this_machine_is_another_site(asked: list[Any]) -> None:
    headers = {"Content-Type": "application/json", "Origin": "http://evil.example", "host": "evil.example"}
    assert (await post(body={}, headers=headers, api_token=None, local_api=True)).status == 404
    assert asked == []
