"""Responses that collide, fail, or are not whose they seem to be."""

from __future__ import annotations

import pytest

from phoneagent.bridge import prompts
from phoneagent.bridge.policy import Floor
from phoneagent.bridge.requests import Renew
from phoneagent.events import RateLimit, ToolCalled, Trouble, TurnEnded
from phoneagent.protocol import realtime
from tests.bridge.rig import Rig, function_call


@pytest.fixture
def rig() -> Rig:
    return Rig()


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
    rig.heard("r2")
    rig.wait(10)
    assert len(rig.creates) == 2  # the turn was answered by the server


def test_metadata_of_another_client_counts_as_none(rig: Rig) -> None:
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
    rig.heard("r2")  # the turn
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
    rig.heard("r1")
    assert len(rig.creates) == 1


def test_while_our_create_may_be_answered_nothing_else_is_asked_for(rig: Rig) -> None:
    rig.say("One.")
    rig.turn()
    rig.created("vad", ours=False)
    rig.audio(response="vad")
    rig.done("vad")
    rig.say("Two.")
    assert len(rig.creates) == 1


def test_an_unexpected_done_is_ignored(rig: Rig) -> None:
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
    rig.heard("r2")
    rig.wait(6)
    assert len(rig.creates) == 2


def test_any_done_ends_a_response_without_an_id(rig: Rig) -> None:
    rig.say()
    rig.error("conversation_already_has_active_response")
    rig.done("r9")
    assert len(rig.creates) == 2


def test_a_response_without_an_id_is_not_dropped_because_another_was(rig: Rig) -> None:
    rig.created()
    rig.audio(response="r1")
    rig.interrupt()
    rig.done("r1", "cancelled")
    rig.say()
    rig.error("conversation_already_has_active_response")
    rig.audio(item="i9", response="r9")
    assert rig.media_ms() == 200


def test_what_was_to_be_dropped_and_never_came_does_not_cost_the_next_answer(rig: Rig) -> None:
    rig.turn("user1")  # its response.created is lost on the way
    rig.speech()
    rig.turn("user2")
    rig.created("r2")
    rig.audio(response="r2")
    assert rig.cancels == []
    assert rig.media_ms() == 100


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
    rig.heard("r1")
    rig.wait(10)
    assert len(rig.creates) == 2


def test_a_failed_answer_of_the_server_is_not_taken_for_a_refusal_of_ours(rig: Rig) -> None:
    rig.say()
    rig.model(realtime.Committed(item_id="u1"))
    rig.error("conversation_already_has_active_response", None)
    rig.heard("r1")  # ours, which was active before the turn
    assert len(rig.creates) == 2
    assert len(rig.prompts) == 1
    assert "tool_choice" not in (rig.creates[1].response or {})  # it is the turn that is answered now
    rig.heard("r2")
    rig.wait(10)
    assert len(rig.creates) == 2


def test_nothing_is_asked_for_between_the_end_of_speech_and_the_commit(rig: Rig) -> None:
    rig.speech()
    rig.say()
    rig.model(realtime.SpeechStopped())
    assert rig.creates == []
    rig.wait(0.5)
    assert rig.creates == []
    rig.wait(0.6)  # no commit came: the turn counts as complete, and the server answers it by itself
    assert rig.creates == []
    rig.created(ours=False)
    rig.audio()
    rig.done()
    assert len(rig.creates) == 1


def test_a_commit_while_the_caller_speaks_on_lets_nothing_through() -> None:
    rig = Rig(server_answers=False)
    rig.model(realtime.SpeechStarted(item_id="u2"))
    rig.model(realtime.Committed(item_id="u1"))
    assert rig.creates == []
    rig.turn("u2")
    assert len(rig.creates) == 1


# --- failed and empty ---


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_an_empty_response_is_asked_for_once_more(rig: Rig, status: str) -> None:
    rig.turn()
    rig.created(ours=False)
    rig.done(status=status)
    assert len(rig.creates) == 1
    assert rig.ended is None


