"""The types of what the API answers follow those of records and events."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

from phoneagent.console.encoding import NAMES
from phoneagent.console.schemas import EVENTS, OneCall, Record
from phoneagent.events import CallEnded, Event, ModelEvent, RateLimitsUpdated
from phoneagent.store import CallRecord


def test_a_call_has_every_field_of_its_record() -> None:
    for kind in (OneCall, Record):
        assert {each.name for each in fields(CallRecord)} <= set(kind.__struct_fields__)


def test_there_is_a_type_for_each_event_that_readers_get() -> None:
    assert [each.__name__ for each in EVENTS] == [
        each.__name__ for each in get_args(Event) if each not in (ModelEvent, RateLimitsUpdated)
    ]
    ended = next(each for each in EVENTS if each.__name__ == "CallEnded")
    assert "transcript" not in ended.__struct_fields__
    assert get_args(ended.__annotations__["type"]) == (NAMES[CallEnded],)
