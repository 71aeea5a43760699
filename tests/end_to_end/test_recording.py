"""Recordings of whole calls, held against what the simulated phone itself has recorded."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import stat
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from phoneagent import (
    Agent,
    BargeIn,
    Call,
    CallEnded,
    Recording,
    RecordingChanged,
    TurnEnded,
    keypad,
)
from phoneagent.calls import recorder, take
from phoneagent.errors import PhoneAgentError
from phoneagent.protocol.audio import FRAME_BYTES, SILENCE, decode_ulaw, silence
from phoneagent.protocol.tones import tones
from phoneagent.sim import Line
from phoneagent.sim.speech import Murmur
from phoneagent.sim.tones import ToneEar
from phoneagent.store import Store
from phoneagent.store.audio_places import _File
from phoneagent.store.recordings import Recorded
from tests.end_to_end.conftest import BOTH_SOCKETS, World, Worlds

pytestmark = pytest.mark.anyio
VOICE = Murmur()
WORD = VOICE.render("Stop it now.")
REST = "there is a lot to say about this, and every word of it takes its time, so listen well until I have finished it."
SCRIPT = f"""
greeting = "Hello and welcome!"
goodbye = "Goodbye!"
[[turn]]
caller = "one"
say = ["First, {REST}", "And this is a second part, which comes in an item of its own, and is a good deal shorter."]
[[turn]]
caller = "two"
say = "Secondly, {REST} Besides, {REST}"
[[turn]]
caller = "three"
say = "Thirdly, {REST}"
[[turn]]
caller = "four"
say = "That is all."
"""
AGENT = Agent(instructions="x", greeting="Hello and welcome!", recording=Recording())
NEAR = 800
"""Samples by which the phone and the app may differ about the moment at which a message passed, where a busy machine
delivers late. Usually it is one of them."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "recordings"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write on the event loop: while a thread works, no time is skipped, and a busy machine delivers late."""

    def write(work: Callable[..., None]) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        try:
            future.set_result(work())
        except PhoneAgentError as error:
            future.set_exception(error)
        return future

    monkeypatch.setattr(take, "in_thread", write)
    monkeypatch.setattr(recorder, "LOOK_SECONDS", 0.0)  # the answer would come on this event loop


@dataclass
class Compared:
    """How far a recording is from the phone's own."""

    samples: int
    shifts: list[int] = field(default_factory=list)
    """By how many samples each span of the agent's is earlier or later."""
    cuts: list[int] = field(default_factory=list)
    """By how many samples each is shorter or longer."""

    @property
    def spans(self) -> int:
        return len(self.shifts)


def compare(line: Line, recorded: Recorded) -> Compared:
    """Hold a recording against the phone's: what was said and heard must be the same, sample by sample.

    Each span of the agent's audio may begin and end a little off, because a message takes time from the app to the
    phone, and the two look at their clocks at its two ends.
    """
    left, right = recorded.sides()
    spoken, length = line.caller_audio(), len(left) - 400
    first = next(at for at in range(0, len(spoken), FRAME_BYTES) if spoken[at : at + length] == left[:length])
    found, rest = Compared(samples=len(left)), bytearray(right)
    for span in line.heard:
        received = bytes(line.received[span.stream_start : span.stream_end + NEAR])
        audio = received[: span.stream_end - span.stream_start]
        begin = round(span.start_ms * 8) - first
        if begin < 0:
            received, audio, begin = received[-begin:], audio[-begin:], 0
        if not audio:
            continue
        sure = audio[: max(1, len(audio) - NEAR)]
        places = [at for at in range(max(0, begin - NEAR), begin + NEAR) if right[at : at + len(sure)] == sure]
        assert places, f"what was heard from {span.start_ms:.0f} ms on is not in the recording"
        at = min(places, key=lambda place: abs(place - begin))
        same = next(
            (each for each in range(len(received)) if right[at + each : at + each + 1] != received[each : each + 1]),
            len(received),
        )
        found.shifts.append(abs(at - begin))
        found.cuts.append(0 if audio.endswith(SILENCE) else abs(same - len(audio)))
        rest[at : at + same] = SILENCE * same
    assert set(rest) <= {0xFF}, "something is in the recording that was not heard"
    return found


async def finished(w: World, sid: str, around: Any = None) -> Recorded:
    """Return the recording of a call that is over."""
    ends = ("completed", "stopped")
    await w.until(lambda: [each for each in w.of(RecordingChanged) if each.call_sid == sid and each.status in ends])
    assert w.app._parts.recordings is not None
    found = w.app._parts.recordings.find(sid)
    assert found is not None
    return found


