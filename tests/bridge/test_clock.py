"""The call's own clock."""

from __future__ import annotations

from phoneagent.bridge.clock import CallClock


def test_it_counts_milliseconds_from_the_start_of_the_stream() -> None:
    clock = CallClock()
    clock.start(100.0)
    assert [clock.ms(now) for now in (100.0, 101.2345, 3700.0)] == [0, 1234, 3_600_000]


def test_before_the_start_it_stands_at_zero() -> None:
    assert CallClock().ms(99.0) == 0
