"""The caller's audio on its way to the model, the caller's turn, and push-to-talk."""

from __future__ import annotations

import base64
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.bridge.caller import (
    FILL_MS,
    KEPT_BYTES,
    LINE_LOST_SECONDS,
    MAX_FILL_MS,
    MAX_HELD_BYTES,
    NOTICED_MS,
    REPLAY_SECONDS,
    CallerAudio,
    CallerTurn,
    PushToTalk,
)
from phoneagent.bridge.conversation import MAX_OUTBOX
from phoneagent.bridge.turn_signs import COMMIT_SECONDS
from phoneagent.protocol.realtime import AudioAppend, AudioClear, AudioCommit, ToModel
from tests.bridge.rig import ulaw


def taken(audio: CallerAudio) -> bytes:
    """Everything that goes to the model now."""
    appends = [append for append in audio.take() if isinstance(append, AudioAppend)]
    return b"".join(base64.b64decode(append.audio, validate=True) for append in appends)


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
        assert audio.handle_timer(due) is None
        fired = due
    return fired


# --- frames ---


def test_frames_go_in_order_as_they_came(audio: CallerAudio) -> None:
    for number in range(3):
        audio.frame(ulaw(20, number), 20 * number, number / 50)
    assert taken(audio) == b"".join(bytes([number]) * 160 for number in range(3))
    assert audio.take() == []
    assert audio.sent_bytes == 480


def test_an_empty_frame_is_nothing(audio: CallerAudio) -> None:
    audio.frame("", 0, 0.0)
    assert audio.take() == []


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
    audio.handle_timer(99.0)
    audio.start(9.0)  # as with a key that is pressed before the line delivers
    assert audio.get_timer() == 9.0 + LINE_LOST_SECONDS
    audio.frame(ulaw(20), 0, 10.0)
    audio.speech(False)
    assert audio.get_timer() == 10.0 + LINE_LOST_SECONDS
    audio.handle_timer(24.0)
    assert taken(audio) == speech(20)


def test_it_ends_when_the_speech_stops_or_media_returns(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 0, 0.0)
    audio.speech(True)
    stall(audio, 1.0)
    audio.speech(False)
    assert audio.get_timer() == LINE_LOST_SECONDS
    audio.speech(True)
    audio.frame(ulaw(20), 1020, 1.02)
    assert audio.get_timer() == pytest.approx(1.77)


def test_a_stalled_line_is_filled_to_a_limit(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 0, 0.0)
    audio.speech(True)
    assert stall(audio, 14.9) == pytest.approx(0.75 + MAX_FILL_MS / 1000 - 0.1)
    assert audio.get_timer() == LINE_LOST_SECONDS
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
    stall(audio, 14.0)
    audio.frame(ulaw(20), 30_000, 14.0)
    assert audio.dropped_bytes + len(taken(audio)) == 8 * (40 + MAX_FILL_MS)


def test_a_frame_tells_whether_a_deadline_may_have_come_nearer(audio: CallerAudio) -> None:
    audio.start(0.0)
    audio.speech(True, by_hand=True)  # user code waits for the caller before the line has brought anything
    before = audio.get_timer()
    assert audio.frame(ulaw(20), 0, 0.0)
    assert (before, audio.get_timer()) == (15.0, 0.75)
    assert not audio.frame(ulaw(20), 20, 0.02)
    stall(audio, 1.0)
    assert audio.frame(ulaw(20), 1020, 1.02)
    assert not audio.frame(ulaw(20), 1040, 1.04)


@pytest.mark.parametrize("speaking", [True, False])
def test_a_line_without_any_media_is_lost(audio: CallerAudio, speaking: bool) -> None:
    audio.start(100.0)
    audio.speech(speaking)
    stall(audio, 114.9)
    assert audio.get_timer() == 115.0
    verdict = audio.handle_timer(115.0)
    assert verdict is not None
    assert (verdict.kind, verdict.text) == ("line_lost", "no audio came from the caller's line for 15 s")


