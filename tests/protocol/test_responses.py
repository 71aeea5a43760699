"""One response at a time: the rules of `protocol/responses.py`, seen from the bridge that keeps them."""

from __future__ import annotations

import pytest

from phoneagent.events import Trouble
from phoneagent.protocol import realtime
from phoneagent.protocol.policy import Floor
from phoneagent.protocol.realtime import ItemCreate, ResponseCreate
from phoneagent.protocol.responses import MAX_ASKS, METADATA_KEY

from .rig import Rig


@pytest.fixture
def rig() -> Rig:
    return Rig()


def answered(rig: Rig, response: str, *, ours: bool = True) -> None:
    """A response that speaks and is heard."""
    rig.says(100, f"item_{response}", response, ours=ours)
    rig.wait(0.2)
    rig.hear()


# --- who asks ---


def test_a_committed_turn_is_answered_by_the_server(rig: Rig) -> None:
    rig.speech()
    assert rig.bridge.floor() is Floor.CALLER
    rig.turn()
    assert rig.bridge.floor() is Floor.THINKING
    rig.created(ours=False)
    rig.done()
    assert rig.creates[1:] == []


def test_a_committed_turn_is_answered_by_us_if_the_server_does_not() -> None:
    rig = Rig(server_answers=False)
    rig.speech()
    rig.turn()
    assert len(rig.creates) == 1
    answered(rig, "r1")
    rig.wait(1)
    assert len(rig.creates) == 1


def test_a_create_carries_its_number_and_no_prompt_of_its_own() -> None:
    rig = Rig(server_answers=False)
    rig.turn()
    (create,) = rig.creates
    assert create == ResponseCreate(event_id="create_1", response={"metadata": {METADATA_KEY: "1"}})
    assert rig.prompts == []


def test_a_turn_committed_while_a_response_runs_is_answered_after_it(rig: Rig) -> None:
    rig.created()
    rig.turn()
    assert rig.creates == []
    rig.done(status="incomplete")
    assert len(rig.creates) == 1


def test_several_turns_while_a_response_runs_are_one_answer(rig: Rig) -> None:
    rig.created()
    rig.audio()
    rig.turn("u1")
    rig.turn("u2")
    rig.done()
    answered(rig, "r2")
    assert len(rig.creates) == 1


def test_nothing_is_asked_for_while_the_caller_speaks(rig: Rig) -> None:
    rig.speech()
    rig.say()
    assert rig.creates == []
    rig.turn()
    answered(rig, "r1", ours=False)
    assert len(rig.creates) == 1


def test_a_second_create_waits_for_the_first(rig: Rig) -> None:
    rig.say("One.")
    rig.say("Two.")
    assert len(rig.creates) == 1
    rig.created(ours=True)
    assert len(rig.creates) == 1
    rig.audio()
    rig.done()
    assert len(rig.creates) == 2


def test_what_is_to_be_said_goes_before_its_create(rig: Rig) -> None:
    rig.say('Say "please".')
    item, create = rig.to_model
    assert isinstance(item, ItemCreate)
    assert item.item["role"] == "system"
    assert "\"Say 'please'.\"" in rig.prompts[0]
    assert isinstance(create, ResponseCreate)
    assert create.response is not None
    assert create.response["tool_choice"] == "none"


def test_so_much_may_be_in_line(rig: Rig) -> None:
    rig.created()
    assert [rig.say() for _ in range(MAX_ASKS + 2)] == [True] * MAX_ASKS + [False] * 2


# --- whose response it is ---


def test_the_servers_own_response_is_not_taken_for_ours(rig: Rig) -> None:
    rig.say()
    rig.turn()  # the server had begun before our create came
    rig.created("vad", ours=False)
    rig.error("conversation_already_has_active_response", "create_1")
    rig.audio(response="vad")
    rig.done("vad")
    assert len(rig.creates) == 2
    assert len(rig.prompts) == 1  # it is in the conversation already
    answered(rig, "r2")
    rig.wait(10)
    assert len(rig.creates) == 2  # the turn was answered by the server


