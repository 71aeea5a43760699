"""When a call that is about to end is hung up, and what comes after it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.closing import CLOSING_SECONDS, GOODBYE_SECONDS, HEARD_GRACE_SECONDS, Closing
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.playback import Playback
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.requests import Verdict
from phoneagent.bridge.steps import FallBack, HangUp, Resume, Transfer
from phoneagent.protocol.realtime import Response
from tests.bridge.rig import STREAM, ulaw


class Bench:
    """A closing call, at 100 s, with a model that is connected."""

    def __init__(self) -> None:
        self.requests: deque[Any] = deque()
        self.playback = Playback()
        self.conversation = Conversation(self.requests.append, Reporter("CA1", CallClock()))
        self.conversation.connect(100.0)
        self.closing = Closing(self.playback, self.conversation)
        self.closing.start(100.0)

    def writes(self, ms: float, now: float) -> None:
        self.playback.queue(ulaw(ms))
        while self.playback.take(now, 16):
            pass

    def goodbye(self, now: float) -> None:
        """The model begins its goodbye."""
        self.conversation.move_on(now)
        self.conversation.alive(now)
        self.conversation.response_created(Response(id="r1"), now)
        assert self.conversation.output("r1", now)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_call_that_is_not_closing_is_not_hung_up(bench: Bench) -> None:
    assert bench.closing.get_timer() is None
    assert bench.closing.handle_timer(1e9) is None


def test_with_nothing_to_hear_it_ends_at_once(bench: Bench) -> None:
    bench.closing.begin(110.0, "agent", "done")
    assert bench.closing.get_timer() == 110.0
    assert bench.closing.handle_timer(109.9) is None
    assert bench.closing.handle_timer(110.0) == Verdict("closed")


def test_what_was_written_is_heard_first_even_if_no_mark_comes(bench: Bench) -> None:
    bench.writes(4000, 109.0)
    bench.closing.begin(110.0, "agent", "done")
    assert bench.closing.get_timer() == pytest.approx(113.0 + HEARD_GRACE_SECONDS)


def test_what_waits_here_is_heard_too(bench: Bench) -> None:
    bench.playback.queue(ulaw(3000))
    bench.closing.begin(110.0, "agent", "done")
    assert bench.closing.get_timer() == pytest.approx(113.0 + HEARD_GRACE_SECONDS)


def test_a_goodbye_is_waited_for_while_the_model_is_not_silent_for_long(bench: Bench) -> None:
    bench.closing.begin(110.0, "agent", "done", goodbye=True)
    assert bench.closing.get_timer() == 110.0 + GOODBYE_SECONDS
    bench.conversation.alive(113.0)
    assert bench.closing.get_timer() == 113.0 + GOODBYE_SECONDS
    bench.conversation.alive(124.0)
    assert bench.closing.get_timer() == 110.0 + CLOSING_SECONDS


def test_a_goodbye_is_heard_to_its_end(bench: Bench) -> None:
    bench.closing.begin(110.0, "agent", "done", goodbye=True)
    bench.goodbye(111.0)
    bench.writes(3000, 111.0)
    assert bench.closing.get_timer() == 111.0 + GOODBYE_SECONDS
    bench.conversation.response_done(Response(id="r1", status="completed"), 112.0)
    assert bench.closing.get_timer() == pytest.approx(114.0 + HEARD_GRACE_SECONDS)


def test_without_a_model_no_goodbye_is_waited_for(bench: Bench) -> None:
    bench.closing.begin(110.0, "error", "lost", goodbye=True)
    bench.conversation.disconnect()
    assert bench.closing.get_timer() == 110.0


def test_the_first_reason_counts_and_the_last_words_are_those_of_the_last(bench: Bench) -> None:
    bench.closing.begin(110.0, "agent", "done", goodbye=True)
    bench.closing.begin(112.0, "error", "the model is lost")
    assert (bench.closing.by, bench.closing.reason) == ("agent", "done")
    assert bench.closing.get_timer() == 112.0


def test_last_words_before_the_stream_are_heard_from_its_start_on(bench: Bench) -> None:
    bench.playback.queue(ulaw(500))
    bench.closing.begin(90.0, "error", "lost")
    bench.closing.start(100.0)
    assert bench.closing.get_timer() == pytest.approx(100.5 + HEARD_GRACE_SECONDS)


@pytest.mark.parametrize(
    ("by", "step"),
    [
        ("caller", None),
        ("agent", HangUp(stream_sid=STREAM)),
        ("error", FallBack(stream_sid=STREAM)),
        ("line", Resume(stream_sid=STREAM, pending="words", broke=True)),
        (None, Resume(stream_sid=STREAM, pending="words", broke=False)),
    ],
)
def test_what_comes_after_a_stream(bench: Bench, by: Any, step: Any) -> None:
    assert bench.closing.step_after(by, STREAM, "words") == step


@pytest.mark.parametrize(
    ("by", "step"),
    [
        ("caller", None),
        ("error", FallBack(stream_sid=STREAM)),
        ("line", HangUp(stream_sid=STREAM)),
        (None, HangUp(stream_sid=STREAM)),
    ],
)
def test_a_closing_call_does_not_come_back(bench: Bench, by: Any, step: Any) -> None:
    bench.closing.begin(110.0, "agent", "done")
    assert bench.closing.step(STREAM) == HangUp(stream_sid=STREAM)
    assert bench.closing.step_after(by, STREAM, "nothing") == step


TRANSFER = Transfer(to="+12025550107", name="billing")


@pytest.mark.parametrize("by", [None, "line"])
def test_a_call_that_is_transferred_goes_on_elsewhere(bench: Bench, by: Any) -> None:
    bench.closing.transfer(110.0, TRANSFER, announce=False)
    assert bench.closing.ended_by is None
    assert bench.closing.handle_timer(110.0) == Verdict("closed")
    expected = Transfer(to="+12025550107", name="billing", stream_sid=STREAM)
    assert bench.closing.step(STREAM) == expected
    assert bench.closing.step_after(by, STREAM, "answer") == expected
    assert bench.closing.step_after("caller", STREAM, "answer") is None


def test_a_transfer_is_announced(bench: Bench) -> None:
    bench.closing.transfer(110.0, TRANSFER, announce=True)
    assert bench.closing.handle_timer(110.0) is None
    bench.goodbye(111.0)
    assert 'put through to "billing" now' in str([*bench.conversation.outbox])
