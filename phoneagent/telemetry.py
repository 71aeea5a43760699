"""Observers of events: the log, with one line for each fact of a call, and the metrics.

Metrics contain no speech. The log has it only if `show_transcript` is set, and full phone numbers only if `log_pii` is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NoReturn, assert_never

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from phoneagent.errors import shown
from phoneagent.events import (
    AgentAnswered,
    AgentPaused,
    AgentResumed,
    BargeIn,
    CallControlled,
    CallEnded,
    CallerSpoke,
    CallHandedOver,
    CallNotAnswered,
    CallStarted,
    CallTransferred,
    Event,
    KeyPressed,
    MessageAdded,
    ModelEvent,
    OutcomeFilled,
    RateLimitsUpdated,
    RecordingChanged,
    SilenceFilled,
    ToolCalled,
    ToolReturned,
    Trouble,
    TurnEnded,
    UsageReported,
)
from phoneagent.protocol.callerid import caller_id

log = logging.getLogger("phoneagent.call")

_SERVERS = ("uvicorn.error", "uvicorn.access", "hypercorn.access", "gunicorn.access")
_SECRET_IN_PATH = re.compile(r"(/twilio/(?:media/|[^\s\"?]*\?)|/console/phone/media/)[^\s\"]+")


def hidden(text: str) -> str:
    """Return a log line without media tokens and without the query of a webhook, which has a GET's phone numbers."""
    return _SECRET_IN_PATH.sub(r"\1…", text)