@BOTH_SOCKETS
@pytest.mark.usefixtures("at_once")
async def test_a_recording_is_what_the_phone_recorded_sample_by_sample(world: Worlds, folder: Path) -> None:
    moments, seen = random.Random(5), Compared(samples=0)
    async with world(AGENT, SCRIPT, record_audio=str(folder)) as w:
        await w.until(folder.is_dir)
        for _ in range(4):
            async with w.phone().dial() as line:
                await line.wait_for_silence(ms=200)
                for _ in range(3):
                    await line.say(WORD)
                    await line.wait_for_agent(ms=moments.uniform(150, 3000))
                    await line.say(WORD)
                    await line.wait_for_clear()
                await line.wait_for_silence(ms=500)
            recorded = await finished(w, line.call_sid)
            one = compare(line, recorded)
            assert abs(recorded.duration_ms - line.duration_ms) < 500
            seen.samples += one.samples
            seen.shifts += one.shifts
            seen.cuts += one.cuts
    assert len(w.of(BargeIn)) >= 4
    assert seen.spans >= 20
    assert max(seen.shifts) <= 8  # a millisecond; on a quiet machine it is one sample
    assert max(seen.cuts) <= 8
    assert w.log.text.count("recorded") == 0


def under(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def told_by_us(w: World) -> list[str]:
    """Return the text of the system's messages in all sessions."""
    items = [item for session in w.model.sessions for item in session.items]
    return [item["content"][0]["text"] for item in items if item.get("role") == "system"]


@pytest.mark.usefixtures("at_once")
async def test_a_consent_line_is_heard_before_anything_is_recorded(world: Worlds, folder: Path) -> None:
    agent = Agent(instructions="x", greeting="Hello!", recording=Recording(consent="This call is recorded."))
    script = 'greeting = "Hello!"\n[[turn]]\ncaller = "one"\nsay = "Yes, I am here."'
    async with world(agent, script, record_audio=str(folder)) as w:
        async with w.phone().dial() as line:
            await line.say(WORD)  # it stops neither
            await line.wait_for_silence(ms=500)
            await line.say(WORD)
            await line.wait_for_silence(ms=200)
        recorded = await finished(w, line.call_sid)
        prompts = told_by_us(w)
        said = [each.turn for each in w.of(TurnEnded) if each.turn.role == "agent"]
    assert [text.rpartition(": ")[2] for text in prompts] == ['"This call is recorded."', '"Hello!"']
    assert not any(turn.interrupted for turn in said)
    begun = w.of(RecordingChanged)[0]
    assert begun.status == "in-progress"
    assert said[0].end_ms <= begun.at_ms <= said[0].end_ms + 500
    assert compare(line, recorded).spans >= 2  # the greeting, from its first sample on, and an answer
    assert abs(line.duration_ms - begun.at_ms - recorded.duration_ms) < 500


async def test_a_consent_line_that_is_not_heard_starts_nothing(world: Worlds, folder: Path) -> None:
    agent = Agent(instructions="x", recording=Recording(consent="This call is recorded, for as long as it takes."))
    async with world(agent, 'default = "Yes?"', record_audio=str(folder)) as w:
        async with w.phone().dial() as line:
            await line.wait_for_agent(ms=300)
        await w.until(lambda: w.of(CallEnded))
    assert w.of(RecordingChanged) == []
    assert under(folder) == []


@keypad(digits=4)
async def check_pin(digits: str, call: Call) -> str:
    """Check the caller's PIN."""
    return "Thank you."


async def test_gathered_digits_are_in_no_recording(world: Worlds, folder: Path) -> None:
    script = """
greeting = "Hello!"
[[turn]]
caller = "My balance, please."
say = "Type your PIN now."
call = "check_pin"
then = "{output}"
"""
    agent = Agent(instructions="x", greeting="Hello!", tools=[check_pin], recording=Recording())
    async with world(agent, script, record_audio=str(folder)) as w:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=100)
            await asyncio.gather(line.press("7"), line.say(tones("7")))  # for all to hear
            await line.wait_for_silence(ms=100)
            await line.say(VOICE.render("My balance, please."))
            keys = w.app._parts.calls._sessions[line.call_sid].bridge.keys
            await w.until(lambda: keys.gathering)
            await asyncio.gather(line.press("1907#"), line.say(tones("1907#")))
            await w.until(lambda: not keys.busy)
            await line.wait_for_silence(ms=100)
            assert ToneEar().hear(line.caller_audio()) == "71907#"
        recorded = await finished(w, line.call_sid)
    left, right = recorded.sides()
    assert ToneEar().hear(left) == "7"
    assert "Thank you" in "".join(each.turn.text for each in w.of(TurnEnded))
    # what the agent says is there, also meanwhile
    assert abs(len(right) - right.count(SILENCE) - len(line.heard_audio().replace(SILENCE, b""))) < 16


