"""The simulated REST API, asked by Twilio's own client and by hand."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

from phoneagent.sim import TwilioRest
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

ACCOUNT, TOKEN = "AC" + "1" * 32, "the-auth-token"
NUMBER, CALLEE = "+15550100002", "+15550100001"
BASE = f"/2010-04-01/Accounts/{ACCOUNT}"


@pytest.fixture
async def rest() -> AsyncIterator[TwilioRest]:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as api:
        yield api


async def ask(
    rest: TwilioRest, path: str, form: dict[str, str] | None = None, *, user: str = ACCOUNT, token: str = TOKEN
) -> tuple[int, Any, Any]:
    """Ask as a client does: GET, or POST with a form."""
    basic = "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()
    async with (
        aiohttp.ClientSession(headers={"Authorization": basic}) as http,
        http.request("GET" if form is None else "POST", rest.url + path, data=form) as answer,
    ):
        return answer.status, await answer.json(), answer.headers


async def refusal(rest: TwilioRest, path: str, form: dict[str, str] | None = None, **who: str) -> tuple[int, int]:
    status, body, _ = await ask(rest, path, form, **who)
    assert body["status"] == status
    assert body["message"]
    assert body["more_info"].endswith(str(body["code"]))
    return status, body["code"]


async def test_the_account(rest: TwilioRest) -> None:
    rest.account["status"] = "suspended"
    status, body, _ = await ask(rest, f"{BASE}.json")
    assert (status, body["sid"], body["status"]) == (200, ACCOUNT, "suspended")


@pytest.mark.parametrize(("user", "token"), [(ACCOUNT, "wrong"), ("AC" + "2" * 32, TOKEN), ("", "")])
async def test_only_the_account_gets_in(rest: TwilioRest, user: str, token: str) -> None:
    assert await refusal(rest, f"{BASE}.json", user=user, token=token) == (401, 20003)


@pytest.mark.parametrize("header", ["", "Bearer abc", "Basic %%%", "Basic /w=="])
async def test_other_credentials_do_not_get_in(rest: TwilioRest, header: str) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{rest.url}{BASE}.json", headers={"Authorization": header}) as no,
    ):
        assert no.status == 401


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/2010-04-01/Accounts/AC" + "9" * 32 + ".json",
        f"{BASE}/Calls/CA{'0' * 32}.json",
        f"{BASE}/IncomingPhoneNumbers/PN{'0' * 32}.json",
        f"{BASE}/Nonsense.json",
        BASE,
    ],
)
async def test_what_is_not_there_is_not_found(rest: TwilioRest, path: str) -> None:
    assert await refusal(rest, path) == (404, 20404)


async def test_numbers_are_found_by_parts_and_page_by_page(rest: TwilioRest) -> None:
    for last in range(3):
        rest.add_number(f"+1555010000{last}")
    rest.add_number("+4930123456")
    path = f"{BASE}/IncomingPhoneNumbers.json?PhoneNumber=%2B1555&PageSize=2"
    _, page, _ = await ask(rest, path)
    assert [number["phone_number"] for number in page["incoming_phone_numbers"]] == ["+15550100000", "+15550100001"]
    _, page, _ = await ask(rest, page["next_page_uri"].replace("+", "%2B"))
    assert [number["phone_number"] for number in page["incoming_phone_numbers"]] == ["+15550100002"]
    assert page["next_page_uri"] is None
    for bad in ("PageSize=0", "PageSize=1001", "Page=-1", "PageSize=x"):
        assert (await refusal(rest, f"{BASE}/IncomingPhoneNumbers.json?{bad}"))[0] == 400


async def test_a_number_is_updated(rest: TwilioRest) -> None:
    sid = rest.add_number(NUMBER, voice_url="https://old.example/")
    path = f"{BASE}/IncomingPhoneNumbers/{sid}.json"
    status, body, _ = await ask(rest, path, {"VoiceUrl": "https://new.example/voice", "VoiceMethod": "GET"})
    assert (status, body["voice_url"], body["voice_method"]) == (200, "https://new.example/voice", "GET")
    _, body, _ = await ask(rest, path)
    assert body["voice_url"] == "https://new.example/voice"
    assert rest.violations == []
    assert [(each.method, each.status) for each in rest.requests] == [("POST", 200), ("GET", 200)]


@pytest.mark.parametrize("bad", [{"VoiceUrl": "nowhere"}, {"StatusCallback": "ftp://x"}, {"VoiceMethod": "PUT"}])
async def test_a_bad_update_changes_nothing(rest: TwilioRest, bad: dict[str, str]) -> None:
    sid = rest.add_number(NUMBER, voice_url="https://old.example/")
    assert (await refusal(rest, f"{BASE}/IncomingPhoneNumbers/{sid}.json", bad))[0] == 400
    assert rest.numbers[sid]["voice_url"] == "https://old.example/"


async def test_an_unknown_field_is_ignored_and_noted(rest: TwilioRest) -> None:
    sid = rest.add_number(NUMBER)
    status, _, _ = await ask(rest, f"{BASE}/IncomingPhoneNumbers/{sid}.json", {"VoiceURL": "https://new.example"})
    assert status == 200
    assert rest.numbers[sid]["voice_url"] == ""
    assert rest.violations == ["IncomingPhoneNumbers, update: Twilio knows no field 'VoiceURL'"]


async def test_a_call_is_placed_and_ended(rest: TwilioRest) -> None:
    rest.add_number(NUMBER)
    form = {"To": CALLEE, "From": NUMBER, "Url": "https://agent.example/twilio/voice", "MachineDetection": "Enable"}
    status, call, _ = await ask(rest, f"{BASE}/Calls.json", form)
    assert (status, call["status"], call["direction"]) == (201, "queued", "outbound-api")
    path = f"{BASE}/Calls/{call['sid']}.json"
    assert (await ask(rest, path))[1]["to"] == CALLEE
    assert (await ask(rest, path, {"Status": "completed"}))[1]["status"] == "completed"
    assert await refusal(rest, path, {"Status": "completed"}) == (404, 20404), "it is gone"
    assert rest.violations == []


GOOD = {"To": CALLEE, "From": NUMBER, "Twiml": "<Response/>"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"To": ""}, 21201),
        ({"To": "911x"}, 21211),
        ({"From": ""}, 21213),
        ({"From": "+15550109999"}, 21210),
        ({"Twiml": ""}, 21205),
        ({"Url": "nowhere"}, 21205),
        ({"Twiml": "x" * 4001}, 20001),
        ({"Method": "PUT"}, 20001),
    ],
)
async def test_a_bad_call_is_refused(rest: TwilioRest, change: dict[str, str], code: int) -> None:
    rest.add_number(NUMBER)
    assert await refusal(rest, f"{BASE}/Calls.json", GOOD | change) == (400, code)
    assert rest.calls == {}


@pytest.mark.parametrize(
    "bad", [{"Status": "busy"}, {"Status": "canceled"}, {"Url": "https://a.example", "Twiml": "<R/>"}]
)
async def test_a_bad_change_to_a_call_is_refused(rest: TwilioRest, bad: dict[str, str]) -> None:
    sid = rest.add_call()
    assert (await refusal(rest, f"{BASE}/Calls/{sid}.json", bad))[0] == 400
    assert rest.calls[sid]["status"] == "in-progress"


async def test_a_ringing_call_can_be_canceled(rest: TwilioRest) -> None:
    sid = rest.add_call("CA" + "3" * 32, status="ringing")
    assert (await ask(rest, f"{BASE}/Calls/{sid}.json", {"Status": "canceled"}))[1]["status"] == "canceled"


async def test_trouble_on_order(rest: TwilioRest) -> None:
    rest.fail_next(429, times=2)
    rest.fail_next(503)
    rest.fail_next(500)
    found = [await refusal(rest, f"{BASE}.json") for _ in range(4)]
    assert found == [(429, 20429), (429, 20429), (503, 20503), (500, 20500)]
    assert (await ask(rest, f"{BASE}.json"))[0] == 200


async def test_its_clock_can_be_wrong(rest: TwilioRest) -> None:
    _, _, before = await ask(rest, f"{BASE}.json")
    rest.clock_skew_seconds = 3600
    _, _, after = await ask(rest, f"{BASE}.json")
    skew = parsedate_to_datetime(after["Date"]) - parsedate_to_datetime(before["Date"])
    assert 3590 < skew.total_seconds() < 3660
    assert len(after.getall("Date")) == 1


async def test_twilio_s_own_client_is_at_home(rest: TwilioRest) -> None:
    from phoneagent.twilio.rest import PhoneNumbers

    rest.add_number(NUMBER, voice_url="https://old.example/")
    numbers = PhoneNumbers(ACCOUNT, TOKEN, api_url=rest.url)
    found = await asyncio.wait_for(numbers.find(NUMBER), HANG_SECONDS)
    assert found.webhook.voice_url == "https://old.example/"
    assert rest.violations == []


def test_it_must_run_to_have_an_address() -> None:
    with pytest.raises(RuntimeError, match="enter it first"):
        _ = TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN).url


async def test_calls_are_listed_and_filtered(rest: TwilioRest) -> None:
    older = rest.add_call(to=NUMBER)
    newer = rest.add_call(to=NUMBER, status="completed")
    rest.add_call(to=CALLEE)
    _, body, _ = await ask(rest, f"{BASE}/Calls.json?To=%2B15550100002&PageSize=1")
    assert [call["sid"] for call in body["calls"]] == [newer]
    _, following, _ = await ask(rest, body["next_page_uri"])
    assert [call["sid"] for call in following["calls"]] == [older]
    assert following["next_page_uri"] is None
    _, body, _ = await ask(rest, f"{BASE}/Calls.json?Status=completed")
    assert [call["sid"] for call in body["calls"]] == [newer]
    assert await refusal(rest, f"{BASE}/Calls.json?StartTime=2026-01-01") == (400, 20001)
    assert rest.violations == []


async def test_the_recordings_of_a_call(rest: TwilioRest) -> None:
    path = f"{BASE}/Calls/{rest.add_call()}/Recordings"
    status, made, _ = await ask(rest, f"{path}.json", {"RecordingChannels": "dual"})
    assert (status, made["channels"]) == (201, 2)
    assert (await ask(rest, f"{path}/{made['sid']}.json"))[1]["status"] == "in-progress"
    stopped = await ask(rest, f"{path}/Twilio.CURRENT.json", {"Status": "stopped"})
    assert (stopped[0], stopped[1]["status"]) == (200, "stopped")
    assert [each["sid"] for each in (await ask(rest, f"{path}.json"))[1]["recordings"]] == [made["sid"]]
    basic = "Basic " + base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    async with aiohttp.ClientSession(headers={"Authorization": basic}) as http:
        deleted = await http.delete(f"{rest.url}{path}/{made['sid']}.json")
        put = await http.put(f"{rest.url}{path}/{made['sid']}.json")
    assert (deleted.status, put.status) == (204, 404)
    assert await refusal(rest, f"{path}/{made['sid']}.json") == (404, 20404)
    assert rest.violations == []


async def test_a_one_way_stream_is_refused_with_the_reason(rest: TwilioRest) -> None:
    path = f"{BASE}/Calls/{rest.add_call()}/Streams.json"
    status, body, _ = await ask(rest, path, {"Url": "wss://agent.example/media"})
    assert (status, body["message"]) == (400, "a one-way stream is more than the simulated phone can carry out")


async def test_an_api_key_is_a_credential_too() -> None:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN, api_key=("SK1", "secret")) as api:
        assert (await ask(api, f"{BASE}.json", user="SK1", token="secret"))[0] == 200
        assert (await ask(api, f"{BASE}.json"))[0] == 200
        assert await refusal(api, f"{BASE}.json", user="SK1", token=TOKEN) == (401, 20003)
