"""Sinks of events: the log, a line for each fact of a call, and the metrics. Neither has numbers or speech in it."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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

_SERVERS = ("uvicorn.error", "uvicorn.access", "hypercorn.access", "gunicorn.access")
_SECRET_IN_PATH = re.compile(r"(/twilio/(?:media/|voice\?))[^\s\"']+")


def hidden(text: str) -> str:
    """Return a line of a log without media tokens, and without the numbers in the query of a webhook by GET."""
    return _SECRET_IN_PATH.sub(r"\1…", text)


class _HideSecrets(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = _hidden(record.msg)
        if isinstance(record.args, tuple):  # an access log's formatter counts on their number
            record.args = tuple(map(_hidden, record.args))
        return True


def _hidden(value: Any) -> Any:
    return hidden(value) if isinstance(value, str) else value


_hide_secrets = _HideSecrets()


def hide_secrets() -> None:
    """Keep tokens and numbers out of the log of whatever server runs the app: they write the path of each request."""
    for name in _SERVERS:
        logging.getLogger(name).addFilter(_hide_secrets)  # the same one, so once


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


class JsonFormatter(logging.Formatter):
    """A log line as JSON: time (RFC 3339), level, logger, message, call_sid where there is one, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (call_sid := getattr(record, "call_sid", None)) is not None:
            line["call_sid"] = call_sid
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


MAX_TOOL_NAMES = 100
LATENCY_SECONDS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)


class Metrics:
    """What an app counts, in Prometheus's conventions; one registry for each app."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._tool_names: set[str] = set()
        options: Any = {"registry": self._registry, "namespace": "phoneagent"}
        self._live = Gauge("calls_live", "Calls that are live now", **options)
        self._started = Counter("calls_started", "Calls whose media stream has started", **options)
        self._ended = Counter("calls_ended", "Calls that are over, by who ended them", ["ended_by"], **options)
        self._refused = Counter("requests_refused", "Webhooks and sockets that proved no origin", ["what"], **options)
        self._away = Counter("calls_turned_away", "Calls that could not be taken, by reason", ["reason"], **options)
        self._interrupted = Counter("barge_ins", "Answers that the caller cut off", **options)
        self._answers = Histogram(
            "response_seconds",
            "From the end of the caller's speech to the first audio of the answer",
            buckets=LATENCY_SECONDS,
            **options,
        )
        self._tools = Histogram(
            "tool_seconds", "How long tools took", ["name"], buckets=(*LATENCY_SECONDS, 20), **options
        )

    def tell(self, event: Event) -> None:
        """Count an event."""
        match event:
            case CallStarted():
                self._live.inc()
                self._started.inc()
            case CallEnded():
                self._live.dec()
                self._ended.labels(event.ended_by).inc()
            case BargeIn():
                self._interrupted.inc()
            case AgentAnswered():
                self._answers.observe(event.latency_ms / 1000)
            case ToolReturned():
                # The model may invent names, and every one would be a series for ever.
                if event.name in self._tool_names or len(self._tool_names) < MAX_TOOL_NAMES:
                    self._tool_names.add(event.name)
                    self._tools.labels(event.name).observe(event.ms / 1000)
            case _:
                pass

    def refused(self, what: str) -> None:
        """Count a request that was refused: "webhook" or "socket"."""
        self._refused.labels(what).inc()

    def turned_away(self, reason: str) -> None:
        """Count a call that was turned away: "draining" or "full"."""
        self._away.labels(reason).inc()

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)
