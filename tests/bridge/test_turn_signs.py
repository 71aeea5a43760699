"""The signs of the caller's turn: what servers leave out of it, and say in other ways."""

from __future__ import annotations

import pytest

from phoneagent.bridge.responses import CREATED_SECONDS
from phoneagent.bridge.turn_signs import COMMIT_SECONDS, MAX_TURNS
from phoneagent.events import BargeIn
from phoneagent.protocol.realtime import (
    AudioDone,
    Committed,
    InputTranscript,
    InputTranscriptFailed,
    Item,
    ItemAdded,
    OutputItemAdded,
    SpeechStarted,
    SpeechStopped,
)
from tests.bridge.rig import Rig
from tests.bridge.test_signs import WORDS, Bench, audio, callers, created, done


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- the caller speaks, and stops ---


def test_a_server_that_says_everything_is_taken_at_its_word() -> None:
    bench = Bench()
    events = [
        SpeechStarted(item_id="u1", audio_start_ms=100),
        SpeechStopped(item_id="u1", audio_end_ms=900),
        Committed(item_id="u1"),
        ItemAdded(item=Item(id="u1", type="message", role="user")),
        created("r1"),
        InputTranscript(item_id="u1", transcript=WORDS),
        OutputItemAdded(item=Item(id="i1", type="message", role="assistant"), response_id="r1"),
        audio(),
        AudioDone(response_id="r1", item_id="i1"),
        done("r1"),
    ]
    silent = (OutputItemAdded,)
    assert bench.read(*events) == [type(each).__name__ for each in events if not isinstance(each, silent)]
    assert bench.signs.get_timer() is None


def test_speech_whose_beginning_was_not_reported_interrupts_all_the_same(rig: Rig) -> None:
    rig.says(2000, ours=False)
    rig.wait(0.5)
    rig.model(SpeechStopped(item_id="u1"))
    assert len(rig.events(BargeIn)) == 1


def test_the_end_of_speech_is_taken_once() -> None:
    bench = Bench()
    assert bench.read(SpeechStopped(item_id="u1")) == ["SpeechStarted", "SpeechStopped"]
    assert bench.read(SpeechStopped(item_id="u1")) == []
    assert bench.read(Committed(item_id="u1")) == ["Committed"]
    assert bench.read(SpeechStopped(item_id="u1")) == []


def test_a_turn_that_is_committed_is_over_although_its_end_was_not_reported(rig: Rig) -> None:
    rig.model(SpeechStarted(item_id="u1"), Committed(item_id="u1"))
    assert not rig.bridge.dialogue.caller_speaks


def test_a_commit_of_the_turn_before_does_not_end_the_speech_of_the_next() -> None:
    bench = Bench()
    bench.read(SpeechStarted(item_id="u1"), SpeechStopped(item_id="u1"), SpeechStarted(item_id="u2"))
    assert bench.read(Committed(item_id="u1")) == ["Committed"]
    assert bench.read(Committed(item_id="other")) == ["Committed"]  # as after an idle time-out
    assert bench.read(Committed(item_id="u2")) == ["SpeechStopped", "Committed"]


def test_speech_that_goes_on_is_one_turn() -> None:
    bench = Bench()
    bench.read(SpeechStarted(item_id="u1"), SpeechStopped(item_id="u1"), SpeechStarted(item_id="u1"))
    bench.read(SpeechStarted())
    bench.now += 2 * COMMIT_SECONDS
    assert bench.overdue() == []  # it is not over
    assert bench.read(SpeechStopped(), Committed(item_id="u1")) == ["SpeechStopped", "Committed"]


# --- the turn is complete ---


def test_a_transcript_makes_a_turn_complete_that_was_not_committed(rig: Rig) -> None:
    rig.model(SpeechStarted(item_id="u1"), SpeechStopped(item_id="u1"))
    rig.model(InputTranscript(item_id="u1", transcript=WORDS))
    assert callers(rig) == [WORDS]
    rig.model(Committed(item_id="u1"))
    rig.heard("r1", ours=False)
    rig.wait(20)
    assert rig.creates == []  # it was answered, once


def test_a_transcript_alone_is_a_turn(rig: Rig) -> None:
    rig.model(InputTranscript(item_id="u1", transcript=WORDS))
    assert callers(rig) == [WORDS]
    rig.wait(CREATED_SECONDS + 0.1)
    assert len(rig.creates) == 1  # nothing came by itself


def test_a_transcript_that_comes_after_its_answer_is_not_answered_again(rig: Rig) -> None:
    rig.heard("r1", ours=False)
    rig.model(InputTranscript(item_id="u1", transcript=WORDS))
    assert callers(rig) == [WORDS]
    rig.wait(20)
    assert rig.creates == []


def test_a_failed_or_empty_transcript_of_nothing_is_no_turn(rig: Rig) -> None:
    rig.model(InputTranscriptFailed(item_id="u1"), InputTranscript(item_id="u2", transcript=" "))
    rig.wait(20)
    assert (callers(rig), rig.creates) == ([], [])


