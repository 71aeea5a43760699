"""Interruption: what is cleared, cancelled and truncated, what is refused, and the greeting, which is protected."""

from __future__ import annotations

import pytest

from phoneagent.bridge.policy import Floor
from phoneagent.events import BargeIn, TurnEnded
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Clear, SendMark
from phoneagent.protocol.realtime import TranscriptDelta, TranscriptDone
from tests.bridge.rig import Rig

GREETING = "Chez Nous, good evening!"


@pytest.fixture
def rig() -> Rig:
    return Rig()


def words(text: str, item: str = "i1", response: str = "r1") -> TranscriptDelta:
    return TranscriptDelta(response_id=response, item_id=item, delta=text)


# --- interruption ---


def test_a_barge_in_clears_cancels_and_truncates(rig: Rig) -> None:
    rig.created()
    rig.audio(1000)
    rig.wait(0.0501)
    before = len(rig.to_model)
    rig.speech()
    assert isinstance(rig.to_caller[-1], Clear)
    assert [type(event).__name__ for event in rig.to_model[before:]] == ["ResponseCancel", "ItemTruncate"]
    assert rig.cancels == ["r1"]
    assert rig.truncations == [("i1", 50)]
    (event,) = rig.events(BargeIn)
    assert (event.item_id, event.audio_end_ms, event.said_ms, event.at_ms) == ("i1", 50, 1000, 50)


def test_after_the_response_there_is_nothing_to_cancel(rig: Rig) -> None:
    rig.says()
    rig.speech()
    assert rig.cancels == []
    assert rig.truncations == [("i1", 0)]
    assert isinstance(rig.to_caller[-1], Clear)


def test_before_any_audio_there_is_nothing_to_clear_or_truncate(rig: Rig) -> None:
    rig.created()
    rig.audio(0)
    rig.speech()
    assert rig.cancels == ["r1"]
    assert rig.truncations == []
    assert rig.to_caller == []


@pytest.mark.parametrize("heard", [False, True])
def test_there_is_nothing_to_interrupt_when_the_agent_is_silent(rig: Rig, heard: bool) -> None:
    if heard:
        rig.says()
        rig.wait(1.1)
        rig.hear()
    rig.speech()
    rig.interrupt()
    assert (rig.cancels, rig.truncations, rig.sent(Clear)) == ([], [], [])


def test_what_was_not_sent_is_dropped_and_truncated_at_zero(rig: Rig) -> None:
    rig.stalled = True
    rig.says()
    rig.speech()
    rig.stalled = False
    rig.flush()
    assert rig.to_caller == []
    assert rig.truncations == [("i1", 0)]


def test_every_item_that_was_received_and_not_heard_is_truncated(rig: Rig) -> None:
    rig.created()
    for item in ("i1", "i2", "i3"):
        rig.audio(100, item)
        rig.audio_done(item)
    rig.mark("1.1")
    rig.wait(0.0501)
    rig.speech()
    assert rig.truncations == [("i2", 50), ("i3", 0)]
    assert [event.turn.item_id for event in rig.events(TurnEnded)] == ["i1", "i2", "i3"]


def test_an_item_that_was_heard_to_its_last_mark_is_left_alone(rig: Rig) -> None:
    rig.created()
    rig.audio(100)
    rig.hear()
    rig.audio_done()
    rig.speech()
    assert rig.truncations == []
    assert rig.cancels == ["r1"]


def test_an_item_that_may_go_on_is_truncated_where_it_is(rig: Rig) -> None:
    rig.created()
    rig.audio(100)
    rig.hear()
    rig.speech()
    assert rig.truncations == [("i1", 100)]
    assert rig.sent(Clear) == []


def test_all_that_still_comes_of_an_interrupted_response_is_dropped(rig: Rig) -> None:
    rig.created()
    rig.audio()
    rig.speech()
    rig.audio()
    rig.audio(item="i2")
    rig.model(words("secret", "i2"), TranscriptDone(response_id="r1", item_id="i1", transcript="All of it."))
    rig.audio_done()
    rig.done(status="cancelled")
    assert rig.media_ms() == 100
    assert all(event.turn.text == "" for event in rig.events(TurnEnded))


def test_the_next_response_is_heard_again(rig: Rig) -> None:
    rig.created()
    rig.audio()
    rig.speech()
    rig.done(status="cancelled")
    rig.turn()
    rig.says(100, "i2", "r2", ours=False)
    assert rig.media_ms() == 200
    rig.hear()
    assert rig.bridge.floor() is Floor.OPEN


