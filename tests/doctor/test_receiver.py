"""The doctor at the receiver of webhooks: what it gets, and what is said of one that does not take it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Settings
from phoneagent.calls import delivery
from phoneagent.doctor import Status, examine
from phoneagent.doctor.receiver import check_receiver
from tests.patience import HANG_SECONDS
from tests.receiver import HANG, SECRET, TAKEN, answer, as_json, receiving

pytestmark = pytest.mark.anyio


def settings(**given: Any) -> Settings:
    return Settings(insecure=True, realtime_url="ws://127.0.0.1:9", webhook_allow_private=True, **given)


async def test_without_a_receiver_there_is_no_line() -> None:
    assert await check_receiver(settings()) is None


async def test_a_receiver_that_takes_webhooks() -> None:
    async with receiving() as there:
        found = await check_receiver(settings(webhook_url=there.url, webhook_secret=SECRET))
    assert found is not None
    assert (found.name, found.status) == ("receiver", Status.OK)
    assert found.text == f"127.0.0.1:{there.port} takes a signed webhook (HTTP 200)"
    ((_, headers, body),) = there.requests
    assert as_json(body)["type"] == "webhook.test"
    assert headers["webhook-id"].startswith("test_")
    assert there.forged == 0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (answer(404), "correct WEBHOOK_URL"),
        (answer(401), "compare WEBHOOK_SECRET"),
        (answer(302, "Location: /login"), "set WEBHOOK_URL to where it leads"),
        (answer(410), "or unset it"),
        (answer(429, "Retry-After: 5"), "it is busy"),
        (b"garbage\r\n\r\n", "something else than HTTP"),
        (HANG, "have it answer first"),
    ],
    ids=["404", "401", "302", "410", "429", "garbage", "hangs"],
)
async def test_a_receiver_that_does_not(said: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "ATTEMPT_SECONDS", 0.3 if said == HANG else 15.0)
    async with receiving(said) as there:
        found = await check_receiver(settings(webhook_url=there.url, webhook_secret=SECRET))
    assert found is not None
    assert found.status is Status.FAILED
    assert words in found.text
    assert "of-the-query" not in found.text


async def test_a_private_address_that_is_not_allowed() -> None:
    given = settings(webhook_url="https://127.0.0.1:9/hook", webhook_secret=SECRET)
    found = await check_receiver(given.model_copy(update={"webhook_allow_private": False}))
    assert found is not None
    assert "set WEBHOOK_ALLOW_PRIVATE=1" in found.text


async def test_its_line_comes_last(tmp_path: Path) -> None:
    async with receiving(TAKEN) as there, asyncio.timeout(HANG_SECONDS):
        given = settings(webhook_url=there.url, webhook_secret=SECRET, database_url=f"sqlite:///{tmp_path}/x.db")
        names = [check.name async for check in examine(given)]
    assert names[-2:] == ["database", "receiver"]
