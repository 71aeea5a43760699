"""Whether speech stops the agent, and what the model is told of it."""

from __future__ import annotations

import pytest

from phoneagent.bridge import prompts
from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.interruption import MAX_OPEN, Interruption, Interruptions
from phoneagent.bridge.playback import Outcome, Playback
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.requests import Verdict
from phoneagent.bridge.responses import State
from phoneagent.protocol.realtime import Failure, ItemCreate, ItemTruncate, Response, ResponseCancel
from tests.bridge.rig import ulaw

SHORTER = "Audio content of {}ms is already shorter than {}ms"
TROUBLE = Verdict("trouble", "a truncation was refused: the model may think the caller heard more than they did")


class Bench:
    """Interruptions with the parts around them."""

    def __init__(self, *, enabled: bool = True, greeting: bool = False) -> None:
        self.playback = Playback()
        conversation = Conversation([].append, Reporter("CA1", CallClock()))
        self.sent, self.responses = conversation.outbox, conversation.responses
        policy = Interruption(enabled=enabled, greeting=greeting)
        self.interruptions = Interruptions(policy, self.playback, conversation)

    def refused(self, event_id: str, message: str = "") -> Verdict | None:
        failure = Failure(code="invalid_value", event_id=event_id, message=message)
        assert self.interruptions.owns(failure)
        return self.interruptions.refused(failure)

    def says(self, item: str = "i1", ms: float = 1000, now: float = 10.0) -> None:
        """An item is received, and written to its end."""
        self.playback.queue(ulaw(ms), item)
        while self.playback.take(now, 16):
            pass


def cut(item: str = "i1", heard: int = 3760) -> Outcome:
    return Outcome(item, 2, heard_ms=heard, received_ms=5000, complete=False)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- whether ---


def test_speech_interrupts_unless_it_is_switched_off(bench: Bench) -> None:
    assert bench.interruptions.allowed()
    assert not Bench(enabled=False).interruptions.allowed()
    assert Interruption().server_may_answer
    assert not Interruption(enabled=False).server_may_answer


@pytest.mark.parametrize("greeting", [True, False])
def test_the_greeting_is_protected_until_it_was_heard(greeting: bool) -> None:
    bench = Bench(greeting=greeting)
    bench.responses.want(prompts.greeting("Hello!"))
    assert bench.interruptions.allowed() is greeting  # in line
    bench.responses.poll(10.0, speech=False, tools_running=False)
    assert bench.interruptions.allowed() is greeting  # requested
    bench.responses.created(Response(id="r1"), 10.0)
    bench.interruptions.agent_speaks("i1")
    bench.says("i1")
    bench.responses.audio("r1")
    bench.responses.done(Response(id="r1", status="completed"), 11.0)
    assert bench.interruptions.allowed() is greeting  # heard in part
    bench.playback.finish("i1")
    while bench.playback.take(11.0, 16):
        pass
    bench.playback.acknowledge(f"1.{bench.playback._sequence}", 11.0)
    assert bench.interruptions.allowed()


def test_a_speech_is_decided_on_once_and_at_its_time(bench: Bench) -> None:
    decide = bench.interruptions.decide
    assert bench.interruptions.get_timer() is None
    assert not decide(10.0, agents_turn=True)
    bench.interruptions.speech_started(10.0)
    assert bench.interruptions.get_timer() == 10.0
    assert not decide(9.9, agents_turn=True)
    assert decide(10.0, agents_turn=True)
    assert not decide(10.0, agents_turn=True)
    assert bench.interruptions.get_timer() is None


def test_speech_in_a_silence_interrupts_nothing_nor_what_is_said_later(bench: Bench) -> None:
    bench.interruptions.speech_started(10.0)
    assert not bench.interruptions.decide(10.0, agents_turn=False)
    assert not bench.interruptions.decide(11.0, agents_turn=True)


def test_speech_that_the_session_before_heard_is_not_decided_on(bench: Bench) -> None:
    bench.interruptions.speech_started(10.0)
    bench.interruptions.new_session([])
    assert bench.interruptions.get_timer() is None
    assert not bench.interruptions.decide(10.0, agents_turn=True)


