"""The facts of a call: frozen, complete, and without speech or phone numbers in what is printed of them."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from decimal import Decimal
from typing import Any

import pytest

from phoneagent import events
from phoneagent.events import BargeIn, CallEnded, CallStarted, Cost, Event, RateLimit, Turn, Usage

KINDS = typing.get_args(Event)
VALUES = (Turn, Usage, Cost, RateLimit)
SECRET = "+15550100001"


def made(kind: Any, text: Any = "x") -> Any:
    """Make an event with `text` in each field that has no default."""
    required = [
        each for each in dataclasses.fields(kind) if each.default is each.default_factory is dataclasses.MISSING
    ]
    return kind(**{each.name: text for each in required})


@pytest.mark.parametrize("kind", [*KINDS, *VALUES], ids=lambda kind: kind.__name__)
def test_a_fact_does_not_change(kind: Any) -> None:
    fact = made(kind)
    name = dataclasses.fields(kind)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(fact, name, "another")
    assert not hasattr(fact, "__dict__")
    assert fact == made(kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_event_is_made_by_names_and_says_of_which_call_it_is(kind: Any) -> None:
    assert "call_sid" in {each.name for each in dataclasses.fields(kind)}
    with pytest.raises(TypeError, match="positional"):
        kind("CA1")


def test_the_union_has_every_event() -> None:
    here = {
        kind for _, kind in inspect.getmembers(events, dataclasses.is_dataclass) if kind.__module__ == events.__name__
    }
    of_a_call = {kind for kind in here if "call_sid" in {each.name for each in dataclasses.fields(kind)}}
    assert of_a_call == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (events.CallStarted, "caller"),
        (events.CallStarted, "called"),
        (events.MessageAdded, "text"),
        (events.ToolCalled, "arguments"),
        (events.ToolReturned, "output"),
        (events.KeyPressed, "digit"),
        (events.ModelEvent, "data"),
        (events.CallEnded, "transcript"),
    ],
)
def test_speech_and_numbers_are_not_printed(kind: Any, name: str) -> None:
    event = dataclasses.replace(made(kind, "y"), **{name: SECRET})
    assert getattr(event, name) == SECRET
    assert SECRET not in repr(event)


def test_what_is_known_later_has_a_default() -> None:
    started = CallStarted(call_sid="CA1", stream_sid="MZ1", caller=None, called=None, direction="inbound")
    ended = CallEnded(call_sid="CA1", ended_by="caller", reason="", duration_ms=0, transcript=())
    interrupted = BargeIn(call_sid="CA1", at_ms=0, item_id="item_1", audio_end_ms=0, said_ms=0)
    assert not started.resumed
    assert ended.cost is None
    assert interrupted.reaction_ms is None


# --- what things cost ---


def test_usage_adds_up_kind_by_kind() -> None:
    names = [each.name for each in dataclasses.fields(Usage)]
    first = Usage(**{name: number for number, name in enumerate(names)})
    second = Usage(**{name: 100 * number for number, name in enumerate(names)})
    assert dataclasses.asdict(first + second) == {name: 101 * number for number, name in enumerate(names)}
    assert first + Usage() == first


def test_costs_add_up_exactly() -> None:
    tenth = Cost(Decimal("0.1"))
    assert tenth + tenth + tenth == Cost(Decimal("0.3"))
    assert sum([tenth] * 3, Cost()).usd == Decimal("0.3")


@pytest.mark.parametrize(("one", "other", "both"), [(False, False, False), (True, False, True), (False, True, True)])
def test_a_sum_is_at_least_that_much_if_a_part_is(one: bool, other: bool, both: bool) -> None:
    assert (Cost(Decimal(1), one) + Cost(Decimal(2), other)).at_least is both


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (Cost(Decimal("0.048528")), "$0.0485"),
        (Cost(Decimal("0.048528"), at_least=True), "at least $0.0485"),
        (Cost(), "$0.0000"),
        (Cost(Decimal("1234.5")), "$1234.5000"),
    ],
)
def test_a_cost_is_readable(cost: Cost, text: str) -> None:
    assert str(cost) == text
