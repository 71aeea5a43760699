"""Searching the recorded calls: by caller, agent, end, date and words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from phoneagent.events import AgentAnswered, CallEnded, CallStarted, Turn, TurnEnded
from phoneagent.store import CallFilter, Highlights, Store

pytestmark = pytest.mark.anyio
TURN = Turn(role="agent", item_id="i", text="", heard_text="", start_ms=1, end_ms=9, said_ms=8, heard_ms=4)


def a_call(sid: str, caller: str, agent: str, words: str, ended_by: Any = "caller") -> list[Any]:
    return [
        CallStarted(call_sid=sid, stream_sid=f"MZ{sid}", caller=caller, called="+15550100009", direction="inbound"),
        TurnEnded(call_sid=sid, turn=replace(TURN, role="caller", item_id=f"{sid}c", text=words, heard_text=words)),
        AgentAnswered(call_sid=sid, at_ms=5, latency_ms=600),
        TurnEnded(call_sid=sid, turn=replace(TURN, item_id=f"{sid}a", text="Certainly.", agent=agent)),
        CallEnded(call_sid=sid, ended_by=ended_by, reason="x", duration_ms=9, transcript=()),
    ]


@pytest.fixture
async def store(ready: str) -> AsyncIterator[Store]:
    async with Store.from_url(ready) as store:
        events = [
            *a_call("CA1", "+15550100001", "host", "A table for four, please"),
            *a_call("CA2", "+15550100002", "kitchen", "100% sure, under_score", "error"),
            *a_call("CA3", "sip:anna@host.example", "host", "Ein Tisch für vier"),
        ]
        for event in events:
            store.tell(event)
        yield store


@pytest.mark.parametrize(
    ("only", "sids"),
    [
        (CallFilter(), "CA1 CA2 CA3"),
        (CallFilter(party="010000"), "CA1 CA2 CA3"),  # also the number called
        (CallFilter(party="0001"), "CA1"),
        (CallFilter(party="ANNA"), "CA3"),
        (CallFilter(agent="host"), "CA1 CA3"),
        (CallFilter(agent="hos"), ""),
        (CallFilter(ended_by="error"), "CA2"),
        (CallFilter(words="TABLE for"), "CA1"),
        (CallFilter(words="für"), "CA3"),
        (CallFilter(words="0%"), "CA2"),
        (CallFilter(words="r_s"), "CA2"),
        (CallFilter(words="%"), "CA2"),
        (CallFilter(words="'; DROP TABLE calls; --"), ""),
        (CallFilter(words="Certainly", agent="kitchen"), "CA2"),
    ],
)
async def test_what_is_found(store: Store, only: CallFilter, sids: str) -> None:
    assert " ".join(sorted(each.call_sid for each in await store.calls(only=only))) == sids


async def test_a_span_of_time_begins_with_its_first_moment_and_ends_before_its_last(store: Store) -> None:
    (call,) = await store.calls(only=CallFilter(party="0001"))
    start, soon = call.started_at, timedelta(milliseconds=1)
    for since, until, found in (
        (start, None, 1),
        (start + soon, None, 0),
        (None, start, 0),
        (None, start + soon, 1),
        (datetime(2000, 1, 1, tzinfo=UTC), datetime(2001, 1, 1, tzinfo=UTC), 0),
    ):
        only = CallFilter(party="0001", since=since, until=until)
        assert len(await store.calls(only=only)) == found


async def test_pages_of_what_is_found_leave_none_out(store: Store) -> None:
    first, second = await store.calls(only=CallFilter(agent="host"))
    (after,) = await store.calls(only=CallFilter(agent="host"), after=(first.started_at, first.call_sid))
    assert after == second


async def test_highlights_have_each_call_that_was_asked_for(store: Store) -> None:
    assert await store.highlights(["CA1", "CA0"]) == {
        "CA1": Highlights(agents=("host",), latencies_ms=(600,)),
        "CA0": Highlights(agents=(), latencies_ms=()),
    }
    assert await store.highlights([]) == {}
