from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.bridge.caller import FILL_MS, MAX_FILL_MS, MAX_HELD_BYTES, CallerAudio
from tests.bridge.rig import ulaw


def taken(audio: CallerAudio) -> bytes:
    """Everything that goes to the model now."""
    data = b""
    while (append := audio.pop()) is not None:
        data += base64.b64decode(append.audio, validate=True)
    return data


def speech(ms: float) -> bytes:
    return base64.b64decode(ulaw(ms))


def silence(ms: int) -> bytes:
    return b"\xff" * (8 * ms)


@pytest.fixture
def audio() -> CallerAudio:
    return CallerAudio()


def stall(audio: CallerAudio, until: float) -> float:
    """Let the timer fire whenever it is due; return when it fired last."""
    fired = 0.0
    while (due := audio.get_timer()) is not None and due <= until:
        audio.handle_timer(due)
        fired = due
    return fired


# --- frames ---


def test_frames_go_in_order_as_they_came(audio: CallerAudio) -> None:
    for number in range(3):
        audio.frame(ulaw(20, number), 20 * number, number / 50)
    assert taken(audio) == b"".join(bytes([number]) * 160 for number in range(3))
    assert audio.pop() is None
    assert audio.sent_bytes == 480


def test_an_empty_frame_is_nothing(audio: CallerAudio) -> None:
    audio.frame("", 0, 0.0)
    assert audio.pop() is None


def test_a_model_that_does_not_listen_gets_the_latest_ten_seconds(audio: CallerAudio) -> None:
    for number in range(600):
        audio.frame(ulaw(20, number % 251), 20 * number, number / 50)
    data = taken(audio)
    assert len(data) == MAX_HELD_BYTES == 80_000
    assert data[-1] == 599 % 251
    assert audio.dropped_bytes == 600 * 160 - 80_000


def test_what_was_taken_is_held_no_more(audio: CallerAudio) -> None:
    for number in range(3):
        audio.frame(ulaw(9000), 9000 * number, 9.0 * number)
        assert len(taken(audio)) == 72_000
    assert audio.dropped_bytes == 0


# --- holes in the caller's clock ---


def test_a_hole_is_filled_with_silence(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 0, 0.0)
    audio.frame(ulaw(20), 120, 0.1)
    assert taken(audio) == speech(20) + silence(100) + speech(20)


def test_jitter_of_the_clock_is_no_hole(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 0, 0.0)
    audio.frame(ulaw(20), 39, 0.0)
    assert taken(audio) == speech(40)


def test_the_first_frame_has_no_hole_before_it(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 5000, 0.0)
    assert taken(audio) == speech(20)


def test_a_clock_that_goes_back_or_stands_still_changes_nothing(audio: CallerAudio) -> None:
    for timestamp in (100, 0, 0, 160):
        audio.frame(ulaw(20), timestamp, 0.0)
    assert taken(audio) == speech(80)


def test_a_hole_is_filled_to_a_limit(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 0, 0.0)
    taken(audio)
    audio.frame(ulaw(20), 10**15, 0.0)
    assert audio.dropped_bytes + len(taken(audio)) == 8 * (MAX_FILL_MS + 20)


# --- a line that stalls ---


def test_silence_is_made_up_while_the_caller_speaks_and_nothing_comes(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 0, 10.0)
    audio.speech(True)
    assert audio.get_timer() == pytest.approx(10.75)
    audio.handle_timer(10.7)
    assert taken(audio) == speech(20)
    audio.handle_timer(10.75)
    assert taken(audio) == silence(FILL_MS)
    assert audio.get_timer() == pytest.approx(10.85)


def test_there_is_nothing_to_make_up_without_speech_or_before_the_first_frame(audio: CallerAudio) -> None:
    audio.speech(True)
    assert audio.get_timer() is None
    audio.frame(ulaw(20), 0, 10.0)
    audio.speech(False)
    assert audio.get_timer() is None
    audio.handle_timer(99.0)
    assert taken(audio) == speech(20)


def test_it_ends_when_the_speech_stops_or_media_returns(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 0, 0.0)
    audio.speech(True)
    stall(audio, 1.0)
    audio.speech(False)
    assert audio.get_timer() is None
    audio.speech(True)
    audio.frame(ulaw(20), 1020, 1.02)
    assert audio.get_timer() == pytest.approx(1.77)


