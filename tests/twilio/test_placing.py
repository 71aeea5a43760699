"""Placing calls: what is refused, what may be tried again, and what is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from phoneagent import TelephonyError
from phoneagent.sim import TwilioRest
from phoneagent.twilio.placing import MaybePlaced, NotPlaced, OutgoingCalls, Placing
from tests.ports import free_port

pytestmark = pytest.mark.anyio

ACCOUNT, TOKEN = "AC" + "1" * 32, "the-auth-token"
OURS, ANNA = "+15550100002", "+15550100009"


@pytest.fixture
async def rest() -> AsyncIterator[TwilioRest]:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as api:
        api.add_number(OURS)
        yield api
        assert api.violations == []


def calls(rest: TwilioRest, token: str = TOKEN) -> OutgoingCalls:
    return OutgoingCalls(ACCOUNT, token, api_url=rest.url, backoff_seconds=0.01)


def wanted(**changes: object) -> Placing:
    given: dict[str, object] = {
        "to": ANNA,
        "from_": OURS,
        "url": "https://agent.example/twilio/voice?dial=1",
        "status_url": "https://agent.example/twilio/status?dial=1",
        "amd_url": "https://agent.example/twilio/amd?dial=1",
        "ring_seconds": 25,
        "time_limit": 600,
        **changes,
    }
    return Placing(**given)  # type: ignore[arg-type]


async def test_a_call_is_placed_with_its_callbacks(rest: TwilioRest) -> None:
    sid = await calls(rest).place(wanted())
    assert rest.calls[sid]["status"] == "queued"
    form = rest.requests[-1].params
    assert form["StatusCallbackEvent"] == "initiated ringing answered completed"
    assert (form["Timeout"], form["TimeLimit"]) == ("25", "600")
    assert (form["MachineDetection"], form["AsyncAmd"]) == ("DetectMessageEnd", "true")
    await calls(rest).place(wanted(amd_url=None))
    assert "MachineDetection" not in rest.requests[-1].params
    assert ANNA not in repr(wanted())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"from_": ANNA}, "caller ID is not a number of the account"),
        ({"to": "+999"}, "E.164"),
        ({"to": "+442079460000"}, "Geo permissions"),
    ],
)
async def test_what_twilio_refuses(rest: TwilioRest, changes: dict[str, str], words: str) -> None:
    rest.permitted = ("+1",)
    with pytest.raises(NotPlaced, match=words) as raised:
        await calls(rest).place(wanted(**changes))
    assert not raised.value.retry
    assert all(value not in str(raised.value) for value in changes.values())


async def test_a_trial_account_calls_verified_numbers_only(rest: TwilioRest) -> None:
    rest.account["type"] = "Trial"
    with pytest.raises(NotPlaced, match="trial account"):
        await calls(rest).place(wanted())
    rest.caller_ids.append(ANNA)
    await calls(rest).place(wanted())
    await calls(rest).place(wanted(from_=ANNA))


async def test_wrong_credentials(rest: TwilioRest) -> None:
    with pytest.raises(NotPlaced, match="TWILIO_AUTH_TOKEN") as raised:
        await calls(rest, "wrong").place(wanted())
    assert not raised.value.retry


async def test_too_many_requests_place_nothing(rest: TwilioRest) -> None:
    rest.fail_next(429)
    with pytest.raises(NotPlaced) as raised:
        await calls(rest).place(wanted())
    assert raised.value.retry
    assert rest.calls == {}
    assert len(rest.requests) == 1, "it is asked for once"


async def test_too_many_calls_place_nothing_and_a_repeated_request_one(
    rest: TwilioRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_placed", asyncio.Queue(1))
    await calls(rest).place(wanted())
    with pytest.raises(NotPlaced, match="as many calls at once as it may") as raised:
        await calls(rest).place(wanted())
    assert (raised.value.code, raised.value.retry) == (10004, True)
    await rest.wait_for_call()
    rest.fail_next(429, times=2)
    await calls(rest).place(wanted(), repeat=True)
    assert len(rest.calls) == 2


async def test_an_api_that_is_out_of_reach_was_sent_nothing() -> None:
    with pytest.raises(NotPlaced) as raised:
        await OutgoingCalls(ACCOUNT, TOKEN, api_url=f"http://127.0.0.1:{free_port()}").place(wanted())
    assert raised.value.retry


async def test_an_api_that_answers_too_late_leaves_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutgoingCalls, "seconds", 2.0)
    asked = asyncio.Event()
    done = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await done.wait()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(MaybePlaced):
            await OutgoingCalls(ACCOUNT, TOKEN, api_url=f"http://127.0.0.1:{port}").place(wanted())
        assert asked.is_set()
        done.set()


@pytest.mark.parametrize("status", [500, 503])
async def test_a_server_error_leaves_it_open(rest: TwilioRest, status: int) -> None:
    rest.fail_next(status)
    with pytest.raises(MaybePlaced):
        await calls(rest).place(wanted())


async def test_a_lost_answer_leaves_it_open_and_the_call_is_found(rest: TwilioRest) -> None:
    since = datetime.now(UTC)
    rest.lose_answers()
    with pytest.raises(MaybePlaced):
        await calls(rest).place(wanted())
    assert len(rest.calls) == 1
    assert await calls(rest).find(wanted(), since) == list(rest.calls)
    assert await calls(rest).find(wanted(to="+15550100008"), since) == []
    assert await calls(rest).find(wanted(), since + timedelta(minutes=5)) == []
    other = rest.add_call(to=ANNA, **{"from": OURS})
    assert other not in await calls(rest).find(wanted(), since), "that one came in"
    rest.fail_next(500, times=3)
    with pytest.raises(TelephonyError):
        await calls(rest).find(wanted(), since)
