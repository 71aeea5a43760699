"""The account, its numbers and its live calls, against the simulated REST API."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from phoneagent import TelephonyError
from phoneagent.sim import TwilioRest
from phoneagent.twilio.rest import LiveCalls, PhoneNumbers, Webhook

pytestmark = pytest.mark.anyio

ACCOUNT, TOKEN = "AC" + "1" * 32, "the-auth-token"
NUMBER = "+15550100002"


@pytest.fixture
async def rest() -> AsyncIterator[TwilioRest]:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as api:
        yield api
        assert api.violations == []


def numbers(rest: TwilioRest, token: str = TOKEN) -> PhoneNumbers:
    return PhoneNumbers(ACCOUNT, token, api_url=rest.url, backoff_seconds=0.01)


async def test_a_webhook_is_read_set_and_put_back(rest: TwilioRest) -> None:
    sid = rest.add_number(
        NUMBER, voice_url="https://old.example/", voice_method="GET", status_callback="https://s.example"
    )
    api = numbers(rest)
    found = await api.find(NUMBER)
    assert (found.sid, found.overridden_by, found.has_voice) == (sid, None, True)
    assert found.webhook == Webhook("https://old.example/", "GET", status_callback="https://s.example")
    ours = Webhook("https://new.example/", voice_fallback_url="https://new.example/")
    await api.set_webhook(sid, ours)
    assert await api.webhook(sid) == ours
    assert rest.numbers[sid]["status_callback"] == "", "an empty address removes the old one"
    await api.set_webhook(sid, found.webhook)
    assert await api.webhook(sid) == found.webhook


async def test_only_the_very_number_is_found(rest: TwilioRest) -> None:
    rest.add_number(NUMBER + "7")
    with pytest.raises(TelephonyError, match="TWILIO_PHONE_NUMBER is not a number of this account") as raised:
        await numbers(rest).find(NUMBER)
    assert NUMBER not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"voice_application_sid": "AP" + "1" * 32}, "the TwiML app AP111"),
        ({"trunk_sid": "TK" + "1" * 32, "voice_application_sid": "AP1"}, "the SIP trunk TK111"),
    ],
)
async def test_what_overrides_the_webhook_is_named(rest: TwilioRest, fields: dict[str, str], words: str) -> None:
    rest.add_number(NUMBER, **fields)
    assert str((await numbers(rest).find(NUMBER)).overridden_by).startswith(words)


async def test_a_number_without_voice(rest: TwilioRest) -> None:
    rest.add_number(NUMBER, capabilities={"voice": False, "sms": True})
    assert not (await numbers(rest).find(NUMBER)).has_voice


async def test_the_account_and_its_clock(rest: TwilioRest) -> None:
    rest.account |= {"status": "suspended", "type": "Trial"}
    account = await numbers(rest).account()
    assert (account.status, account.kind) == ("suspended", "Trial")
    assert account.date is not None
    assert account.date.tzinfo is not None


async def test_wrong_credentials(rest: TwilioRest) -> None:
    with pytest.raises(TelephonyError, match="check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN") as raised:
        await numbers(rest, "wrong-token").account()
    assert (raised.value.code, raised.value.retry) == (20003, False)
    assert len(rest.requests) == 1, "nothing that stays is tried again"
    assert "wrong-token" not in str(raised.value)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_trouble_that_passes_is_waited_out(rest: TwilioRest, status: int) -> None:
    rest.fail_next(status, times=2)
    assert (await numbers(rest).account()).status == "active"
    assert [each.status for each in rest.requests] == [status, status, 200]


@pytest.mark.parametrize(("status", "words"), [(429, "too many requests"), (503, "having problems .HTTP 503.")])
async def test_trouble_that_stays_is_told(rest: TwilioRest, status: int, words: str) -> None:
    rest.fail_next(status, times=9)
    with pytest.raises(TelephonyError, match=words) as raised:
        await numbers(rest).account()
    assert raised.value.retry
    assert len(rest.requests) == 3


async def test_a_refusal_names_its_code_and_no_number(rest: TwilioRest) -> None:
    sid = rest.add_number(NUMBER)
    with pytest.raises(TelephonyError, match="docs/errors/20001"):
        await numbers(rest).set_webhook(sid, Webhook("nowhere"))
    with pytest.raises(TelephonyError, match="does not have the number"):
        await numbers(rest).webhook("PN" + "0" * 32)


async def test_nobody_there() -> None:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as rest:
        api = numbers(rest)
    with pytest.raises(TelephonyError, match="no connection to Twilio's API") as raised:
        await api.account()
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
        await PhoneNumbers(ACCOUNT, TOKEN).account()
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
        api = PhoneNumbers(ACCOUNT, TOKEN, api_url=f"http://127.0.0.1:{runner.addresses[0][1]}")
        with pytest.raises(TelephonyError, match="is not Twilio"):
            await api.account()
    finally:
        await runner.cleanup()


async def test_no_number_reaches_the_log(rest: TwilioRest, caplog: pytest.LogCaptureFixture) -> None:
    rest.add_number(NUMBER)
    caplog.set_level(logging.INFO)
    await numbers(rest).find(NUMBER)
    assert NUMBER[1:] not in caplog.text


# --- live calls ---


async def test_a_call_that_is_over_can_be_ended_and_redirected_without_an_error(rest: TwilioRest) -> None:
    calls = LiveCalls(ACCOUNT, TOKEN, api_url=rest.url, backoff_seconds=0.01)
    await calls.complete("CA" + "0" * 32)
    await calls.redirect("CA" + "0" * 32, "<Response/>")
    assert [each.status for each in rest.requests] == [404, 404]


async def test_a_live_call_s_change_is_tried_again_and_refused_credentials_are_told(rest: TwilioRest) -> None:
    rest.fail_next(503, times=1)
    await LiveCalls(ACCOUNT, TOKEN, api_url=rest.url, backoff_seconds=0.01).complete("CA" + "0" * 32)
    assert [each.status for each in rest.requests] == [503, 404]
    with pytest.raises(TelephonyError, match="check TWILIO_ACCOUNT_SID"):
        await LiveCalls(ACCOUNT, "wrong-token", api_url=rest.url, backoff_seconds=0.01).complete("CA" + "0" * 32)
