from __future__ import annotations

import base64
import math

import pytest

from benchmarks.flow import DOWN, UP, Flow, payload_head, percentile, summary
from benchmarks.sound import FRAME_BYTES, REST


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.505, 51), (0.99, 99), (0.999, 100), (1.0, 100)]
)
def test_a_percentile_is_the_smallest_value_that_is_enough(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected


def test_nothing_measured_is_no_number() -> None:
    assert math.isnan(percentile([], 0.5))
    assert summary([]).count == 0
    assert math.isnan(summary([]).max)


def test_a_summary_is_in_milliseconds_and_counts_the_late() -> None:
    found = summary([0.001] * 98 + [0.0201, 0.5])
    assert (found.count, found.p50, found.p99, found.max, found.late) == (100, 1.0, pytest.approx(20.1), 500.0, 2)


def test_a_frame_is_timed_by_its_number() -> None:
    samples: list[float] = []
    flow = Flow(samples)
    for now in (1.0, 1.02, 1.04):
        flow.send(now)
    flow.receive(0, 1.005)
    flow.receive(1, 1.021)
    assert samples == pytest.approx([0.005, 0.001])
    assert flow.lost(0, flow.sent) == 1  # on its way, or lost
    flow.receive(2, 1.05)
    assert flow.lost(0, flow.sent) == 0


def test_a_gap_is_a_loss_unless_it_was_there_before() -> None:
    flow = Flow([])
    for number in range(10):
        flow.send(number / 50)
    for number in (0, 1, 4, 5):  # two are dropped at a barge-in
        flow.receive(number, 1.0)
    before = flow.missing
    flow.receive(7, 1.0)
    assert before == 2
    assert flow.lost(before, 8) == 1
    assert flow.lost(before, 10) == 3  # with the two that have not come


def test_a_frame_is_twenty_milliseconds_of_base64() -> None:
    for direction in (UP, DOWN):
        payload = payload_head(direction, 12345678) + REST
        assert len(base64.b64decode(payload, validate=True)) == FRAME_BYTES