def test_metadata_of_somebody_else_is_as_good_as_none(rig: Rig) -> None:
    rig.say()
    rig.turn()
    rig.created("vad", metadata={"theirs": "1"})
    rig.audio(response="vad")
    rig.error("conversation_already_has_active_response")
    rig.done("vad")
    assert len(rig.creates) == 2


def test_the_number_tells_ours_apart_even_when_a_turn_was_committed(rig: Rig) -> None:
    rig.say()
    rig.turn()
    rig.created("r1", ours=True)
    rig.audio()
    rig.done("r1")
    answered(rig, "r2")  # the turn
    rig.wait(10)
    assert len(rig.creates) == 2


@pytest.mark.parametrize("metadata", [None, {}, {"theirs": "1"}])
def test_a_server_that_keeps_no_metadata_gave_it_for_ours(metadata: dict[str, str] | None) -> None:
    rig = Rig(greeting="Hello")
    rig.created(metadata=metadata)
    rig.audio()
    rig.done()
    rig.wait(10)
    assert len(rig.creates) == 1


def test_our_create_may_still_be_answered_after_the_servers_response(rig: Rig) -> None:
    rig.say()
    rig.turn()
    rig.created("vad", ours=False)
    rig.audio(response="vad")
    rig.done("vad")
    assert rig.bridge.floor() is Floor.AGENT
    answered(rig, "r1")
    assert len(rig.creates) == 1


def test_a_done_nobody_waits_for_is_ignored(rig: Rig) -> None:
    rig.done("r0")
    rig.created("r1")
    rig.done("r0")
    assert rig.bridge.floor() is Floor.THINKING
    rig.audio(response="r1")
    rig.done("r1")
    assert rig.creates == []


def test_a_done_without_a_created_does_not_end_a_request(rig: Rig) -> None:
    rig.say()
    rig.done("r0", status="cancelled")
    assert rig.bridge.floor() is Floor.THINKING
    assert len(rig.creates) == 1


# --- the race for the one response ---


def test_a_response_we_never_heard_of_is_waited_for(rig: Rig) -> None:
    rig.say()
    rig.error("conversation_already_has_active_response")
    assert rig.bridge.floor() is Floor.THINKING
    rig.audio(response="r9")
    assert rig.media_ms() == 100
    rig.done("r9")
    assert len(rig.creates) == 2


def test_any_done_ends_a_response_without_an_id(rig: Rig) -> None:
    rig.say()
    rig.error("conversation_already_has_active_response")
    rig.done("r9")
    assert len(rig.creates) == 2


def test_a_response_without_an_id_is_cancelled_without_it(rig: Rig) -> None:
    rig.say()
    rig.error("conversation_already_has_active_response")
    rig.speech()
    assert rig.cancels == [None]
    rig.audio(response="r9")
    rig.audio(response="r9")
    assert rig.media_ms() == 0


def test_the_servers_own_that_found_ours_active_is_answered_after_it(rig: Rig) -> None:
    rig.say()
    rig.created("r1", ours=True)
    rig.turn()
    rig.error("conversation_already_has_active_response")
    rig.audio()
    rig.done("r1")
    assert len(rig.creates) == 2


def test_a_refusal_of_another_create_than_the_pending_one_is_not_its_refusal(rig: Rig) -> None:
    rig.say()
    rig.wait(5.1)
    assert len(rig.creates) == 2
    rig.error("conversation_already_has_active_response", "create_1")
    answered(rig, "r1")
    rig.wait(10)
    assert len(rig.creates) == 2


def test_a_failed_answer_of_the_server_is_not_taken_for_a_refusal_of_ours(rig: Rig) -> None:
    rig.say()
    rig.turn()
    rig.error("conversation_already_has_active_response", None)
    answered(rig, "r1")  # ours, which was active before the turn
    assert len(rig.creates) == 2
    answered(rig, "r2")
    rig.wait(10)
    assert len(rig.creates) == 2


def test_nothing_is_asked_for_between_the_end_of_speech_and_the_commit(rig: Rig) -> None:
    rig.speech()
    rig.say()
    rig.model(realtime.SpeechStopped())
    assert rig.creates == []
    rig.wait(0.5)
    assert rig.creates == []
    rig.wait(0.6)  # no commit came
    assert len(rig.creates) == 1


