"""Making calls over HTTP: what is queued, what is told of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from phoneagent import Agent, PhoneApp
from phoneagent.calls.outbound import MAX_CONTEXT_CHARS
from phoneagent.console.body import MAX_BODY_BYTES
from phoneagent.errors import StoreError
from phoneagent.store import Store
from phoneagent.store.outbound import OutboundCalls
from tests.asgi import Answer, request
from tests.console.test_api import TOKEN, app_with, get, with_token

pytestmark = pytest.mark.anyio

SENT = {**TOKEN, "Content-Type": "application/json"}
OURS, ANNA = "+15550100002", "+15550100009"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.from_url(f"sqlite:///{tmp_path / 'calls.db'}") as store:
        yield store


class Calling(Protocol):
    def __call__(self, store: Store | None, **changes: Any) -> PhoneApp: ...


@pytest.fixture
async def calling(store: Store) -> AsyncIterator[Calling]:
    """Make an app with a queue that nothing takes calls from: it drains. It stops before the store is closed."""
    made: list[PhoneApp] = []

    def make(store: Store | None, **changes: Any) -> PhoneApp:
        app = with_token(store=store, **{"twilio_phone_number": OURS, **changes})
        app.draining = True
        app.agent = Agent(name="front", instructions="x", handoffs=[Agent(name="desk", instructions="x")])
        made.append(app)
        return app

    yield make
    for app in made:
        await app.stop_dialing()


async def dial(app: PhoneApp, body: Any, headers: dict[str, str] = SENT, query: str = "") -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await request(app, "POST", "/calls", body=content, headers=headers, query=query)


def detail(answer: Answer) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    return str(json.loads(answer.text)["detail"])


async def test_a_call_is_queued_with_all_that_it_was_given(calling: Calling, store: Store) -> None:
    app = calling(store)
    body = {
        "to": ANNA,
        "from": "+15550100005",
        "agent": "desk",
        "context": {"visit": 7},
        "first": "agent",
        "on_machine": "leave_message",
        "message": "We called.",
        "timeout": 25,
        "time_limit": 300,
    }
    answer = await dial(app, body)
    made = json.loads(answer.text)
    assert (answer.status, answer.headers["cache-control"]) == (202, "no-store")
    assert answer.headers["location"] == f"/calls/outbound/{made['id']}"
    assert (made["status"], made["call_sid"], made["agent"], made["ended_at"]) == ("queued", None, "desk", None)
    assert (made["to"], made["from"]) == ("+1••••••09", "+1••••••05")
    found = await store.outbound.get(made["id"])
    assert found is not None
    assert (found.to, found.idempotency_key) == (ANNA, None)
    assert found.plan == {**{k: v for k, v in body.items() if k != "to"}, "amd": True}


async def test_what_is_left_out_is_as_in_app_dial(calling: Calling, store: Store) -> None:
    app = calling(store)
    made = json.loads((await dial(app, {"to": ANNA})).text)
    plan = (await app._parts.needed_outbound().get(made["id"])).plan  # type: ignore[union-attr]
    assert plan == (await app.dial(ANNA)).plan


async def test_a_call_is_watched_until_it_has_its_sid(calling: Calling, store: Store) -> None:
    app = calling(store)
    made = json.loads((await dial(app, {"to": ANNA}, query="numbers=full")).text)
    assert (made["to"], made["from"]) == (ANNA, OURS)
    path = f"/calls/outbound/{made['id']}"
    shown = json.loads((await get(app, path)).text)
    assert shown == {**made, "to": "+1••••••09", "from": "+1••••••02"}
    await store.outbound.tell(made["id"], "CA1", "busy")
    shown = json.loads((await get(app, path, "numbers=full")).text)
    assert (shown["status"], shown["call_sid"], shown["to"]) == ("busy", "CA1", ANNA)
    assert shown["ended_at"] is not None
    unknown = await get(app, "/calls/outbound/9")
    assert (unknown.status, "POST /calls answers with the id" in detail(unknown)) == (404, True)
    assert (await get(app, path, "numbers=some")).status == 400


async def test_requests_with_one_key_make_one_call(calling: Calling, store: Store) -> None:
    app, keyed = calling(store), {**SENT, "Idempotency-Key": "visit-7"}
    ids = {json.loads((await dial(app, {"to": ANNA}, keyed)).text)["id"] for _ in range(3)}
    ids.add((await app.dial(ANNA, idempotency_key="visit-7")).id)
    assert len(ids) == 1
    for other in ({"to": "+15550100008"}, {"to": ANNA, "context": {"visit": 8}}):
        answer = await dial(app, other, keyed)
        assert (answer.status, "came with another call" in detail(answer)) == (409, True)
    for key in ("", "x" * 201):
        assert (await dial(app, {"to": ANNA}, {**SENT, "Idempotency-Key": key})).status == 400


REFUSED = {
    "emergency": ("911", "an emergency number"),
    "emergency in full": ("+112", "an emergency number"),
    "premium-rate": ("+19005550199", "a premium-rate number"),
    "satellite": ("+881612345678", "a satellite phone"),
    "too short": ("+1555", "too few or too many digits"),
    "no number": ("Anna", "write it in E.164"),
    "spaces": ("+1 555 010 0009", "write it in E.164"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_number_that_is_never_called_is_refused_and_not_repeated(
    calling: Calling, store: Store, what: str
) -> None:
    number, said = REFUSED[what]
    answer = await dial(calling(store), {"to": number})
    assert answer.status == 422
    assert said in detail(answer)
    assert number not in detail(answer).replace("+15550100001", "")
    assert await store.outbound.next_due() is None


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "missing required field `to`"),
        ({"to": ANNA, "number": 1}, 400, "unknown field `number`"),
        ({"to": 5}, 400, "$.to"),
        ({"to": ANNA, "from": "0555"}, 400, "$.from"),
        ({"to": ANNA, "from": "+15550100005\n"}, 400, "in E.164"),
        ({"to": ANNA, "timeout": 4}, 400, "$.timeout"),
        ({"to": ANNA, "timeout": 5.5}, 400, "$.timeout"),
        ({"to": ANNA, "time_limit": 0}, 400, "$.time_limit"),
        ({"to": ANNA, "first": "nobody"}, 400, "$.first"),
        ({"to": ANNA, "on_machine": "leave_message"}, 400, "the words to leave"),
        ({"to": ANNA, "message": "Hello."}, 400, 'unless on_machine is "leave_message"'),
        ({"to": ANNA, "agent": "nobody"}, 400, "the agents are 'desk', 'front'"),
        ({"to": ANNA, "context": [1]}, 400, "$.context"),
        ({"to": ANNA, "context": {"x": "y" * MAX_CONTEXT_CHARS}}, 400, "pass an id"),
        (b'{"to": "+15550100009", "context": ' + b'{"a":' * 9000 + b"1" + b"}" * 9001, 400, "JSON"),
        (b"to=%2B15550100009", 400, "not JSON"),
        (b'"' + b"x" * MAX_BODY_BYTES + b'"', 413, "64 KiB"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_and_nothing_is_queued(
    calling: Calling, store: Store, body: Any, status: int, said: str
) -> None:
    answer = await dial(calling(store), body)
    assert answer.status == status
    assert said in detail(answer)
    assert ANNA not in answer.text
    assert await store.outbound.next_due() is None


async def test_what_is_missing_is_named(calling: Calling, store: Store) -> None:
    answer = await dial(calling(None), {"to": ANNA})
    assert (answer.status, "a queue in the database" in detail(answer)) == (501, True)
    assert (await get(calling(None), "/calls/outbound/1")).status == 501
    answer = await dial(calling(store, twilio_phone_number=None), {"to": ANNA})
    assert (answer.status, "TWILIO_PHONE_NUMBER is missing" in detail(answer)) == (501, True)
    answer = await dial(calling(store), {"to": ANNA}, TOKEN)
    assert (answer.status, "Content-Type: application/json" in detail(answer)) == (415, True)


async def test_a_database_that_does_not_answer(calling: Calling, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*given: Any) -> None:
        raise StoreError("the database does not answer")

    app = calling(store)
    for name in ("add", "get"):
        monkeypatch.setattr(OutboundCalls, name, fail)
    for answer in (await dial(app, {"to": ANNA}), await get(app, "/calls/outbound/1")):
        assert (answer.status, "the database does not answer" in detail(answer)) == (503, True)
        assert ANNA not in answer.text


async def test_a_stranger_makes_no_call(calling: Calling, store: Store) -> None:
    app = calling(store)
    for headers in ({}, {"Authorization": "Bearer let-me-out"}):
        assert (await dial(app, {"to": ANNA}, {"Content-Type": "application/json", **headers})).status == 401
        assert (await get(app, "/calls/outbound/1", headers=headers)).status == 401
    for origin in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        local = app_with(insecure=True, store=store, twilio_phone_number=OURS)
        assert (await dial(local, {"to": ANNA}, {"Content-Type": "application/json", **origin})).status == 404
    assert await store.outbound.next_due() is None
