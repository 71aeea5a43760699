"""What the model is told of an interruption."""

from __future__ import annotations

import pytest

from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.requests import Verdict
from phoneagent.bridge.spoken_items import Outcome
from phoneagent.bridge.truncation import MAX_OPEN, Truncations
from phoneagent.protocol.realtime import Failure, ItemCreate, ItemTruncate

SHORTER = "Audio content of {}ms is already shorter than {}ms"
TROUBLE = Verdict("trouble", "a truncation was refused: the model may think the caller heard more than they did")


class Bench:
    """Truncations, and what they send."""

    def __init__(self) -> None:
        conversation = Conversation([].append, Reporter("CA1", CallClock()))
        self.sent = conversation.outbox
        self.truncations = Truncations(conversation)

    def refused(self, event_id: str, message: str = "") -> Verdict | None:
        failure = Failure(code="invalid_value", event_id=event_id, message=message)
        assert self.truncations.owns(failure)
        return self.truncations.refused(failure)


def cut(item: str = "i1", heard: int = 3760) -> Outcome:
    return Outcome(item, 2, heard_ms=heard, received_ms=5000, complete=False)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_model_is_told_what_was_heard(bench: Bench) -> None:
    bench.truncations.truncate(cut())
    assert list(bench.sent) == [ItemTruncate(event_id="truncate_1", item_id="i1", content_index=2, audio_end_ms=3760)]


@pytest.mark.parametrize(("heard", "told"), [("A table", "A table"), ("", "nothing")])
def test_the_next_session_is_told_in_words(bench: Bench, heard: str, told: str) -> None:
    bench.truncations.new_session([cut("i1")])
    bench.truncations.truncate(cut("i1"), heard)
    (message,) = bench.sent
    assert isinstance(message, ItemCreate)
    assert message.item["role"] == "system"
    assert message.item["content"][0]["text"].endswith(f"they heard only this much: {told}")
    bench.truncations.truncate(cut("i2"))
    assert isinstance(bench.sent[-1], ItemTruncate)  # that one it has said itself


def test_an_error_of_another_event_or_of_the_session_is_not_of_a_truncation(bench: Bench) -> None:
    owns = bench.truncations.owns
    assert owns(Failure(code="invalid_value", event_id="truncate_1"))
    assert not owns(Failure(code="invalid_value", event_id="create_1"))
    assert not owns(Failure(code="invalid_value"))
    assert not owns(Failure(code="session_expired", event_id="truncate_1"))
    assert not owns(Failure(code="insufficient_quota", event_id="truncate_1"))


def test_a_refusal_that_names_the_length_is_answered_once(bench: Bench) -> None:
    bench.truncations.truncate(cut())
    assert bench.refused("truncate_1", SHORTER.format(3700, 3760)) is None
    assert bench.sent[-1] == ItemTruncate(event_id="truncate_2", item_id="i1", content_index=2, audio_end_ms=3700)
    assert bench.refused("truncate_2", SHORTER.format(3600, 3700)) == TROUBLE
    assert bench.refused("truncate_1", SHORTER.format(3600, 3700)) == TROUBLE
    assert len(bench.sent) == 2


def test_a_refusal_never_makes_it_longer(bench: Bench) -> None:
    bench.truncations.truncate(cut(heard=100))
    assert bench.refused("truncate_1", SHORTER.format(200, 100)) is None
    assert isinstance(bench.sent[-1], ItemTruncate)
    assert bench.sent[-1].audio_end_ms == 100


@pytest.mark.parametrize("message", ["", "Only model output audio messages can be truncated"])
def test_a_refusal_without_a_length_is_the_end_of_it(bench: Bench, message: str) -> None:
    bench.truncations.truncate(cut())
    assert bench.refused("truncate_1", message) == TROUBLE
    assert len(bench.sent) == 1


def test_of_many_only_the_latest_can_be_refused(bench: Bench) -> None:
    for number in range(MAX_OPEN + 1):
        bench.truncations.truncate(cut(f"i{number}"))
    assert bench.refused("truncate_1", SHORTER.format(1, 2)) == TROUBLE
    assert bench.refused("truncate_2", SHORTER.format(1, 2)) is None


def test_a_refusal_that_comes_after_its_session_is_only_told(bench: Bench) -> None:
    bench.truncations.truncate(cut())
    bench.truncations.new_session([])
    assert bench.refused("truncate_1", SHORTER.format(3700, 3760)) == TROUBLE
