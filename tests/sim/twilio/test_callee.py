from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from twilio.rest import Client

from phoneagent.sim.speech import Murmur
from phoneagent.sim.tones import ToneEar
from phoneagent.sim.twilio.callee import Callee, Exchange, fax, machine, menu, person, recorded, sound
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.menu import Menu
from phoneagent.sim.twilio.phone import ACCOUNT_SID, Phone
from phoneagent.sim.twilio.rest import TwilioRest
from tests.sim.conftest import Leg, Server
from tests.sim.twilio.calls import TOKEN, heard_by_server, signed

pytestmark = pytest.mark.anyio

OURS, ANNA = "+15550100002", "+15550100009"
EVERY = ["initiated", "ringing", "answered", "completed"]
VOICE = Murmur()


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


@pytest.fixture
async def rest() -> AsyncIterator[TwilioRest]:
    async with TwilioRest(account_sid=ACCOUNT_SID, auth_token=TOKEN) as api:
        api.add_number(OURS)
        yield api


async def place(rest: TwilioRest, server: Server, **options: object) -> str:
    client = Client(ACCOUNT_SID, TOKEN)
    client.api.base_url = rest.url
    form = {
        "to": ANNA,
        "from_": OURS,
        "url": server.url,
        "status_callback": server.url.replace("voice", "status"),
        "status_callback_event": EVERY,
        "machine_detection": "DetectMessageEnd",
        "async_amd": "true",
        "async_amd_status_callback": server.url.replace("voice", "amd"),
    }
    return str((await asyncio.to_thread(lambda: client.calls.create(**form | options))).sid)


async def stay(leg: Leg) -> None:
    """The server's end of a call of any length."""
    while not leg.events("closed"):
        leg.changed.clear()
        await leg.changed.wait()


def connect(server: Server) -> None:
    if server.agent.__name__ != "agent":
        server.agent = stay
    for path in ("/status", "/amd"):
        server.pages[path] = "<Response/>"


async def called(rest: TwilioRest, server: Server, callee: Callee, **options: object) -> tuple[str, list[str]]:
    connect(server)
    phone = Phone(server.url, auth_token=TOKEN, rest=rest)
    async with Exchange(phone, callee) as exchange:
        sid = await place(rest, server, **options)
        await callee.over()
    assert exchange.failures == []
    assert rest.violations == []
    return sid, [seen.form["CallStatus"] for seen in server.seen("/status")]


@pytest.mark.parametrize(
    ("callee", "status", "code"),
    [
        (Callee(ANNA, outcome="busy"), "busy", "486"),
        (Callee(ANNA, outcome="declines"), "busy", "486"),
        (Callee(ANNA, outcome="no-answer"), "no-answer", "487"),
        (Callee(ANNA, rings=5), "no-answer", "487"),
        (Callee("+15550100010"), "failed", "404"),
    ],
)
async def test_a_callee_that_does_not_answer(rest: TwilioRest, server: Server, callee: Callee, status: str, code: str):
    sid, statuses = await called(
        rest, server, Callee(ANNA, outcome="failed") if status == "failed" else callee, timeout=20
    )
    assert statuses == ["initiated", "ringing", status]
    end = server.seen("/status")[-1].form
    assert (end["SipResponseCode"], end["CallDuration"], end["Duration"]) == (code, "0", "0")
    assert rest.calls[sid]["status"] == status
    assert not server.seen("/voice")
    assert not server.seen("/amd")


async def test_a_person_says_hello_hears_the_agent_and_hangs_up(rest: TwilioRest, server: Server):
    async def agent(leg: Leg) -> None:
        await leg.play(VOICE.render("This is the agent."))
        await stay(leg)

    async def then(line: Line) -> None:
        await line.wait_for_silence()
        await line.press("5")
        await asyncio.sleep(2)  # AMD takes its time
        await line.hang_up()

    server.agent = agent
    anna = Callee(ANNA, person(VOICE.render("Hello?"), "Hello?", then), rings=2)
    sid, statuses = await called(rest, server, anna)
    assert statuses == ["initiated", "ringing", "in-progress", "completed"]
    assert [seen.form["SequenceNumber"] for seen in server.seen("/status")] == ["0", "1", "2", "3"]
    line = anna.lines[0]
    end = server.seen("/status")[-1].form
    assert int(end["CallDuration"]) == pytest.approx(line.duration_ms / 1000, abs=2)  # without 12 s of ringing
    assert end["Duration"] == "1"
    assert (line.call_sid, line.ended_by, line.violations, anna.rung) == (sid, "caller", [], 1)
    assert VOICE.render("Hello?") in heard_by_server(server.legs[0])
    assert VOICE.render("This is the agent.")[:8000] in line.heard_audio()
    assert [seen["dtmf"]["digit"] for seen in server.legs[0].events("dtmf")] == ["5"]
    (amd,) = server.seen("/amd")
    assert amd.form["AnsweredBy"] == "human"
    assert signed(server.url.replace("voice", "amd"), amd)


async def test_a_machine_records_what_it_hears_after_the_beep(rest: TwilioRest, server: Server):
    spoken = VOICE.render("Please call back.")

    async def agent(leg: Leg) -> None:
        await leg.play(VOICE.render("Hello, is anybody there?"))
        while not server.seen("/amd"):
            leg.changed.clear()
            await leg.changed.wait()
        await leg.play(spoken)
        await leg.mark("said")
        await leg.event("mark")

    server.agent = agent
    greeting = "You have reached Anna. Please leave a message."
    callee = Callee(ANNA, machine(VOICE.render(greeting), greeting))
    _, statuses = await called(rest, server, callee)
    assert statuses[-1] == "completed"
    assert server.seen("/amd")[0].form["AnsweredBy"] == "machine_end_beep"
    assert spoken[:-160] in recorded(callee.lines[0])
    assert VOICE.render("Hello, is anybody there?")[:4000] not in recorded(callee.lines[0])


