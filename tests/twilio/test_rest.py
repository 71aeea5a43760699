"""The account, its numbers and its live calls, against the simulated REST API."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from phoneagent import TelephonyError
from phoneagent.sim import TwilioRest
from phoneagent.twilio.browser import new_call_sid
from phoneagent.twilio.placing import MaybePlaced, NotPlaced, Placing
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


async def test_a_refusal_names_its_code_and_no_number(rest: TwilioRest) -> None:
    sid = rest.add_number(NUMBER)
    with pytest.raises(TelephonyError, match="docs/errors/20001"):
        await numbers(rest).set_webhook(sid, Webhook("nowhere"))
    with pytest.raises(TelephonyError, match="does not have the number"):
        await numbers(rest).webhook("PN" + "0" * 32)


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


async def test_twilio_is_told_nothing_of_a_call_from_the_browser() -> None:
    calls = LiveCalls(ACCOUNT, TOKEN, api_url="http://127.0.0.1:1", backoff_seconds=0.01)
    await calls.complete(new_call_sid())
    await calls.redirect(new_call_sid(), "<Response/>")
    with pytest.raises(TelephonyError, match="no connection"):
        await calls.complete("CA" + "1" * 32)


async def test_a_party_is_called_once(rest: TwilioRest) -> None:
    rest.add_number(NUMBER)
    calls = LiveCalls(ACCOUNT, TOKEN, api_url=rest.url, backoff_seconds=0.01)
    wanted = Placing(
        to="+12025550107",
        from_=NUMBER,
        url="https://a.example/party",
        status_url="https://a.example/ended",
        ring_seconds=20,
        events=("completed",),
    )
    rest.fail_next(429, times=2)
    sid = await calls.place(wanted, repeat=True)
    assert rest.calls[sid]["to"] == wanted.to
    form = rest.requests[-1].params
    assert (form["StatusCallbackEvent"], form["Timeout"]) == ("completed", "20")
    assert "TimeLimit" not in form
    assert len(rest.calls) == 1
    for status, error in ((500, MaybePlaced), (503, MaybePlaced), (404, NotPlaced)):
        rest.fail_next(status)
        with pytest.raises(error) as caught:
            await calls.place(wanted, repeat=True)
        assert caught.value.code is not None
        assert "+1202" not in str(caught.value)
    rest.lose_answers()
    with pytest.raises(MaybePlaced) as caught:
        await calls.place(wanted, repeat=True)
    assert (caught.value.code, caught.value.retry) == (None, True)
    assert len(rest.calls) == 2
