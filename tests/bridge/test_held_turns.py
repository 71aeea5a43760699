"""What the server does while it is not clear whether a turn counts."""

from __future__ import annotations

import pytest

from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.held_turns import MAX_REMEMBERED, HeldTurn, HeldTurns
from phoneagent.bridge.playback import Playback
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.requests import State
from phoneagent.protocol.realtime import Failure, Item, ItemDelete, Response, ResponseCancel
from tests.bridge.rig import ulaw


class Bench:
    """Held turns with the parts around them; the agent has paused."""

    def __init__(self, *, server_answers: bool = True) -> None:
        self.conversation = Conversation([].append, Reporter("CA1", CallClock()))
        self.gate, self.playback = self.conversation.responses, Playback()
        self.held = HeldTurns(self.conversation, self.playback, server_answers=server_answers)
        self.playback.queue(ulaw(1000), "i1")
        self.playback.pause(10.0)

    def created(self, id: str) -> bool:
        unwanted = self.held.response_created(Response(id=id), 10.0)
        self.conversation.response_created(Response(id=id), 10.0, unwanted=unwanted)
        return unwanted

    def answers(self, id: str = "r2", ms: int = 200) -> None:
        assert not self.created(id)
        self.conversation.output(id, 10.0)
        self.playback.queue(ulaw(ms), f"item_{id}")

    def done(self, id: str = "r2", status: str = "completed") -> None:
        response = Response(id=id, status=status, output=[Item(id=f"item_{id}", type="message"), Item(type="message")])
        self.held.response_done(response)
        self.conversation.response_done(response, 10.0)

    @property
    def deleted(self) -> list[str]:
        return [message.item_id for message in self.conversation.outbox if isinstance(message, ItemDelete)]

    @property
    def cancels(self) -> int:
        return sum(isinstance(message, ResponseCancel) for message in self.conversation.outbox)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_turn_that_counts_is_answered_by_the_server(bench: Bench) -> None:
    bench.held.count("u1", 10.0)
    assert (bench.gate.owed, bench.gate.state) == (True, State.REQUESTED)


def test_a_held_turn_is_owed_nothing_until_it_counts(bench: Bench) -> None:
    bench.held.hold("u1", HeldTurn(200))
    assert (bench.gate.owed, bench.gate.state) == (False, State.NONE)
    bench.held.release(10.0)
    assert (bench.gate.owed, bench.gate.state) == (True, State.REQUESTED)
    assert "u1" not in bench.held


def test_a_turn_that_came_as_a_response_ran_is_not_answered_by_the_server(bench: Bench) -> None:
    bench.gate.created(Response(id="r1"), 10.0)
    bench.held.hold("u1", HeldTurn(200))
    bench.gate.done(Response(id="r1", status="completed"), 10.0)
    bench.gate.forgive()
    bench.held.release(10.0)
    assert (bench.gate.owed, bench.gate.state) == (True, State.NONE)


def test_an_answer_that_has_begun_is_all_that_a_turn_gets(bench: Bench) -> None:
    bench.held.hold("u1", HeldTurn(200))
    bench.answers()
    assert bench.held.answered
    bench.held.release(10.0)
    assert (bench.gate.owed, bench.cancels, bench.held.answered) == (False, 0, False)


def test_the_answer_to_a_dropped_turn_is_cancelled_and_deleted(bench: Bench) -> None:
    bench.held.hold("u1", HeldTurn(200))
    bench.answers()
    bench.held.drop(10.0, delete=True)
    assert (bench.cancels, bench.deleted) == (1, ["u1"])
    bench.playback.resume(10.0, "noise")
    assert bench.playback.unsent_ms == 1000
    bench.done(status="cancelled")
    assert bench.deleted == ["u1", "item_r2"]
    bench.done(status="cancelled")
    assert bench.deleted == ["u1", "item_r2"]


def test_an_answer_that_is_complete_already_is_deleted_at_once(bench: Bench) -> None:
    bench.held.hold("u1", HeldTurn(200))
    bench.answers()
    bench.done()
    bench.held.drop(10.0, delete=False)
    assert (bench.cancels, bench.deleted) == (0, ["item_r2"])


