"""Questions beside the conversation: asked, answered, refused, given up; and never anything of a call's own."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from phoneagent.bridge.asking import (
    MAX_ANSWER_CHARS,
    MAX_QUESTIONS,
    MAX_REMEMBERED,
    QUESTION_KEY,
    Question,
    Questions,
)
from phoneagent.bridge.chat import Chat, Words
from phoneagent.bridge.policy import Floor
from phoneagent.events import UsageReported
from phoneagent.protocol import carrier, realtime
from phoneagent.protocol.realtime import Dialect, Failure, Response, ResponseCreate, StatusDetails, ToModel
from tests.bridge.rig import Rig, ulaw


class Asked:
    """A question, and how many times it was settled."""

    def __init__(self, instructions: str = "Summarize.", input: str | None = None) -> None:
        self.times = 0
        self.question = Question(instructions, input, self._settled)

    def _settled(self) -> None:
        self.times += 1


def ask(rig: Rig, asked: Asked | None = None) -> Asked:
    asked = asked or Asked()
    assert rig.bridge.conversation.ask(asked.question)
    rig.bridge.move_on(rig.now)
    rig.flush()
    return asked


def begins(rig: Rig, id: str = "q1", number: int = 1, **fields: Any) -> None:
    fields.setdefault("metadata", {QUESTION_KEY: str(number)})
    rig.model(realtime.ResponseCreated(response=Response(id=id, status="in_progress", **fields)))


def writes(rig: Rig, text: str, id: str = "q1") -> None:
    rig.model(realtime.TextDelta(response_id=id, item_id="iq", delta=text))


def answers(rig: Rig, text: str = "Booked.", id: str = "q1", number: int = 1) -> None:
    begins(rig, id, number)
    writes(rig, text, id)
    rig.done(id)


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- what is sent ---


def test_a_question_about_the_conversation_is_out_of_band_in_writing_and_without_tools(rig: Rig) -> None:
    ask(rig)
    (create,) = rig.creates
    assert create.event_id == "question_1"
    assert create.response == {
        "conversation": "none",
        "output_modalities": ["text"],
        "instructions": "Summarize.",
        "tools": [],
        "tool_choice": "none",
        "max_output_tokens": 2048,
        "metadata": {QUESTION_KEY: "1"},
    }


def test_a_question_about_a_text_has_only_that_for_its_input(rig: Rig) -> None:
    ask(rig, Asked(input="It rains."))
    (create,) = rig.creates
    assert (create.response or {})["input"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "It rains."}]}
    ]


def test_the_beta_is_told_which_response_it_is() -> None:
    response = {"conversation": "none", "output_modalities": ["text"], "metadata": {QUESTION_KEY: "1"}}
    wire = realtime.encode(ResponseCreate(response=response), Dialect.BETA)
    assert b'"metadata"' in wire
    assert b'"modalities":["text"]' in wire


def test_a_question_waits_for_a_session_and_for_a_server_that_asks_for_patience() -> None:
    rig = Rig(connect=False)
    asked = ask(rig)
    assert rig.creates == []
    rig.bridge.model_connected(rig.now)
    rig.bridge.responses.wait(rig.now + 2)
    rig.flush()
    assert len(rig.creates) == 1
    later = ask(rig)
    assert len(rig.creates) == 1
    rig.wait(2.1)
    assert len(rig.creates) == 2
    answers(rig, "One.", "q1", 1)
    answers(rig, "Two.", "q2", 2)
    assert (asked.question.answer, later.question.answer) == ("One.", "Two.")


def test_no_repr_shows_a_question_or_its_answer(rig: Rig) -> None:
    asked = ask(rig, Asked("the secret", "the text"))
    answers(rig, "the answer")
    assert "the " not in repr(asked.question)


# --- what comes back ---


def test_an_answer_is_what_was_written(rig: Rig) -> None:
    asked = ask(rig)
    begins(rig)
    writes(rig, "A table ")
    writes(rig, "for two.")
    assert asked.times == 0
    rig.done("q1")
    assert (asked.question.answer, asked.question.problem, asked.times) == ("A table for two.", None, 1)
    rig.done("q1")
    assert asked.times == 1


def test_a_caller_hears_nothing_of_it_and_no_floor_turn_or_timer_moves(rig: Rig) -> None:
    ask(rig)
    before, floor = rig.bridge.get_timer(), rig.bridge.floor()
    begins(rig)
    rig.model(
        realtime.OutputItemAdded(item=realtime.Item(id="iq", type="message"), response_id="q1"),
        realtime.AudioDelta(response_id="q1", item_id="iq", delta=ulaw(500)),  # a server that speaks all the same
        realtime.TranscriptDelta(response_id="q1", item_id="iq", delta="Booked."),
        realtime.TranscriptDone(response_id="q1", item_id="iq", transcript="Booked."),
        realtime.AudioDone(response_id="q1", item_id="iq"),
        realtime.OutputItemDone(item=realtime.Item(id="iq", type="message"), response_id="q1"),
    )
    assert rig.bridge.floor() is floor is Floor.OPEN
    assert rig.bridge.get_timer() == before
    rig.done("q1")
    rig.model(realtime.AudioDelta(response_id="q1", item_id="iq", delta=ulaw(500)))  # late
    assert rig.sent(carrier.Audio) == []
    assert rig.bridge.dialogue.transcript.so_far(0) == []
    assert not rig.bridge.responses.ever_spoke
    assert rig.troubles == []


def test_a_tool_that_it_calls_all_the_same_does_not_run(rig: Rig) -> None:
    ask(rig)
    begins(rig)
    rig.calls(response="q1")
    rig.done("q1")
    assert rig.asked == []


def test_it_runs_beside_an_answer_that_is_heard_and_interrupted(rig: Rig) -> None:
    rig.speech()
    rig.turn()
    rig.created(ours=False)
    rig.audio(1000)
    asked = ask(rig)
    begins(rig)
    rig.audio(1000)
    writes(rig, "Book")
    rig.speech()
    rig.wait(1)
    assert rig.cancels == ["r1"]
    rig.done("r1", "cancelled")
    writes(rig, "ed.")
    rig.done("q1")
    assert asked.question.answer == "Booked."
    assert rig.sent(carrier.Clear)


def test_an_answer_that_is_owed_stays_owed() -> None:
    rig = Rig(server_answers=False)
    rig.turn()
    ask(rig)
    answers(rig)
    assert rig.bridge.responses.busy
    rig.created("r1", metadata={"phoneagent": "1"})
    rig.audio()
    rig.done("r1")
    assert rig.media_ms() == 100


def test_it_is_paid_and_answers_no_last_turn() -> None:
    rig = Rig(max_call_cost=0.000001)
    rig.bridge.model_opened({"model": "gpt-realtime"}, rig.now)
    usage = {"total_tokens": 30, "input_tokens": 20, "output_tokens": 10}
    ask(rig)
    begins(rig)
    writes(rig, "Yes.")
    rig.done("q1", usage=usage)
    assert len(rig.events(UsageReported)) == 1
    assert rig.bridge.budget.total is not None
    assert rig.bridge.budget.total.usd > 0
    rig.created("w1", ours=True)  # the wrap-up
    rig.audio(100, "iw", "w1")
    rig.done("w1")
    rig.speech()
    rig.turn()
    ask(rig)
    rig.created("r1", ours=False)
    answers(rig, id="q2", number=2)
    rig.speech()
    rig.done("r1", "cancelled")  # the last turn has no answer yet
    rig.wait(0.5)
    assert rig.bridge.floor() is Floor.CALLER
    rig.turn("user2")
    rig.heard("r2", ours=False)
    rig.wait(0.5)
    assert rig.bridge.floor() is Floor.CLOSING


# --- servers that differ ---


def test_a_server_that_gives_no_metadata_back_is_understood_by_what_it_writes(rig: Rig) -> None:
    asked = ask(rig)
    begins(rig, metadata=None, output_modalities=["text"])
    writes(rig, "Booked.")
    rig.done("q1")
    assert asked.question.answer == "Booked."


def test_a_spoken_response_without_metadata_is_none_of_a_question(rig: Rig) -> None:
    asked = ask(rig)
    rig.speech()
    rig.turn()
    rig.model(realtime.ResponseCreated(response=Response(id="r1", output_modalities=["audio"])))
    rig.audio()
    assert rig.media_ms() == 100
    assert asked.times == 0


def test_the_end_alone_settles_a_question(rig: Rig) -> None:
    asked = ask(rig)
    rig.done("q1", metadata={QUESTION_KEY: "1"})
    assert asked.question.problem == "the model answered with nothing"


def test_an_answer_without_an_id_is_no_answer(rig: Rig) -> None:
    asked = ask(rig)
    rig.model(realtime.ResponseCreated(response=Response(metadata={QUESTION_KEY: "1"})))
    assert asked.question.problem == "its answer has no id"
    assert rig.bridge.floor() is Floor.OPEN


# --- what goes wrong ---


def test_a_refusal_names_the_code_and_leaves_the_call_alone(rig: Rig) -> None:
    asked = ask(rig)
    rig.error("unknown_parameter", "question_1")
    assert asked.question.problem == "the model refused it: unknown_parameter"
    assert rig.troubles == []
    rig.error("unknown_parameter", "question_7")  # none of ours
    assert len(rig.troubles) == 1


@pytest.mark.parametrize(
    ("status", "details", "words"),
    [
        ("failed", StatusDetails(error=Failure(code="server_error")), "the answer is failed: server_error"),
        ("incomplete", StatusDetails(reason="max_output_tokens"), "the answer is incomplete: max_output_tokens"),
        ("cancelled", None, "the answer is cancelled: no reason given"),
    ],
)
def test_an_answer_that_is_not_complete_is_none(
    rig: Rig, status: str, details: StatusDetails | None, words: str
) -> None:
    asked = ask(rig)
    begins(rig)
    writes(rig, "Book")
    rig.model(realtime.ResponseDone(response=Response(id="q1", status=status, status_details=details)))
    assert asked.question.problem == words
    assert rig.troubles == []


def test_too_many_open_questions_are_refused_until_one_is_answered(rig: Rig) -> None:
    for _ in range(MAX_QUESTIONS):
        ask(rig)
    assert not rig.bridge.conversation.ask(Asked().question)
    answers(rig)
    assert rig.bridge.conversation.ask(Asked().question)


def test_a_question_that_is_given_up_is_neither_settled_nor_cancelled(rig: Rig) -> None:
    asked = ask(rig)
    rig.bridge.conversation.questions.give_up(asked.question)
    answers(rig)
    assert asked.times == 0
    assert rig.cancels == []
    assert rig.sent(carrier.Audio) == []


def test_one_that_is_given_up_before_it_is_sent_is_never_sent() -> None:
    rig = Rig(connect=False)
    asked = ask(rig)
    rig.bridge.conversation.questions.give_up(asked.question)
    rig.connect()
    assert rig.creates == []


def test_the_next_session_is_asked_what_the_one_before_did_not_answer(rig: Rig) -> None:
    asked, given_up = ask(rig), ask(rig)
    begins(rig)
    writes(rig, "Half of")
    rig.bridge.conversation.questions.give_up(given_up.question)
    assert rig.bridge.model_away(rig.now, "gone")
    rig.connect()
    assert [create.event_id for create in rig.creates] == ["question_1", "question_2", "question_3"]
    answers(rig, "All of it.", "q1", 3)
    assert asked.question.answer == "All of it."


def test_nothing_is_asked_once_the_call_is_over(rig: Rig) -> None:
    rig.stop()
    assert not rig.bridge.conversation.ask(Asked().question)


def test_a_question_may_be_asked_while_the_agent_says_goodbye(rig: Rig) -> None:
    rig.hang_up()
    asked = ask(rig)
    answers(rig)
    assert asked.question.answer == "Booked."


def test_what_is_kept_is_bounded() -> None:
    outbox = deque[ToModel]()
    questions = Questions(outbox, spoken=True)
    for number in range(1, 200, 2):
        asked = Asked()
        assert questions.ask(asked.question)
        questions.poll(holds_back=False)
        response = Response(id=f"q{number}", metadata={QUESTION_KEY: str(number)})
        assert questions.take(realtime.ResponseCreated(response=response))
        assert questions.take(realtime.TextDelta(response_id=f"q{number}", delta="x" * 2 * MAX_ANSWER_CHARS))
        questions.give_up(asked.question)
        assert len(asked.question.answer) == MAX_ANSWER_CHARS
        lost = Asked()
        assert questions.ask(lost.question)
        questions.poll(holds_back=False)
        questions.give_up(lost.question)
    assert max(map(len, (questions._asked, questions._running, questions._over))) <= MAX_REMEMBERED


def test_a_call_without_questions_takes_nothing() -> None:
    questions = Questions(deque(), spoken=True)
    response = Response(id="r1", output_modalities=["text"])
    assert not questions.take(realtime.ResponseCreated(response=response))
    assert not questions.take(realtime.Unknown("response.output_text.done"))


def test_a_conversation_in_writing_asks_as_well() -> None:
    chat = Chat()
    asked = Asked()
    assert chat.conversation.ask(asked.question)
    chat.move_on(1.0)
    create = chat.next_to_model()
    assert isinstance(create, ResponseCreate)
    response = Response(id="q1", metadata={QUESTION_KEY: "1"}, output_modalities=["text"])
    chat.receive(realtime.ResponseCreated(response=response), 1.0)
    chat.receive(realtime.TextDelta(response_id="q1", item_id="iq", delta="Booked."), 1.0)
    chat.receive(realtime.ResponseDone(response=response), 1.0)
    assert asked.question.answer == "Booked."
    assert not [shown for shown in chat.happenings() if isinstance(shown, Words)]
