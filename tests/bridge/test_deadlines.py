"""The maximum duration of a call: announced, and then its end."""

from __future__ import annotations

from collections import deque

import pytest

from phoneagent.bridge.deadlines import ANNOUNCE_SECONDS, Deadlines
from phoneagent.bridge.requests import Verdict
from phoneagent.bridge.responses import ResponseGate
from phoneagent.protocol.realtime import ToModel

REASON = "the call reached its maximum duration"


class Bench:
    """A call of at most ten minutes that begins at 100 s."""

    def __init__(self, max_call_seconds: float = 600.0, *, age_seconds: float = 0.0) -> None:
        self.responses = ResponseGate(deque[ToModel]())
        self.ready = True
        self.deadlines = Deadlines(max_call_seconds, self.responses, lambda: self.ready, age_seconds=age_seconds)
        self.deadlines.start(100.0)


def test_the_end_is_announced_once_and_then_comes() -> None:
    bench = Bench()
    assert bench.deadlines.get_timer() == 700.0 - ANNOUNCE_SECONDS
    assert bench.deadlines.handle_timer(669.9) is None
    assert not bench.responses.owes
    assert bench.deadlines.handle_timer(670.0) is None
    assert bench.deadlines.announced
    assert bench.responses.waits_for("say")
    assert bench.deadlines.get_timer() == 700.0
    assert bench.deadlines.handle_timer(699.9) is None
    assert bench.deadlines.handle_timer(700.0) == Verdict("time_up", REASON)


def test_a_very_short_call_is_announced_in_its_last_quarter() -> None:
    assert Bench(max_call_seconds=20.0).deadlines.get_timer() == 115.0


@pytest.mark.parametrize(("age_seconds", "due"), [(500.0, 170.0), (5000.0, -4330.0)])
def test_the_duration_counts_from_the_first_media_stream(age_seconds: float, due: float) -> None:
    assert Bench(age_seconds=age_seconds).deadlines.get_timer() == due


def test_it_waits_until_the_model_can_be_asked() -> None:
    bench = Bench()
    bench.ready = False
    assert bench.deadlines.get_timer() is None
    assert bench.deadlines.handle_timer(1e9) is None
    assert not bench.deadlines.announced


def test_another_limit_may_end_it_before() -> None:
    bench = Bench()
    bench.deadlines.end_by(200.0, "too dear")
    assert bench.deadlines.announced
    assert bench.deadlines.get_timer() == 200.0
    assert bench.deadlines.handle_timer(200.0) == Verdict("time_up", "too dear")


def test_but_not_later_and_then_the_duration_is_the_reason() -> None:
    bench = Bench()
    bench.deadlines.end_by(800.0, "too dear")
    assert bench.deadlines.get_timer() == 700.0
    assert bench.deadlines.handle_timer(700.0) == Verdict("time_up", REASON)