def test_each_frame_moves_the_loss_of_the_line(audio: CallerAudio) -> None:
    audio.start(100.0)
    for second in range(30):
        now = 100.0 + second
        assert audio.handle_timer(now) is None
        audio.frame("" if second % 2 else ulaw(20), 1000 * second, now)
    assert audio.get_timer() == 129.0 + LINE_LOST_SECONDS


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
    audio.replay(())
    assert not audio.replayed
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
    assert audio.again
    audio.new_session()
    audio.replay(())
    assert audio.replayed
    assert taken(audio) == speech(3000 + 800 + 500 + 20)  # what came before it began, and what still waits
    audio.settled()
    audio.new_session()
    audio.replay(())
    assert not audio.replayed
    assert taken(audio) == b""


def test_what_is_heard_once_more_is_kept_until_it_is_settled(audio: CallerAudio) -> None:
    audio.frame(ulaw(500), 0, 0.0)
    audio.speech(True)
    for _ in range(3):
        assert taken(audio) == speech(500)
        audio.new_session()
        audio.replay(())
    audio.settled()
    assert taken(audio) == speech(500)  # it waits, and is not given yet


def test_of_what_was_given_the_latest_ten_seconds_are_kept(audio: CallerAudio) -> None:
    audio.speech(True)
    for number in range(3):
        audio.frame(ulaw(5000, number), 5000 * number, 5.0 * number)
        taken(audio)
    audio.replay(())
    assert taken(audio) == bytes([1]) * 40_000 + bytes([2]) * 40_000


def test_a_turn_that_user_code_has_marked_meanwhile_is_not_heard_twice(audio: CallerAudio) -> None:
    audio.frame(ulaw(500), 0, 0.0)
    taken(audio)
    audio.speech(True, by_hand=True)
    audio.replay([AudioAppend(ulaw(500)), AudioCommit()])
    assert taken(audio) == b""
    assert not audio.replayed


def test_the_voice_activity_of_a_session_ends_with_it_and_a_key_stays_pressed(audio: CallerAudio) -> None:
    audio.speech(True)
    audio.new_session()
    assert not audio.speaking
    audio.speech(True, by_hand=True)
    audio.new_session()
    audio.replay(())
    assert audio.speaking


def test_the_latest_of_no_time_is_nothing(audio: CallerAudio) -> None:
    audio.frame(ulaw(20), 0, 1.0)
    assert len(audio.latest(10)) == 80
    assert audio.latest(0) == b""


