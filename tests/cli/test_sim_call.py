"""`phoneagent sim call`, as a person types it, against a server of this process."""

from __future__ import annotations

import asyncio
import io
import json
import wave
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from click.testing import Result
from rich.console import Console
from starlette.responses import Response
from twilio.request_validator import RequestValidator
from twilio.rest import Client
from typer.testing import CliRunner

from phoneagent.cli import overheard, sim_call
from phoneagent.protocol.audio import tone
from phoneagent.sim import TwilioRest
from phoneagent.sim.speech import Murmur
from phoneagent.sim.twilio.phone import ACCOUNT_SID
from tests.ports import free_port
from tests.sim.conftest import Leg, Server

pytestmark = pytest.mark.anyio

WAV = str(Path(__file__).parents[1] / "data" / "librivox-0880.ulaw.wav")

app = typer.Typer()
app.command()(sim_call.call)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_call, "caller_voice", Murmur)
    monkeypatch.setattr(sim_call, "GOODBYE_MS", 300)
    monkeypatch.setattr(sim_call, "GREETED_SECONDS", 0.2)
    monkeypatch.setattr(overheard, "default_ear", lambda: None)
    monkeypatch.delenv("TWILIO_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("TWILIO_ACCOUNT_SID", raising=False)


async def run(*arguments: object) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, [str(each) for each in arguments])


async def host(leg: Leg) -> None:
    """Greets, answers each line after half a second of silence, and says goodbye after the second."""
    await leg.play(tone(440, 200))
    heard = 0
    for _ in range(2):
        await leg.until(lambda heard=heard: any(leg.loud()[heard:]))
        await leg.until(lambda: not any(leg.loud()[-10:]))
        heard = len(leg.media)
        await leg.play(tone(500, 200))
    await leg.mark("goodbye")
    await leg.event("mark")


async def test_a_conversation(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sim_call, "GOODBYE_MS", 60_000)  # it is the agent who ends it
    server.agent = host
    report, wav = tmp_path / "out" / "report.json", tmp_path / "call.wav"
    result = await run(
        server.url, "--auth-token", "t", "--say", "Hello", "--say", "Bye", "--report", report, "--wav", wav
    )
    assert result.exit_code == 0, result.output
    for shown in ("agent    speaks", "caller   Hello", "caller   Bye", "ended by the agent"):
        assert shown in result.output
    (webhook,) = server.requests
    assert RequestValidator("t").validate(server.url, webhook.form, webhook.headers["x-twilio-signature"])
    written = json.loads(report.read_text())
    assert [turn["role"] for turn in written["turns"]] == ["agent", "caller", "agent", "caller", "agent"]
    assert [turn["text"] for turn in written["turns"] if turn["role"] == "caller"] == ["Hello", "Bye"]
    assert (written["ended_by"], written["violations"]) == ("agent", [])
    with wave.open(str(wav)) as file:
        assert file.getnchannels() == 2
        assert abs(file.getnframes() / 8 - written["duration_ms"]) < 50


async def test_the_caller_barges_in_presses_keys_and_hangs_up(server: Server, tmp_path: Path):
    async def talker(leg: Leg) -> None:
        await leg.play(tone(440, 100))
        await leg.until(lambda: any(leg.loud()))
        await leg.until(lambda: not any(leg.loud()[-5:]))
        await leg.play(tone(500, 30_000))
        before = len(leg.media)
        await leg.until(lambda: any(leg.loud()[before:]))
        await leg.send("clear")
        await leg.until(lambda: not any(leg.loud()[-5:]))
        await leg.play(tone(300, 100))
        await leg.until(lambda: len(leg.events("dtmf")) == 2)
        await leg.play(tone(300, 100))
        await leg.event("closed")

    server.agent = talker
    report = tmp_path / "report.json"
    result = await run(
        server.url, "--say", "Tell me", "--say", "Stop it", "--barge-in-after", 400, "--dtmf", "1#", "--report", report
    )
    assert result.exit_code == 0, result.output
    assert "dropped unheard" in result.output
    assert [key["dtmf"]["digit"] for key in server.legs[0].events("dtmf")] == ["1", "#"]
    written = json.loads(report.read_text())
    assert written["ended_by"] == "caller"
    (barge_in,) = written["barge_ins"]
    assert 400 <= barge_in["truth_heard_ms"] < 30_000
    assert barge_in["reaction_ms"] > 0