async def test_code_starts_pauses_and_stops_a_recording(world: Worlds, folder: Path) -> None:
    agent = Agent(instructions="x", greeting="Hello!")
    async with world(agent, 'greeting = "Hello!"', record_audio=str(folder)) as w:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=100)
            call = w.app.calls[line.call_sid]
            assert type(w.app._parts.calls._sessions[line.call_sid]._caller).__name__ == "TwilioSocket"
            for _ in range(2):
                call.start_recording()
            await line.say(tones("1"))
            call.pause_recording()
            await line.say(tones("2") + silence(100))
            call.start_recording()
            await line.say(silence(200) + tones("3") + silence(100))
            call.stop_recording()
            await w.until(lambda: w.of(RecordingChanged)[-1].duration_ms is not None)
            assert type(w.app._parts.calls._sessions[line.call_sid]._caller).__name__ == "TwilioSocket"
            await line.say(tones("4"))
            call.start_recording()
            await line.say(silence(200) + tones("5") + silence(200))
        recorded = await finished(w, line.call_sid)
        await w.until(lambda: w.of(RecordingChanged)[-1].status == "completed")
        recorded = await finished(w, line.call_sid)
    assert ToneEar().hear(recorded.sides()[0]) == "135"
    told = [(each.status, each.complete) for each in w.of(RecordingChanged)]
    statuses = ["in-progress", "paused", "in-progress", "stopped", "stopped", "in-progress", "completed"]
    assert told == [(status, True) for status in statuses]
    assert w.of(RecordingChanged)[-1].duration_ms == recorded.duration_ms
    (path,) = {path for path in under(folder) if path.name == line.call_sid}
    assert w.of(RecordingChanged)[0].where == str(path)
    for file in path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "155501" not in file.name
    assert {stat.S_IMODE(each.stat().st_mode) for each in (folder, path, path.parent)} == {0o700}


async def test_without_a_place_nothing_is_recorded_and_the_log_says_so(world: Worlds) -> None:
    async with world(AGENT, SCRIPT) as w:
        for _ in range(2):
            async with w.phone().dial() as line:
                await line.wait_for_silence(ms=100)
                w.app.calls[line.call_sid].start_recording()
        await w.until(lambda: len(w.of(CallEnded)) == 2)
    assert w.log.text.count("has a Recording, but RECORD_AUDIO is not set") == 1
    assert w.log.text.count("set RECORD_AUDIO to a folder or a URL") == 2
    assert w.of(RecordingChanged) == []


# --- places that take nothing ---


def hang(w: World, line: Line) -> None:
    """Let a call's recording wait for its place for ever."""
    recorder = w.app._parts.calls._sessions[line.call_sid]._recorder
    assert recorder is not None
    assert recorder._take is not None
    recorder._take._writing = asyncio.get_running_loop().create_future()
    recorder._take._since = -1e9


@pytest.mark.parametrize("kind", ["gone", "full", "read-only", "slow"])
async def test_a_place_that_takes_nothing_costs_the_recording_and_not_the_call(
    kind: str, world: Worlds, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    monkeypatch.setattr(take, "MAX_UNWRITTEN_BYTES", 3 * 16_000)
    written = _File.append

    def refuse(file: _File, data: bytes) -> None:
        if file._size < 16_000:
            written(file, data)
        elif kind == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif kind == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        else:
            written(file, data)

    async with world(AGENT, SCRIPT, record_audio=str(folder), store=store) as w:
        monkeypatch.setattr(_File, "append", refuse)
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=3000)
            if kind == "gone":
                shutil.rmtree(folder)
            elif kind == "slow":
                hang(w, line)
            await w.until(lambda: any(each.status == "stopped" for each in w.of(RecordingChanged)))
            await line.say(WORD)
            await line.wait_for_agent(ms=500)
        await w.until(lambda: w.of(CallEnded))
        record = await store.call(line.call_sid)
    assert record is not None
    assert record.recording is not None
    assert (record.recording.status, record.recording.complete) == ("stopped", False)
    remedy = {"gone": "make the folder", "full": "make room there", "read-only": "let this process write there"}
    (line_of_log,) = [each for each in w.log.messages if each.startswith("the call goes on, and is not recorded")]
    assert remedy.get(kind, "check that it works") in line_of_log
    await store.close()


