"""`phoneagent sim call`, as a person types it, against a server of this process."""

from __future__ import annotations

import asyncio
import json
import wave
from pathlib import Path

import pytest
import typer
from click.testing import Result
from twilio.request_validator import RequestValidator
from typer.testing import CliRunner

from phoneagent.cli import sim_call
from phoneagent.protocol.audio import tone
from phoneagent.sim.speech import Murmur
from tests.sim.conftest import Leg, Server

pytestmark = pytest.mark.anyio

WAV = str(Path(__file__).parents[1] / "data" / "librivox-0880.ulaw.wav")

app = typer.Typer()
app.command()(sim_call.call)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_call, "caller_voice", Murmur)
    monkeypatch.setattr(sim_call, "GOODBYE_MS", 300)
    monkeypatch.delenv("TWILIO_AUTH_TOKEN", raising=False)


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


async def test_a_conversation(server: Server, tmp_path: Path):
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
    assert 400 <= barge_in["truth_heard_ms"] < 1500
    assert 0 < barge_in["reaction_ms"] < 1000


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
    assert "stream 2 after 0." in result.output
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
    result = await run(server.url, "--say", WAV, "--pause", 0.1, "--hang-up-after", 0.6)
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
    ],
)
async def test_options_that_cannot_be(arguments: list[str], words: str):
    result = await run(*arguments)
    assert result.exit_code == 2
    assert words in result.output
