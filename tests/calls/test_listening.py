"""Listening in: what a listener hears is what the caller said and heard, and frames pass a tap only meanwhile."""

from __future__ import annotations

import base64

import pytest

from phoneagent.bridge.caller import CallerAudio
from phoneagent.bridge.keys import Gather
from phoneagent.bridge.playback import Playback
from phoneagent.calls.listening import KEPT_BYTES, SLACK_BYTES, Listener, Tap
from phoneagent.calls.take import TapedSocket
from phoneagent.calls.writer import untapped
from phoneagent.events import AgentResumed
from phoneagent.protocol.carrier import AudioIn, Clear, SendMark
from phoneagent.protocol.realtime import SpeechStopped
from tests.bridge.rig import Rig, ulaw
from tests.calls.shell import Caller, Line, Running

CALLER, AGENT = 0, 1


def track(frames: list[bytes] | None, number: int) -> bytes:
    """The audio of a track; each frame has 20 ms of it."""
    assert frames is not None
    assert all(len(each) == 161 for each in frames)
    return b"".join(each[1:] for each in frames if each[0] == number)


class Heard:
    """A listener of a rig's call, which is read as its clock goes."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.tap = Tap(Caller(), rig.bridge.caller_audio)
        self.listener = Listener(self.tap, rig.bridge.playback, lambda: rig.now, lambda: False)
        self.agent = b""

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            self.rig.wait(0.02)
            self.agent += track(self.listener.frames(), AGENT)


def test_the_agent_is_heard_as_the_caller_hears_it_and_no_faster() -> None:
    rig = Rig()
    heard = Heard(rig)
    rig.created()
    rig.audio(1000)  # is sent at once
    heard.wait(0.06)
    assert 160 <= len(heard.agent) <= 480
    rig.mark(rig.sent(SendMark)[0].name)
    heard.wait(0.06)
    assert len(heard.agent) <= 8 * 240


def test_all_that_was_heard_is_heard() -> None:
    rig = Rig()
    heard = Heard(rig)
    rig.says(1000)
    marks = rig.sent(SendMark)
    for mark in marks:
        heard.wait(1 / len(marks))
        rig.mark(mark.name)
    heard.wait(0.1)
    assert heard.agent == b"\x55" * 8000


def test_the_last_frame_is_filled_with_silence() -> None:
    rig = Rig()
    heard = Heard(rig)
    rig.says(50)
    heard.wait(0.1)
    rig.hear()
    heard.wait(0.1)
    assert heard.agent == b"\x55" * 400 + b"\xff" * 80


def test_what_was_cleared_is_not_heard() -> None:
    rig = Rig()
    heard = Heard(rig)
    rig.says(5000)
    heard.wait(0.1)
    rig.mark(rig.sent(SendMark)[0].name)
    heard.wait(0.04)
    rig.interrupt()
    assert rig.sent(Clear)
    heard.wait(1)
    ((_, heard_ms),) = rig.truncations
    assert abs(len(heard.agent.rstrip(b"\xff")) / 8 - heard_ms) <= 20
    rig.says(100, "i2", "r2")
    heard.wait(0.2)
    rig.hear()
    heard.wait(0.1)
    assert heard.agent.count(b"\x55") / 8 == pytest.approx(heard_ms + 100, abs=20)


def test_one_that_comes_in_the_middle_hears_the_rest() -> None:
    rig = Rig()
    rig.says(1000)
    rig.wait(0.1)
    marks = rig.sent(SendMark)
    rig.mark(marks[0].name)
    heard = Heard(rig)
    for mark in marks[1:]:
        heard.wait(0.1)
        rig.mark(mark.name)
    heard.wait(0.1)
    assert len(heard.agent) == pytest.approx(7200, abs=160)


def test_a_pause_is_heard_as_one_and_then_the_rest() -> None:
    rig = Rig(min_speech_ms=500)
    heard = Heard(rig)
    rig.says(1000)
    heard.wait(0.1)
    rig.mark(rig.sent(SendMark)[0].name)
    rig.speech()
    assert rig.bridge.playback.paused_at is not None
    before = len(heard.agent)
    heard.wait(0.1)
    assert len(heard.agent) <= before + 160
    rig.model(SpeechStopped())
    heard.wait(2)
    (resumed,) = rig.events(AgentResumed)
    assert resumed.cause == "noise"
    for mark in rig.sent(SendMark):
        rig.mark(mark.name)
        heard.wait(0.15)
    heard.wait(0.1)
    assert heard.agent.count(b"\x55") == pytest.approx(8000, abs=320)


def tapped() -> tuple[Tap, CallerAudio, Listener]:
    audio, playback = CallerAudio(), Playback()
    tap = Tap(Caller(), audio)
    return tap, audio, Listener(tap, playback, lambda: 0.0, lambda: False)


def test_the_caller_is_heard_frame_by_frame() -> None:
    tap, _, listener = tapped()
    frames = [ulaw(20, byte) for byte in (1, 2, 3)]
    for number, payload in enumerate(frames):
        message = AudioIn(payload, 20 * number)
        assert tap.decode(message) is message  # type: ignore[arg-type]
    assert track(listener.frames(), CALLER) == b"".join(map(base64.b64decode, frames))
    assert listener.frames() == []
    tap.decode(AudioIn(ulaw(30), 60))  # type: ignore[arg-type]
    assert len(track(listener.frames(), CALLER)) == 160
    tap.decode(AudioIn(ulaw(10), 90))  # type: ignore[arg-type]
    assert len(track(listener.frames(), CALLER)) == 160


def test_the_tones_of_secret_keys_are_not_heard() -> None:
    rig = Rig()
    heard = Heard(rig)
    rig.bridge.keys.begin(Gather(4, 5.0, "#", lambda: None), rig.now)
    heard.tap.decode(AudioIn(ulaw(20), 0))  # type: ignore[arg-type]
    assert track(heard.listener.frames(), CALLER) == b"\xff" * 160


def test_a_listener_that_is_too_slow_is_cut_off_and_memory_is_bounded() -> None:
    tap, _, listener = tapped()
    for number in range(500):
        tap.decode(AudioIn(ulaw(20), 20 * number))  # type: ignore[arg-type]
    assert len(tap._kept) <= KEPT_BYTES + SLACK_BYTES
    assert listener.frames() is None


@pytest.mark.anyio
async def test_frames_pass_the_tap_only_while_there_is_a_listener() -> None:
    async with Running() as running:
        session = running.session
        with session.listen() as first:
            with session.listen() as second:
                running.line.incoming.put_nowait(AudioIn(ulaw(20), 0))
                await running.until(lambda: session.bridge.caller_audio.sent_bytes)
                assert len(track(first.frames(), CALLER)) == len(track(second.frames(), CALLER)) == 160
            assert isinstance(session._caller, Tap)
            assert not first.over
        assert session._caller is running.line
        with session.listen() as third:
            assert third.frames() == []
            session.end("caller", "hung up")
            assert third.over
    assert isinstance(running.line, Line)


@pytest.mark.anyio
async def test_a_listener_that_leaves_takes_nothing_else_away() -> None:
    noted: list[object] = []
    async with Running() as running:
        session, audio = running.session, running.session.bridge.caller_audio
        with session.listen():
            session.tap(lambda socket: TapedSocket(socket, noted.append, lambda: False))
        assert isinstance(session._caller, TapedSocket)
        assert session._caller.socket is running.line
        with session.listen() as listener:
            session.tap(lambda socket: untapped(socket, TapedSocket))
            running.line.incoming.put_nowait(AudioIn(ulaw(20), 0))
            await running.until(lambda: audio.sent_bytes)
            assert len(track(listener.frames(), CALLER)) == 160
        assert session._caller is running.line
