"""Rate limits: how long a request waits, and whether a new call is taken."""

from __future__ import annotations

import pytest

from phoneagent.billing.ratelimits import (
    MAX_LIMITS,
    MAX_WAIT_SECONDS,
    UNKNOWN_WAIT_SECONDS,
    RateLimitReserve,
    RateLimits,
)
from phoneagent.events import RateLimit, RateLimitsUpdated


def told(
    remaining: float | None, *, limit: float = 1000, reset_seconds: float = 10, name: str = "tokens", model: str = "m"
) -> RateLimitsUpdated:
    of = RateLimit(name=name, limit=limit, remaining=remaining, reset_seconds=reset_seconds)
    return RateLimitsUpdated(call_sid="CA1", at_ms=0, model=model, limits=(of,))


@pytest.mark.parametrize(
    ("remaining", "seconds", "short"), [(199, 0, True), (200, 0, False), (0, 1.9, True), (0, 2.1, False)]
)
def test_what_was_used_comes_back_evenly(remaining: float, seconds: float, short: bool) -> None:
    reserve = RateLimitReserve(0.2)
    reserve.update(told(remaining), 100)
    assert reserve.short(100 + seconds) is short


def test_the_latest_word_counts_and_the_scarcest_limit() -> None:
    reserve = RateLimitReserve(0.2)
    assert not reserve.short(0)
    reserve.update(told(0), 0)
    reserve.update(told(900), 1)
    assert not reserve.short(1)
    reserve.update(told(1, limit=100, name="requests"), 1)
    assert reserve.short(1)
    assert not reserve.short(11)


def test_calls_are_taken_without_a_reserve_and_with_invalid_limits() -> None:
    reserve = RateLimitReserve(0)
    reserve.update(told(0), 0)
    assert not reserve.short(0)
    reserve = RateLimitReserve(0.5)
    reserve.update(told(0, limit=0), 0)
    reserve.update(told(-5, reset_seconds=-1, name="b"), 0)
    assert not reserve.short(0)


def test_what_is_remembered_is_bounded() -> None:
    reserve = RateLimitReserve(0.5)
    for number in range(2 * MAX_LIMITS):
        reserve.update(told(0, name=str(number)), 0)
    assert len(list(reserve._reports.items())) == MAX_LIMITS


def test_a_model_that_has_room_takes_the_call() -> None:
    reserve = RateLimitReserve(0.2)
    reserve.update(told(0, model="first"), 0)
    assert reserve.short(0)
    reserve.update(told(900, model="second"), 0)
    assert not reserve.short(0)


def test_a_limit_without_a_remaining_count_is_ignored() -> None:
    reserve = RateLimitReserve(0.2)
    reserve.update(told(None), 0)
    assert not reserve.short(0)


def test_a_limit_that_is_never_reset_is_taken_to_be_reset_in_an_hour() -> None:
    rates = RateLimits()
    rates.update([RateLimit(name="tokens", limit=9, remaining=0, reset_seconds=1e160)], 0)
    assert rates.wait(0) == MAX_WAIT_SECONDS


def test_how_long_to_wait() -> None:
    rates = RateLimits()
    assert rates.wait(0) == UNKNOWN_WAIT_SECONDS
    rates.update([RateLimit(name="tokens", limit=9, remaining=5, reset_seconds=9)], 0)
    assert rates.wait(4) == 5
    rates.update([RateLimit(name="requests", limit=5000, remaining=10, reset_seconds=2)], 0)
    assert rates.wait(1) == 1  # it is the scarcest
    rates.update([RateLimit(name="nothing is known of it")], 0)
    assert rates.wait(1) == 1
    assert rates.wait(50) == UNKNOWN_WAIT_SECONDS  # the refusal is newer than all of them
    assert [rates.wait(1, refusals) for refusals in (1, 2, 3)] == [1, 2, 4]
    rates.update([RateLimit(name=str(number)) for number in range(2 * MAX_LIMITS)], 0)
    assert len(list(rates._reports.items())) == MAX_LIMITS
