"""The turns of both sides, as the model reports them."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.bridge.caller import REPLAY_SECONDS, CallerAudio
from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.dialogue import Dialogue
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.spoken_items import Outcome
from phoneagent.bridge.transcript import TEXT_MS
from phoneagent.events import CallerSpoke, TurnEnded
from phoneagent.protocol.realtime import TranscriptDelta, TranscriptDone
from tests.bridge.rig import ulaw


class Bench:
    """A dialogue at 100 s of the shell's clock, when the call begins."""

    def __init__(self) -> None:
        clock = CallClock()
        clock.start(100.0)
        self.audio = CallerAudio()
        self.reporter = Reporter("CA1", clock)
        self.dialogue = Dialogue(clock, self.reporter, self.audio)

    def hears(self, ms: float, now: float) -> None:
        """The model is given audio of the caller's."""
        self.audio.frame(ulaw(ms), round((now - 100) * 1000), now)
        assert len(self.audio.take()) == 1

    def told(self) -> list[Any]:
        events = list(self.reporter.events)
        self.reporter.events.clear()
        return events

    def turn(self, now: float, item: str = "u1") -> None:
        """The caller speaks for a second, and the turn is committed."""
        self.dialogue.speech_started(self.audio.sent_bytes / 8, now - 1)
        self.dialogue.speech_stopped(self.audio.sent_bytes / 8, now)
        self.dialogue.committed(item, now)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def outcome(item: str = "i1", heard: int = 1000, *, complete: bool = True) -> Outcome:
    return Outcome(item, 0, heard, 1000, complete)


# --- the caller ---


def test_speech_is_dated_when_it_was_not_when_it_was_noticed(bench: Bench) -> None:
    bench.hears(2000, 100.0)
    bench.dialogue.speech_started(1700, 102.0)
    assert bench.dialogue.caller_speaks
    assert bench.told() == [CallerSpoke(call_sid="CA1", at_ms=1700)]
    bench.hears(2000, 102.0)
    bench.dialogue.speech_stopped(3500, 104.0)
    assert not bench.dialogue.caller_speaks
    assert bench.dialogue.turn_open(104.0)
    bench.dialogue.committed("u1", 104.0)
    assert not bench.dialogue.turn_open(104.0)
    bench.dialogue.understood("u1", "Hello", 104.5)
    (event,) = bench.told()
    assert (event.turn.start_ms, event.turn.end_ms, event.turn.text) == (1700, 3500, "Hello")


def test_speech_did_not_begin_before_the_call(bench: Bench) -> None:
    bench.hears(9000, 100.0)
    bench.dialogue.speech_started(1, 102.0)
    assert bench.told()[0].at_ms == 0


def test_a_beginning_that_has_no_time_is_now(bench: Bench) -> None:
    bench.hears(9000, 109.0)
    bench.dialogue.speech_started(0, 109.0)
    assert bench.told()[0].at_ms == 9000
    bench.dialogue.speech_stopped(8900, 109.5)
    bench.hears(1000, 110.0)
    bench.dialogue.speech_started(0, 110.0)
    assert bench.told()[0].at_ms == 10_000
    bench.dialogue.new_session([], heard_again=True)
    bench.audio.replayed = True  # what is heard again may begin with speech
    bench.dialogue.speech_started(0, 110.5)
    assert bench.told()[0].at_ms == 500


def test_words_that_were_heard_are_not_taken_back_by_an_end_without_words(bench: Bench) -> None:
    bench.dialogue.words(TranscriptDelta(response_id="r1", item_id="i1", delta="Good evening!"))
    bench.dialogue.words(TranscriptDone(response_id="r1", item_id="i1", transcript=""))
    assert bench.dialogue.item_over(outcome(), 101.0).text == "Good evening!"


@pytest.mark.parametrize("started_ms", [0.0, 8700.0])
def test_an_end_that_has_no_time_is_now(bench: Bench, started_ms: float) -> None:
    bench.hears(9000, 109.0)
    bench.dialogue.speech_started(started_ms, 109.0)
    bench.dialogue.speech_stopped(0, 111.0)
    bench.dialogue.committed("u1", 111.0)
    bench.dialogue.understood("u1", "Hello", 111.5)
    bench.reporter.answer_begins()
    bench.reporter.audio_sent(111.75)
    _, turn_ended, answered = bench.told()
    assert turn_ended.turn.end_ms == 11_000
    assert answered.latency_ms == 750


def test_a_text_for_no_turn_tells_nothing(bench: Bench) -> None:
    bench.dialogue.understood("u9", "Hello", 101.0)
    bench.dialogue.not_understood("u9")
    assert bench.told() == []


def test_a_turn_that_the_recognizer_failed_on_has_no_text(bench: Bench) -> None:
    bench.turn(102.0)
    bench.told()
    bench.dialogue.not_understood("u1")
    (event,) = bench.told()
    assert (event.turn.item_id, event.turn.text) == ("u1", "")
    assert bench.audio.unsettled  # so the next session hears it


def test_what_was_understood_or_answered_is_settled(bench: Bench) -> None:
    bench.turn(102.0, "u1")
    bench.dialogue.understood("u1", "Hello", 103.0)
    assert not bench.audio.unsettled
    bench.turn(105.0, "u2")
    bench.dialogue.answered(106.0)
    assert not bench.audio.unsettled


def test_neither_settles_a_turn_that_is_still_open(bench: Bench) -> None:
    bench.turn(102.0, "u1")
    bench.dialogue.speech_started(0, 103.0)
    bench.dialogue.understood("u1", "Hello", 103.5)
    bench.dialogue.answered(103.5)
    assert bench.audio.unsettled