async def test_a_greeting_by_twiml_counts_as_heard(server: Server, tmp_path: Path):
    """Nothing follows it in the stream, so the caller takes the turn, and hears the answer."""

    async def answers(leg: Leg) -> None:
        await leg.until(lambda: any(leg.loud()))
        await leg.until(lambda: not any(leg.loud()[-10:]))
        await leg.play(tone(500, 200))
        await leg.event("closed")

    server.agent = answers
    connect = server.pages["/voice"]
    assert isinstance(connect, str)
    server.pages["/voice"] = connect.replace("<Connect", "<Say>Hi!</Say><Play>/hold.mp3</Play><Connect")
    report = tmp_path / "report.json"
    result = await run(server.url, "--say", "Hello", "--report", report)
    assert result.exit_code == 0, result.output
    assert "agent    says by TwiML: Hi!" in result.output
    assert "agent    plays a file by TwiML" in result.output
    written = json.loads(report.read_text())
    turns = [(turn["role"], turn.get("twiml"), turn["text"]) for turn in written["turns"]]
    assert turns == [
        ("agent", "Say", "Hi!"),
        ("agent", "Play", ""),
        ("caller", None, "Hello"),
        ("agent", None, ""),
    ]
    assert written["turns"][0]["start_ms"] < 0


async def test_an_agent_that_adds_nothing_to_its_greeting_by_twiml(server: Server):
    server.pages["/voice"] = str(server.pages["/voice"]).replace("<Connect", "<Say>Hi!</Say><Connect")
    result = await run(server.url)
    assert result.exit_code == 0, result.output


async def test_a_caller_of_another_kind(server: Server):
    await run(
        server.url, "--from", "sip:alice@example.com", "--to", "+4930123", "--param", "SipHeader_X-Id=7=7",
        "--account-sid", "AC" + "2" * 32, "--hang-up-after", 0,
    )  # fmt: skip
    form = server.requests[0].form
    assert (form["From"], form["Caller"], form["FromCountry"]) == (*["sip:alice@example.com"] * 2, "")
    assert (form["To"], form["SipHeader_X-Id"], form["AccountSid"]) == ("+4930123", "7=7", "AC" + "2" * 32)


async def test_the_rest_api_hangs_up(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sim_call, "GOODBYE_MS", 60_000)  # it is the agent who ends it

    async def hangs_up(leg: Leg) -> None:
        await leg.play(tone(440, 100))
        client = Client("SK1", "secret", ACCOUNT_SID)
        client.api.base_url = f"http://127.0.0.1:{port}"
        call = client.calls(leg.messages[1]["start"]["callSid"])
        if strange:
            calls = f"{client.api.base_url}/2010-04-01/Accounts/{ACCOUNT_SID}/Calls.json"
            await asyncio.to_thread(client.request, "GET", calls, params={"Colour": "red"})
        await asyncio.to_thread(call.update, status="completed")
        await leg.event("closed")

    port, strange = free_port(), False
    server.agent = hangs_up
    options = (server.url, "--auth-token", "t", "--rest-port", port, "--api-key", "SK1:secret")
    result = await run(*options)
    assert result.exit_code == 0, result.output
    assert f"Twilio's REST API: http://127.0.0.1:{port} in place of https://api.twilio.com" in result.output
    assert "ended by the agent" in result.output
    strange = True
    result = await run(*options)
    assert result.exit_code == 1
    assert "the server's request to the REST API: Calls, list: Twilio knows no field 'Colour'" in result.output


async def test_a_rest_port_that_is_taken(server: Server):
    result = await run(server.url, "--auth-token", "t", "--rest-port", server.url.split(":")[2].partition("/")[0])
    assert result.exit_code == 1
    assert "--rest-port cannot be used" in result.output


