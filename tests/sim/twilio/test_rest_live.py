"""The REST API and a live call: what the one orders, the other does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from twilio.rest import Client

from phoneagent.protocol.audio import tone
from phoneagent.sim import Phone, Quirks, TwilioRest
from phoneagent.sim.twilio.phone import CallFailed
from phoneagent.sim.twilio.rest import MAX_PLACED
from tests.patience import HANG_SECONDS
from tests.sim.conftest import Leg, Server
from tests.sim.twilio.test_rest import ACCOUNT, BASE, TOKEN, ask, refusal

pytestmark = pytest.mark.anyio

GOODBYE = "<Response><Say>Bye</Say></Response>"


@pytest.fixture
async def rest() -> AsyncIterator[TwilioRest]:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as api:
        yield api


@pytest.fixture
def phone(server: Server, rest: TwilioRest) -> Phone:
    server.connect(connect='action="/after"', stream=f'statusCallback="{server.at("/status")}"')
    server.pages["/status"] = server.pages["/after"] = "<Response/>"
    return Phone(server.url, account_sid=ACCOUNT, rest=rest, status_callback="/status")


def events(server: Server) -> list[str]:
    return [seen.form.get("StreamEvent") or seen.form["CallStatus"] for seen in server.seen("/status")]


async def test_the_api_knows_a_call_and_how_it_goes(server: Server, rest: TwilioRest, phone: Phone):
    async with phone.dial() as line:
        call = rest.calls[line.call_sid]
        assert (call["status"], call["direction"], call["to"]) == ("in-progress", "inbound", "+15550100002")
    assert call["status"] == "completed"


async def test_a_call_that_is_refused_is_over_for_the_api_too(server: Server, rest: TwilioRest, phone: Phone):
    server.pages["/voice"] = "<Response><Reject/></Response>"
    with pytest.raises(CallFailed):
        async with phone.dial():
            pass
    assert [call["status"] for call in rest.calls.values()] == ["no-answer"]


async def test_completing_a_call_ends_it_like_a_hang_up(server: Server, rest: TwilioRest, phone: Phone):
    async with phone.dial() as line:
        path = f"{BASE}/Calls/{line.call_sid}.json"
        assert (await ask(rest, path, {"Status": "completed"}))[1]["status"] == "completed"
        await line.wait_ended()
        assert await refusal(rest, path, {"Status": "completed"}) == (404, 20404)
        assert await refusal(rest, path, {"Twiml": GOODBYE}) == (400, 21220)
    assert [message["event"] for message in server.legs[0].messages[-2:]] == ["stop", "closed"]
    assert events(server) == ["stream-started", "stream-stopped", "completed"]
    assert not server.seen("/after")
    assert (line.ended_by, line.close_code, line.violations) == ("agent", 1000, [])


@pytest.mark.parametrize("by_url", [False, True])
async def test_new_twiml_takes_the_place_of_the_stream(server: Server, rest: TwilioRest, phone: Phone, by_url: bool):
    server.pages["/new"] = GOODBYE
    new = {"Url": server.url.replace("voice", "new")} if by_url else {"Twiml": GOODBYE}
    async with phone.dial() as line:
        status, _, _ = await ask(rest, f"{BASE}/Calls/{line.call_sid}.json", new)
        await line.wait_ended()
    assert status == 200
    assert [message["event"] for message in server.legs[0].messages[-2:]] == ["stop", "closed"]
    assert line.verbs == ["Connect", "Say Bye"]
    assert events(server) == ["stream-started", "stream-stopped", "completed"]
    assert not server.seen("/after")
    assert [seen.form["CallStatus"] for seen in server.seen("/new")] == ["in-progress"] * by_url
    assert (line.ended_by, line.violations) == ("agent", [])


async def test_new_twiml_can_bring_a_new_stream(server: Server, rest: TwilioRest, phone: Phone):
    async with phone.dial() as line:
        twiml = f"<Response><Play/><Connect><Stream url='{server.stream_url}'/></Connect></Response>"
        await ask(rest, f"{BASE}/Calls/{line.call_sid}.json", {"Twiml": twiml})
        await line.wait_for_stream(2)
        assert rest.calls[line.call_sid]["status"] == "in-progress"
    assert [stream.ended_by for stream in line.streams] == ["agent", "caller"]
    assert len(server.legs) == 2


@pytest.mark.parametrize("asked", [False, True])
async def test_new_twiml_breaks_off_any_verb(
    server: Server, rest: TwilioRest, phone: Phone, asked: bool, monkeypatch: pytest.MonkeyPatch
):
    """The other party of a Dial is cut off; whether its action is asked first is a quirk."""
    server.connect(after="<Dial action='/after'>+15550100009</Dial>")

    async def close_at_once(leg: Leg) -> None:
        pass

    server.agent = close_at_once
    phone.quirks = Quirks(action_after_update=asked)
    monkeypatch.setattr("phoneagent.sim.twilio.dial.DIALLED_SECONDS", HANG_SECONDS)
    async with phone.dial() as line:
        async with asyncio.timeout(HANG_SECONDS):
            while len(line.verbs) < 2:
                await asyncio.sleep(0)
        await ask(rest, f"{BASE}/Calls/{line.call_sid}.json", {"Twiml": GOODBYE})
        await line.wait_ended()
    assert line.verbs == ["Connect", "Dial +15550100009", "Say Bye"]
    assert [seen.form["DialCallStatus"] for seen in server.seen("/after")] == ["completed"] * asked


async def test_a_bad_change_leaves_the_call_alone(server: Server, rest: TwilioRest, phone: Phone):
    async with phone.dial() as line:
        path = f"{BASE}/Calls/{line.call_sid}.json"
        assert (await refusal(rest, path, {"Status": "busy"}))[0] == 400
        assert (await refusal(rest, path, {"Twiml": "x" * 4001}))[0] == 400
        await line.wait_for_stream()
        assert line.ended_by is None
    assert line.verbs == ["Connect"]


async def test_new_twiml_that_is_none_ends_the_call(server: Server, rest: TwilioRest, phone: Phone):
    async with phone.dial() as line:
        await ask(rest, f"{BASE}/Calls/{line.call_sid}.json", {"Twiml": "no TwiML"})
        await line.wait_ended()
    assert line.ended_by == "error"
    assert line.violations[0].startswith("12100 Document parse failure")


async def test_a_call_that_rings_can_be_completed_and_not_redirected(server: Server, rest: TwilioRest, phone: Phone):
    server.pages["/voice"] = "<Response><Pause length='600'/></Response>"
    dialling = asyncio.create_task(phone.dial(call_sid="CA" + "5" * 32).__aenter__())
    async with asyncio.timeout(HANG_SECONDS):
        while not server.seen("/voice"):
            await asyncio.sleep(0)
    path = f"{BASE}/Calls/CA{'5' * 32}.json"
    assert await refusal(rest, path, {"Twiml": GOODBYE}) == (400, 21220)
    await ask(rest, path, {"Status": "completed"})
    with pytest.raises(CallFailed, match="without a media stream"):
        await asyncio.wait_for(dialling, HANG_SECONDS)


async def test_the_api_of_another_account_is_refused(server: Server, rest: TwilioRest):
    with pytest.raises(ValueError, match="another account"):
        Phone(server.url, rest=rest)


async def start_call(rest: TwilioRest, server: Server, **form: str) -> str:
    """Make a call as a client does and return its sid."""
    rest.add_number("+15550100002")
    form = {"To": "+15550100007", "From": "+15550100002", **form}
    status, call, _ = await ask(rest, f"{BASE}/Calls.json", form)
    assert (status, call["status"], call["direction"]) == (201, "queued", "outbound-api")
    return str(call["sid"])


async def test_a_call_that_the_api_makes_rings_and_is_answered(server: Server, rest: TwilioRest, phone: Phone):
    every = ["initiated", "ringing", "answered", "completed"]
    rest.add_number("+15550100002")
    client = Client(ACCOUNT, TOKEN)
    client.api.base_url = rest.url  # what a user writes to point Twilio's SDK here
    call = await asyncio.to_thread(
        client.calls.create,
        to="+15550100007",
        from_="+15550100002",
        url=server.url,
        status_callback=server.url.replace("voice", "status"),
        status_callback_event=every,
    )
    async with phone.answer() as line:
        assert line.call_sid == call.sid
        assert rest.calls[line.call_sid]["status"] == "in-progress"
        await asyncio.to_thread(client.calls(call.sid).update, status="completed")
        await line.wait_ended()
    webhook = server.seen("/voice")[0].form
    assert (webhook["Direction"], webhook["CallStatus"]) == ("outbound-api", "in-progress")
    assert (webhook["From"], webhook["To"]) == ("+15550100002", "+15550100007")
    of_the_call = [seen.form for seen in server.seen("/status") if "StreamEvent" not in seen.form]
    assert [form["CallStatus"] for form in of_the_call] == ["initiated", "ringing", "in-progress", "completed"]
    assert [form["SequenceNumber"] for form in of_the_call] == ["0", "1", "2", "3"]
    assert (line.ended_by, line.violations, rest.violations) == ("agent", [], [])


async def test_a_call_with_its_own_twiml(server: Server, rest: TwilioRest, phone: Phone):
    twiml = f"<Response><Connect><Stream url='{server.stream_url}'/></Connect></Response>"
    sid = await start_call(rest, server, Twiml=twiml)
    async with phone.answer() as line:
        assert line.call_sid == sid
    assert not server.seen("/voice")
    assert not server.seen("/status"), "it named no callback, and the phone's own is for calls that it makes"


async def test_a_call_that_is_canceled_does_not_ring(server: Server, rest: TwilioRest, phone: Phone):
    sid = await start_call(rest, server, Url=server.url)
    await ask(rest, f"{BASE}/Calls/{sid}.json", {"Status": "canceled"})
    with pytest.raises(TimeoutError, match="before a call was made by the REST API"):
        async with phone.answer(timeout=0.05):
            pass
    with pytest.raises(ValueError, match="rest=rest"):
        async with Phone(server.url).answer():
            pass


async def test_the_time_of_a_call_that_is_answered_is_limited(server: Server, rest: TwilioRest, phone: Phone):
    await start_call(rest, server, Url=server.url, TimeLimit="3")
    async with phone.answer() as line:
        await line.wait_ended(HANG_SECONDS)
    assert (line.ended_by, rest.calls[line.call_sid]["status"]) == ("agent", "completed")


async def test_a_call_that_is_answered_has_its_machine_detection(server: Server, rest: TwilioRest, phone: Phone):
    server.pages["/amd"] = "<Response/>"
    form = {"MachineDetection": "Enable", "AsyncAmd": "true", "AsyncAmdStatusCallback": server.at("/amd")}
    await start_call(rest, server, Url=server.url, **form)
    async with phone.answer() as line:
        await line.say(tone(200, 400), "Hello?")
        async with asyncio.timeout(HANG_SECONDS):
            while not server.seen("/amd"):
                await asyncio.sleep(0.05)
    assert server.seen("/amd")[0].form["AnsweredBy"] == "human"
    assert line.violations == []


async def test_machine_detection_that_waits_is_more_than_the_phone_carries_out(
    server: Server, rest: TwilioRest, phone: Phone
):
    await start_call(rest, server, Url=server.url, MachineDetection="Enable")
    async with phone.answer() as line:
        pass
    assert line.violations == ["AMD without AsyncAmd and its callback is more than the simulated phone can carry out"]


async def test_the_method_of_the_fallback(server: Server, rest: TwilioRest, phone: Phone):
    server.pages["/fallback"], server.pages["/voice"] = server.pages["/voice"], "no TwiML"
    await start_call(rest, server, Url=server.url, FallbackUrl=server.at("/fallback"), FallbackMethod="GET")
    async with phone.answer():
        pass
    (seen,) = server.seen("/fallback")
    assert (seen.method, "ErrorCode=12100" in seen.query) == ("GET", True)


@pytest.mark.parametrize("verb", ["<Redirect>/next</Redirect>", "<Gather timeout='0' actionOnEmptyResult='true'/>"])
async def test_inline_twiml_has_no_address(server: Server, rest: TwilioRest, phone: Phone, verb: str):
    async with phone.dial() as line:
        twiml = f"<Response>{verb}</Response>"
        await ask(rest, f"{BASE}/Calls/{line.call_sid}.json", {"Twiml": twiml})
        await line.wait_ended()
    assert line.violations == [
        "11100 Invalid URL format: inline TwiML has no address of its own, so its URLs must be absolute"
    ]


async def test_what_the_phone_does_not_carry_out_is_a_violation(server: Server, rest: TwilioRest, phone: Phone):
    await start_call(rest, server, Url=server.url, Record="true", SendDigits="ww1")
    await start_call(rest, server, Url=server.url, Record="false")
    async with phone.dial() as line:
        await ask(rest, f"{BASE}/Calls/{line.call_sid}.json", {"TimeLimit": "60"})
    assert rest.violations == [
        "Calls, create: Record is more than the simulated phone can carry out",
        "Calls, create: SendDigits is more than the simulated phone can carry out",
        "Calls, update: TimeLimit is more than the simulated phone can carry out",
    ]


async def test_the_number_of_unanswered_calls_is_limited(server: Server, rest: TwilioRest):
    for _ in range(MAX_PLACED):
        await start_call(rest, server, Url=server.url)
    form = {"To": "+15550100007", "From": "+15550100002", "Url": server.url}
    assert await refusal(rest, f"{BASE}/Calls.json", form) == (429, 10004)


async def test_a_recording_is_reported_when_the_call_is_over(server: Server, rest: TwilioRest, phone: Phone):
    server.pages["/recorded"] = "<Response/>"
    callback = server.url.replace("voice", "recorded")
    async with phone.dial() as line:
        path = f"{BASE}/Calls/{line.call_sid}/Recordings.json"
        _, made, _ = await ask(rest, path, {"RecordingStatusCallback": callback})
        assert made["status"] == "in-progress"
    (seen,) = server.seen("/recorded")
    assert (seen.form["RecordingSid"], seen.form["RecordingStatus"]) == (made["sid"], "completed")
    assert seen.form["RecordingUrl"] == f"{rest.url}{BASE}/Recordings/{made['sid']}"
    assert (await ask(rest, path))[1]["recordings"][0]["status"] == "completed"