def test_a_commit_while_the_caller_speaks_on_lets_nothing_through() -> None:
    rig = Rig(server_answers=False)
    rig.speech()
    rig.model(realtime.Committed(item_id="u1"))
    assert rig.creates == []
    rig.turn("u2")
    assert len(rig.creates) == 1


# --- answers that do not come ---


def test_a_request_without_an_answer_is_made_again_after_five_seconds(rig: Rig) -> None:
    rig.say()
    rig.wait(4.9)
    assert len(rig.creates) == 1
    rig.wait(0.2)
    assert len(rig.creates) == 2
    assert len(rig.prompts) == 1


def test_a_turn_the_server_does_not_answer_is_asked_for(rig: Rig) -> None:
    rig.turn()
    rig.wait(5.1)
    assert len(rig.creates) == 1


def test_a_model_that_answers_no_request_is_lost(rig: Rig) -> None:
    rig.say()
    rig.talk(10.5)
    assert "answers no request" in rig.given_up


def test_an_answer_in_between_is_a_sign_of_life(rig: Rig) -> None:
    for number in range(4):
        rig.say()
        rig.talk(5.5)
        answered(rig, f"r{number}")
    assert rig.ended is None


def test_a_request_that_was_interrupted_is_not_made_again(rig: Rig) -> None:
    rig.say()
    rig.speech()
    rig.talk(6)
    rig.model()
    assert len(rig.creates) == 1
    assert rig.bridge.floor() is Floor.CALLER


def test_a_turn_after_the_interruption_is_answered_though_the_request_was_lost(rig: Rig) -> None:
    rig.say()
    rig.speech()
    rig.turn()
    rig.talk(6)
    assert len(rig.creates) == 2
    assert len(rig.prompts) == 1


# --- failed and empty ---


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_an_empty_response_is_asked_for_once_more(rig: Rig, status: str) -> None:
    rig.turn()
    rig.created(ours=False)
    rig.done(status=status)
    assert len(rig.creates) == 1
    assert rig.ended is None


