from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from phoneagent.protocol.audio import silence, tone
from phoneagent.sim.model.input_buffer import BufferEvent, IdleTimeout, InputBuffer, SpeechStarted, SpeechStopped
from phoneagent.sim.model.vad import EarshotVad, EnergyGate, Vad

TURN = {"type": "server_vad", "prefix_padding_ms": 300, "silence_duration_ms": 500}


def listener(detection: dict[str, Any] | None = None, vad: type[Vad] | None = None) -> InputBuffer:
    make = vad or EnergyGate
    made = InputBuffer(lambda _threshold: make())
    made.configure(TURN if detection is None else detection)
    return made


def feed(to: InputBuffer, audio: bytes, step: int = 160) -> list[BufferEvent]:
    return [event for at in range(0, len(audio), step) for event in to.feed(audio[at : at + step])]


def test_a_turn_starts_with_its_padding_and_ends_with_its_silence() -> None:
    ear = listener()

    started, stopped = feed(ear, silence(1000) + tone(300, 600) + silence(800))

    assert started == SpeechStarted(audio_start_ms=700, speech_start_ms=1000)
    assert isinstance(stopped, SpeechStopped)
    assert (stopped.speech_end_ms, stopped.audio_end_ms) == (1600, 2100)
    assert len(stopped.audio) == (2100 - 700) * 8
    assert ear.position_ms == 2400


@pytest.mark.parametrize("step", [1, 100, 160, 1000, 100_000])
def test_how_the_audio_is_cut_does_not_matter(step: int) -> None:
    audio = silence(400) + tone(300, 300) + silence(700) + tone(300, 300) + silence(700)

    assert feed(listener(), audio, step) == feed(listener(), audio)
    assert len(feed(listener(), audio, step)) == 4


def test_padding_reaches_back_to_the_start_of_the_audio_at_most() -> None:
    started = feed(listener(), silence(100) + tone(300, 200))[0]

    assert started == SpeechStarted(audio_start_ms=0, speech_start_ms=100)


def test_a_click_is_not_speech() -> None:
    for ms in (20, 40):
        assert feed(listener(), silence(200) + tone(300, ms) + silence(800)) == []


def test_a_short_pause_does_not_end_a_turn() -> None:
    events = feed(listener(), tone(300, 300) + silence(480) + tone(300, 300) + silence(600))

    assert [type(event) for event in events] == [SpeechStarted, SpeechStopped]


def test_without_more_audio_a_turn_does_not_end() -> None:
    ear = listener()

    assert len(feed(ear, tone(300, 300) + silence(400))) == 1
    assert ear.speaking
    assert len(feed(ear, silence(100))) == 1
    assert not ear.speaking


def test_an_eager_semantic_vad_ends_the_turn_sooner() -> None:
    def end(eagerness: str) -> int:
        detection = {"type": "semantic_vad", "eagerness": eagerness}
        stopped = feed(listener(detection), tone(300, 300) + silence(3000))[1]
        assert isinstance(stopped, SpeechStopped)
        return stopped.audio_end_ms

    assert end("high") < end("medium") == end("auto") < end("low")


def test_the_threshold_reaches_the_detector() -> None:
    thresholds: list[float] = []

    def make(threshold: float) -> Vad:
        thresholds.append(threshold)
        return EnergyGate()

    ear = InputBuffer(make)
    ear.configure({**TURN, "threshold": 0.8})
    ear.configure({**TURN, "threshold": 0.8})

    assert thresholds == [0.8]  # an unchanged configuration leaves the detector alone


def test_without_detection_the_buffer_is_taken_by_hand() -> None:
    ear = InputBuffer(lambda _: EnergyGate())
    ear.configure(None)

    assert feed(ear, tone(300, 500)) == []
    assert ear.buffered_ms == 500
    assert ear.speech_span_ms == (0, 500)
    assert len(ear.take()) == 4000
    assert ear.buffered_ms == 0


def test_clear_forgets_a_turn_that_has_begun() -> None:
    ear = listener()
    feed(ear, tone(300, 300))

    ear.clear()

    assert not ear.speaking
    assert feed(ear, silence(1000)) == []


def test_the_idle_timer_counts_audio_and_fires_once() -> None:
    ear = listener({**TURN, "idle_timeout_ms": 5000})
    feed(ear, silence(1000))
    ear.expect_answer(after_ms=2000)

    assert feed(ear, silence(6960)) == []
    assert feed(ear, silence(40)) == [IdleTimeout(audio_start_ms=3000, audio_end_ms=8000)]
    assert feed(ear, silence(20_000)) == []


def test_speech_stops_the_idle_timer() -> None:
    ear = listener({**TURN, "idle_timeout_ms": 5000})
    ear.expect_answer(after_ms=0)

    events = feed(ear, tone(300, 200) + silence(9000))

    assert [type(event) for event in events] == [SpeechStarted, SpeechStopped]


def test_a_click_does_not_stop_the_idle_timer() -> None:
    ear = listener({**TURN, "idle_timeout_ms": 5000})
    ear.expect_answer(after_ms=0)

    events = feed(ear, silence(1000) + tone(300, 20) + silence(9000))

    assert events == [IdleTimeout(audio_start_ms=0, audio_end_ms=5000)]


def test_an_answer_stops_the_idle_timer_until_it_is_over() -> None:
    ear = listener({**TURN, "idle_timeout_ms": 5000})
    ear.expect_answer(after_ms=0)
    feed(ear, silence(4000))
    ear.expect_answer(None)

    assert feed(ear, silence(9000)) == []
    ear.expect_answer(after_ms=1000)
    assert feed(ear, silence(6000)) == [IdleTimeout(audio_start_ms=14_000, audio_end_ms=19_000)]


def test_a_quiet_line_does_not_fill_the_memory() -> None:
    ear = listener()
    feed(ear, silence(60_000), step=1600)

    assert ear.buffered_ms <= 6000
    assert ear.position_ms == 60_000


@pytest.mark.parametrize("vad", [EnergyGate, EarshotVad])
def test_a_spoken_sentence_is_one_turn(vad: type[Vad], speech: Callable[[str], bytes]) -> None:
    if vad is EarshotVad:
        pytest.importorskip("earshot")
    sentence = speech("librivox-0880")

    events = feed(listener(vad=vad), silence(500) + sentence + silence(1000))

    assert [type(event) for event in events] == [SpeechStarted, SpeechStopped]
    stopped = events[1]
    assert isinstance(stopped, SpeechStopped)
    assert 3000 < stopped.speech_end_ms <= 500 + len(sentence) // 8 + 200
