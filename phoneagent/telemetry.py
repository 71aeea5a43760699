"""Sinks of events: the log, a line for each fact of a call. Neither numbers nor speech are in its text."""

from __future__ import annotations

import logging

from .events import (
    AgentAnswered,
    BargeIn,
    CallEnded,
    CallStarted,
    Event,
    KeyPressed,
    ToolCalled,
    ToolReturned,
    Trouble,
    TurnEnded,
)

log = logging.getLogger("phoneagent.call")


def log_event(event: Event) -> None:
    """Write an event to the log `phoneagent.call`, with `call_sid` among the record's fields."""
    level, text = _line(event)
    if text:
        log.log(level, "%s %s", event.call_sid, text, extra={"call_sid": event.call_sid})


def _line(event: Event) -> tuple[int, str]:
    match event:
        case CallStarted():
            return logging.INFO, f"started, {event.direction}"
        case AgentAnswered():
            return logging.INFO, f"answered after {event.latency_ms} ms"
        case BargeIn():
            return logging.INFO, f"interrupted: heard {event.audio_end_ms} of {event.said_ms} ms"
        case TurnEnded():
            return logging.DEBUG, f"{event.turn.role} spoke for {event.turn.heard_ms} ms"
        case ToolCalled():
            return logging.INFO, f"tool {event.name} called"
        case ToolReturned():
            return logging.INFO, f"tool {event.name} returned after {event.ms} ms"
        case KeyPressed():
            return logging.DEBUG, "key pressed"
        case Trouble():
            return logging.WARNING, event.what
        case CallEnded():
            return logging.INFO, f"ended by {event.ended_by} after {event.duration_ms} ms: {event.reason}"
        case _:
            return logging.DEBUG, ""
