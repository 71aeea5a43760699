"""One response at a time: the gate by itself, and its rules seen from the bridge that keeps them."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from phoneagent.bridge import prompts
from phoneagent.bridge.policy import Floor
from phoneagent.bridge.prompts import Wanted
from phoneagent.bridge.requests import Ending, State
from phoneagent.bridge.responses import CREATED_SECONDS, MAX_WANTED, METADATA_KEY, ResponseGate
from phoneagent.protocol import realtime
from phoneagent.protocol.realtime import ItemCreate, Response, ResponseCreate, ToModel
from tests.bridge.rig import Rig


@pytest.fixture
def rig() -> Rig:
    return Rig()


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
    rig.heard("r1")
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
    rig.heard("r2")
    assert len(rig.creates) == 1


def test_nothing_is_asked_for_while_the_caller_speaks(rig: Rig) -> None:
    rig.speech()
    rig.say()
    assert rig.creates == []
    rig.turn()
    rig.heard("r1", ours=False)
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


def test_the_number_of_waiting_responses_is_limited(rig: Rig) -> None:
    rig.created()
    assert [rig.say() for _ in range(MAX_WANTED + 2)] == [True] * MAX_WANTED + [False] * 2


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
    assert "did not answer repeated requests" in rig.given_up


def test_an_answer_in_between_is_a_sign_of_life(rig: Rig) -> None:
    for number in range(4):
        rig.say()
        rig.talk(5.5)
        rig.heard(f"r{number}")
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


def test_an_interrupted_request_does_not_spoil_the_next(rig: Rig) -> None:
    rig.say("One.")
    rig.interrupt()
    rig.wait(5.1)
    rig.say("Two.")
    rig.created("r1", ours=True)
    assert rig.cancels == []


def test_giving_up_on_a_cancelled_response_is_no_unanswered_request(rig: Rig) -> None:
    rig.created()
    rig.audio()
    rig.speech()
    rig.talk(3.5)
    rig.turn()
    rig.talk(5.5)
    assert rig.ended is None
    assert len(rig.creates) == 1


def test_a_turn_the_server_did_not_answer_is_answered_by_ours_with_or_without_metadata(rig: Rig) -> None:
    rig.turn()
    rig.wait(5.1)
    rig.says(100, ours=False)
    rig.wait(10)
    assert len(rig.creates) == 1


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
    rig.turn("u1")
    rig.model(realtime.SpeechStarted(item_id="u2"))
    rig.created(ours=False)
    assert rig.cancels == ["r1"]


def test_a_response_the_server_cancelled_by_itself_is_an_interruption(rig: Rig) -> None:
    rig.created()
    rig.audio(500)
    rig.wait(0.1005)
    details = realtime.StatusDetails(reason="turn_detected")
    rig.model(realtime.ResponseDone(realtime.Response(id="r1", status="cancelled", status_details=details)))
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
    rig.heard("r2")
    assert len(rig.creates) == 2
    rig.heard("r3")
    rig.wait(6)
    assert len(rig.creates) == 2


def test_a_say_is_not_the_answer_to_a_tool(rig: Rig) -> None:
    rig.created()
    rig.calls()
    rig.say()
    rig.returns()
    rig.done()
    rig.heard("r2")
    assert len(rig.creates) == 2
    rig.heard("r3")
    rig.wait(6)
    assert len(rig.creates) == 2


def test_a_greeting_is_not_the_answer_to_a_caller_who_spoke_first() -> None:
    rig = Rig(greeting="Hello", server_answers=False)
    rig.speech()
    rig.turn()
    rig.heard("r1")
    assert len(rig.creates) == 2


# --- the gate by itself ---


@pytest.fixture
def outbox() -> deque[ToModel]:
    return deque()


@pytest.fixture
def gate(outbox: deque[ToModel]) -> ResponseGate:
    return ResponseGate(outbox)


def test_the_next_session_says_no_filler_whose_moment_has_passed(gate: ResponseGate, outbox: deque[ToModel]) -> None:
    gate.want(prompts.filler("One moment."))
    gate.poll(1.0, speech=False, tools_running=True)
    assert gate.state is State.REQUESTED
    gate.new_session()
    assert not gate.owes
    outbox.clear()
    gate.poll(2.0, speech=False, tools_running=True)
    assert not outbox


@pytest.mark.parametrize(("kind", "answers"), [("turn", True), ("asked", True), ("say", False), ("greeting", False)])
def test_only_the_models_own_words_answer(gate: ResponseGate, kind: Any, answers: bool) -> None:
    gate.want(Wanted(kind))
    gate.poll(1.0, speech=False, tools_running=False)
    gate.created(Response(id="r1"), 1.0)
    assert gate.answers("r1") is answers


def test_a_response_of_the_server_answers_until_it_is_discarded(gate: ResponseGate) -> None:
    gate.created(Response(id="r1"), 1.0)
    assert gate.answers("r1")
    gate.discard(1.0)
    assert not gate.answers("r1")


def test_the_id_of_a_cancelled_response_is_learned_from_its_output(gate: ResponseGate) -> None:
    gate.created(Response(), 1.0)
    gate.discard(1.0)
    assert not gate.audio("r1")
    assert gate.done(Response(id="r1", status="cancelled"), 2.0) is Ending.CANCELLED


def test_what_is_wanted_is_bounded_and_a_closing_call_wants_only_a_goodbye(gate: ResponseGate) -> None:
    assert [gate.want(Wanted("say")) for _ in range(MAX_WANTED + 1)].count(True) == MAX_WANTED
    gate.close()
    assert not gate.want(Wanted("say"))
    assert gate.want(prompts.goodbye())


def test_what_was_dropped_is_not_wanted_either_when_it_comes_late(gate: ResponseGate) -> None:
    gate.want(Wanted("say"))
    gate.poll(1.0, speech=False, tools_running=False)
    gate.interrupt(2.0)
    gate.handle_timer(1.0 + CREATED_SECONDS)
    assert gate.state is State.NONE
    assert gate.created(Response(id="r1"), 7.0)
    gate.done(Response(id="r1", status="cancelled"), 8.0)
    assert not gate.created(Response(id="r2"), 9.0)  # that one is another


def test_what_is_asked_for_after_that_is_wanted(gate: ResponseGate) -> None:
    gate.want(Wanted("say"))
    gate.poll(1.0, speech=False, tools_running=False)
    gate.interrupt(2.0)
    gate.handle_timer(1.0 + CREATED_SECONDS)
    gate.want(Wanted("say"))
    gate.poll(7.0, speech=False, tools_running=False)
    assert not gate.created(Response(id="r1"), 8.0)


def test_the_next_session_owes_no_answer_that_was_interrupted_before_it_began(gate: ResponseGate) -> None:
    gate.turn_committed(1.0, server_answers=True)
    gate.interrupt(2.0)
    gate.handle_timer(1.0 + CREATED_SECONDS)
    gate.new_session()
    assert not gate.owes