@pytest.mark.usefixtures("at_once")
async def test_a_place_that_is_back_soon_loses_nothing(
    world: Worlds, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, tries = _File.append, list[int]()

    def refuse_some(file: _File, data: bytes) -> None:
        tries.append(len(data))
        if len(tries) in (1, 3, 4):
            written(file, data[: len(data) // 3])
            file._size -= len(data[: len(data) // 3])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(file, data)

    async with world(AGENT, SCRIPT, record_audio=str(folder)) as w:
        monkeypatch.setattr(_File, "append", refuse_some)
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=500)
            await line.say(WORD)
            await line.wait_for_silence(ms=3000)
            await w.until(lambda: len(tries) > 5)
        recorded = await finished(w, line.call_sid)
    assert compare(line, recorded).spans >= 2
    assert w.of(RecordingChanged)[-1].complete
    assert w.log.text.count("is not recorded for now") == 1


# --- from stream to stream ---


async def test_a_recording_goes_on_in_the_next_media_stream(world: Worlds, folder: Path, tmp_path: Path) -> None:
    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    agent = Agent(instructions="x", greeting="Hello!", recording=Recording(consent="This call is recorded."))
    async with world(agent, 'default = "Yes?"\ngreeting = "Hello!"', record_audio=str(folder), store=store) as w:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=1500)
            await line.say(tones("1"))
            w.app.hand_over_now(line.call_sid, "a test")
            await line.wait_for_stream(2)
            await line.say(silence(200) + tones("2"))
            w.app.calls[line.call_sid].pause_recording()
            await line.say(tones("3"))
            w.app.hand_over_now(line.call_sid, "a test")
            await line.wait_for_stream(3)
            await line.say(tones("4"))
            w.app.calls[line.call_sid].start_recording()
            await line.say(silence(200) + tones("5") + silence(200))
        recorded = await finished(w, line.call_sid)
        record = await store.call(line.call_sid)
    assert ToneEar().hear(recorded.sides()[0]) == "125"
    assert record is not None
    assert record.recording is not None
    assert (record.recording.status, record.recording.complete) == ("completed", True)
    assert record.recording.duration_ms == recorded.duration_ms
    prompts = told_by_us(w)
    assert sum("This call is recorded" in text and "Say exactly" in text for text in prompts) == 1
    assert len({piece.path.split("-")[3] for piece in recorded.pieces}) == 3
    await store.close()


# --- reading ---


async def test_the_control_api_sends_a_recording_whole_or_in_parts(world: Worlds, folder: Path) -> None:
    async with world(AGENT, SCRIPT, record_audio=str(folder), api_token="a-token-of-a-test") as w:
        async with w.phone().dial() as line:
            await line.say(WORD)
            await line.wait_for_silence(ms=1200)
        recorded = await finished(w, line.call_sid)
        url = f"{w.url}/calls/{line.call_sid}/audio.wav"
        token = {"Authorization": "Bearer a-token-of-a-test"}
        async with aiohttp.ClientSession() as http:
            async with http.get(url) as answer:
                assert answer.status == 401
            async with http.get(url, headers=token) as answer:
                whole = await answer.read()
                assert (answer.status, answer.content_type) == (200, "audio/wav")
                assert answer.headers["Accept-Ranges"] == "bytes"
            for asked, begin, end in (("0-43", 0, 44), ("44-", 44, None), ("-7", -7, None), ("50-65", 50, 66)):
                async with http.get(url, headers={**token, "Range": f"bytes={asked}"}) as answer:
                    assert (answer.status, await answer.read()) == (206, whole[begin:end])
            async with http.get(url, headers={**token, "Range": "bytes=99999999-"}) as answer:
                assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
            async with http.get(f"{w.url}/calls/CA{'0' * 32}/audio.wav", headers=token) as answer:
                assert answer.status == 404
    with wave.open(BytesIO(whole)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 8000, 2)
        pcm = file.readframes(file.getnframes())
    left, right = recorded.sides()
    assert pcm[0::4] + pcm[1::4] == decode_ulaw(left)[0::2] + decode_ulaw(left)[1::2]
    assert pcm[2::4] + pcm[3::4] == decode_ulaw(right)[0::2] + decode_ulaw(right)[1::2]


@pytest.mark.usefixtures("at_once")
async def test_a_recording_at_a_url_is_the_same_in_short_objects(world: Worlds) -> None:
    MemoryFileSystem.store.clear()
    async with world(AGENT, SCRIPT, record_audio="memory://bucket/calls") as w:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=200)
            for _ in range(2):
                await line.say(WORD)
                await line.wait_for_agent(ms=2500)
                await line.say(WORD)
                await line.wait_for_clear()
            await line.wait_for_silence(ms=500)
        recorded = await finished(w, line.call_sid)
    seen = compare(line, recorded)
    assert seen.samples > 10 * 8000
    assert seen.spans >= 4
    sizes = [each.end - each.begin for each in recorded.pieces]
    assert len(sizes) > 1
    assert max(sizes) <= 10 * 8000
    assert all(name.startswith("/bucket/calls/20") for name in MemoryFileSystem.store)
    MemoryFileSystem.store.clear()