def test_a_line_is_silent_until_there_is_a_loud_sound(audio: CallerAudio) -> None:
    assert audio.silent()
    for number in range(20):
        audio.frame(ulaw(20, 0xFF), 20 * number, number / 50)
    taken(audio)
    assert audio.silent()
    audio.frame(ulaw(60, 0x10), 400, 0.4)
    assert not audio.silent()
    for number in range(NOTICED_MS // 20):
        audio.frame(ulaw(20, 0xFF), 460 + 20 * number, 0.46 + number / 50)
    assert audio.silent()


# --- the caller's turn ---


def test_a_turn_is_open_until_it_is_committed() -> None:
    turn = CallerTurn()
    assert not turn.open(10.0)
    turn.begin()
    assert (turn.speaking, turn.open(1e9), turn.get_timer()) == (True, True, None)
    turn.stop(20.0)
    assert (turn.speaking, turn.open(20.5)) == (False, True)
    turn.commit()
    assert not turn.open(20.5)
    assert turn.get_timer() is None


def test_a_commit_is_not_waited_for_without_end() -> None:
    turn = CallerTurn()
    turn.begin()
    turn.stop(20.0)
    assert turn.get_timer() == 20.0 + COMMIT_SECONDS
    turn.handle_timer(20.9)
    assert turn.get_timer() == 20.0 + COMMIT_SECONDS
    turn.handle_timer(20.0 + COMMIT_SECONDS)
    assert turn.get_timer() is None
    assert not turn.open(20.0 + COMMIT_SECONDS)


def test_a_caller_who_went_on_keeps_the_turn() -> None:
    turn = CallerTurn()
    turn.begin()
    turn.stop(20.0)
    turn.begin()
    turn.commit()
    assert turn.open(1e9)


def test_a_turn_that_is_heard_once_more_is_open_for_a_while() -> None:
    turn = CallerTurn()
    turn.begin()
    turn.forget()
    assert (turn.speaking, turn.open(30.0)) == (False, False)
    turn.replayed(30.0)
    assert turn.open(30.0 + REPLAY_SECONDS - 0.01)
    assert turn.get_timer() == 30.0 + REPLAY_SECONDS


# --- push-to-talk ---


@pytest.fixture
def outbox() -> deque[ToModel]:
    return deque()


@pytest.fixture
def key(outbox: deque[ToModel], audio: CallerAudio) -> PushToTalk:
    return PushToTalk(outbox, audio)


def test_a_marked_turn_is_the_audio_between_clear_and_commit(
    key: PushToTalk, outbox: deque[ToModel], audio: CallerAudio
) -> None:
    audio.frame(ulaw(20, 1), 0, 0.0)
    assert key.clear()
    assert (audio.speaking, audio.by_hand) == (True, True)
    audio.frame(ulaw(20, 2), 20, 0.02)
    assert key.commit()
    assert not audio.speaking
    assert list(outbox) == [AudioClear(), AudioAppend(ulaw(20, 2)), AudioCommit()]


def test_a_full_outbox_takes_no_turn(key: PushToTalk, outbox: deque[ToModel], audio: CallerAudio) -> None:
    outbox.extend(AudioCommit() for _ in range(MAX_OUTBOX))
    audio.frame(ulaw(20), 0, 0.0)
    assert not key.commit()
    assert not key.clear()
    assert len(outbox) == MAX_OUTBOX
    assert taken(audio) == b""  # cleared here all the same


@pytest.mark.parametrize(
    ("by_hand", "held", "again"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_turn_that_was_over_is_committed_again(
    key: PushToTalk, outbox: deque[ToModel], audio: CallerAudio, by_hand: bool, held: bool, again: bool
) -> None:
    audio.speech(True, by_hand=by_hand)
    audio.frame(ulaw(500), 0, 0.0)
    taken(audio)
    audio.speech(held, by_hand=by_hand)
    audio.new_session()
    audio.replay(())
    key.commit_again()
    commits = [AudioAppend(ulaw(20))] * 25 + [AudioCommit()]
    assert (list(outbox) == commits) is again
    assert bool(outbox) is again


def test_a_turn_that_is_not_heard_once_more_is_not_committed_again(key: PushToTalk, outbox: deque[ToModel]) -> None:
    key.commit()
    outbox.clear()
    key.commit_again()
    assert not outbox


def test_a_key_held_for_longer_than_is_kept_counts_as_let_go_of(audio: CallerAudio) -> None:
    audio.speech(True, by_hand=True)
    for number in range(10):
        assert audio.mid_turn
        audio.frame(ulaw(1000), 1000 * number, float(number))
        taken(audio)
    assert not audio.mid_turn
    audio.speech(True)  # as the model hears it, a turn may be of any length
    assert audio.mid_turn


# --- everything at once ---


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
                for append in audio.take(1):
                    assert isinstance(append, AudioAppend)
                    went += base64.b64decode(append.audio)
            case "wait":
                now += amount / 1000
                while (due := audio.get_timer()) is not None and due <= now:
                    if audio.handle_timer(due) is not None:
                        break  # the line is lost, and with it the call
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


def test_of_older_silence_a_server_that_speaks_has_said_enough(audio: CallerAudio) -> None:
    for number in range(5):
        audio.frame(ulaw(1000, number), 1000 * number, number)
        taken(audio)
    audio.settled()  # it speaks, and has reported no speech
    audio.settled()
    audio.new_session()
    audio.replay(())
    assert taken(audio) == (bytes([3]) * 8000 + bytes([4]) * 8000)[-KEPT_BYTES:]
