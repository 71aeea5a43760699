"""The observers of an app's events: which there are, and in which order."""

from __future__ import annotations

from pathlib import Path

from phoneagent import telemetry
from phoneagent.billing.ratelimits import RateLimitReserve
from phoneagent.events import RateLimit, RateLimitsUpdated, Trouble
from phoneagent.server.observers import observers_of
from phoneagent.store import Store
from tests.end_to_end.conftest import settings


class Reserve(RateLimitReserve):
    """A reserve that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(0.1)
        self.told: list[RateLimitsUpdated] = []

    def update(self, event: RateLimitsUpdated, now: float) -> None:
        self.told.append(event)


def test_an_event_reaches_logs_metrics_reserve_and_records(tmp_path: Path) -> None:
    class Kept(Store):
        def tell(self, event: object, *, stream_sid: str | None = None) -> None:
            kept.append((event, stream_sid))

    kept: list[tuple[object, str | None]] = []
    reserve, metrics = Reserve(), telemetry.Metrics()
    store = Kept.from_url(f"sqlite:///{tmp_path}/calls.db")
    trouble = Trouble(call_sid="CA1", at_ms=1, what="x")
    limits = RateLimitsUpdated(call_sid="CA1", at_ms=1, model="m", limits=(RateLimit(name="tokens", limit=10),))
    for event in (trouble, limits):
        for observe in observers_of(settings(), metrics, reserve, store, None):
            observe(event, "MZ1")
    assert kept == [(trouble, "MZ1"), (limits, "MZ1")]
    assert reserve.told == [limits]


def test_without_records_and_console_there_are_only_logs_metrics_and_the_reserve() -> None:
    reserve = Reserve()
    for observe in observers_of(settings(), telemetry.Metrics(), reserve, None, None):
        observe(Trouble(call_sid="CA1", at_ms=1, what="x"), "MZ1")
    assert reserve.told == []
