"""The rules of one call that its user may choose."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from phoneagent.billing.prices import PRICES
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.policy import Floor, Policy


def test_by_default_the_caller_begins_and_may_interrupt_and_the_server_answers() -> None:
    policy = Policy()
    assert policy.greeting is None
    assert policy.server_answers
    assert (policy.interruption.enabled, policy.interruption.greeting) == (True, False)
    assert (policy.max_call_cost, policy.prices) == (None, PRICES)


def test_it_does_not_change_during_a_call() -> None:
    with pytest.raises(FrozenInstanceError):
        Policy().greeting = "Hello!"  # type: ignore[misc]


def test_neither_the_apology_nor_the_prices_fill_the_log() -> None:
    shown = repr(Policy(apology="AAAA"))
    assert "AAAA" not in shown
    assert "Price" not in shown


def test_before_anything_happens_the_floor_is_open() -> None:
    assert Bridge(Policy()).floor() is Floor.OPEN


def test_it_is_the_agents_turn_while_it_speaks_or_thinks() -> None:
    assert [floor for floor in Floor if floor.agents] == [Floor.AGENT, Floor.THINKING]