def test_an_empty_response_twice_is_silence(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.done("r1")
    rig.created("r2", ours=True)
    rig.done("r2")
    rig.talk(10)
    assert len(rig.creates) == 1
    assert rig.bridge.floor() is Floor.OPEN


def test_a_failed_response_twice_is_the_end_of_the_model(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.done("r1", "failed", "server_error")
    rig.created("r2", ours=True)
    rig.done("r2", "failed", "rate_limit_exceeded")
    assert rig.given_up
    assert [trouble for trouble in rig.troubles if "server_error" in trouble or "rate_limit" in trouble]


def test_each_turn_has_its_own_second_attempt(rig: Rig) -> None:
    for number in range(3):
        rig.turn(f"u{number}")
        rig.created(f"a{number}", ours=False)
        rig.done(f"a{number}", "failed")
        answered(rig, f"b{number}")
    assert len(rig.creates) == 3
    assert rig.ended is None


def test_a_response_that_failed_in_the_middle_of_its_words_is_asked_for_again(rig: Rig) -> None:
    rig.turn()
    rig.created(ours=False)
    rig.audio()
    rig.done(status="failed")
    assert len(rig.creates) == 1


def test_a_failed_say_is_said_again_and_its_prompt_is_not_repeated(rig: Rig) -> None:
    rig.say()
    rig.created("r1", ours=True)
    rig.done("r1", "failed")
    assert len(rig.creates) == 2
    assert len(rig.prompts) == 1


def test_a_failure_of_the_fatal_kind_ends_the_session(rig: Rig) -> None:
    rig.created()
    rig.done(status="failed", code="insufficient_quota")
    assert "insufficient_quota" in rig.given_up


# --- refused creates ---


def test_a_refused_create_is_made_once_more(rig: Rig) -> None:
    rig.say()
    rig.error("invalid_value", "create_1")
    assert [create.event_id for create in rig.creates] == ["create_1", "create_2"]
    rig.error("invalid_value", "create_2")
    assert rig.given_up


def test_a_create_refused_while_the_servers_response_runs_waits_for_it(rig: Rig) -> None:
    rig.say()
    rig.turn()
    rig.created("vad", ours=False)
    rig.error("invalid_value", "create_1")
    assert len(rig.creates) == 1
    rig.audio(response="vad")
    rig.done("vad")
    assert len(rig.creates) == 2


def test_a_refusal_of_something_else_is_told_and_changes_nothing(rig: Rig) -> None:
    rig.say()
    rig.error("invalid_value", "create_0")
    rig.error("unknown_parameter", None)
    assert len(rig.creates) == 1
    assert len(rig.events(Trouble)) == 2
    assert rig.ended is None


# --- interruption ---


def test_a_response_that_was_interrupted_before_it_began_is_cancelled_when_it_begins(rig: Rig) -> None:
    rig.say()
    rig.interrupt()
    assert rig.cancels == []
    rig.created("r1", ours=True)
    assert rig.cancels == ["r1"]
    rig.audio(response="r1")
    rig.done("r1", "cancelled")
    rig.wait(6)
    assert rig.media_ms() == 0
    assert len(rig.creates) == 1


def test_a_create_waits_for_the_end_of_what_was_cancelled(rig: Rig) -> None:
    rig.created()
    rig.audio()
    rig.speech()
    rig.turn()
    assert rig.cancels == ["r1"]
    assert rig.creates == []
    rig.done(status="cancelled")
    assert len(rig.creates) == 1


def test_a_create_waits_for_three_seconds_at_most(rig: Rig) -> None:
    rig.created()
    rig.audio()
    rig.speech()
    rig.turn()
    rig.wait(2.9)
    assert rig.creates == []
    rig.wait(0.2)
    assert len(rig.creates) == 1


def test_what_was_discarded_stays_discarded_until_its_own_end(rig: Rig) -> None:
    rig.created()
    rig.audio()
    rig.speech()
    rig.turn()
    rig.wait(3.1)
    rig.created("r2", ours=True)
    rig.audio(item="i9", response="r1")
    assert rig.media_ms() == 100
    rig.audio(item="i2", response="r2")
    assert rig.media_ms() == 200
    rig.done("r1", "cancelled")
    assert rig.bridge.floor() is Floor.AGENT
    rig.done("r2")
    assert len(rig.creates) == 1


def test_one_cancel_is_enough(rig: Rig) -> None:
    rig.created()
    rig.audio()
    rig.speech()
    rig.turn()
    rig.speech()
    rig.interrupt()
    assert rig.cancels == ["r1"]


def test_a_response_that_begins_while_the_caller_speaks_is_cancelled(rig: Rig) -> None:
    rig.speech()
    rig.created(ours=False)
    assert rig.cancels == ["r1"]


def test_a_response_the_server_cancelled_by_itself_is_an_interruption(rig: Rig) -> None:
    rig.created()
    rig.audio(500)
    rig.wait(0.1005)
    rig.done(status="cancelled")
    assert rig.truncations == [("i1", 100)]
    assert rig.cancels == []
    rig.wait(6)
    assert rig.creates == []


# --- what counts as the answer ---


def test_a_say_is_not_the_answer_to_a_turn() -> None:
    rig = Rig(barge_in=False)
    rig.created()
    rig.audio()
    rig.speech()
    rig.turn()
    rig.say()
    rig.done()
    answered(rig, "r2")
    assert len(rig.creates) == 2
    answered(rig, "r3")
    rig.wait(6)
    assert len(rig.creates) == 2


def test_a_say_is_not_the_answer_to_a_tool(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.say()
    rig.returns()
    rig.done()
    answered(rig, "r2")
    assert len(rig.creates) == 2
    answered(rig, "r3")
    rig.wait(6)
    assert len(rig.creates) == 2


def test_a_greeting_is_not_the_answer_to_who_was_quicker() -> None:
    rig = Rig(greeting="Hello", server_answers=False)
    rig.speech()
    rig.turn()
    answered(rig, "r1")
    assert len(rig.creates) == 2