class _HideSecrets(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = _hidden(record.msg)
        if isinstance(record.args, tuple):  # an access log's formatter needs all of them
            record.args = tuple(map(_hidden, record.args))
        return True


def _hidden(value: Any) -> Any:
    return hidden(value) if isinstance(value, str) else value


_hide_secrets = _HideSecrets()


def hide_secrets() -> None:
    """Keep tokens and numbers out of the log of any server that runs the app: servers log the path of each request."""
    for name in _SERVERS:
        logging.getLogger(name).addFilter(_hide_secrets)  # the same filter each time, so it is added once


def log_event(event: Event, *, pii: bool = False, transcript: bool = False) -> None:
    """Write an event to the log `phoneagent.agent.call`, with `call_sid` among the record's fields.

    Numbers are masked unless `pii` is true. Speech is logged only if `transcript` is true.
    """
    level, text = _line(event, pii)
    if transcript and isinstance(event, TurnEnded):
        level, text = logging.INFO, f"{event.turn.role}: {shown(event.turn.heard_text or '(no transcript)')}"
    if text:
        log.log(level, "%s %s", event.call_sid, text, extra={"call_sid": event.call_sid})


def _line(event: Event, pii: bool) -> tuple[int, str]:
    match event:
        case CallStarted():
            caller, called = (
                shown(each or "unknown", MAX_NAME_CHARS) if pii else masked(each)
                for each in (event.caller, event.called)
            )
            begun = "resumed" if event.resumed else "started"
            return logging.INFO, f"{begun}, {event.direction} from {caller} to {called}"
        case AgentAnswered():
            return logging.INFO, f"answered after {event.latency_ms} ms"
        case BargeIn():
            return logging.INFO, f"interrupted: heard {event.audio_end_ms} of {event.said_ms} ms"
        case AgentResumed():
            return logging.INFO, f"went on after a pause of {event.paused_ms} ms: {event.cause}"
        case TurnEnded():
            return logging.DEBUG, f"{event.turn.role} spoke for {event.turn.heard_ms} ms"
        case ToolCalled():
            return logging.INFO, f"tool {shown(event.name, MAX_NAME_CHARS)} called"
        case ToolReturned():
            return logging.INFO, f"tool {shown(event.name, MAX_NAME_CHARS)} returned after {event.ms} ms"
        case KeyPressed():
            return logging.DEBUG, "key pressed"
        case UsageReported():
            return logging.DEBUG, f"{event.source} by {event.model} cost {event.cost}, in all {event.total}"
        case SilenceFilled():
            return logging.INFO, f"{event.sound} played after {event.silent_ms} ms of silence"
        case CallControlled():
            return logging.INFO, f"{event.operation} by the control API"
        case RecordingChanged():
            whole = "" if event.complete else ", and it is incomplete"
            return logging.INFO, f"recording {event.status}{whole}"
        case Trouble():
            return logging.WARNING, event.what
        case CallHandedOver():
            return logging.INFO, f"handed over after {event.at_ms} ms: {event.reason}"
        case CallTransferred():
            return logging.INFO, f"transfer to {shown(event.to_name, MAX_NAME_CHARS)}: {event.outcome}"
        case CallNotAnswered():
            return logging.INFO, f"the call {event.outbound_id} was not answered: {event.status}"
        case CallEnded():
            cost = "" if event.cost is None else f", cost {event.cost}"
            level = logging.ERROR if event.ended_by == "error" else logging.INFO
            return level, f"ended by {event.ended_by} after {event.duration_ms} ms{cost}: {event.reason}"
        case OutcomeFilled(error=None):
            return logging.INFO, f"outcome filled in, cost {event.cost}"
        case OutcomeFilled():  # the user's validator may repeat speech
            return logging.WARNING, "outcome not filled in: the record says why"
        case CallerSpoke() | AgentPaused() | MessageAdded() | RateLimitsUpdated() | ModelEvent():
            return logging.DEBUG, ""
        case _:
            assert_never(event)


_MASK = "••••••"
_SIP = re.compile(r"sip:[^@]*@([A-Za-z0-9.\-]+)", re.ASCII)
_NUMBER = re.compile(r"(\+[0-9])?[0-9]{5,}([0-9]{2})", re.ASCII)


def masked(address: str | None) -> str:
    """Return a caller or callee as a log may show it: at most the first digit and the last two of a number."""
    known = caller_id(address)
    if known is None:
        return "unknown"
    if sip := _SIP.match(known):
        return f"sip:{_MASK}@{sip[1]}"
    if number := _NUMBER.fullmatch(known):
        return f"{number[1] or ''}{_MASK}{number[2]}"
    return _MASK


class TextFormatter(logging.Formatter):
    """A log line for a terminal, with the call_sid unless the message contains it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        call_sid = getattr(record, "call_sid", None)
        line = super().formatMessage(record)
        return line if call_sid is None or call_sid in record.message else f"{line} [{call_sid}]"


class JsonFormatter(logging.Formatter):
    """A log line as JSON: time (RFC 3339), level, logger, message, and if present, call_sid and traceback."""

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


MAX_NAME_CHARS = 100
"""How many characters are shown of a name or a number that a far end has written."""

MAX_TOOL_NAMES = 100
MAX_RATE_LIMITS = 100
LATENCY_SECONDS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)
REACTION_SECONDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 2)
BRIDGE_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

DIRECTIONS = ("to_model", "to_caller")
TURNED_AWAY = ("draining", "full", "denied", "caller", "limited")


class Metrics:
    """An app's metrics for Prometheus, in a registry of their own.

    A call is live here from its start or resumption until it ends or is handed over.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._tool_names: set[str] = set()
        self._limit_names: set[tuple[str, str]] = set()
        options: Any = {"registry": self._registry, "namespace": "phoneagent"}
        self._count_calls(options)
        self._measure(options)

    def _count_calls(self, options: Any) -> None:
        self._live = Gauge("calls_live", "Calls that are live now", **options)
        self._started = Counter("calls_started", "Calls whose first media stream has started", **options)
        self._resumed = Counter("calls_resumed", "Calls that continued here in another media stream", **options)
        self._handed_over = Counter("calls_handed_over", "Calls that were left to their next media stream", **options)
        self._unanswered = Counter(
            "calls_not_answered", "Calls of the app that were not answered, by status", ["status"], **options
        )
        self._transferred = Counter(
            "calls_transferred", "Transfers to another party, by outcome", ["outcome"], **options
        )
        self._ended = Counter("calls_ended", "Calls that have ended, by which side", ["ended_by"], **options)
        self._refused = Counter("requests_refused", "Webhooks and sockets of unproven origin", ["what"], **options)
        self._away = Counter("calls_turned_away", "Calls that could not be taken, by reason", ["reason"], **options)
        self._outcomes = Counter("outcomes", "Outcomes of calls, filled in or not", ["result"], **options)
        self._interrupted = Counter("barge_ins", "Answers that the caller cut off", **options)
        self._paused = Counter("pauses", "Pauses of the agent because the caller made a sound", **options)
        self._went_on = Counter("resumed_pauses", "Pauses after which the agent went on", ["cause"], **options)
        self._filled = Counter("silences_filled", "Sounds played because no answer came, by kind", ["sound"], **options)
        self._tokens = Counter("tokens", "Tokens of the models, by kind", ["kind"], **options)
        self._transcribed = Counter("transcribed_seconds", "Transcribed audio that is paid by the minute", **options)
        self._cost = Counter("cost_dollars", "Cost of the models, as far as it is known", **options)
        self._unpriced = Counter("usage_unpriced", "Usage reports with a part whose cost is unknown", **options)
        self._limit = Gauge("rate_limit", "Rate limit of a model at its provider", ["model", "name"], **options)
        self._left = Gauge(
            "rate_limit_remaining", "What was left of it at the provider's last report", ["model", "name"], **options
        )
        for reason in TURNED_AWAY:  # a series that exists from the start shows its first increase
            self._away.labels(reason)

    def _measure(self, options: Any) -> None:
        self._answers = Histogram(
            "response_seconds",
            "From the end of the caller's speech to the first audio of the answer",
            buckets=LATENCY_SECONDS,
            **options,
        )
        self._tools = Histogram(
            "tool_seconds", "Duration of tools", ["name"], buckets=(*LATENCY_SECONDS, 20), **options
        )
        self._reactions = Histogram(
            "barge_in_reaction_seconds",
            "From the first sound of a caller who interrupts to our `clear`",
            buckets=REACTION_SECONDS,
            **options,
        )
        bridge = Histogram(
            "bridge_seconds",
            "From reading audio on one side to writing it on the other",
            ["direction"],
            buckets=BRIDGE_SECONDS,
            **options,
        )
        self._bridge = {direction: bridge.labels(direction) for direction in DIRECTIONS}
        self._dead_air = Histogram(
            "dead_air_seconds",
            "Longest silence of a call while an answer was due",
            buckets=LATENCY_SECONDS,
            **options,
        )
        self._lag = Histogram(
            "event_loop_lag_seconds", "How late the event loop woke up", buckets=LAG_SECONDS, **options
        )

    def tell(self, event: Event) -> None:
        """Count an event."""
        match event:
            case CallStarted():
                self._live.inc()
                (self._resumed if event.resumed else self._started).inc()
            case CallHandedOver():
                self._live.dec()
                self._handed_over.inc()
            case CallTransferred():
                self._transferred.labels(event.outcome).inc()
            case CallNotAnswered():
                self._unanswered.labels(event.status).inc()
            case CallEnded():
                self._live.dec()
                self._ended.labels(event.ended_by).inc()
                self._dead_air.observe(event.dead_air_ms / 1000)
            case SilenceFilled():
                self._filled.labels(event.sound).inc()
            case BargeIn():
                self._interrupted.inc()
                if event.reaction_ms is not None:
                    self._reactions.observe(event.reaction_ms / 1000)
            case AgentPaused():
                self._paused.inc()
            case AgentResumed():
                self._went_on.labels(event.cause).inc()
            case AgentAnswered():
                self._answers.observe(event.latency_ms / 1000)
            case UsageReported():
                self._count_usage(event)
            case OutcomeFilled():
                self._outcomes.labels("filled" if event.error is None else "error").inc()
                self._count_usage(event)
            case RateLimitsUpdated():
                self._show_limits(event)
            case ToolReturned():
                # The model may invent names, and each name would be a series forever.
                name = shown(event.name, MAX_NAME_CHARS)
                if name in self._tool_names or len(self._tool_names) < MAX_TOOL_NAMES:
                    self._tool_names.add(name)
                    self._tools.labels(name).observe(event.ms / 1000)
            case CallerSpoke() | TurnEnded() | MessageAdded() | ToolCalled() | KeyPressed() | Trouble() | ModelEvent():
                pass
            case CallControlled() | RecordingChanged():
                pass
            case _:
                assert_never(event)

    def _count_usage(self, event: UsageReported | OutcomeFilled) -> None:
        self._cost.inc(float(event.cost.usd))
        if event.cost.at_least:
            self._unpriced.inc()
        for kind, count in asdict(event.usage).items():
            if kind == "audio_ms":
                self._transcribed.inc(count / 1000)
            elif count:
                self._tokens.labels(kind).inc(count)

    def _show_limits(self, event: RateLimitsUpdated) -> None:
        for limit in event.limits:
            name = (event.model, limit.name)
            if name in self._limit_names or len(self._limit_names) < MAX_RATE_LIMITS:
                self._limit_names.add(name)
                self._limit.labels(*name).set(limit.limit)
                if limit.remaining is not None:
                    self._left.labels(*name).set(limit.remaining)

    def refused(self, what: str) -> None:
        """Count a refused request: "webhook" or "socket"."""
        self._refused.labels(what).inc()

    def turned_away(self, reason: str) -> None:
        """Count a call that was turned away: "draining", "full", "limited" (by the model's rate limits), "denied" (the
        number is), "caller" (the number has too many calls)."""
        self._away.labels(reason).inc()

    def bridged(self, direction: str, seconds: float) -> None:
        """Measure the time of a frame in this process: "to_model" or "to_caller"."""
        self._bridge[direction].observe(seconds)

    def lagged(self, seconds: float) -> None:
        """Measure how late the event loop woke up."""
        self._lag.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


async def watch_loop(metrics: Metrics, seconds: float = 1.0) -> NoReturn:
    """Measure the event loop's lag every `seconds`, until canceled. Each sleep counts alone: lag does not add up."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + seconds
        await asyncio.sleep(seconds)
        metrics.lagged(max(0.0, loop.time() - due))
