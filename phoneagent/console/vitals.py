"""The vitals of this process's live calls, as known from their events, for the list of calls."""

from __future__ import annotations

from dataclasses import dataclass

from phoneagent.events import AgentAnswered, CallEnded, CallHandedOver, CallStarted, Cost, Event, UsageReported


@dataclass(slots=True)
class Vitals:
    """The vitals of a live call, as known from its events so far."""

    stream_sid: str
    cost: Cost | None = None
    latency_ms: int | None = None
    """The latency of the latest answer."""


class LiveVitals:
    """The vitals of the live calls of this process."""

    def __init__(self) -> None:
        self._vitals: dict[str, Vitals] = {}

    def get(self, call_sid: str) -> Vitals | None:
        """Return what is known about a live call; None if there is none with that CallSid."""
        return self._vitals.get(call_sid)

    def note(self, event: Event, stream_sid: str) -> None:
        """Update from an event."""
        if isinstance(event, CallStarted):
            self._vitals[event.call_sid] = Vitals(stream_sid)
        vitals = self._vitals.get(event.call_sid)
        if vitals is None or vitals.stream_sid != stream_sid:  # it is over, or another stream has taken over
            return
        match event:
            case UsageReported(total=total):
                vitals.cost = total
            case AgentAnswered(latency_ms=latency_ms):
                vitals.latency_ms = latency_ms
            case CallEnded() | CallHandedOver():
                del self._vitals[event.call_sid]
            case _:
                pass
