"""The line of a call that is up: what is said, heard and cut off, and what can be wrong with it."""

from __future__ import annotations

import asyncio
import base64
import io
import time
import wave
from array import array
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from phoneagent.protocol.audio import SILENCE, decode_ulaw, rms, silence, tone
from phoneagent.sim.recording import read_wav
from phoneagent.sim.twilio import stream
from phoneagent.sim.twilio.phone import CallFailed, Line, Phone
from tests.sim.conftest import Agent, Leg, Server

pytestmark = pytest.mark.anyio

SPEECH = read_wav((Path(__file__).parents[2] / "data" / "librivox-0880.ulaw.wav").read_bytes())


def heard_by_server(leg: Leg) -> bytes:
    return b"".join(base64.b64decode(frame["media"]["payload"]) for frame in leg.media)


def plays(audio: bytes, *marks: str, then: Callable[[Leg], Awaitable[object]] | None = None) -> Agent:
    """An agent that plays something and waits for its marks, or does something else."""

    async def agent(leg: Leg) -> None:
        await leg.play(audio)
        for name in marks:
            await leg.mark(name)
        if then is not None:
            await then(leg)
        await leg.until(lambda: len(leg.events("mark")) == len(marks) or leg.events("closed"))
        await leg.event("closed")

    return agent


# Speaking.


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


