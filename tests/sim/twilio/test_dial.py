"""Dial on a phone with a network: the other party's leg, the whisper, and what the action is told."""

from __future__ import annotations

import asyncio

import pytest

from phoneagent.sim.twilio.callee import Callee
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.network import Network
from phoneagent.sim.twilio.phone import CALLED, CALLER, Phone
from tests.patience import HANG_SECONDS
from tests.sim.conftest import Server
from tests.sim.twilio.calls import TOKEN, close_at_once, signed

pytestmark = pytest.mark.anyio
ANNA = "+15550100003"
PRESS = "<Gather numDigits='1' action='/key' timeout='3'><Say>Press 1.</Say></Gather><Hangup/>"


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


async def talks(line: Line) -> None:
    await line.bridged.wait()
    await asyncio.sleep(4)
    await line.hang_up()


async def presses(line: Line, keys: str) -> None:
    await line.wait_for_words("Press 1.")
    await line.press(keys)
    await talks(line)


async def dialed(server: Server, dial: str, *parties: Callee, caller: str | None = CALLER) -> Line:
    server.connect(after=dial)
    server.pages["/dialled"] = "<Response><Say>Over.</Say></Response>"
    server.agent = close_at_once
    network = Network()
    network.parties = {each.number: each for each in parties}
    async with Phone(server.url, auth_token=TOKEN, network=network, caller=caller).dial() as line:
        await line.wait_ended(300)
    return line


def outcome(server: Server) -> tuple[str, str, int]:
    (seen,) = server.seen("/dialled")
    assert signed(server.url.replace("/voice", "/dialled"), seen)
    return seen.form["DialCallStatus"], seen.form.get("DialBridged", ""), int(seen.form["DialCallDuration"])


OUTCOMES = {
    "answers": (Callee(ANNA, talks), ("completed", "true", 4)),
    "busy": (Callee(ANNA, outcome="busy"), ("busy", "false", 0)),
    "declines": (Callee(ANNA, outcome="declines"), ("busy", "false", 0)),
    "rings out": (Callee(ANNA, outcome="no-answer"), ("no-answer", "false", 0)),
    "rings too long": (Callee(ANNA, talks, rings=9), ("no-answer", "false", 0)),
    "fails": (Callee(ANNA, outcome="failed"), ("failed", "false", 0)),
    "is unknown": (Callee("+15550100008"), ("failed", "false", 0)),
}


@pytest.mark.parametrize("how", OUTCOMES)
async def test_what_the_action_is_told(server: Server, how: str) -> None:
    party, expected = OUTCOMES[how]
    line = await dialed(server, f"<Dial action='/dialled' timeout='20'><Number>{ANNA}</Number></Dial>", party)
    assert outcome(server) == expected
    assert line.violations == []
    assert line.announcements[0].verb == "Ringing"
    assert line.announcements[-1].text == "Over."
    assert line.bridged.is_set() is (how == "answers")


@pytest.mark.parametrize(
    ("noun", "address"),
    [
        ("<Sip>sip:desk@pbx.example</Sip>", "sip:desk@pbx.example"),
        ("<Client>anna</Client>", "client:anna"),
        (ANNA, ANNA),
        ("(555) 010-0003", ANNA),
        ("<Number>+1 555.010.0003</Number>", ANNA),
        ("1-555-010-0003", ANNA),
    ],
)
async def test_every_kind_of_party(server: Server, noun: str, address: str) -> None:
    anna = Callee(address, talks)
    await dialed(server, f"<Dial action='/dialled'>{noun}</Dial>", anna)
    assert outcome(server)[0] == "completed"
    assert anna.rung == 1


@pytest.mark.parametrize(("key", "taken"), [("1", True), ("2", False), ("", False)])
async def test_a_whisper_before_both_are_connected(server: Server, key: str, taken: bool) -> None:
    server.pages["/whisper"] = f"<Response>{PRESS}</Response>"
    server.pages["/key"] = "<Response/>" if taken else "<Response><Hangup/></Response>"

    async def conduct(line: Line) -> None:
        await (presses(line, key) if key else asyncio.sleep(60))

    anna = Callee(ANNA, conduct)
    line = await dialed(
        server, f"<Dial action='/dialled' callerId='{CALLED}'><Number url='/whisper'>{ANNA}</Number></Dial>", anna
    )
    assert outcome(server)[:2] == ("completed", str(taken).lower())
    assert line.bridged.is_set() is taken
    (whispered,) = server.seen("/whisper")
    assert whispered.form["ParentCallSid"] == line.call_sid
    assert (whispered.form["From"], whispered.form["To"]) == (CALLED, ANNA)
    assert (whispered.form["Direction"], whispered.form["CallStatus"]) == ("outbound-dial", "in-progress")
    assert [seen.form["Digits"] for seen in server.seen("/key")] == ([key] if key else [])