def test_two_answers_without_a_word_are_followed_by_words_that_we_prescribe(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.done("r1")
    rig.created("r2", ours=True)
    rig.done("r2")
    assert rig.troubles == ["the model answered with nothing, twice"]
    assert rig.prompts == [prompts.unheard().prompt]
    rig.heard("r3")
    rig.talk(10)
    assert len(rig.creates) == 2
    assert rig.bridge.floor() is Floor.OPEN


def test_a_model_that_stays_silent_is_replaced() -> None:
    rig = Rig(renews=True)
    rig.turn()
    rig.created("r1", ours=False)
    rig.done("r1")
    for response in ("r2", "r3"):
        rig.created(response, ours=True)
        rig.done(response)
    assert "did not speak in three responses" in rig.troubles[-1]
    assert any(isinstance(request, Renew) for request in rig.asked)


def test_prescribed_words_that_were_not_said_are_prescribed_a_third_time(rig: Rig) -> None:
    rig.say("One moment.")
    for response in ("r1", "r2"):
        rig.created(response, ours=True)
        rig.done(response)
    assert len(rig.creates) == 3
    assert len(rig.prompts) == 1


def test_a_failed_response_twice_is_the_end_of_the_model(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.done("r1", "failed", "server_error")
    rig.created("r2", ours=True)
    rig.done("r2", "failed", "server_error")
    assert rig.given_up
    assert [trouble for trouble in rig.troubles if "server_error" in trouble or "rate_limit" in trouble]


@pytest.mark.parametrize("before", ["words", "a call"])
def test_a_response_is_empty_whatever_the_one_before_it_did(rig: Rig, before: str) -> None:
    rig.created()
    if before == "words":
        rig.audio()
    else:
        rig.calls()
        rig.returns(added=False)
    rig.done()
    creates = len(rig.creates)
    rig.created("r2", ours=bool(creates))
    rig.done("r2")
    assert len(rig.creates) == creates + 1


def test_after_two_empty_ones_the_next_turn_has_its_second_attempt(rig: Rig) -> None:
    rig.turn("u1")
    rig.created("r1", ours=False)
    rig.done("r1")
    rig.created("r2", ours=True)
    rig.done("r2")
    rig.turn("u2")
    rig.created("r3", ours=False)
    rig.done("r3")
    assert len(rig.creates) == 2


def test_a_success_gives_a_second_attempt_back(rig: Rig) -> None:
    for number in range(2):
        rig.say(f"Number {number}.")
        rig.created(f"a{number}", ours=True)
        rig.done(f"a{number}", "failed")
        rig.heard(f"b{number}")
    assert len(rig.creates) == 4
    assert rig.ended is None


def test_each_turn_has_its_own_second_attempt(rig: Rig) -> None:
    for number in range(3):
        rig.turn(f"u{number}")
        rig.created(f"a{number}", ours=False)
        rig.done(f"a{number}", "failed")
        rig.heard(f"b{number}")
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


# --- answers that were cut off ---


def cut(rig: Rig, response: str = "r1", *, ours: bool | None = False, reason: str = "max_output_tokens") -> None:
    """An answer that a limit of the server's ends in the middle."""
    item = f"item_{response}"
    rig.created(response, ours=ours)
    rig.model(realtime.TranscriptDelta(response_id=response, item_id=item, delta="We are open from"))
    rig.audio(1000, item, response)
    rig.audio_done(item, response)
    details = realtime.StatusDetails(reason=reason)
    rig.model(realtime.ResponseDone(realtime.Response(id=response, status="incomplete", status_details=details)))


def test_an_answer_that_was_cut_off_is_told_recorded_as_cut_and_continued(rig: Rig) -> None:
    rig.turn()
    cut(rig)
    assert rig.troubles == ["response incomplete: max_output_tokens"]
    assert rig.prompts == [prompts.go_on().prompt]
    rig.wait(1.1)
    rig.hear()
    (turn,) = [event.turn for event in rig.events(TurnEnded) if event.turn.role == "agent"]
    assert turn.interrupted
    assert turn.heard_text == "We are open from"


def test_an_answer_is_continued_twice_and_no_more(rig: Rig) -> None:
    rig.turn()
    cut(rig)
    for response in ("r2", "r3", "r4"):
        cut(rig, response, ours=True)
    assert len(rig.creates) == 2


@pytest.mark.parametrize("reason", ["content_filter", "safety"])
def test_an_answer_that_a_filter_stopped_is_apologized_for_and_not_continued(rig: Rig, reason: str) -> None:
    rig.turn()
    cut(rig, reason=reason)
    assert rig.troubles == [f"response incomplete: {reason}"]
    assert rig.prompts == [prompts.filtered().prompt]
    assert (rig.creates[-1].response or {})["tool_choice"] == "none"
    rig.heard("r2")
    rig.talk(10)
    assert len(rig.creates) == 1


def test_an_apology_that_a_filter_stopped_too_is_said_once_more_and_no_more(rig: Rig) -> None:
    rig.turn()
    cut(rig, reason="content_filter")
    for response in ("r2", "r3", "r4"):
        cut(rig, response, ours=True, reason="content_filter")
    assert len(rig.creates) == 2


def test_an_answer_that_a_filter_stopped_twice_before_a_word_is_apologized_for(rig: Rig) -> None:
    rig.turn()
    for response, ours in (("r1", False), ("r2", True)):
        rig.created(response, ours=ours)
        details = realtime.StatusDetails(reason="content_filter")
        rig.model(realtime.ResponseDone(realtime.Response(id=response, status="incomplete", status_details=details)))
    assert rig.prompts == [prompts.filtered().prompt]


def test_a_whole_answer_lets_the_next_one_be_continued(rig: Rig) -> None:
    rig.turn()
    for response in ("r1", "r2"):
        cut(rig, response, ours=None)
    rig.heard("r3")
    rig.turn("u2")
    cut(rig, "r4", ours=False)
    assert len(rig.creates) == 3


def test_what_the_caller_says_meanwhile_is_answered_and_nothing_continued() -> None:
    rig = Rig(barge_in=False)
    rig.turn()
    rig.created("r1", ours=False)
    rig.speech()
    cut(rig, ours=None)
    assert rig.creates == []
    rig.model(realtime.SpeechStopped(), realtime.Committed(item_id="u2"))
    rig.heard("r3", ours=False)
    rig.wait(10)
    assert rig.creates == []


def test_an_answer_that_was_cut_off_after_a_call_goes_on_with_its_output(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.audio()
    rig.calls("c1")
    rig.model(realtime.ResponseDone(realtime.Response(id="r1", status="incomplete")))
    assert rig.creates == []
    assert rig.troubles == ["response incomplete: no reason given"]
    rig.returns()
    assert len(rig.creates) == 1


def test_a_goodbye_that_was_cut_off_is_the_end(rig: Rig) -> None:
    rig.hang_up()
    cut(rig, ours=True)
    assert len(rig.creates) == 1
    rig.wait(3)
    rig.assert_over("agent")


def test_half_a_call_does_not_run(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.calls("c1", status="incomplete")
    rig.model(realtime.ResponseDone(realtime.Response(id="r1", status="incomplete", output=[function_call("c1")])))
    assert rig.events(ToolCalled) == []
    assert len(rig.creates) == 1  # it brought nothing


# --- text where audio is due ---


def write(rig: Rig, response: str, *, ours: bool) -> None:
    rig.created(response, ours=ours)
    rig.model(realtime.TextDelta(response_id=response, item_id=f"item_{response}", delta="We open at nine."))
    rig.done(response)


def test_an_answer_in_text_is_told_and_asked_for_aloud(rig: Rig) -> None:
    rig.turn()
    write(rig, "r1", ours=False)
    assert "in text where audio is due" in rig.troubles[0]
    (create,) = rig.creates
    assert (create.response or {})["output_modalities"] == ["audio"]
    rig.heard("r2")
    rig.turn("u2")
    rig.heard("r3", ours=False)
    assert len(rig.creates) == 1


def test_an_answer_in_text_that_user_code_asked_for_is_one(rig: Rig) -> None:
    rig.bridge.conversation.respond({"output_modalities": ["text"]})
    rig.bridge.move_on(rig.now)
    rig.flush()
    write(rig, "r1", ours=True)
    rig.wait(10)
    assert (len(rig.creates), rig.troubles) == (1, [])


def test_text_of_a_response_before_says_nothing_of_this_one(rig: Rig) -> None:
    rig.says(100, ours=False)
    rig.created("r2")
    rig.model(realtime.TextDelta(response_id="r1", item_id="i1", delta="?"))
    rig.done("r2")
    assert rig.troubles == []


def test_a_rate_limit_that_names_no_request_is_of_the_one_that_waits(rig: Rig) -> None:
    rig.model(realtime.RateLimits(rate_limits=[RateLimit(name="tokens", limit=100, remaining=0, reset_seconds=4)]))
    rig.say("One moment.")
    rig.error("rate_limit_exceeded")
    rig.wait(3.5)
    assert len(rig.creates) == 1
    rig.wait(1)
    assert len(rig.creates) == 2


def test_a_response_that_neither_side_has_cancelled_is_asked_for_again(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.done("r1", "cancelled")
    assert len(rig.creates) == 1


def test_an_answer_that_neither_side_has_cut_off_is_continued(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.audio(400)
    rig.done("r1", "cancelled")
    assert (rig.truncations, rig.prompts) == ([], [prompts.go_on().prompt])
    rig.wait(0.5)
    rig.hear()
    assert rig.media_ms() == 400


def test_a_create_that_was_refused_beside_the_servers_own_response_does_not_end_that_one(rig: Rig) -> None:
    rig.say()
    rig.turn()
    rig.created("vad", ours=False)
    rig.error("conversation_already_has_active_response", "create_1")
    rig.wait(2.0)  # the server's own thinks before it speaks
    assert len(rig.creates) == 1
    rig.audio(response="vad")
    rig.done("vad")
    assert len(rig.creates) == 2


@pytest.mark.parametrize("server_answers", [True, False])
def test_a_turn_before_a_dropped_response_begins_is_answered(server_answers: bool) -> None:
    rig = Rig(server_answers=server_answers)
    rig.wait(1)
    rig.speech()
    rig.turn("u1")
    rig.created("r1", ours=None if server_answers else True)
    rig.calls("c1")
    rig.done("r1")
    rig.wait(1)
    rig.returns("c1")
    rig.wait(0.2)
    rig.speech()
    rig.wait(0.7)
    rig.turn("u2")
    rig.wait(0.1)
    rig.created("r2", ours=True)
    before = len(rig.creates)
    rig.done("r2", "cancelled")
    rig.talk(1)
    assert rig.cancels == ["r2"]
    assert len(rig.creates) == before + 1


def test_keys_that_end_before_a_dropped_response_begins_are_answered() -> None:
    rig = Rig()
    rig.wait(1)
    rig.speech()
    rig.key("1")
    rig.turn("u1")
    rig.wait(0.03)
    rig.key("#")
    rig.created("r1", ours=False)
    rig.done("r1", "cancelled")
    rig.talk(1)
    assert rig.cancels == ["r1"]
    assert len(rig.creates) == 1
