"""Twilio's client at another URL: where its requests go, what it remembers of the answers, and how long it waits."""

from __future__ import annotations

import asyncio
import logging

import pytest

from phoneagent.sim import TwilioRest
from phoneagent.twilio.client import TwilioClient

pytestmark = pytest.mark.anyio

ACCOUNT, TOKEN = "AC" + "1" * 32, "the-auth-token"


async def test_requests_go_to_the_given_address() -> None:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as api:
        client = TwilioClient(ACCOUNT, TOKEN, api.url, seconds=5)
        assert client.date is None
        account = await asyncio.to_thread(lambda: client.api.accounts(ACCOUNT).fetch())
        assert account.sid == ACCOUNT
        assert client.date is not None
        assert client.date.endswith(" GMT")


async def test_parameters_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as api:
        client = TwilioClient(ACCOUNT, TOKEN, api.url, seconds=5)
        await asyncio.to_thread(lambda: client.incoming_phone_numbers.list(phone_number="+15550100002", limit=1))
    assert "15550100002" not in caplog.text