def test_the_answer_to_a_dropped_turn_may_come_later_and_only_once(bench: Bench) -> None:
    bench.held.hold("u1", HeldTurn(200))
    bench.held.drop(10.0, delete=False)
    assert bench.created("r2")
    bench.done(status="cancelled")
    assert bench.deleted == ["item_r2"]
    assert not bench.created("r3")


def test_where_we_ask_for_answers_none_is_expected() -> None:
    bench = Bench(server_answers=False)
    bench.held.hold("u1", HeldTurn(200))
    bench.held.drop(10.0, delete=False)
    assert not bench.created("r2")


def test_a_response_of_ours_is_never_taken_for_an_answer(bench: Bench) -> None:
    bench.gate.owe_answer()
    bench.gate.poll(10.0, speech=False, tools_running=False)
    bench.held.hold("u1", HeldTurn(200))
    assert not bench.created("r2")
    assert not bench.held.answered


def test_late_words_count_and_late_silence_is_deleted(bench: Bench) -> None:
    for item in ("u1", "u2", "u3"):
        bench.held.hold(item, HeldTurn(200))
    bench.held.drop(10.0, delete=False)
    bench.held.transcribed("u1", lambda turn: "none")
    bench.held.transcribed("u2", lambda turn: "backchannel")
    assert (bench.deleted, bench.held.late) == (["u1"], False)
    bench.held.transcribed("u3", lambda turn: "words" if turn.length_ms == 200 else "none")
    bench.held.transcribed("u3", lambda turn: "none")
    assert (bench.deleted, bench.held.late) == (["u1"], True)
    bench.held.release(10.0)
    assert (bench.gate.owed, bench.gate.state, bench.held.late) == (True, State.NONE, False)


def test_what_the_turns_say_together(bench: Bench) -> None:
    assert bench.held.words is None
    for item in ("u1", "u2", "u3"):
        bench.held.hold(item, HeldTurn(200))
    bench.held.transcribed("u1", lambda turn: "none")
    bench.held.transcribed("u2", lambda turn: "none")
    assert bench.held.words is None
    bench.held.transcribed("u3", lambda turn: "none")
    assert bench.held.words == "none"
    bench.held.transcribed("u2", lambda turn: "backchannel")
    assert bench.held.words == "backchannel"
    bench.held.drop(10.0)
    assert bench.deleted == ["u1", "u3"]
    bench.held.transcribed("u2", lambda turn: "words")
    assert not bench.held.late, "it was judged"
    bench.held.hold("u4", HeldTurn(200))
    bench.held.hold("u5", HeldTurn(200))
    bench.held.transcribed("u5", lambda turn: "words")
    assert bench.held.words == "words"


def test_a_turn_whose_id_we_made_up_cannot_be_deleted(bench: Bench) -> None:
    bench.held.hold("~1", HeldTurn(200))
    bench.held.drop(10.0, delete=True)
    assert bench.deleted == []


def test_what_is_remembered_is_bounded(bench: Bench) -> None:
    for number in range(MAX_REMEMBERED + 2):
        bench.held.hold(f"u{number}", HeldTurn(200))
        bench.held.drop(10.0, delete=False)
        assert bench.created(f"r{number}")
        bench.gate.done(Response(id=f"r{number}", status="cancelled"), 10.0)
    bench.held.transcribed("u0", lambda turn: "none")
    bench.done("r0", "cancelled")
    assert bench.deleted == []


def test_another_session_knows_nothing_of_it(bench: Bench) -> None:
    bench.held.hold("u1", HeldTurn(200))
    bench.answers()
    bench.held.new_session()
    assert ("u1" in bench.held, bench.held.answered) == (False, False)


def test_an_error_that_answers_a_deletion() -> None:
    assert HeldTurns.owns(Failure(code="x", event_id="delete_1"))
    assert not HeldTurns.owns(Failure(code="x", event_id="truncate_1"))
    assert not HeldTurns.owns(Failure(code="x"))
