"""The record of some days, as if the app had answered those calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from phoneagent.billing.prices import PRICES, cost_of
from phoneagent.events import AgentAnswered, CallEnded, CallStarted, Turn, TurnEnded, Usage, UsageReported
from phoneagent.store import Store, rows
from tests.browser.conftest import Served

MODEL = "gpt-realtime-2.1"
SAID = Turn(
    role="agent", item_id="a", text="", heard_text="", start_ms=1, end_ms=9, said_ms=8, heard_ms=8, agent="host"
)


def remember(served: Served, calls: int) -> None:
    """Record that many calls, the last of them some hours ago."""
    assert served.store is not None
    begin = datetime.now(UTC) - timedelta(hours=1.7 * calls + 3)
    with pytest.MonkeyPatch.context() as clock:
        for number in range(calls):
            start = begin + timedelta(hours=1.7 * number, minutes=number * 37 % 60)
            for at, event in story(number, start):
                clock.setattr(rows, "now", lambda at=at: at)
                served.run(tell(served.store, event, f"MZ{number:032}"))


async def tell(store: Store, event: Any, stream_sid: str) -> None:
    store.tell(event, stream_sid=stream_sid)


def story(number: int, start: datetime) -> Iterator[tuple[datetime, Any]]:
    """Yield the events of a call with their dates. The number makes it differ from others."""
    sid = f"CA{number:032}"
    caller = f"+155501000{number * 7 % 90 + 10}"
    yield (
        start,
        CallStarted(
            call_sid=sid, stream_sid=f"MZ{number:032}", caller=caller, called="+15550100002", direction="inbound"
        ),
    )
    for at_ms in range(4):
        latency_ms = 420 + (number * 89 + at_ms * 161) % 520
        yield start + timedelta(seconds=at_ms), AgentAnswered(call_sid=sid, at_ms=at_ms, latency_ms=latency_ms)
    yield start, TurnEnded(call_sid=sid, turn=SAID)
    usage = Usage(audio_in=600 + number * 97 % 800, audio_out=900 + number * 131 % 700)
    cost = cost_of(usage, PRICES[MODEL])
    yield (
        start,
        UsageReported(
            call_sid=sid, at_ms=1, number=1, source="response", model=MODEL, usage=usage, cost=cost, total=cost
        ),
    )
    length = timedelta(seconds=40 + number * 53 % 190)
    end = CallEnded(
        call_sid=sid,
        ended_by="caller",
        reason="the caller hung up",
        duration_ms=length // timedelta(milliseconds=1),
        transcript=(),
        dead_air_ms=300 + number * 71 % 900,
    )
    yield start + length, end if number % 3 else replace(end, ended_by="agent", reason="the agent hung up")
