"""The media socket from Twilio's end: its clock, what goes wrong on it, and how it ends."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from phoneagent.protocol.audio import silence, tone
from phoneagent.sim.twilio import stream
from phoneagent.sim.twilio.phone import CallFailed, Phone
from tests.clock import ROUNDING_SECONDS
from tests.patience import HANG_SECONDS
from tests.sim.conftest import Leg, Server
from tests.sim.twilio.calls import called, heard_by_server, plays

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


async def test_frames_come_every_20_ms_with_timestamps_that_do_not_begin_at_0(server: Server):
    async with Phone(server.url).dial() as line:
        await line.say(silence(400))
        leg = server.legs[0]
    media = leg.media
    assert [int(frame["media"]["chunk"]) for frame in media] == list(range(1, len(media) + 1))
    stamps = [int(frame["media"]["timestamp"]) for frame in media]
    assert 50 <= stamps[0] <= 180
    assert stamps == [stamps[0] + 20 * n for n in range(len(stamps))]
    numbers = [int(each["sequenceNumber"]) for each in media + leg.events("start") + leg.events("stop")]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    assert len(line.sent_log) == len(media)
    for number, moment in enumerate(line.sent_log):
        assert moment >= line.started_at + (number + 1) * 0.02
    assert line.sent_log[-1] - line.started_at < len(media) * 0.02 + 0.3


async def test_each_rule_that_a_rude_server_breaks_is_a_violation_once(server: Server):
    async def rude(leg: Leg) -> None:
        for _ in range(3):
            await leg.socket.send_bytes(b"\xff" * 160)
            await leg.socket.send_text("hello")
        await leg.socket.send_text('{"event":"ping"}')
        await leg.send("clear", extra=1)
        await leg.send("media", media={"payload": "AAA"})
        await leg.send("media", media={"payload": "////", "track": "outbound"})
        await leg.socket.send_text('{"event":"clear","streamSid":"MZ0"}')
        await leg.send("mark", mark={})
        await leg.mark("polite")
        await leg.event("mark")

    server.agent = rude
    async with Phone(server.url).dial() as line:
        await line.wait_ended()
    assert [violation[:5] for violation in line.violations] == ["31950"] + ["31951"] * 7
    assert line.received == b""
    assert line.clears == []
    assert [mark.name for mark in line.marks] == ["polite"]
    assert line.ended_by == "agent"


async def test_a_delay_in_each_direction(server: Server):
    times: dict[str, float] = {}

    async def timed(leg: Leg) -> None:
        await leg.until(lambda: leg.media)
        times["frame"] = time.monotonic()
        times["sent"] = time.monotonic()
        await leg.play(tone(440, 100))
        await leg.mark("m")
        await leg.event("mark")
        times["mark"] = time.monotonic()
        await leg.play(tone(440, 100))

    server.agent = timed
    async with Phone(server.url, delay_ms=200).dial() as line:
        await line.wait_ended()
    assert 0.22 - ROUNDING_SECONDS < times["frame"] - line.started_at < 0.6
    start = line.started_at + line.heard[0].start_ms / 1000
    assert 0.2 - ROUNDING_SECONDS < start - times["sent"] < 0.5
    assert 0.5 - ROUNDING_SECONDS < times["mark"] - times["sent"] < 1.0
    # The close comes after what was sent before it.
    assert len(line.received) == 1600
    assert line.sent_log[0] - line.started_at > 0.22 - ROUNDING_SECONDS


async def test_a_delayed_hang_up_still_says_stop(server: Server):
    async with Phone(server.url, delay_ms=150).dial() as line:
        await server.legs[0].event("start")
    assert [message["event"] for message in server.legs[0].messages[-2:]] == ["stop", "closed"]
    assert line.ended_by == "caller"


async def test_a_gap_in_the_media(server: Server):
    async with Phone(server.url).dial() as line:
        leg = server.legs[0]
        await leg.until(lambda: len(leg.media) >= 3)
        line.pause_media(True)
        await line.say(tone(200, 200))
        line.pause_media(False)
        before = len(leg.media)
        await leg.until(lambda: len(leg.media) > before)
    stamps = [int(frame["media"]["timestamp"]) for frame in leg.media]
    gaps = [after - earlier for earlier, after in pairwise(stamps)]
    assert sum(gap > 20 for gap in gaps) == 1
    assert max(gaps) >= 200
    assert [int(frame["media"]["chunk"]) for frame in leg.media] == list(range(1, len(stamps) + 1))
    assert tone(200, 200) in line.caller_audio()
    assert tone(200, 200) not in heard_by_server(leg)


async def test_marks_that_are_lost_or_late(server: Server):
    async def marked(leg: Leg) -> None:
        await leg.event("mark")
        await leg.mark("lost")
        await leg.play(tone(440, 20))
        await leg.until(lambda: len(leg.media) > 40)

    server.agent = plays(tone(440, 200), "late", then=marked)
    async with Phone(server.url).dial() as line:
        line.mark_delay_ms = 300
        await server.legs[0].event("mark")
        line.lose_marks = True
        await line.wait_for_agent(ms=215)
    late, lost = line.marks
    assert late.echoed_at is not None
    assert late.echoed_at - line.started_at >= line.heard[0].end_ms / 1000 + 0.3 - 0.001
    assert lost.echoed_at is None
    assert [mark["mark"]["name"] for mark in server.legs[0].events("mark")] == ["late"]


async def test_a_dropped_connection_has_no_stop(server: Server):
    server.connect(stream=f'statusCallback="{server.at("/status")}"')
    server.pages["/status"] = "<Response/>"
    async with Phone(server.url).dial() as line:
        await server.legs[0].until(lambda: server.legs[0].media)
        line.drop()
        await line.wait_ended()
        with pytest.raises(CallFailed):
            line.drop()
    await server.legs[0].event("closed")
    assert not server.legs[0].events("stop")
    assert (line.ended_by, line.close_code, line.violations) == ("line", 1006, [])
    assert server.seen("/status")[-1].form["StreamEvent"] == "stream-error"


async def test_anything_can_be_sent(server: Server):
    async with Phone(server.url).dial() as line:
        await line.send_raw('{"event":"start","again":true}')
        await server.legs[0].until(lambda: len(server.legs[0].events("start")) == 2)


async def test_a_socket_that_is_not_read_backs_up(server: Server):
    blocked = asyncio.Event()

    async def flood(leg: Leg) -> None:
        frame = tone(440, 2000)
        while not leg.events("closed"):
            try:
                await asyncio.wait_for(leg.play(frame), 0.5)
            except TimeoutError:
                blocked.set()
                return

    server.agent = flood
    async with Phone(server.url).dial() as line:
        line.stall_reading = True
        await asyncio.wait_for(blocked.wait(), HANG_SECONDS)
        received = len(line.received)
    assert line.ended_by == "caller"
    assert len(line.received) == received


async def test_a_server_that_does_not_read_is_congested(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream, "CONGESTED_SECONDS", 0.3)
    released = asyncio.Event()

    async with Phone(server.url).dial() as line:
        await server.legs[0].until(lambda: server.legs[0].media)
        assert line.stream is not None
        send = line.stream._connection.send

        async def stuck(data: str | bytes) -> None:
            await released.wait()
            await send(data)

        monkeypatch.setattr(line.stream._connection, "send", stuck)
        said = asyncio.create_task(line.say(tone(200, 300)))
        asyncio.get_running_loop().call_later(1.0, released.set)
        await said
        assert line.violations == [
            "31930 Stream - WebSocket - Congestion: the server does not read; frames of the caller's are dropped"
        ]
    stamps = [int(frame["media"]["timestamp"]) for frame in server.legs[0].media]
    assert stamps[-1] - stamps[0] > 20 * len(stamps)


async def test_a_hang_up_does_not_wait_for_a_server_that_does_not_read(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream, "CLOSE_SECONDS", 0.1)
    async with Phone(server.url).dial() as line:
        assert line.stream is not None

        async def stuck(data: str | bytes) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(line.stream._connection, "send", stuck)
        await asyncio.wait_for(line.hang_up(), HANG_SECONDS)
    assert line.ended_by == "caller"


async def test_the_server_breaks_the_connection(server: Server):
    async def agent(leg: Leg) -> None:
        await leg.until(lambda: leg.media)
        server.cut()

    server.agent = agent
    line = await called(server)
    assert (line.ended_by, line.close_code) == ("line", 1006)
    assert line.violations == [
        "31903 Stream - WebSocket - Connection Broken: the connection ended without a closing frame"
    ]


@pytest.mark.parametrize("code", [1000, 1011, 4000])
async def test_the_servers_closing_code(server: Server, code: int):
    async def agent(leg: Leg) -> None:
        await leg.socket.close(code)

    server.agent = agent
    line = await called(server)
    assert (line.ended_by, line.close_code, line.violations) == ("agent", code, [])


async def test_a_message_that_is_too_large_ends_the_stream(server: Server):
    async def agent(leg: Leg) -> None:
        await leg.socket.send_text("x" * (5 * 1024 * 1024))
        await leg.event("closed")

    server.agent = agent
    line = await called(server)
    assert (line.ended_by, line.close_code) == ("error", 1009)
    assert line.violations[0].startswith("31924 Stream - Websocket - Protocol Error: ")
