"""The streams of a call: one beside the verbs, one that does not open, and where their addresses lead."""

from __future__ import annotations

import pytest

from phoneagent.protocol.audio import tone
from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.phone import Phone
from tests.sim.conftest import Server

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


async def test_a_caller_who_hangs_up_ends_the_stream_of_a_start(server: Server):
    server.pages["/voice"] = f"<Response>{start(server)}<Dial>+15550100009</Dial></Response>"
    async with Phone(server.url).dial() as line:
        await line.hang_up()
    assert (line.ended_by, line.streams[0].ended_by) == ("caller", "caller")


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