def test_the_text_of_an_earlier_turn_does_not_settle_the_latest(bench: Bench) -> None:
    bench.turn(102.0, "u1")
    bench.turn(104.0, "u2")
    bench.dialogue.understood("u1", "Hello", 104.5)
    assert bench.audio.unsettled


# --- whether a session may be replaced ---


def test_it_is_quiet_once_the_text_of_the_last_turn_is_there_or_does_not_come(bench: Bench) -> None:
    assert bench.dialogue.quiet(101.0, heard_again=False)
    bench.turn(102.0)
    assert not bench.dialogue.quiet(102.5, heard_again=False)
    assert bench.dialogue.quiet(102.0 + TEXT_MS / 1000, heard_again=False)
    bench.dialogue.understood("u1", "Hello", 108.0)
    assert bench.dialogue.quiet(108.0, heard_again=False)


def test_a_caller_who_speaks_or_holds_a_key_is_not_quiet(bench: Bench) -> None:
    bench.audio.speech(True, by_hand=True)
    assert not bench.dialogue.quiet(101.0, heard_again=True)
    bench.audio.speech(False, by_hand=True)
    assert bench.dialogue.quiet(101.0, heard_again=True)
    bench.dialogue.speech_started(0, 101.0)
    assert not bench.dialogue.quiet(101.0, heard_again=True)


def test_a_word_that_has_just_begun_is_lost_unless_it_is_heard_again(bench: Bench) -> None:
    bench.audio.frame(ulaw(100, 0x10), 0, 100.0)
    assert not bench.dialogue.quiet(100.1, heard_again=False)
    assert bench.dialogue.quiet(100.1, heard_again=True)


# --- the agent ---


def test_words_and_then_the_whole_text(bench: Bench) -> None:
    bench.dialogue.words(TranscriptDelta(response_id="r1", item_id="i1", delta="one two "))
    assert bench.dialogue.item_over(outcome(), 103.0).text == "one two"
    bench.dialogue.words(TranscriptDone(response_id="r1", item_id="i2", transcript="one two three four"))
    assert bench.dialogue.item_over(outcome("i2"), 104.0).text == "one two three four"


@pytest.mark.parametrize(
    ("heard", "complete", "interrupted"), [(1000, True, False), (500, True, True), (1000, False, True)]
)
def test_a_turn_of_the_agent(bench: Bench, heard: int, complete: bool, interrupted: bool) -> None:
    bench.dialogue.words(TranscriptDone(response_id="r1", item_id="i1", transcript="one two three four"))
    turn = bench.dialogue.item_over(outcome(heard=heard, complete=complete), 103.0)
    assert bench.told() == [TurnEnded(call_sid="CA1", turn=turn)]
    assert (turn.heard_ms, turn.said_ms, turn.interrupted) == (heard, 1000, interrupted)
    assert turn.text.startswith(turn.heard_text)
    assert (turn.heard_text == turn.text) is not interrupted


def test_several_items_end_in_order(bench: Bench) -> None:
    bench.dialogue.items_over([outcome("i1"), outcome("i2")], 103.0)
    assert [event.turn.item_id for event in bench.told()] == ["i1", "i2"]


# --- sessions, and the end ---


def test_a_turn_in_progress_is_shown_as_if_it_ended_now(bench: Bench) -> None:
    bench.dialogue.words(TranscriptDelta(response_id="r1", item_id="i1", delta="First this. Then that."))
    (turn,) = bench.dialogue.unfinished([outcome("i1", 500, complete=False)], 102.0)
    assert (turn.item_id, turn.text, turn.heard_ms, turn.interrupted) == ("i1", "First this. Then that.", 500, True)
    assert bench.told() == []


def test_a_turn_that_is_heard_once_more_is_open_until_it_is_found_or_time_is_up(bench: Bench) -> None:
    bench.hears(500, 100.0)
    bench.dialogue.speech_started(0, 100.5)
    bench.dialogue.new_session([], heard_again=bench.audio.again)
    bench.audio.new_session()
    assert not bench.dialogue.turn_open(101.0)
    bench.audio.replay(())
    bench.dialogue.replayed(101.0)
    assert bench.dialogue.turn_open(101.0)
    due = bench.dialogue.get_timer()
    assert due == 101.0 + REPLAY_SECONDS
    bench.dialogue.handle_timer(due)
    assert not bench.dialogue.turn_open(due)
    assert bench.dialogue.get_timer() is None


@pytest.mark.parametrize("by_hand", [True, False])
def test_nothing_to_hear_once_more_or_a_key_leaves_the_turn_closed(bench: Bench, by_hand: bool) -> None:
    if by_hand:
        bench.hears(500, 100.0)
        bench.audio.speech(True, by_hand=True)
    bench.audio.replay(())
    bench.dialogue.replayed(101.0)
    assert not bench.dialogue.turn_open(101.0)


def test_a_turn_that_is_heard_once_more_has_no_text_of_its_first_hearing(bench: Bench) -> None:
    bench.turn(102.0)
    bench.dialogue.new_session([], heard_again=True)
    assert not bench.dialogue.transcript.lacks_text
    bench.told()
    bench.dialogue.understood("u1", "late", 103.0)
    assert bench.told() == []


def test_without_any_further_session_the_caller_is_not_listened_to(bench: Bench) -> None:
    bench.dialogue.speech_started(0, 101.0)
    bench.dialogue.lost()
    assert not bench.dialogue.caller_speaks
    assert not bench.audio.speaking


def test_the_end_tells_of_turns_without_text_and_returns_all(bench: Bench) -> None:
    bench.dialogue.item_over(outcome(), 101.0)
    bench.turn(103.0)
    bench.told()
    turns = bench.dialogue.end()
    assert [turn.item_id for turn in turns] == ["i1", "u1"]
    assert bench.told() == [TurnEnded(call_sid="CA1", turn=turns[1])]
