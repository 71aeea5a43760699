"""What is known of a live call from its events."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from phoneagent.console.vitals import LiveVitals
from phoneagent.events import (
    AgentAnswered,
    CallEnded,
    CallHandedOver,
    CallStarted,
    Cost,
    ModelEvent,
    Usage,
    UsageReported,
)

STARTED = CallStarted(call_sid="CA1", stream_sid="MZ1", caller="+15550100001", called=None, direction="inbound")
ENDED = CallEnded(call_sid="CA1", ended_by="caller", reason="x", duration_ms=9, transcript=())
HANDED_OVER = CallHandedOver(call_sid="CA1", at_ms=5, reason="x")


def test_what_a_live_call_has_cost_and_how_fast_it_answers() -> None:
    live = LiveVitals()
    live.note(STARTED, "MZ1")
    vitals = live.get("CA1")
    assert vitals is not None
    assert (vitals.stream_sid, vitals.cost, vitals.latency_ms) == ("MZ1", None, None)
    cost, total = Cost(Decimal("0.01")), Cost(Decimal("0.03"))
    used = UsageReported(
        call_sid="CA1", at_ms=1, number=1, source="response", model="m", usage=Usage(), cost=cost, total=total
    )
    live.note(used, "MZ1")
    for latency_ms in (900, 600):
        live.note(AgentAnswered(call_sid="CA1", at_ms=1, latency_ms=latency_ms), "MZ1")
    live.note(ModelEvent(call_sid="CA1", type="x", data={}), "MZ1")
    assert (vitals.cost, vitals.latency_ms) == (total, 600)
    live.note(replace(STARTED, stream_sid="MZ2", resumed=True), "MZ2")
    live.note(HANDED_OVER, "MZ1")  # the older stream ends when the newer one is there
    assert live.get("CA1") is not None
    live.note(ENDED, "MZ2")
    assert live.get("CA1") is None


def test_a_call_that_is_not_live_has_none() -> None:
    live = LiveVitals()
    live.note(AgentAnswered(call_sid="CA1", at_ms=1, latency_ms=5), "MZ1")
    assert live.get("CA1") is None