async def test_words_arrive_whole_and_in_their_place(server: Server):
    async with Phone(server.url).dial() as line:
        first = asyncio.create_task(line.say(SPEECH[:4100], "He was not"))
        second = asyncio.create_task(line.say(SPEECH[4100:8000], "an ill-disposed"))
        utterances = [await first, await second]
        await server.legs[0].until(lambda: len(server.legs[0].media) >= utterances[-1].end_ms // 20)
        caller = line.caller_audio()
    assert line.speech == utterances
    assert [each.text for each in utterances] == ["He was not", "an ill-disposed"]
    one, two = utterances
    assert one.end_ms - one.start_ms == 520
    assert two.start_ms == one.end_ms
    assert two.end_ms - two.start_ms == 500
    said = SPEECH[:4100] + SILENCE * 60 + SPEECH[4100:8000] + SILENCE * 100
    start = int(one.start_ms * 8)
    assert heard_by_server(server.legs[0])[start : start + len(said)] == said
    assert caller[start : start + len(said)] == said
    assert set(caller[:start]) <= set(SILENCE)


async def test_words_are_broken_off_with_the_call_and_by_a_cancel(server: Server):
    async with Phone(server.url).dial() as line:
        cut = asyncio.create_task(line.say(SPEECH, "cut"))
        waiting = asyncio.create_task(line.say(SPEECH, "never begun"))
        await server.legs[0].until(lambda: len(server.legs[0].media) > 10)
        cut.cancel()
        await server.legs[0].until(lambda: len(line.speech) > 1)
        await line.hang_up()
        utterance = await waiting
        with pytest.raises(CallFailed, match="cannot say something"):
            await line.say(SPEECH)
    assert line.speech[1] is utterance
    for each in line.speech:
        assert each.end_ms - each.start_ms < 1500


async def test_keys(server: Server):
    async with Phone(server.url).dial() as line:
        await line.press("1#")
        leg = server.legs[0]
        await leg.until(lambda: len(leg.events("dtmf")) == 2)
        assert [key["dtmf"] for key in leg.events("dtmf")] == [
            {"track": "inbound_track", "digit": "1"},
            {"track": "inbound_track", "digit": "#"},
        ]
        assert [digit for digit, _ in line.digits] == ["1", "#"]
        with pytest.raises(ValueError, match="no telephone has"):
            await line.press("1x")


# Hearing.


async def test_audio_is_heard_in_real_time_and_marks_come_back_when_it_was(server: Server):
    server.agent = plays(tone(440, 400), "a", "b")
    async with Phone(server.url).dial() as line:
        await line.wait_for_agent(ms=200)
        assert line.playing
        assert not server.legs[0].events("mark")
        await server.legs[0].until(lambda: len(server.legs[0].events("mark")) == 2)
        assert not line.playing
    assert [mark["mark"]["name"] for mark in server.legs[0].events("mark")] == ["a", "b"]
    (span,) = line.heard
    assert (span.stream_start, span.stream_end, span.end_ms - span.start_ms) == (0, 3200, 400)
    for mark in line.marks:
        assert (mark.position, mark.cleared) == (3200, False)
        assert mark.echoed_at is not None
        assert 0 <= mark.echoed_at - line.started_at - span.end_ms / 1000 < 0.2
    assert line.received == tone(440, 400)
    assert line.received_log[-1][1] == 3200


async def test_a_mark_with_nothing_queued_comes_back_at_once(server: Server):
    server.agent = plays(b"", "early")
    async with Phone(server.url).dial() as line:
        await server.legs[0].event("mark")
    (mark,) = line.marks
    assert mark.echoed_at is not None
    assert mark.echoed_at - mark.received_at < 0.1


async def test_a_clear_cuts_what_is_playing_and_gives_the_marks_back(server: Server):
    async def interrupted(leg: Leg) -> None:
        await leg.until(lambda: any(leg.loud()))
        await leg.send("clear")

    server.agent = plays(tone(440, 5000), "a", "b", then=interrupted)
    async with Phone(server.url).dial() as line:
        await line.wait_for_agent(ms=300)
        began = asyncio.create_task(line.say(tone(200, 1000)))
        clear = await line.wait_for_clear()
        assert not line.playing
        await server.legs[0].until(lambda: len(server.legs[0].events("mark")) == 2)
        await began
        assert await line.wait_for_clear() is clear
        with pytest.raises(TimeoutError, match=r"0\.1 s passed before the agent was heard"):
            await line.wait_for_agent(timeout=0.1)
    assert line.clears == [clear]
    assert clear.received_to == 40000
    assert 2400 <= clear.heard_to < 16000
    (span,) = line.heard
    assert span.stream_end == clear.heard_to
    assert clear.at_ms == pytest.approx(span.end_ms, abs=1)
    assert clear.at_ms >= line.speech[0].start_ms
    assert [mark.cleared for mark in line.marks] == [True, True]


async def test_waiting_for_silence(server: Server):
    async def more(leg: Leg) -> None:
        await leg.event("mark")
        await leg.play(tone(440, 100))  # within the silence that is waited for

    server.agent = plays(tone(440, 200), "first", then=more)
    async with Phone(server.url).dial() as line:
        await line.wait_for_silence(ms=300)
        assert len(line.received) == 2400
        assert line.duration_ms - line.heard[-1].end_ms >= 300


async def test_waiting_starts_anew_after_each_line_of_the_callers(server: Server):
    async def answer(leg: Leg) -> None:
        await leg.until(lambda: any(leg.loud()))
        await leg.until(lambda: not leg.loud()[-1])
        await leg.play(tone(500, 200))

    server.agent = plays(tone(440, 100), "greeting", then=answer)
    async with Phone(server.url).dial() as line:
        await line.wait_for_silence(ms=50)
        await line.say(tone(200, 300))
        await line.wait_for_agent(ms=150)
        assert line.heard[-1].start_ms >= line.speech[0].end_ms
        assert line.heard[-1].stream_start == 800


async def test_whoever_waits_learns_that_the_call_is_over(server: Server):
    async def close_soon(leg: Leg) -> None:
        await leg.until(lambda: len(leg.media) > 5)

    server.agent = close_soon
    async with Phone(server.url).dial() as line:
        waits = [line.wait_for_agent(), line.wait_for_silence(), line.wait_for_clear()]
        for failure in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(failure, CallFailed)
            assert "the call ended (by agent) before" in str(failure)
        with pytest.raises(CallFailed):
            await line.press("1")
        await line.wait_ended()
        await line.hang_up()
    assert line.ended_by == "agent"


async def test_waiting_for_the_end_has_a_limit(server: Server):
    async with Phone(server.url).dial() as line:
        with pytest.raises(TimeoutError):
            await line.wait_ended(timeout=0.05)


async def test_what_is_queued_when_the_server_closes_is_never_heard(server: Server):
    async def hasty(leg: Leg) -> None:
        await leg.play(tone(440, 5000))
        await leg.mark("never")
        await leg.until(lambda: len(leg.media) > 5)

    server.agent = hasty
    async with Phone(server.url).dial() as line:
        await line.wait_ended()
    assert line.heard[-1].stream_end < 16000 < len(line.received)
    assert [mark.echoed_at for mark in line.marks] == [None]
    assert line.clears == []


# The recording.


async def test_the_recording_has_both_sides_on_one_clock(server: Server):
    async def echo(leg: Leg) -> None:
        await leg.until(lambda: any(leg.loud()))
        await leg.play(tone(440, 200))

    server.agent = plays(b"", then=echo)
    async with Phone(server.url).dial() as line:
        await line.say(tone(200, 200))
        await line.wait_for_silence(ms=50)
        assert abs(len(line.caller_audio()) - line.duration_ms * 8) < 800
    caller, agent = line.caller_audio(), line.heard_audio()
    assert len(caller) == len(agent) == int(line.duration_ms * 8)
    said, heard = int(line.speech[0].start_ms * 8), round(line.heard[0].start_ms * 8)
    assert caller[said : said + 1600] == tone(200, 200)
    assert agent[heard : heard + 1600] == tone(440, 200)
    assert rms(agent[: heard - 1]) == 0
    assert line.heard[0].start_ms == pytest.approx((line.received_log[0][0] - line.started_at) * 1000)
    with wave.open(io.BytesIO(line.recording())) as file:
        both = array("h", file.readframes(10**6))
    assert both[0::2].tobytes() == decode_ulaw(caller)
    assert both[1::2].tobytes() == decode_ulaw(agent)


# What the server does wrong.


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


# What can be wrong with the line.


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
    assert 0.22 <= times["frame"] - line.started_at < 0.6
    start = line.started_at + line.heard[0].start_ms / 1000
    assert 0.2 <= start - times["sent"] < 0.5
    assert 0.5 <= times["mark"] - times["sent"] < 1.0
    # The close comes after what was sent before it.
    assert len(line.received) == 1600
    assert line.sent_log[0] - line.started_at >= 0.22


async def test_a_delayed_hang_up_still_says_stop(server: Server):
    async with Phone(server.url, delay_ms=150).dial() as line:
        await server.legs[0].event("start")
    assert [message["event"] for message in server.legs[0].messages[-2:]] == ["stop", "closed"]
    assert line.ended_by == "caller"


async def test_a_gap_in_the_media(server: Server):
    async with Phone(server.url).dial() as line:
        leg = server.legs[0]
        await leg.until(lambda: len(leg.media) == 3)
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
    server.connect(stream='statusCallback="/status"')
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
        await asyncio.wait_for(blocked.wait(), 15)
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
        await asyncio.wait_for(line.hang_up(), 10)
    assert line.ended_by == "caller"


async def test_violations_are_bounded():
    line = Line(call_sid="CA1", account_sid="AC1")
    for number in range(1000):
        line.report(str(number))
        line.report(str(number))
    assert len(line.violations) == 200
    assert line.caller_audio() == line.heard_audio() == b""