async def test_what_fails_in_the_call_is_not_the_rest_port_s(server: Server, monkeypatch: pytest.MonkeyPatch):
    async def call(*arguments: object) -> bool:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sim_call, "_call", call)
    result = await run(server.url, "--auth-token", "t", "--rest-port", "0")
    assert "cannot be used" not in result.output


def test_what_others_say_cannot_control_the_terminal():
    console = Console(file=io.StringIO(), width=100)
    show = sim_call._Show(console, lambda failure: None)
    show.fail("a\x1b[2Jb")
    show.say(SimpleNamespace(duration_ms=0), "agent", "c\x9b2Jd")
    assert console.file.getvalue().splitlines() == ["a [2Jb", "   0.0 s  agent    c 2Jd"]


async def test_a_call_that_the_server_makes_is_answered(server: Server, monkeypatch: pytest.MonkeyPatch):
    async def greets(leg: Leg) -> None:
        await leg.play(tone(440, 100))
        await leg.mark("heard")
        await leg.event("mark")

    server.agent = greets
    ports: list[int] = []

    class Announced(TwilioRest):
        """Makes the call as soon as it is up, as the server would."""

        async def __aenter__(self) -> TwilioRest:
            await super().__aenter__()
            ports.append(int(self.url.rpartition(":")[2]))
            client = Client(ACCOUNT_SID, "t")
            client.api.base_url = self.url
            await asyncio.to_thread(client.calls.create, to="+15550100007", from_="+15550100002", url=server.url)
            return self

    monkeypatch.setattr(sim_call, "TwilioRest", Announced)
    result = await run(server.url, "--auth-token", "t", "--rest-port", 0, "--answer")
    assert result.exit_code == 0, result.output
    assert server.requests[0].form["Direction"] == "outbound-api"


async def test_no_call_comes_in(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sim_call, "RING_SECONDS", 0.05)
    result = await run(server.url, "--auth-token", "t", "--rest-port", 0, "--answer")
    assert result.exit_code == 1
    assert "0.05 s passed before a call was made by the REST API" in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--auth-token"),
        (["--auth-token", "t"], "--public-url"),
        (["--auth-token", "t", "--public-url", "https://agent.example"], "as https://agent.example/voice"),
    ],
)
async def test_a_refusal_says_what_was_dialled_and_which_option_may_help(
    server: Server, options: list[str], words: str
):
    server.pages["/voice"] = lambda request: Response("", 403)
    result = await run(server.url, *options)
    assert result.exit_code == 1
    assert f"the server answered HTTP 403 to POST {server.url}" in result.output
    assert words in result.output


async def test_a_stream_at_the_public_address_says_how_to_get_there(server: Server):
    server.connect(url=server.stream_url.replace("ws:", "wss:"))
    server.pages["/voice"] = str(server.pages["/voice"]).replace("<Connect", "<Say>Hi!</Say><Connect")
    result = await run(server.url)
    assert result.exit_code == 1
    assert "31910 Stream - WebSocket - SSL Protocol Error" in result.output
    assert "its TwiML was carried out up to: Say Hi!; Connect" in result.output
    assert "--public-url, like https://agent.example" in result.output


async def test_a_stream_that_is_taken_up_again(server: Server, tmp_path: Path):
    async def talker(leg: Leg) -> None:
        await leg.play(tone(440, 100))
        await leg.mark("heard")
        await leg.event("mark")
        if len(server.legs) == 1:
            server.cut()
        await leg.until(lambda: any(leg.loud()))
        await leg.until(lambda: not any(leg.loud()[-10:]))
        await leg.play(tone(300, 100))
        await leg.event("closed")

    server.agent = talker
    server.connect(connect='action="/after"')
    server.pages["/after"] = server.pages["/voice"]
    report = tmp_path / "report.json"
    result = await run(server.url, "--pause", 0.5, "--say", "Hello", "--report", report)
    assert "stream 1 ended: the connection broke" in result.output
    assert "stream 2 after " in result.output
    assert "ended by the caller, after 2 streams" in result.output
    assert json.loads(report.read_text())["streams"] == 2
    assert result.exit_code == 1, "a connection that breaks is against the rules"