def test_a_failed_transcript_makes_a_turn_complete() -> None:
    bench = Bench()
    bench.read(SpeechStarted(item_id="u1"))
    read = bench.read(InputTranscriptFailed(item_id="u1"))
    assert read == ["SpeechStopped", "Committed", "InputTranscriptFailed"]


def test_a_users_item_makes_a_turn_complete_if_it_is_the_one_that_was_announced() -> None:
    bench = Bench()
    bench.read(SpeechStarted(item_id="u1"), SpeechStopped(item_id="u1"))
    assert bench.read(ItemAdded(item=Item(id="note", type="message", role="user"))) == ["ItemAdded"]
    assert bench.read(ItemAdded(item=Item(id="u1", type="message", role="user"))) == ["Committed", "ItemAdded"]
    assert bench.read(Committed(item_id="u1")) == []


def test_a_response_of_the_servers_own_makes_a_turn_complete(rig: Rig) -> None:
    rig.model(SpeechStarted(item_id="u1"), SpeechStopped(item_id="u1"))
    rig.heard("r1", ours=False)
    rig.model(InputTranscript(item_id="u1", transcript=WORDS))
    assert callers(rig) == [WORDS]
    rig.wait(20)
    assert rig.creates == []


def test_a_response_of_ours_says_nothing_of_the_turn() -> None:
    bench = Bench()
    bench.gate.owe_answer()
    bench.gate.poll(bench.now, speech=False, tools_running=False)
    bench.read(SpeechStarted(item_id="u1"), SpeechStopped(item_id="u1"))
    assert bench.read(created("r1")) == ["ResponseCreated"]


def test_a_turn_that_nothing_makes_complete_is_complete_after_a_second(rig: Rig) -> None:
    rig.model(SpeechStarted(), SpeechStopped())
    rig.wait(COMMIT_SECONDS + CREATED_SECONDS + 0.1)
    assert len(rig.creates) == 1
    rig.heard("r1")
    rig.stop()
    assert len(callers(rig)) == 1


def test_of_several_turns_the_later_commit_counts_for_those_before() -> None:
    bench = Bench()
    for item in ("u1", "u2"):
        bench.read(SpeechStarted(item_id=item), SpeechStopped(item_id=item))
    assert bench.read(Committed(item_id="u2")) == ["Committed"]
    bench.now += COMMIT_SECONDS
    assert bench.overdue() == []


def test_several_turns_are_overdue_one_after_another() -> None:
    bench = Bench()
    for item in ("u1", "u2"):
        bench.read(SpeechStarted(item_id=item), SpeechStopped(item_id=item))
        bench.now += 0.5
    bench.now = 10 + COMMIT_SECONDS
    assert [event.item_id for event in bench.overdue()] == ["u1"]  # type: ignore[union-attr]
    assert bench.signs.get_timer() == pytest.approx(10.5 + COMMIT_SECONDS)


def test_turns_without_ids_get_their_texts_in_order(rig: Rig) -> None:
    for words in ("One.", "Two."):
        rig.model(SpeechStarted(), SpeechStopped(), Committed(item_id=""))
        rig.heard(words, ours=False)
    rig.model(InputTranscript(item_id="", transcript="One."), InputTranscript(item_id="", transcript="Two."))
    assert callers(rig) == ["One.", "Two."]


def test_a_transcript_without_an_id_and_without_a_turn_is_one() -> None:
    bench = Bench()
    assert bench.read(InputTranscript(item_id="", transcript=WORDS)) == ["Committed", "InputTranscript"]
    bench.read(SpeechStarted())
    read = bench.read(InputTranscript(item_id="", transcript=WORDS))
    assert read == ["SpeechStopped", "Committed", "InputTranscript"]


def test_the_ids_of_turns_may_come_again(rig: Rig) -> None:
    for number, words in enumerate(("One.", "Two.", "Three.")):
        rig.model(SpeechStarted(item_id="u"), SpeechStopped(item_id="u"), Committed(item_id="u"))
        rig.model(InputTranscript(item_id="u", transcript=words))
        rig.heard(f"r{number}", ours=False)
    rig.stop()
    assert callers(rig) == ["One.", "Two.", "Three."]


def test_of_many_turns_the_latest_are_remembered() -> None:
    bench = Bench()
    for number in range(2 * MAX_TURNS):
        bench.read(Committed(item_id=f"u{number}"))
    assert len(bench.signs._turns._users) == MAX_TURNS


def test_what_the_caller_said_to_a_lost_session_is_nothing_to_the_next(rig: Rig) -> None:
    bench = Bench()
    bench.read(SpeechStarted(item_id="u1"), SpeechStopped(item_id="u1"))
    bench.signs.new_session()
    assert bench.signs.get_timer() is None
    assert bench.read(Committed(item_id="u1")) == ["Committed"]


def test_a_beginning_that_costs_the_session_takes_its_end_along() -> None:
    bench = Bench()
    events = bench.signs.read(SpeechStopped(item_id="u1"), bench.now)
    assert isinstance(next(events), SpeechStarted)
    bench.signs.new_session()  # as the bridge may, when it moves on
    assert isinstance(next(events), SpeechStopped)
    assert bench.signs.get_timer() is None
