"""The transcript: what each side said, and what of it was heard."""

from __future__ import annotations

import pytest

from phoneagent.bridge import transcript
from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.spoken_items import Outcome, Paused
from phoneagent.bridge.transcript import TEXT_MS, Transcript
from phoneagent.events import Pause, Turn


def end(
    log: Transcript, item: str = "i1", *, heard: int = 1000, said: int = 1000, now: int = 5000, cut: bool = False
) -> Turn:
    assert cut is (heard < said)
    return log.agent_turn(Outcome(item, 0, heard, said, complete=True), now)


# --- the caller ---


def test_a_turn_of_the_caller() -> None:
    log = Transcript(CallClock())
    log.caller_spoke(1000, 2500)
    log.caller_turn("u1", 3000)
    turn = log.caller_text("u1", " A table, please. ")
    assert turn == Turn(
        role="caller", item_id="u1", text="A table, please.", heard_text="A table, please.",
        start_ms=1000, end_ms=2500, said_ms=1500, heard_ms=1500,
    )  # fmt: skip
    assert log.turns() == (turn,)


def test_several_stretches_of_speech_are_one_turn() -> None:
    log = Transcript(CallClock())
    log.caller_spoke(1000, 1500)
    log.caller_spoke(1800, 2500)
    log.caller_turn("u1", 3000)
    turn = log.caller_text("u1", "")
    assert turn is not None
    assert (turn.start_ms, turn.end_ms) == (1000, 2500)


def test_a_turn_without_speech_is_where_it_was_committed() -> None:
    log = Transcript(CallClock())
    log.caller_turn("u1", 3000)
    turn = log.caller_text("u1", "")
    assert turn is not None
    assert (turn.start_ms, turn.end_ms, turn.said_ms) == (3000, 3000, 0)


def test_texts_come_out_of_order_or_for_an_unknown_turn() -> None:
    log = Transcript(CallClock())
    for number in (1, 2):
        log.caller_spoke(number * 1000, number * 1000 + 500)
        log.caller_turn(f"u{number}", number * 1000 + 600)
    assert log.caller_text("nobody", "?") is None
    log.caller_text("u2", "second")
    log.caller_text("u1", "first")
    assert log.caller_text("u1", "again") is None
    assert [turn.text for turn in log.turns()] == ["first", "second"]


def test_turns_whose_text_never_came_end_at_the_end() -> None:
    log = Transcript(CallClock())
    log.caller_turn("u1", 100)
    log.caller_turn("u2", 200)
    log.caller_text("u1", "Hi")
    assert [turn.item_id for turn in log.close()] == ["u2"]
    assert [turn.text for turn in log.turns()] == ["Hi", ""]
    assert log.close() == []


# --- the agent ---


def test_a_turn_heard_to_its_end() -> None:
    log = Transcript(CallClock())
    log.agent_words("i1", "Good ")
    log.agent_words("i1", "evening!")
    turn = end(log)
    assert (turn.role, turn.text, turn.heard_text) == ("agent", "Good evening!", "Good evening!")
    assert (turn.start_ms, turn.end_ms, turn.interrupted) == (4000, 5000, False)


def test_a_turn_that_was_cut() -> None:
    log = Transcript(CallClock())
    log.agent_text("i1", "one two three four")
    turn = end(log, heard=500, cut=True)
    assert (turn.text, turn.heard_text, turn.interrupted) == ("one two three four", "one two", True)


def test_the_whole_text_replaces_the_words_and_late_words_add_nothing() -> None:
    log = Transcript(CallClock())
    log.agent_words("i1", "Goo")
    log.agent_text("i1", "Good evening!")
    log.agent_words("i1", "vening!")
    assert end(log).text == "Good evening!"


def test_items_are_kept_apart() -> None:
    log = Transcript(CallClock())
    log.agent_words("i1", "one")
    log.agent_words("i2", "two")
    assert [end(log, "i2").text, end(log, "i1").text] == ["two", "one"]