async def test_the_fallback(server: Server):
    server.agent = host
    server.pages["/fallback"] = server.pages.pop("/voice")
    result = await run(server.url, "--fallback-url", "/fallback", "--say", "Hello", "--say", "Bye")
    assert "caller   Bye" in result.output
    assert server.seen("/fallback")[0].form["ErrorCode"] == "11200"


async def test_pauses_a_recording_and_a_time_to_hang_up(server: Server):
    result = await run(server.url, "--say", WAV, "--pause", 0.1, "--hang-up-after", 3)
    assert result.exit_code == 0, result.output
    assert "caller   librivox-0880.ulaw.wav" in result.output
    assert any(server.legs[0].loud())
    assert server.legs[0].events("stop")


async def test_a_rule_that_is_broken(server: Server, tmp_path: Path):
    async def rude(leg: Leg) -> None:
        await leg.socket.send_bytes(b"\xff")
        await leg.play(tone(440, 50))
        await leg.event("closed")

    server.agent = rude
    result = await run(server.url, "--report", tmp_path / "report.json")
    assert result.exit_code == 1
    assert "the server broke 1 of Twilio's rules" in result.output
    assert json.loads((tmp_path / "report.json").read_text())["violations"][0].startswith("31950 ")


async def test_a_call_that_is_refused(server: Server, tmp_path: Path):
    server.pages["/voice"] = "<Response><Reject/></Response>"
    result = await run(server.url, "--report", tmp_path / "report.json")
    assert result.exit_code == 1
    assert "the call was rejected" in result.output
    assert json.loads((tmp_path / "report.json").read_text())["violations"] == ["the call was rejected: rejected"]


async def test_a_report_that_cannot_be_written_is_named(server: Server, tmp_path: Path):
    server.agent = host
    result = await run(server.url, "--say", "Hello", "--say", "Bye", "--report", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path} cannot be written (Is a directory): name another file" in result.output
    assert "Traceback" not in result.output


async def test_an_agent_that_says_nothing(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sim_call, "ANSWER_SECONDS", 0.2)
    result = await run(server.url, "--say", "Hello")
    assert result.exit_code == 1
    assert "0.2 s passed before the agent was heard; before line 1 was said" in result.output


async def test_an_agent_that_hangs_up_too_soon(server: Server):
    async def close_at_once(leg: Leg) -> None:
        pass

    server.agent = close_at_once
    result = await run(server.url, "--say", "Hello")
    assert result.exit_code == 1
    assert "the call ended (by agent) before line 1 was said" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://127.0.0.1:1/", "--say", "missing.wav"], "missing.wav"),
        (["http://127.0.0.1:1/", "--say", __file__.replace(".py", ".wav")], "test_sim_call.wav"),
        (["http://127.0.0.1:1/", "--dtmf", "x"], "keys"),
        (["http://127.0.0.1:1/", "--after-agent", "--pause", "1"], "either"),
        (["127.0.0.1:8000"], "webhook_url"),
        (["http://127.0.0.1:1/", "--answer"], "--rest-port"),
        (["http://127.0.0.1:1/", "--rest-port", "0"], "--auth-token"),
        (["http://127.0.0.1:1/", "--param", "=1"], "NAME=VALUE"),
        (["http://127.0.0.1:1/", "--barge-in-after", "5", "--say", "Hello"], "--say twice"),
        (["http://127.0.0.1:1/", "--api-key", "SK1:x"], "--rest-port"),
    ],
)
async def test_options_that_cannot_be(arguments: list[str], words: str):
    result = await run(*arguments)
    assert result.exit_code == 2
    assert words in result.output


async def test_a_path_where_nothing_is_names_the_likely_one(server: Server) -> None:
    server.pages["/voice"] = lambda request: Response("", 404)
    result = await run(server.url)
    assert result.exit_code == 1
    assert f"phoneagent answers at {server.url.removesuffix('/voice')}/twilio/voice" in result.output
