"""A call that goes on: handed over in one media stream, taken up in the next."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.bridge.history import Past
from phoneagent.bridge.policy import Floor
from phoneagent.bridge.requests import EndCall
from phoneagent.bridge.steps import FallBack, HangUp, Resume
from phoneagent.events import CallEnded, CallHandedOver, ToolReturned, Turn, TurnEnded
from phoneagent.protocol import realtime
from tests.bridge.rig import STREAM, Rig, ulaw


def turn(role: Any, text: str, at_ms: int = 0) -> Turn:
    return Turn(
        role=role, item_id="i0", text=text, heard_text=text, start_ms=at_ms, end_ms=at_ms, said_ms=500, heard_ms=500
    )


TALKED = (turn("agent", "Hello!"), turn("caller", "A table, please.", 1000))


def pending(rig: Rig) -> str:
    """Hand the call over, and return what the next stream is told."""
    rig.hand_over()
    assert rig.ended is not None
    assert rig.ended.ended_by is None
    step = rig.ended.next_step
    assert isinstance(step, Resume)
    assert (step.stream_sid, step.broke) == (STREAM, False)
    assert isinstance(rig.facts[-1], CallHandedOver)
    assert rig.events(CallEnded) == []
    return step.pending


# --- taken up ---


def test_a_call_that_goes_on_is_told_to_the_model_and_not_greeted() -> None:
    rig = Rig(past=Past(turns=TALKED, pending="nothing"), greeting="Hello!")
    assert rig.prompts[:2] == ["Hello!", "A table, please."]
    assert "Wait" in rig.prompts[2]
    assert rig.creates == []
    rig.talk(5)
    assert rig.creates == []
    assert rig.bridge.floor() is Floor.OPEN


@pytest.mark.parametrize("open_", ["answer", "words", "unknown"])
def test_what_was_owed_is_answered_at_once(open_: Any) -> None:
    rig = Rig(past=Past(turns=TALKED, pending=open_), greeting="Hello!")
    assert len(rig.creates) == 1
    assert isinstance(rig.to_model[-1], realtime.ResponseCreate)  # after everything that was told
    rig.says(ours=True)
    rig.hear()
    rig.talk(5)
    assert len(rig.creates) == 1


def test_a_response_that_the_server_begins_answers_it_too() -> None:
    rig = Rig(past=Past(turns=TALKED, pending="answer"), connect=False)
    rig.connect()
    assert len(rig.creates) == 1
    rig.speech()
    rig.turn("u1")
    rig.created("r1", ours=False)
    rig.error("conversation_already_has_active_response", event_id="create_1")
    rig.audio(100)
    rig.audio_done()
    rig.done("r1")
    rig.wait(0.2)
    rig.hear()
    rig.talk(6)
    assert len(rig.creates) == 1


def test_a_greeting_that_was_not_heard_is_said() -> None:
    rig = Rig(past=Past(pending="answer"), greeting="Hello!")
    assert "exactly these words" in rig.prompts[0]
    assert len(rig.creates) == 1


def test_a_caller_who_spoke_over_an_unheard_greeting_is_greeted_and_answered() -> None:
    rig = Rig(past=Past(turns=(turn("caller", "Hello?"),), pending="answer"), greeting="Hello!")
    assert rig.prompts[0] == "Hello?"
    assert "exactly these words" in rig.prompts[1]
    rig.says(100, "i1", "r1", ours=True)
    rig.wait(0.2)
    rig.hear()
    assert len(rig.creates) == 2


def test_an_agent_without_a_greeting_is_told_what_was_said() -> None:
    rig = Rig(past=Past(turns=(turn("caller", "Hello?"),), pending="answer"))
    assert rig.prompts[0] == "Hello?"
    assert len(rig.creates) == 1


def test_after_a_crash_before_anything_was_written_there_is_no_second_greeting() -> None:
    rig = Rig(past=Past(), greeting="Hello!")
    assert not any("exactly these words" in prompt for prompt in rig.prompts)
    assert "missed the last words" in rig.prompts[-1]
    assert len(rig.creates) == 1


def test_the_longest_call_counts_from_its_beginning() -> None:
    rig = Rig(past=Past(turns=TALKED, pending="nothing", age_ms=80_000), max_call_seconds=120)
    rig.talk(9)
    assert len(rig.creates) == 0
    rig.talk(2)
    assert "time limit" in rig.prompts[-1]


# --- handed over ---


def test_a_quiet_call_is_handed_over_without_anything_open() -> None:
    rig = Rig(greeting="Hello!")
    assert not rig.bridge.quiet(rig.now)
    rig.says(500, ours=True)
    assert not rig.bridge.quiet(rig.now)
    rig.wait(0.6)
    rig.hear()
    assert rig.bridge.quiet(rig.now)
    assert pending(rig) == "nothing"


def test_before_the_model_is_there_a_call_is_not_quiet() -> None:
    rig = Rig(connect=False)
    assert rig.bridge.floor() is Floor.OPEN
    assert not rig.bridge.quiet(rig.now)


def test_speech_and_a_turn_that_is_not_committed_are_not_quiet() -> None:
    rig = Rig()
    rig.speech()
    assert not rig.bridge.quiet(rig.now)
    rig.model(realtime.SpeechStopped())
    assert rig.bridge.floor() is Floor.OPEN
    assert not rig.bridge.quiet(rig.now)
    assert pending(rig) == "words"


def test_an_answer_that_is_owed_is_left_to_the_next_stream() -> None:
    rig = Rig()
    rig.speech()
    rig.turn("u1")
    rig.model(realtime.InputTranscript(item_id="u1", transcript="A table?"))
    assert pending(rig) == "answer"


def test_a_word_that_the_model_has_not_noticed_yet_is_waited_for() -> None:
    rig = Rig()
    rig.talk(5)
    assert rig.bridge.quiet(rig.now)
    for _ in range(5):
        rig.media(byte=0x10)
    assert not rig.bridge.quiet(rig.now)
    assert rig.bridge.quiet(rig.now, heard_again=True)
    rig.talk(8)
    assert rig.bridge.quiet(rig.now)


def test_the_first_question_is_waited_for_as_well() -> None:
    rig = Rig(greeting="Hello!")
    rig.heard("g")
    rig.speech()
    rig.turn("u1")
    rig.heard("r1", ours=False)
    assert not rig.bridge.quiet(rig.now)
    rig.talk(5)
    assert rig.bridge.quiet(rig.now)  # nobody writes down what this caller says


def test_a_first_question_without_its_text_is_lost() -> None:
    rig = Rig(greeting="Hello!")
    rig.heard("g")
    rig.speech()
    rig.turn("u1")
    assert pending(rig) == "words"


def test_a_call_that_is_too_old_says_goodbye_before_it_ends() -> None:
    rig = Rig(past=Past(turns=TALKED, pending="nothing", age_ms=200_000), max_call_seconds=120, connect=False)
    rig.talk(2)
    assert rig.ended is None
    rig.connect()
    rig.talk(0.5)
    rig.says(100, ours=True)  # the announcement
    rig.talk(0.5)
    assert "goodbye" in rig.prompts[-1]


def test_without_its_text_a_turn_that_was_not_answered_is_lost() -> None:
    rig = Rig()
    rig.speech()
    rig.turn("u1")
    rig.model(realtime.InputTranscript(item_id="u1", transcript="A table?"))  # so there is a recogniser
    rig.heard("r1", ours=False)
    rig.speech()
    rig.turn("u2")
    assert pending(rig) == "words"


def test_a_text_that_still_comes_is_waited_for() -> None:
    rig = Rig()
    rig.speech()
    rig.turn("u1")
    rig.model(realtime.InputTranscript(item_id="u1", transcript="A table?"))
    rig.heard("r1", ours=False)
    rig.speech()
    rig.turn("u2")
    rig.heard("r2", ours=False)
    assert rig.bridge.floor() is Floor.OPEN
    assert not rig.bridge.quiet(rig.now)
    rig.model(realtime.InputTranscript(item_id="u2", transcript="For two."))
    assert rig.bridge.quiet(rig.now)


def test_a_sentence_that_is_cut_is_told_as_far_as_it_was_heard() -> None:
    rig = Rig()
    rig.says(1000, ours=False)
    rig.wait(0.5)
    rig.mark("1.4")
    assert pending(rig) == "answer"
    (ended,) = rig.events(TurnEnded)
    assert 480 <= ended.turn.heard_ms <= 500
    assert ended.turn.interrupted


def test_a_call_that_says_goodbye_is_not_handed_over_but_ends() -> None:
    rig = Rig()
    rig.says(1000, ours=False)
    rig.hang_up()
    rig.hand_over()
    assert rig.ended == EndCall("agent", "the agent hung up", HangUp(stream_sid=STREAM))
    rig.assert_over("agent")


def test_a_call_handed_over_before_it_began_hands_on_what_it_was_given() -> None:
    rig = Rig(past=Past(turns=TALKED, pending="words"), connect=False)
    assert pending(rig) == "words"


def test_handed_over_twice_is_once() -> None:
    rig = Rig()
    rig.hand_over()
    rig.hand_over()
    rig.stop()
    assert len(rig.events(CallHandedOver)) == 1
    assert rig.events(CallEnded) == []


def test_a_broken_line_may_come_back() -> None:
    rig = Rig()
    rig.speech()
    rig.bridge.end(rig.now)
    rig.flush()
    assert rig.ended is not None
    assert rig.ended.ended_by == "line"
    assert rig.ended.next_step == Resume(stream_sid=STREAM, pending="words", broke=True)


def test_a_call_that_failed_falls_back_and_one_that_the_caller_ended_has_no_next_step() -> None:
    rig = Rig()
    rig.stop()
    assert rig.ended is not None
    assert rig.ended.next_step is None
    rig = Rig(apology=ulaw(500))
    rig.lose_model()
    rig.wait(3)
    assert rig.ended is not None
    assert rig.ended.next_step == FallBack(stream_sid=STREAM)


def test_a_tool_that_outlives_its_call_is_told() -> None:
    rig = Rig()
    rig.created()
    rig.calls("c1")
    rig.hand_over()
    posted = len(rig.to_model)
    rig.returns("c1", "done")
    assert [event.output for event in rig.events(ToolReturned)] == ["done"]
    assert len(rig.to_model) == posted


def test_a_line_that_breaks_in_the_goodbye_does_not_bring_the_call_back() -> None:
    rig = Rig()
    rig.says(1000, ours=False)
    rig.hang_up(goodbye=False)
    rig.bridge.end(rig.now)
    rig.flush()
    assert rig.ended is not None
    assert rig.ended.ended_by == "line"
    assert rig.ended.next_step == HangUp(stream_sid=STREAM)