def test_audio_without_words_is_a_turn_as_well() -> None:
    assert end(Transcript(CallClock())).text == ""


def test_a_turn_does_not_begin_before_the_call() -> None:
    assert end(Transcript(CallClock()), heard=1000, now=300).start_ms == 0


def test_a_text_that_comes_after_its_turn_is_attached() -> None:
    log = Transcript(CallClock())
    end(log)
    log.agent_text("i1", "Good evening!")
    assert [(turn.text, turn.heard_text) for turn in log.turns()] == [("Good evening!", "Good evening!")]


def test_words_that_come_after_their_turn_are_attached() -> None:
    log = Transcript(CallClock())
    log.agent_words("i1", "Good ")
    end(log)
    log.agent_words("i1", "evening!")
    assert "evening!" in log.turns()[0].text


def test_what_comes_after_an_interruption_was_not_heard() -> None:
    log = Transcript(CallClock())
    log.agent_words("i1", "Good evening, and ")
    end(log, heard=900, cut=True)
    log.agent_text("i1", "Good evening, and welcome to this long tale.")
    (turn,) = log.turns()
    assert len(turn.heard_text) <= len("Good evening, and")
    assert "welcome" not in turn.heard_text


def test_of_a_text_that_comes_after_all_audio_the_part_is_estimated_that_was_heard() -> None:
    log = Transcript(CallClock())
    assert end(log, heard=1000, said=4000, cut=True).text == ""
    log.agent_words("i1", "Good evening,")
    log.agent_text("i1", "Good evening, and welcome to this long tale of two cities, my friend.")
    (turn,) = log.turns()
    assert turn.text.endswith("my friend.")
    assert turn.heard_text == "Good evening,"


def test_a_turn_in_japanese_is_cut_where_its_audio_was() -> None:
    log = Transcript(CallClock())
    log.agent_text("i1", "明日の午後七時に二名様で、ご予約を承りました。")
    turn = end(log, heard=2000, said=4000, cut=True)
    assert (turn.heard_text, turn.interrupted) == ("明日の午後七時に二名", True)


def test_turns_are_in_the_order_in_which_they_began() -> None:
    log = Transcript(CallClock())
    end(log, "i1", now=9000)
    log.caller_spoke(2000, 3000)
    log.caller_turn("u1", 3500)
    log.caller_text("u1", "Hi")
    assert [turn.item_id for turn in log.turns()] == ["u1", "i1"]


def test_the_number_of_turns_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "MAX_TURNS", 3)
    log = Transcript(CallClock())
    for number in range(5):
        end(log, f"i{number}", now=1000 * (number + 1))
    assert [turn.item_id for turn in log.turns()] == ["i2", "i3", "i4"]


def test_each_turn_has_the_agent_that_began_it() -> None:
    log = Transcript(CallClock())
    log.agent_words("i0", "Hi")
    log.agent_named("reservations")
    log.agent_words("i1", "One ")
    log.agent_named("bills")
    log.agent_words("i1", "moment.")
    log.agent_words("i2", "Hello")
    assert [end(log, item).agent for item in ("i0", "i1", "i2", "i3")] == [None, "reservations", "bills", "bills"]


# --- another session ---


def test_of_what_plays_on_the_words_count_as_far_as_its_audio_came() -> None:
    log = Transcript(CallClock())
    log.agent_words("i1", "one two three four five six")
    log.agent_text("i2", "seven eight")
    log.agent_words("i3", "nothing came of this")
    playing = [Outcome("i1", 0, 0, 400, complete=False), Outcome("i2", 0, 0, 500, complete=True)]
    log.new_session([*playing, Outcome("i4", 0, 0, 20, complete=False)], heard_again=False)
    assert [turn.text for turn in log.so_far(9000)] == ["one", "seven eight", ""]
    log.agent_words("i1", " two")
    assert log.agent_turn(Outcome("i1", 0, 400, 400, complete=True), 9000).text == "one"


