"""Campaigns over HTTP: started, shown in pages, stopped, with masked numbers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from phoneagent import PhoneApp
from phoneagent.console.campaigns import MAX_BODY_BYTES, MAX_CALLS
from phoneagent.store import Store
from tests.asgi import Answer, request
from tests.console.test_api import TOKEN, app_with, get, with_token

pytestmark = pytest.mark.anyio

ANNA, BEN, OURS = "+12025550100", "+12025550101", "+15550100002"
SENT = {**TOKEN, "Content-Type": "application/json"}
BODY = {
    "name": "visits",
    "calls": [{"to": ANNA, "context": {"name": "Anna"}}, {"to": "x"}, {"to": BEN}],
    "rules": {"start_at": "2040-01-02T09:00:00+01:00", "at_once": 2, "from": OURS},
}


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[PhoneApp]:
    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    made = with_token(store=store, twilio_api_url="http://127.0.0.1:9")
    yield made
    await made.stop_dialing()


async def post(app: PhoneApp, path: str, body: Any, query: str = "") -> Answer:
    return await request(app, "POST", path, body=json.dumps(body).encode(), headers=SENT, query=query)


async def test_a_campaign_is_started_shown_and_stopped(app: PhoneApp) -> None:
    answer = await post(app, "/campaigns", BODY)
    assert (answer.status, answer.headers["cache-control"]) == (202, "no-store")
    made = json.loads(answer.text)
    assert (made["state"], made["total"], made["numbers"]) == ("running", 3, {"waiting": 2, "skipped": 1})
    assert json.loads((await post(app, "/campaigns", BODY)).text)["id"] == made["id"], "it may be sent twice"
    shown = json.loads((await get(app, f"/campaigns/{made['id']}")).text)
    assert shown == json.loads((await get(app, "/campaigns/visits")).text)
    assert [each["state"] for each in shown["calls"]] == ["waiting", "skipped", "waiting"]
    assert shown["next"] is None
    listed = json.loads((await get(app, "/campaigns")).text)["campaigns"]
    assert [each["id"] for each in listed] == [made["id"]]
    stopped = json.loads((await post(app, "/campaigns/visits/stop", {})).text)
    assert (stopped["state"], stopped["numbers"]["waiting"]) == ("stopped", 2)


async def test_numbers_are_masked_unless_they_are_asked_for_and_a_context_is_never_shown(app: PhoneApp) -> None:
    for path, body in (("/campaigns", BODY), ("/campaigns/visits/stop", {})):
        for query in ("", "numbers=full"):
            text = (await post(app, path, body, query)).text
            assert (OURS in text) is bool(query)
    for path in ("/campaigns", "/campaigns/visits"):
        assert OURS not in (text := (await get(app, path)).text)
        assert ANNA not in text
        full = (await get(app, path, "numbers=full")).text
        assert OURS in full
        assert (ANNA in full) is (path == "/campaigns/visits")
        assert "Anna" not in full


async def test_the_list_comes_in_pages(app: PhoneApp) -> None:
    await post(app, "/campaigns", {**BODY, "calls": [{"to": f"+1202555{n:04}"} for n in range(7)]})
    lines: list[int] = []
    after: int | None = 0
    while after is not None:
        page = json.loads((await get(app, "/campaigns/visits", f"limit=3&after={after}")).text)
        assert len(page["calls"]) <= 3
        lines += [each["line"] for each in page["calls"]]
        after = page["next"]
    assert lines == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"name": ""}, 400, "name"),
        ({"calls": []}, 400, "calls"),
        ({"calls": [{"number": ANNA}]}, 400, "calls"),
        ({"calls": [{"to": ANNA}] * (MAX_CALLS + 1)}, 400, "calls"),
        ({"calls": [{"to": "9" * 61}]}, 400, "to"),
        ({"calls": [{"to": "x"}], "strict": True}, 400, "line 1"),
        ({"rules": {"hours": "x", "from": OURS}}, 400, "hours"),
        ({"rules": {"at_once": 0}}, 400, "at_once"),
        ({"rules": {"speed": 1}}, 400, "speed"),
        ({"rules": {"agent": "nobody", "from": OURS}}, 400, "nobody"),
        ({"region": "us"}, 400, "region"),
        ({"do_not_call": ["x"]}, 400, "do-not-call"),
        ({"rules": {}}, 501, "TWILIO_PHONE_NUMBER"),
        ({"calls": [{"to": ANNA, "context": {"x": "y" * MAX_BODY_BYTES}}]}, 413, "larger than 4096 KiB"),
    ],
)
async def test_what_is_refused(app: PhoneApp, changes: dict[str, Any], status: int, words: str) -> None:
    answer = await post(app, "/campaigns", {**BODY, **changes})
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert words in json.loads(answer.text)["detail"]
    assert ANNA not in answer.text
    assert json.loads((await get(app, "/campaigns")).text) == {"campaigns": []}


async def test_another_list_under_the_same_name_is_refused(app: PhoneApp) -> None:
    await post(app, "/campaigns", BODY)
    answer = await post(app, "/campaigns", {**BODY, "calls": [{"to": BEN}]})
    assert (answer.status, "choose another name" in answer.text) == (409, True)


async def test_what_is_not_there_is_said(app: PhoneApp) -> None:
    assert (await get(app, "/campaigns/none")).status == 404
    assert (await post(app, "/campaigns/none/stop", {})).status == 404
    assert (await post(app, "/campaigns/none/stop", {"now": True})).status == 400
    assert (await get(app, "/campaigns", "limit=0")).status == 400


async def test_an_app_without_a_database_has_no_campaigns() -> None:
    app = with_token()
    assert json.loads((await get(app, "/campaigns")).text) == {"campaigns": []}
    assert (await get(app, "/campaigns/visits")).status == 404
    answer = await post(app, "/campaigns", BODY)
    assert (answer.status, "database" in answer.text) == (501, True)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/campaigns"), ("POST", "/campaigns"), ("GET", "/campaigns/x"), ("POST", "/campaigns/x/stop")],
)
async def test_without_a_token_there_is_nothing(method: str, path: str) -> None:
    assert (await request(app_with(), method, path)).status == 404
    assert (await request(with_token(), method, path)).status == 401
