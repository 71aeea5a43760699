"""A microphone's blocks, cut into the frames of the line. There is no clock: each frame is asked for by number."""

from __future__ import annotations

import base64

import pytest

from phoneagent.protocol.audio import silence, tone
from phoneagent.sim.sound.card_microphone import MAX_BACKLOG_MS, START_MS, CardMicrophone, JitterBuffer

LOUD = tone(440, 20)


def frames(microphone: CardMicrophone, audio: list[bytes], start: int = 0) -> list[bytes | None]:
    """Give a frame's worth of audio, and take a frame, in turn."""
    taken = []
    for number, each in enumerate(audio, start):
        microphone.take(each)
        frame = microphone.frame(number)
        taken.append(None if frame is None else base64.b64decode(frame))
    return taken


def test_the_buffer_waits_for_a_little_audio_and_again_after_a_gap():
    buffer = JitterBuffer()
    buffer.push(LOUD)
    assert buffer.pull() is None
    buffer.push(LOUD)
    assert buffer.pull() == buffer.pull() == LOUD
    assert buffer.pull() is None
    assert buffer.gaps == 1
    buffer.push(LOUD)
    assert buffer.pull() is None, "one frame would soon be followed by the next gap"
    buffer.push(LOUD)
    assert buffer.pull() == LOUD
    assert buffer.average_ms == pytest.approx(40, abs=1)


def test_blocks_of_any_size_become_frames():
    buffer = JitterBuffer()
    audio = tone(300, 100)
    for at in range(0, len(audio), 37):
        buffer.push(audio[at : at + 37])
    assert b"".join(filter(None, iter(buffer.pull, None))) == audio


def test_the_buffer_is_bounded_and_drops_the_oldest():
    buffer = JitterBuffer()
    buffer.push(silence(MAX_BACKLOG_MS))
    assert buffer.dropped_ms == 0
    buffer.push(LOUD)
    assert buffer.waiting_ms == START_MS
    assert buffer.dropped_ms == MAX_BACKLOG_MS + 20 - START_MS
    assert [buffer.pull(), buffer.pull()] == [silence(20), LOUD]


def test_what_was_said_before_the_call_is_not_part_of_it():
    microphone = CardMicrophone()
    microphone.take(LOUD * 9)
    microphone.frame(0)
    assert microphone.buffer.waiting_ms == START_MS - 20


def test_a_delay_is_caught_up_in_silence_and_not_in_speech():
    microphone = CardMicrophone()
    frames(microphone, [LOUD, LOUD])
    microphone.take(LOUD * 5)
    frames(microphone, [LOUD] * 5, 2)
    assert microphone.buffer.waiting_ms > 80
    frames(microphone, [silence(20)] * 20, 7)
    assert microphone.buffer.waiting_ms <= 80


def test_an_utterance_begins_with_a_voice_and_ends_with_silence():
    microphone = CardMicrophone()
    frames(microphone, [silence(20)] * 10 + [LOUD] * 20 + [silence(20)] * 20 + [LOUD] * 5 + [silence(20)] * 50)
    [spoken] = microphone.speech
    assert spoken.start_ms == pytest.approx(200, abs=60)
    assert spoken.end_ms == pytest.approx(1100, abs=60)
    frames(microphone, [LOUD] * 10, 105)
    assert len(microphone.speech) == 2


def test_a_click_is_no_utterance():
    microphone = CardMicrophone()
    frames(microphone, [silence(20)] * 5 + [LOUD] * 2 + [silence(20)] * 50)
    assert microphone.speech == []


def test_a_muted_microphone_sends_silence_and_keeps_no_delay():
    muted = True
    microphone = CardMicrophone(muted=lambda: muted)
    assert frames(microphone, [LOUD] * 20) == [None] * 20
    assert microphone.speech == []
    assert microphone.audio(3200) == silence(400)
    muted = False
    assert frames(microphone, [LOUD] * 5, 20)[-1] == LOUD


def test_the_recording_has_each_frame_at_its_time():
    microphone = CardMicrophone()
    frames(microphone, [LOUD] * 4)
    assert microphone.audio(640) == silence(20) + LOUD * 3
    assert microphone.audio(200) == (silence(20) + LOUD)[:200]


def test_the_end_of_a_stream_ends_the_utterance():
    microphone = CardMicrophone()
    frames(microphone, [LOUD] * 10)
    microphone.pause()
    frames(microphone, [LOUD] * 10, 10)
    microphone.shut(400)
    assert len(microphone.speech) == 2
