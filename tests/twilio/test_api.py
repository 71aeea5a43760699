"""Requests to the REST API: what is asked again, and what an error says."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from phoneagent import TelephonyError
from phoneagent.sim import TwilioRest
from phoneagent.twilio.api import RestApi

pytestmark = pytest.mark.anyio

ACCOUNT, TOKEN = "AC" + "1" * 32, "the-auth-token"


@pytest.fixture
async def rest() -> AsyncIterator[TwilioRest]:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as served:
        yield served
        assert served.violations == []


def api(rest: TwilioRest, token: str = TOKEN) -> RestApi:
    return RestApi(ACCOUNT, token, api_url=rest.url, backoff_seconds=0.01)


async def account(api: RestApi) -> str:
    """Ask for the account, and return its status."""
    found = await api.ask("the account", lambda: api.client.api.accounts(api.account_sid).fetch())
    return str(found.status)


async def test_wrong_credentials(rest: TwilioRest) -> None:
    with pytest.raises(TelephonyError, match="check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN") as raised:
        await account(api(rest, "wrong-token"))
    assert (raised.value.code, raised.value.retry) == (20003, False)
    assert len(rest.requests) == 1, "nothing that stays is tried again"
    assert "wrong-token" not in str(raised.value)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_trouble_that_passes_is_waited_out(rest: TwilioRest, status: int) -> None:
    rest.fail_next(status, times=2)
    assert await account(api(rest)) == "active"
    assert [each.status for each in rest.requests] == [status, status, 200]


@pytest.mark.parametrize(("status", "words"), [(429, "too many requests"), (503, "having problems .HTTP 503.")])
async def test_trouble_that_stays_is_told(rest: TwilioRest, status: int, words: str) -> None:
    rest.fail_next(status, times=9)
    with pytest.raises(TelephonyError, match=words) as raised:
        await account(api(rest))
    assert raised.value.retry
    assert len(rest.requests) == 3


async def test_nothing_listens_at_the_address() -> None:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as rest:
        there = api(rest)
    with pytest.raises(TelephonyError, match="no connection to Twilio's API") as raised:
        await account(there)
    assert raised.value.retry


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("socks5://me:s3cret-word@127.0.0.1:9", "HTTPS_PROXY names a SOCKS proxy (socks5://127.0.0.1:9)"),
        ("http://me:s3cret-word@127.0.0.1:1", "the proxy of HTTPS_PROXY (http://127.0.0.1:1) refuses the connection"),
        ("http://me:s3cret-word@[::1", "HTTPS_PROXY is not the address of a proxy"),
        ("http://me:s3cret-word@127.0.0.1:port", "HTTPS_PROXY is not the address of a proxy"),
    ],
)
async def test_a_proxy_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str, words: str) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(TelephonyError) as raised:
        await account(RestApi(ACCOUNT, TOKEN))
    assert str(raised.value).startswith(f"no connection to Twilio's API: {words}")
    assert "s3cret-word" not in str(raised.value)


async def test_something_else_answers() -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="Please log in to the hotel's network")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        portal = RestApi(ACCOUNT, TOKEN, api_url=f"http://127.0.0.1:{runner.addresses[0][1]}")
        with pytest.raises(TelephonyError, match="is not Twilio"):
            await account(portal)
    finally:
        await runner.cleanup()


async def test_what_is_repeated_can_be_chosen(rest: TwilioRest) -> None:
    there = api(rest)

    def fetch() -> object:
        return there.client.api.accounts(ACCOUNT).fetch()

    rest.fail_next(503, times=2)
    with pytest.raises(TelephonyError):
        await there.ask("the account", fetch, repeat=lambda error: error.code == 20429)
    assert [each.status for each in rest.requests] == [503]
