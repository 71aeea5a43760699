"""The line of a call that is up: what is said, heard and cut off, and what can be wrong with it."""

from __future__ import annotations

import asyncio
import io
import wave
from array import array
from pathlib import Path

import pytest

from phoneagent.protocol.audio import SILENCE, decode_ulaw, rms, tone
from phoneagent.sim.twilio.phone import CallFailed, Line, Phone
from tests.clock import ROUNDING_SECONDS
from tests.recordings import read_wav
from tests.sim.conftest import Leg, Server
from tests.sim.twilio.calls import heard_by_server, plays

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


SPEECH = read_wav((Path(__file__).parents[2] / "data" / "librivox-0880.ulaw.wav").read_bytes())


# Speaking.


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
        assert -ROUNDING_SECONDS < mark.echoed_at - line.started_at - span.end_ms / 1000 < 0.2
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


async def test_waiting_starts_over_after_each_line_of_the_callers(server: Server):
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


async def test_a_waiting_task_learns_that_the_call_is_over(server: Server):
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


# What can be wrong with the line.


async def test_violations_are_bounded():
    line = Line(call_sid="CA1", account_sid="AC1")
    for number in range(1000):
        line.report(str(number))
        line.report(str(number))
    assert len(line.violations) == 200
    assert line.caller_audio() == line.heard_audio() == b""
