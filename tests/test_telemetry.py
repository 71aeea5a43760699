"""The log: a line for each fact of a call, without numbers and without speech."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from phoneagent import (
    AgentAnswered,
    BargeIn,
    CallEnded,
    CallStarted,
    KeyPressed,
    ToolReturned,
    Trouble,
    Turn,
    TurnEnded,
)
from phoneagent.telemetry import JsonFormatter, Metrics, hide_secrets, log_event

TURN = Turn(
    role="caller", item_id="i", text="my secret", heard_text="my secret", start_ms=0, end_ms=9, said_ms=9, heard_ms=9
)
STARTED = CallStarted(call_sid="CA1", stream_sid="MZ1", caller="+15550100001", called="+1", direction="inbound")
ENDED = CallEnded(call_sid="CA1", ended_by="agent", reason="hung up", duration_ms=1000, transcript=(TURN,))
EVENTS = [
    STARTED,
    AgentAnswered(call_sid="CA1", at_ms=1, latency_ms=420),
    BargeIn(call_sid="CA1", at_ms=1, item_id="i", audio_end_ms=100, said_ms=900),
    TurnEnded(call_sid="CA1", turn=TURN),
    ToolReturned(call_sid="CA1", at_ms=1, call_id="c", name="book", output="my secret", ms=5),
    KeyPressed(call_sid="CA1", at_ms=1, digit="7"),
    Trouble(call_sid="CA1", at_ms=1, what="something is odd"),
    ENDED,
]


def test_every_fact_is_a_line_without_numbers_or_speech(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for event in EVENTS:
        log_event(event)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(EVENTS)
    assert all(line.startswith("CA1 ") for line in lines)
    assert {record.call_sid for record in caplog.records} == {"CA1"}  # type: ignore[attr-defined]
    for secret in ("+1555", "my secret", "7"):
        assert secret not in "".join(line.removeprefix("CA1") for line in lines)
    assert "interrupted: heard 100 of 900 ms" in "".join(lines)


def test_lines_as_json() -> None:
    try:
        raise ValueError("oops")
    except ValueError:
        record = logging.LogRecord("phoneagent.x", logging.ERROR, "f", 1, "%s é", ("done",), sys.exc_info())
    record.call_sid = "CA1"
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == "done é"
    assert line["level"] == "error"
    assert line["call_sid"] == "CA1"
    assert line["time"].endswith("+00:00")
    assert "ValueError: oops" in line["traceback"]
    assert "\n" not in JsonFormatter().format(record)


def test_metrics_of_two_apps_do_not_meet() -> None:
    one, other = Metrics(), Metrics()
    for event in EVENTS:
        one.tell(event)
    assert b'calls_ended_total{ended_by="agent"} 1.0' in one.text()
    assert b'tool_seconds_count{name="book"} 1.0' in one.text()
    assert b"calls_started_total 0.0" in other.text()


@pytest.mark.parametrize("path", ["/twilio/media/SECRET", "/twilio/media/%41SECRET", "/twilio/voice?From=%2BSECRET"])
def test_a_server_s_log_has_no_secret_and_stays_readable(path: str) -> None:
    from uvicorn.logging import AccessFormatter

    hide_secrets()
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(  # type: ignore[method-assign]
        AccessFormatter("%(client_addr)s %(request_line)s %(status_code)s", use_colors=False).format(record)
    )
    access = logging.getLogger("uvicorn.access")
    access.addHandler(handler)
    before, access.level = access.level, logging.INFO
    try:
        access.info('%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", path, "1.1", 403)
    finally:
        access.removeHandler(handler)
        access.level = before
    (line,) = lines
    assert "SECRET" not in line
    assert line.startswith("1.2.3.4:5 GET /twilio/")
    assert line.endswith("… HTTP/1.1 403 Forbidden")
