"""The rate limits that are left decide whether a new call is taken."""

from __future__ import annotations

import pytest

from phoneagent.events import RateLimit, RateLimitsUpdated
from phoneagent.headroom import MAX_LIMITS, Headroom


def told(
    remaining: float | None, *, limit: float = 1000, reset_seconds: float = 10, name: str = "tokens", model: str = "m"
) -> RateLimitsUpdated:
    of = RateLimit(name=name, limit=limit, remaining=remaining, reset_seconds=reset_seconds)
    return RateLimitsUpdated(call_sid="CA1", at_ms=0, model=model, limits=(of,))


@pytest.mark.parametrize(
    ("remaining", "seconds", "short"), [(199, 0, True), (200, 0, False), (0, 1.9, True), (0, 2.1, False)]
)
def test_what_was_used_comes_back_evenly(remaining: float, seconds: float, short: bool) -> None:
    headroom = Headroom(0.2)
    headroom.tell(told(remaining), 100)
    assert headroom.short(100 + seconds) is short


def test_the_latest_word_counts_and_the_scarcest_limit() -> None:
    headroom = Headroom(0.2)
    assert not headroom.short(0)
    headroom.tell(told(0), 0)
    headroom.tell(told(900), 1)
    assert not headroom.short(1)
    headroom.tell(told(1, limit=100, name="requests"), 1)
    assert headroom.short(1)
    assert not headroom.short(11)


def test_nobody_is_turned_away_without_a_reserve_or_for_nonsense() -> None:
    headroom = Headroom(0)
    headroom.tell(told(0), 0)
    assert not headroom.short(0)
    headroom = Headroom(0.5)
    headroom.tell(told(0, limit=0), 0)
    headroom.tell(told(-5, reset_seconds=-1, name="b"), 0)
    assert not headroom.short(0)


def test_what_is_remembered_is_bounded() -> None:
    headroom = Headroom(0.5)
    for number in range(2 * MAX_LIMITS):
        headroom.tell(told(0, name=str(number)), 0)
    assert len(headroom._told) == MAX_LIMITS


def test_a_model_that_has_room_takes_the_call() -> None:
    headroom = Headroom(0.2)
    headroom.tell(told(0, model="first"), 0)
    assert headroom.short(0)
    headroom.tell(told(900, model="second"), 0)
    assert not headroom.short(0)


def test_a_limit_of_which_nobody_says_what_is_left_is_none() -> None:
    headroom = Headroom(0.2)
    headroom.tell(told(None), 0)
    assert not headroom.short(0)