def test_a_thinking_agent_can_be_interrupted(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.done()
    rig.speech()
    rig.turn()
    rig.created("r2", ours=False)
    rig.returns()
    rig.audio(response="r2")
    rig.done("r2")
    assert len(rig.creates) == 1  # for the tool, which r2 did not know of


def test_code_may_interrupt_as_a_caller_does(rig: Rig) -> None:
    rig.created()
    rig.audio(1000)
    rig.wait(0.0501)
    rig.interrupt()
    assert rig.cancels == ["r1"]
    assert rig.truncations == [("i1", 50)]
    rig.done(status="cancelled")
    assert rig.bridge.floor() is Floor.OPEN
    assert rig.creates == []


def test_without_barge_in_the_agent_finishes_and_answers_after_it() -> None:
    rig = Rig(barge_in=False)
    rig.created()
    rig.audio()
    rig.speech()
    rig.turn()
    assert (rig.cancels, rig.truncations, rig.sent(Clear)) == ([], [], [])
    rig.done()
    assert len(rig.creates) == 1


def test_words_in_pieces_are_enough(rig: Rig) -> None:
    rig.created()
    for piece in ("one ", "two ", "three ", "four"):
        rig.model(words(piece))
    rig.audio(1000)
    rig.audio_done()
    rig.done()
    rig.hear()
    assert [event.turn.text for event in rig.events(TurnEnded)] == ["one two three four"]


def test_what_was_heard_of_the_words(rig: Rig) -> None:
    rig.created()
    rig.model(words("one two "))
    rig.audio(1000)
    rig.model(TranscriptDone(response_id="r1", item_id="i1", transcript="one two three four"))
    rig.audio_done()
    rig.done()
    for mark in rig.sent(SendMark)[:5]:
        rig.mark(mark.name)
    rig.speech()
    (event,) = rig.events(TurnEnded)
    assert event.turn.interrupted
    assert (event.turn.text, event.turn.heard_text) == ("one two three four", "one two")


# --- refused truncations and other errors ---


def test_a_refused_truncation_is_asked_again_once(rig: Rig) -> None:
    rig.says()
    rig.wait(0.0501)
    rig.speech()
    refusal = "Audio content of 40ms is already shorter than 50ms"
    rig.error("invalid_value", "truncate_1", refusal)
    assert rig.troubles == []
    rig.error("invalid_value", "truncate_2", refusal)
    assert rig.truncations == [("i1", 50), ("i1", 40)]
    assert len(rig.troubles) == 1
    assert rig.ended is None


def test_a_cancel_that_came_too_late_is_no_trouble(rig: Rig) -> None:
    rig.error("response_cancel_not_active")
    assert rig.troubles == []


def test_any_other_error_is_told_and_the_call_goes_on(rig: Rig) -> None:
    rig.model(realtime.Error(error=realtime.Failure(type="invalid_request_error", param="x", event_id="event_7")))
    rig.error("input_audio_buffer_commit_empty")
    assert len(rig.troubles) == 2
    assert "x" in rig.troubles[0]
    assert rig.ended is None


def test_events_that_a_call_does_not_need_change_nothing(rig: Rig) -> None:
    rig.model(realtime.SessionCreated(session={}), realtime.SessionUpdated(session={}), realtime.Unknown("x"))
    rig.model(realtime.ItemAdded(item=realtime.Item(type="message")))
    rig.model(realtime.OutputItemDone(item=realtime.Item(type="message")))
    rig.added("nobody")
    assert (rig.to_model, rig.to_caller, rig.told, rig.asked) == ([], [], [], [])


# --- the greeting ---


def test_the_greeting_is_protected_until_it_was_heard_and_the_caller_answered_after_it() -> None:
    rig = Rig(greeting=GREETING)
    rig.speech()
    rig.created("r1", ours=True)
    rig.audio(100)
    rig.speech()
    rig.audio_done()
    rig.done("r1")
    rig.speech()
    assert (rig.cancels, rig.truncations, rig.sent(Clear)) == ([], [], [])
    rig.turn()
    rig.created("r2", ours=False)
    rig.audio(100, "i2", "r2")
    rig.mark("1.1")
    rig.speech()
    assert rig.cancels == ["r2"]
    assert rig.truncations == [("i2", 0)]


def test_a_greeting_that_was_all_heard_before_its_end_came_is_over() -> None:
    rig = Rig(greeting=GREETING)
    rig.created("r1", ours=True)
    rig.audio(100)
    rig.hear()
    rig.audio_done()
    rig.done("r1")
    rig.turn()
    rig.created("r2", ours=False)
    rig.speech()
    assert rig.cancels == ["r2"]


def test_an_interruptible_greeting_is_interrupted() -> None:
    rig = Rig(greeting=GREETING, greeting_interruptible=True)
    rig.created("r1", ours=True)
    rig.audio()
    rig.speech()
    assert rig.cancels == ["r1"]
    assert rig.truncations == [("i1", 0)]


def test_code_may_interrupt_the_greeting() -> None:
    rig = Rig(greeting=GREETING)
    rig.created("r1", ours=True)
    rig.audio()
    rig.interrupt()
    assert rig.cancels == ["r1"]
