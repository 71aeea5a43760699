"""The observers of each call's events: logs, metrics, the reserve of rate limits, the records and the control API."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from phoneagent import telemetry
from phoneagent.billing.ratelimits import RateLimitReserve
from phoneagent.events import Event, RateLimitsUpdated
from phoneagent.settings import Settings

if TYPE_CHECKING:
    from phoneagent.console.api import Console
    from phoneagent.store import Store

Observer: TypeAlias = Callable[[Event, str], None]
"""A function that gets an event, and the sid of the media stream that the event belongs to."""


def observers_of(
    settings: Settings,
    metrics: telemetry.Metrics,
    reserve: RateLimitReserve,
    store: Store | None,
    console: Console | None,
) -> list[Observer]:
    """Return the functions that see each event of each call, in order."""

    def log_event(event: Event, stream_sid: str) -> None:
        telemetry.log_event(event, pii=settings.log_pii, transcript=settings.show_transcript)

    def count(event: Event, stream_sid: str) -> None:
        metrics.tell(event)

    def update_reserve(event: Event, stream_sid: str) -> None:
        if isinstance(event, RateLimitsUpdated):
            reserve.update(event, time.monotonic())

    def record(event: Event, stream_sid: str) -> None:
        if store is not None:
            store.tell(event, stream_sid=stream_sid)

    observers: list[Observer] = [log_event, count, update_reserve, record]
    if console is not None:
        observers.append(console.feed.tell)
        if console.commands is not None:
            observers.append(console.commands.tell)
    return observers