# --- what follows ---


def test_it_stops_the_response_and_what_plays(bench: Bench) -> None:
    bench.responses.created(Response(id="r1"), 10.0)
    bench.says("i1", 1000, 10.0)
    (outcome,) = bench.interruptions.interrupt(10.0)
    assert (outcome.item_id, outcome.heard_ms, outcome.received_ms) == ("i1", 0, 1000)
    assert bench.responses.state is State.CANCELLING
    assert list(bench.sent) == [ResponseCancel(response_id="r1")]
    assert bench.playback.idle
    assert bench.interruptions.interrupt(10.0) == []


def test_the_model_is_told_what_was_heard(bench: Bench) -> None:
    bench.interruptions.truncate(cut())
    assert list(bench.sent) == [ItemTruncate(event_id="truncate_1", item_id="i1", content_index=2, audio_end_ms=3760)]


@pytest.mark.parametrize(("heard", "told"), [("A table", "A table"), ("", "nothing")])
def test_the_next_session_is_told_in_words(bench: Bench, heard: str, told: str) -> None:
    bench.interruptions.new_session([cut("i1")])
    bench.interruptions.truncate(cut("i1"), heard)
    (message,) = bench.sent
    assert isinstance(message, ItemCreate)
    assert message.item["role"] == "system"
    assert message.item["content"][0]["text"].endswith(f"they heard only this much: {told}")
    bench.interruptions.truncate(cut("i2"))
    assert isinstance(bench.sent[-1], ItemTruncate)  # that one it has said itself


def test_an_error_of_another_event_or_of_the_session_is_not_of_a_truncation(bench: Bench) -> None:
    owns = bench.interruptions.owns
    assert owns(Failure(code="invalid_value", event_id="truncate_1"))
    assert not owns(Failure(code="invalid_value", event_id="create_1"))
    assert not owns(Failure(code="invalid_value"))
    assert not owns(Failure(code="session_expired", event_id="truncate_1"))
    assert not owns(Failure(code="insufficient_quota", event_id="truncate_1"))


def test_a_refusal_that_names_the_length_is_answered_once(bench: Bench) -> None:
    bench.interruptions.truncate(cut())
    assert bench.refused("truncate_1", SHORTER.format(3700, 3760)) is None
    assert bench.sent[-1] == ItemTruncate(event_id="truncate_2", item_id="i1", content_index=2, audio_end_ms=3700)
    assert bench.refused("truncate_2", SHORTER.format(3600, 3700)) == TROUBLE
    assert bench.refused("truncate_1", SHORTER.format(3600, 3700)) == TROUBLE
    assert len(bench.sent) == 2


def test_a_refusal_never_makes_it_longer(bench: Bench) -> None:
    bench.interruptions.truncate(cut(heard=100))
    assert bench.refused("truncate_1", SHORTER.format(200, 100)) is None
    assert isinstance(bench.sent[-1], ItemTruncate)
    assert bench.sent[-1].audio_end_ms == 100


@pytest.mark.parametrize("message", ["", "Only model output audio messages can be truncated"])
def test_a_refusal_without_a_length_is_the_end_of_it(bench: Bench, message: str) -> None:
    bench.interruptions.truncate(cut())
    assert bench.refused("truncate_1", message) == TROUBLE
    assert len(bench.sent) == 1


def test_of_many_only_the_latest_can_be_refused(bench: Bench) -> None:
    for number in range(MAX_OPEN + 1):
        bench.interruptions.truncate(cut(f"i{number}"))
    assert bench.refused("truncate_1", SHORTER.format(1, 2)) == TROUBLE
    assert bench.refused("truncate_2", SHORTER.format(1, 2)) is None


def test_a_refusal_that_comes_after_its_session_is_only_told(bench: Bench) -> None:
    bench.interruptions.truncate(cut())
    bench.interruptions.new_session([])
    assert bench.refused("truncate_1", SHORTER.format(3700, 3760)) == TROUBLE