def test_a_stalled_line_is_filled_to_a_limit(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 0, 0.0)
    audio.speech(True)
    assert stall(audio, 60.0) == pytest.approx(0.75 + MAX_FILL_MS / 1000 - 0.1)
    assert audio.get_timer() is None
    assert audio.dropped_bytes + len(taken(audio)) == 8 * (20 + MAX_FILL_MS)


def test_a_hole_is_not_filled_twice(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 0, 0.0)
    audio.speech(True)
    stall(audio, 0.96)  # 300 ms made up
    audio.frame(ulaw(20), 1020, 1.02)
    assert taken(audio) == speech(20) + silence(300) + silence(700) + speech(20)
    audio.frame(ulaw(20), 1060, 1.06)
    assert taken(audio) == silence(20) + speech(20)


def test_too_much_made_up_is_not_made_up_for(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 0, 0.0)
    audio.speech(True)
    stall(audio, 1.0)
    audio.frame(ulaw(20), 20, 1.02)  # late, not lost
    assert taken(audio) == speech(20) + silence(300) + speech(20)


def test_the_limit_is_one_for_the_whole_hole(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 0, 0.0)
    audio.speech(True)
    stall(audio, 60.0)
    audio.frame(ulaw(20), 30_000, 14.0)
    assert audio.dropped_bytes + len(taken(audio)) == 8 * (40 + MAX_FILL_MS)


# --- the model's clock ---


def test_the_models_clock_counts_what_it_was_given(audio: CallerAudio) -> None:
    for number in range(50):
        audio.frame(ulaw(20), 20 * number, number / 50)
    taken(audio)
    assert audio.behind_ms(400) == 600
    assert audio.behind_ms(1200) == 0


def test_a_new_session_has_a_new_clock_and_takes_what_is_held(audio: CallerAudio) -> None:
    audio.frame(ulaw(1000), 0, 0.0)
    taken(audio)
    audio.speech(True)
    audio.frame(ulaw(20), 1000, 1.0)
    audio.speech(False)
    audio.settled()
    audio.new_session()
    assert audio.get_timer() is None
    assert taken(audio) == speech(20)
    assert audio.behind_ms(0) == 20


def test_a_new_session_hears_once_more_what_is_not_settled(audio: CallerAudio) -> None:
    audio.frame(ulaw(3000), 0, 0.0)
    taken(audio)
    audio.frame(ulaw(800), 3000, 3.0)
    taken(audio)
    audio.speech(True)
    audio.frame(ulaw(500), 3800, 3.8)
    taken(audio)
    audio.speech(False)
    audio.frame(ulaw(20), 4300, 4.3)
    audio.new_session()
    assert taken(audio) == speech(3000 + 800 + 500 + 20)  # what came before it began, and what still waits
    audio.settled()
    audio.new_session()
    assert taken(audio) == b""


frames = st.tuples(st.just("frame"), st.integers(0, 400), st.integers(-500, 20_000))
others = st.tuples(st.sampled_from(["pop", "speech", "quiet", "wait"]), st.integers(0, 3000), st.just(0))


@given(st.lists(st.one_of(frames, others), max_size=60))
def test_all_that_is_put_in_is_taken_out_or_counted_as_dropped(steps: list[tuple[str, int, int]]) -> None:
    audio, now, clock, came, went = CallerAudio(), 0.0, 0, b"", b""
    for step, amount, jump in steps:
        match step:
            case "frame":
                clock = max(0, clock + jump)
                audio.frame(ulaw(amount), clock, now)
                came += speech(amount)
            case "pop":
                append = audio.pop()
                went += base64.b64decode(append.audio) if append else b""
            case "wait":
                now += amount / 1000
                while (due := audio.get_timer()) is not None and due <= now:
                    audio.handle_timer(due)
                    after = audio.get_timer()
                    assert after is None or after > due
            case _:
                audio.speech(step == "speech")
    rest = taken(audio)
    assert len(rest) <= MAX_HELD_BYTES
    went += rest
    assert audio.sent_bytes == len(went)
    assert len(went) + audio.dropped_bytes >= len(came)
    spoken = went.replace(b"\xff", b"")
    assert came.endswith(spoken) if not audio.dropped_bytes else len(spoken) <= len(came)
    if not audio.dropped_bytes:
        assert spoken == came