def test_a_turn_that_is_heard_once_more_gets_no_text_from_its_first_hearing() -> None:
    log = Transcript(CallClock())
    log.caller_turn("u1", 1000)
    log.new_session([], heard_again=False)
    assert log.lacks_text
    log.new_session([], heard_again=True)
    assert not log.lacks_text
    assert log.caller_text("u1", "Hi") is None


def test_a_text_is_awaited_for_a_while() -> None:
    log = Transcript(CallClock())
    assert not log.awaits_text(0)
    log.caller_turn("u1", 1000)
    assert log.awaits_text(1000 + TEXT_MS - 1)
    assert not log.awaits_text(1000 + TEXT_MS)
    assert log.lacks_text
    log.caller_text("u1", "Hi")
    assert not log.awaits_text(1500)


def test_so_far_the_agent_is_taken_to_be_heard() -> None:
    log = Transcript(CallClock())
    log.caller_turn("u1", 1000)
    log.caller_text("u1", "Hi")
    log.agent_words("i1", "Hello ")
    said = log.so_far(3000)
    assert [(turn.role, turn.heard_text, turn.start_ms) for turn in said] == [
        ("caller", "Hi", 1000),
        ("agent", "Hello ", 3000),
    ]
    assert [turn.item_id for turn in log.turns()] == ["u1"]


# --- turns that are not over ---


def test_of_an_unfinished_turn_of_the_agent_the_words_heard_so_far() -> None:
    log = Transcript(CallClock())
    log.agent_named("host")
    log.agent_words("i1", "one two three four")
    (turn,) = log.unfinished([Outcome("i1", 0, 500, 1000, complete=True)], 5000)
    assert (turn.text, turn.heard_text, turn.agent, turn.interrupted) == ("one two three four", "one two", "host", True)
    assert (turn.start_ms, turn.end_ms, turn.said_ms, turn.heard_ms) == (4500, 5000, 1000, 500)
    assert log.turns() == ()
    assert end(log, heard=1000, now=5500).heard_text == "one two three four"  # it goes on as if nothing had been asked


def test_unheard_audio_and_audio_without_words_are_no_turn() -> None:
    log = Transcript(CallClock())
    log.agent_words("i1", "one")
    playing = [Outcome("i1", 0, 0, 1000, complete=True), Outcome("i2", 0, 100, 1000, complete=True)]
    assert log.unfinished(playing, 5000) == []


def test_the_callers_unfinished_turn_is_the_one_whose_text_is_to_come() -> None:
    log = Transcript(CallClock())
    log.caller_spoke(1000, 2500)
    assert log.unfinished([], 2600) == []
    log.caller_turn("u1", 3000)
    (turn,) = log.unfinished([], 3100)
    assert (turn.role, turn.item_id, turn.text, turn.start_ms, turn.end_ms) == ("caller", "u1", "", 1000, 2500)
    log.caller_text("u1", "Hi")
    assert log.unfinished([], 3200) == []


def test_a_turn_of_the_agent_has_its_pauses_on_the_call_s_clock() -> None:
    clock = CallClock()
    clock.start(100.0)
    log = Transcript(clock)
    paused = Outcome("i1", 0, 1000, 1000, True, (Paused(101.5, 102.1, "noise"), Paused(102.3, 103.0, "backchannel")))
    log.agent_words("i1", "One moment.")
    (playing,) = log.unfinished([paused], 3300)
    assert playing == log.agent_turn(paused, 3300)
    assert playing.pauses == (
        Pause(start_ms=1500, end_ms=2100, cause="noise"),
        Pause(start_ms=2300, end_ms=3000, cause="backchannel"),
    )
    assert playing.start_ms == 3300 - 1000 - 600 - 700
    assert end(log, "i2").pauses == ()