@pytest.mark.parametrize(
    ("dial", "caller", "words"),
    [
        ("<Dial action='/dialled'>0900-help</Dial>", CALLER, "13223"),
        ("<Dial action='/dialled'><Number>030 1234567</Number></Dial>", CALLER, "13223"),
        (f"<Dial action='/dialled' callerId='nobody'>{ANNA}</Dial>", CALLER, "13214"),
        (f"<Dial action='/dialled'>{ANNA}</Dial>", None, "13214"),
    ],
)
@pytest.mark.parametrize("way", ["parties", "none", "a stream"])
async def test_what_twilio_does_not_dial(server: Server, dial: str, caller: str | None, words: str, way: str) -> None:
    parties = [Callee(ANNA, talks)] if way == "parties" else []
    if way == "a stream":
        dial = f"<Start><Stream url='{server.stream_url}'/></Start>{dial}"
    line = await dialed(server, dial, *parties, caller=caller)
    assert outcome(server)[0] == "failed"
    assert words in line.violations[0]
    assert not any(each.rung for each in parties)


@pytest.mark.parametrize("page", ["", "<Response><Dial>+15550100004</Dial></Response>"])
async def test_a_whisper_that_fails_ends_only_the_leg_of_the_party(server: Server, page: str) -> None:
    server.pages["/whisper"] = page
    line = await dialed(
        server, f"<Dial action='/dialled'><Number url='/whisper'>{ANNA}</Number></Dial>", Callee(ANNA, talks)
    )
    assert outcome(server)[:2] == ("completed", "false")
    assert [violation[:5] for violation in line.violations] == ["13201" if page else "11200"]
    assert line.announcements[-1].text == "Over."


@pytest.mark.parametrize("error", [AssertionError, TimeoutError])
async def test_a_party_that_fails_ends_the_call_which_raises_it(server: Server, error: type[Exception]) -> None:
    async def conduct(line: Line) -> None:
        await line.bridged.wait()
        raise error("no greeting")

    with pytest.raises(error, match="no greeting"):
        await dialed(server, f"<Dial>{ANNA}</Dial>", Callee(ANNA, conduct))


async def test_a_dial_is_limited(server: Server) -> None:
    async def stays(line: Line) -> None:
        await asyncio.sleep(1000)

    await dialed(server, f"<Dial action='/dialled' timeLimit='7'>{ANNA}</Dial>", Callee(ANNA, stays))
    assert outcome(server) == ("completed", "true", 7)


async def test_a_conference_is_limited(server: Server) -> None:
    await dialed(server, "<Dial action='/dialled' timeLimit='7'><Conference>room</Conference></Dial>")
    assert outcome(server) == ("answered", "", 7)


@pytest.mark.parametrize(
    ("dial", "what"),
    [
        (f"<Dial><Number>{ANNA}</Number><Client>anna</Client></Dial>", "a <Dial> of several parties"),
        (f"<Dial record='record-from-answer'>{ANNA}</Dial>", "<Dial record>"),
        (f"<Dial><Number sendDigits='1'>{ANNA}</Number></Dial>", "<Number sendDigits>"),
        ("<Dial><Sim>DE1</Sim></Dial>", "<Sim> inside <Dial>"),
        (
            "<Dial timeLimit='1'><Conference waitUrl='https://music.example'>room</Conference></Dial>",
            "<Conference waitUrl>",
        ),
        (f"<Dial record='do-not-record' hangupOnStar='false'>{ANNA}</Dial>", ""),
    ],
)
async def test_what_is_not_carried_out_is_told(server: Server, dial: str, what: str) -> None:
    line = await dialed(server, dial)
    assert line.violations == ([f"{what} is more than the simulated phone can carry out"] if what else [])


async def test_a_caller_who_hangs_up_ends_the_ringing(server: Server) -> None:
    anna = Callee(ANNA, talks, rings=4)
    server.connect(after=f"<Dial action='/dialled'>{ANNA}</Dial>")
    server.agent = close_at_once
    network = Network()
    network.parties = {ANNA: anna}
    async with Phone(server.url, auth_token=TOKEN, network=network).dial() as line:
        async with asyncio.timeout(HANG_SECONDS):
            while not anna.rung:
                await asyncio.sleep(0.1)
        await line.hang_up()
    assert (anna.lines, anna.ended) == ([], 1)
    assert server.seen("/dialled") == []


async def test_a_conference_of_two_calls(server: Server) -> None:
    server.connect(after="<Dial action='/dialled'><Conference endConferenceOnExit='true'>room</Conference></Dial>")
    server.pages["/dialled"] = "<Response/>"
    server.agent = close_at_once
    network = Network()
    phone = Phone(server.url, auth_token=TOKEN, network=network)
    async with phone.dial() as first, phone.dial() as second:
        async with asyncio.timeout(HANG_SECONDS):
            while not (network.conferences and len(network.conferences[0][1].members) == 2):
                await asyncio.sleep(0.1)
        await first.hang_up()
        await second.wait_ended()
    (seen,) = server.seen("/dialled")
    assert (seen.form["CallSid"], seen.form["DialCallStatus"]) == (second.call_sid, "answered")
    assert seen.form["From"] == CALLER
