"""The streams of a call: one beside the verbs, one that does not open, and where their addresses lead."""

from __future__ import annotations

import asyncio
import socket

import pytest

from phoneagent.protocol.audio import tone
from phoneagent.sim.twilio import stream
from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.callee import Callee
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.network import Network
from phoneagent.sim.twilio.phone import Phone
from tests.patience import HANG_SECONDS
from tests.sim.conftest import SILENT, Server

pytestmark = pytest.mark.anyio


def start(server: Server, url: str | None = None) -> str:
    attributes = f'url="{url or server.stream_url}" track="both_tracks" statusCallback="{server.at("/stream")}"'
    server.pages["/stream"] = "<Response/>"
    return f"<Start><Stream {attributes}/></Start>"


async def test_the_stream_of_a_start_runs_beside_the_verbs_and_ends_with_the_call(server: Server):
    server.pages["/voice"] = f"<Response>{start(server)}<Dial>+15550100009</Dial><Hangup/></Response>"
    async with Phone(server.url).dial() as line:
        assert line.stream is not None
        await line.callee_says(tone(200, 200), "hello")
        (leg,) = server.legs
        await leg.until(lambda: any(leg.loud()))
        line.callee_hangs_up()
        await line.wait_ended()
    assert {frame["media"]["track"] for frame in leg.media} == {"inbound", "outbound"}
    assert line.verbs[1:] == ["Dial +15550100009", "Hangup"]
    assert (line.ended_by, line.streams[0].ended_by, line.violations) == ("agent", "agent", [])
    assert [seen.form["StreamEvent"] for seen in server.seen("/stream")] == ["stream-started", "stream-stopped"]


@pytest.mark.parametrize("status", ["completed", "busy"])
async def test_the_action_of_a_dial_beside_a_stream_is_told_how_it_went(server: Server, status: str):
    server.pages["/voice"] = f"<Response>{start(server)}<Dial action='/dialled'>+15550100009</Dial></Response>"
    server.pages["/dialled"] = "<Response><Dial action='/over'>+15550100009</Dial></Response>"
    server.pages["/over"] = "<Response><Hangup/></Response>"
    async with Phone(server.url).dial() as line:
        line.dial_status = status
        for path in ("/dialled", "/over"):
            if status == "completed":
                line.callee_hangs_up()
            async with asyncio.timeout(HANG_SECONDS):
                while not server.seen(path):
                    await asyncio.sleep(0.01)
        await line.wait_ended()
    told = [seen.form for path in ("/dialled", "/over") for seen in server.seen(path)]
    assert [form["DialCallStatus"] for form in told] == [status] * 2
    assert all(form["DialCallDuration"].isdecimal() for form in told)
    assert line.violations == []


async def test_a_party_of_the_network_talks_over_the_stream(server: Server):
    async def conduct(line: Line) -> None:
        await line.say(tone(200, 200), "hello")
        await line.hang_up()

    anna = Callee("+15550100009", conduct, rings=0)
    network = Network()
    network.parties = {anna.number: anna}
    server.pages["/voice"] = f"<Response>{start(server)}<Dial action='/dialled'>{anna.number}</Dial></Response>"
    server.pages["/dialled"] = "<Response/>"
    async with Phone(server.url, network=network).dial() as line:
        await line.wait_ended()
    assert server.seen("/dialled")[0].form["DialCallStatus"] == "completed"
    assert [each.text for each in line.callee.speech] == ["hello"]
    assert {frame["media"]["track"] for frame in server.legs[0].media if frame["media"]["payload"] != SILENT} == {
        "outbound"
    }


async def test_a_time_limit_that_is_no_number_is_ignored(server: Server):
    server.pages["/voice"] = f"<Response>{start(server)}<Dial timeLimit='long'>+15550100009</Dial></Response>"
    async with Phone(server.url).dial() as line:
        line.callee_hangs_up()
        await line.wait_ended()
    assert [violation[:5] for violation in line.violations] == ["12200"]


async def test_a_caller_who_hangs_up_ends_the_stream_of_a_start(server: Server):
    server.pages["/voice"] = f"<Response>{start(server)}<Dial>+15550100009</Dial></Response>"
    async with Phone(server.url).dial() as line:
        await line.hang_up()
    assert (line.ended_by, line.streams[0].ended_by) == ("caller", "caller")


async def test_a_caller_who_hangs_up_ends_the_handshake_of_a_start(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream, "CONNECT_SECONDS", 10 * HANG_SECONDS)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        address = f"ws://127.0.0.1:{silent.getsockname()[1]}/media"
        server.pages["/voice"] = f"<Response>{start(server, address)}<Dial>+15550100009</Dial></Response>"
        call = asyncio.create_task(Phone(server.url).dial().__aenter__())
        async with asyncio.timeout(HANG_SECONDS):
            connection, _ = await asyncio.get_running_loop().sock_accept(silent)
            with connection:
                call.cancel()
                await asyncio.wait({call})


async def test_the_verbs_continue_if_the_stream_of_a_start_does_not_open(server: Server):
    server.refuse_socket = True
    server.pages["/voice"] = f"<Response>{start(server)}<Redirect>/next</Redirect></Response>"
    server.pages["/next"] = "<Response><Hangup/></Response>"
    with pytest.raises(CallFailed) as failed:
        async with Phone(server.url).dial():
            pass
    assert failed.value.code == 31920
    assert len(server.seen("/next")) == 1
    (status,) = server.seen("/stream")
    assert status.form["StreamEvent"] == "stream-error"
    assert "403" in status.form["StreamError"]


@pytest.mark.parametrize("second", ["start", "connect"])
async def test_two_streams_at_a_time_are_refused(server: Server, second: str):
    connect = f'<Connect><Stream url="{server.stream_url}"/></Connect>'
    again = start(server) if second == "start" else connect
    server.pages["/voice"] = f"<Response>{start(server)}{again}</Response>"
    async with Phone(server.url).dial() as line:
        await line.wait_ended()
    assert len(server.legs) == 1
    assert "two streams at a time" in line.violations[-1]


async def test_a_relative_address_is_one_of_the_server_of_its_document(server: Server):
    server.pages["/deep/voice"] = f"<Response>{start(server, '/media/other')}<Dial>+15550100009</Dial></Response>"
    server.pages["/voice"] = "<Response><Redirect>/deep/voice</Redirect></Response>"
    async with Phone(server.url).dial() as line:
        await line.hang_up()
    assert [seen.path for seen in server.sockets] == ["/media/other"]
    assert line.violations == []


@pytest.mark.parametrize(
    "callback", ["/stream", "//agent.example/stream", "ftp://agent.example/stream", "https:///stream"]
)
async def test_a_status_callback_that_is_not_absolute_gets_nothing(server: Server, callback: str):
    server.pages["/stream"] = "<Response/>"
    server.connect(stream=f'statusCallback="{callback}"')
    async with Phone(server.url).dial() as line:
        pass
    assert not server.seen("/stream")
    assert line.violations == [f"a Stream's statusCallback must be an absolute URL, and {callback!r} is not one"]
