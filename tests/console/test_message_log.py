"""The log of a call's messages over HTTP: its pages, and waiting for what comes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from phoneagent import PhoneApp
from phoneagent.calls.messages import MessageLog
from phoneagent.console import message_log
from tests.asgi import Answer
from tests.console.test_api import app_with, get, with_token

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


def logged(count: int = 3, **changes: Any) -> tuple[PhoneApp, MessageLog]:
    app = with_token(log_messages=True, **changes)
    assert app._parts.messages is not None
    log = app._parts.messages.begin("CA1")
    for number in range(count):
        log.add("model", "in", f"event.{number}", 10, {"type": f"event.{number}"})
    return app, log


async def log_of(app: PhoneApp, query: str = "") -> Any:
    answer: Answer = await get(app, "/calls/CA1/log", query)
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    return json.loads(answer.text)


async def test_it_is_read_in_pages() -> None:
    app, _ = logged(5)
    page = await log_of(app, "limit=2")
    assert [each["type"] for each in page["messages"]] == ["event.0", "event.1"]
    assert (page["next"], page["missed"]) == (2, False)
    page = await log_of(app, "after=2")
    assert ([each["number"] for each in page["messages"]], page["next"]) == ([3, 4, 5], 5)
    assert await log_of(app, "after=5") == {"messages": [], "next": 5, "missed": False}
    assert await log_of(app, "after=99") == {"messages": [], "next": 5, "missed": False}


async def test_what_is_no_longer_kept_is_told() -> None:
    app, log = logged(2500)
    page = await log_of(app)
    assert page["missed"]
    assert page["messages"][0]["number"] == log.dropped + 1


async def test_one_that_waits_gets_the_next_message_or_nothing_in_time() -> None:
    app, log = logged(1)
    waiting = asyncio.create_task(log_of(app, "after=1&wait=5"))
    await asyncio.sleep(1)
    assert not waiting.done()
    log.add("caller", "in", "mark", 5, {})
    assert [each["type"] for each in (await waiting)["messages"]] == ["mark"]
    assert (await log_of(app, "after=2&wait=1"))["messages"] == []


async def test_not_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_log, "MAX_WAITING", 0)
    app, _ = logged(1)
    async with asyncio.timeout(1):
        assert (await log_of(app, "after=1&wait=20"))["messages"] == []


async def test_without_a_log_the_way_to_it_is_told() -> None:
    answer = await get(with_token(), "/calls/CA1/log")
    assert answer.status == 404
    assert "--log-messages" in json.loads(answer.text)["detail"]
    app, _ = logged()
    answer = await get(app, "/calls/CA2/log")
    assert (answer.status, "keeps no messages" in json.loads(answer.text)["detail"]) == (404, True)


@pytest.mark.parametrize("query", ["after=x", "after=-1", "limit=0", "limit=501", "wait=21", "after=" + "9" * 40])
async def test_what_is_asked_for_wrongly_is_refused(query: str) -> None:
    app, _ = logged()
    assert (await get(app, "/calls/CA1/log", query)).status == 400


def test_it_is_kept_only_where_it_was_asked_for_and_can_be_read() -> None:
    assert with_token()._parts.messages is None
    assert app_with(log_messages=True)._parts.messages is None
    assert app_with(insecure=True)._parts.messages is not None
    assert app_with(local_api=True)._parts.messages is not None


def test_no_variable_switches_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_MESSAGES", "1")
    assert with_token().settings.log_messages is False