@pytest.mark.parametrize(
    ("callee", "answered_by"),
    [
        (Callee(ANNA, fax()), "fax"),
        (Callee(ANNA, menu(Menu("For cards, press one. For loans, press two.", {"1": Menu("Cards.")}))), "unknown"),
        (Callee(ANNA), "unknown"),
        (Callee(ANNA, person(VOICE.render("Hello?"), "Hello?"), answered_by="machine_start"), "machine_start"),
    ],
)
async def test_other_far_ends(rest: TwilioRest, server: Server, callee: Callee, answered_by: str):
    _, statuses = await called(rest, server, callee, time_limit=60)
    assert statuses[-1] == "completed"
    found = server.seen("/amd")[0].form["AnsweredBy"]
    assert found == answered_by or (answered_by == "unknown" and found.startswith("machine_end"))
    assert int(server.seen("/amd")[0].form["MachineDetectionDuration"]) > 500


async def test_a_menu_hears_keys(rest: TwilioRest, server: Server):
    from phoneagent.protocol.tones import tones

    async def agent(leg: Leg) -> None:
        await leg.play(tones("w2"))
        await stay(leg)

    server.agent = agent
    callee = Callee(ANNA, menu(Menu("For cards, press one. For loans, press two.", {"2": Menu("Loans.")})))
    await called(rest, server, callee)
    assert [each.text for each in callee.lines[0].speech][-1] == "Loans."
    assert ToneEar().hear(callee.lines[0].heard_audio()) == "2"


async def test_a_ringing_call_can_be_canceled(rest: TwilioRest, server: Server):
    connect(server)
    anna = Callee(ANNA, outcome="no-answer")
    async with Exchange(Phone(server.url, auth_token=TOKEN, rest=rest), anna) as exchange:
        sid = await place(rest, server)
        while rest.calls[sid]["status"] != "ringing":
            await asyncio.sleep(0.01)
        client = Client(ACCOUNT_SID, TOKEN)
        client.api.base_url = rest.url
        await asyncio.to_thread(client.calls(sid).update, status="canceled")
        await anna.over()
    assert (rest.calls[sid]["status"], exchange.failures) == ("canceled", [])
    assert server.seen("/status")[-1].form["CallStatus"] == "canceled"


async def test_twiml_without_a_stream_is_told(rest: TwilioRest, server: Server):
    connect(server)
    server.pages["/voice"] = "<Response><Hangup/></Response>"
    anna = Callee(ANNA)
    async with Exchange(Phone(server.url, auth_token=TOKEN, rest=rest), anna) as exchange:
        await place(rest, server)
        await anna.over()
    assert exchange.failures == ["the call ended without a media stream"]


async def test_two_callees_at_once(rest: TwilioRest, server: Server):
    connect(server)
    others = [Callee(f"+1555010001{n}", person(VOICE.render("Hi."), "Hi.")) for n in range(3)]
    async with Exchange(Phone(server.url, auth_token=TOKEN, rest=rest), *others):
        for callee in others:
            await place(rest, server, to=callee.number)
        lines = [await callee.called() for callee in others]
        for line in lines:
            await line.hang_up()
        for callee in others:
            await callee.over()
    assert len({line.call_sid for line in lines}) == 3


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (AssertionError("no greeting"), None),
        (AssertionError("no greeting"), ZeroDivisionError()),
        (pytest.fail.Exception("no greeting"), None),  # which is no Exception
    ],
)
async def test_a_far_end_that_fails_ends_its_call(
    rest: TwilioRest, server: Server, raised: BaseException, error: Exception | None
):
    """The exchange raises what it raised, but not in place of another error."""

    async def conduct(line: Line) -> None:
        await line.wait_for_stream()
        raise raised

    connect(server)
    anna = Callee(ANNA, conduct)
    exchange = Exchange(Phone(server.url, auth_token=TOKEN, rest=rest), anna)

    async def call() -> None:
        async with exchange:
            await place(rest, server)
            await anna.over()
            if error is not None:
                raise error

    with pytest.raises(type(error or raised)):
        await call()
    assert exchange.failures == [f"{type(raised).__name__}: no greeting"]
    assert anna.lines[0].ended_by == "caller"
    assert server.seen("/status")[-1].form["CallStatus"] == "completed"


@pytest.mark.parametrize("waits", ["hang_up", "wait_ended"])
async def test_a_far_end_goes_on_after_the_end_that_it_waits_for(rest: TwilioRest, server: Server, waits: str):
    seen: list[str] = []

    async def conduct(line: Line) -> None:
        await line.wait_for_stream()
        await getattr(line, waits)()
        seen.append(server.seen("/status")[-1].form["CallStatus"])
        await asyncio.sleep(1)
        seen.append("later")
        await asyncio.sleep(1000)
        seen.append("much later")

    await called(rest, server, Callee(ANNA, conduct), time_limit=10)
    assert seen == ["completed", "later"]


async def test_an_exchange_needs_a_rest_api(server: Server):
    with pytest.raises(ValueError, match="rest=rest"):
        Exchange(Phone(server.url))
    assert len(sound(1000, 0.4)) == 3200
