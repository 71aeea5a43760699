"""The log: a line for each fact of a call, without numbers and without speech."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace

import pytest

from phoneagent import (
    AgentAnswered,
    BargeIn,
    CallControlled,
    CallEnded,
    CallStarted,
    Cost,
    KeyPressed,
    OutcomeFilled,
    SilenceFilled,
    ToolCalled,
    ToolReturned,
    Trouble,
    Turn,
    TurnEnded,
    Usage,
    UsageReported,
    telemetry,
)
from phoneagent.events import CallHandedOver, EndedBy, RateLimit, RateLimitsUpdated
from phoneagent.telemetry import JsonFormatter, Metrics, hide_secrets, log_event, watch_loop

TURN = Turn(
    role="caller", item_id="i", text="my secret", heard_text="my secret", start_ms=0, end_ms=9, said_ms=9, heard_ms=9
)
STARTED = CallStarted(call_sid="CA1", stream_sid="MZ1", caller="+15550100001", called="+1", direction="inbound")
RESUMED = replace(STARTED, stream_sid="MZ2", resumed=True)
HANDED_OVER = CallHandedOver(call_sid="CA1", at_ms=4000, reason="this process ends")
ENDED = CallEnded(call_sid="CA1", ended_by="agent", reason="hung up", duration_ms=1000, transcript=(TURN,))
USED = UsageReported(
    call_sid="CA1",
    at_ms=1,
    number=1,
    source="response",
    model="m",
    usage=Usage(text_in=100, audio_out=40, audio_ms=1500),
    cost=Cost(Decimal("0.25")),
    total=Cost(Decimal("1.25")),
)
FILLED = OutcomeFilled(
    call_sid="CA1", agent="host", outcome={"pin": "my secret"}, usage=Usage(text_in=9), cost=Cost(Decimal("0.5"))
)
UNFILLED = replace(FILLED, outcome=None, error="my secret is wrong")
EVENTS = [
    STARTED,
    HANDED_OVER,
    RESUMED,
    AgentAnswered(call_sid="CA1", at_ms=1, latency_ms=420),
    BargeIn(call_sid="CA1", at_ms=1, item_id="i", audio_end_ms=100, said_ms=900, reaction_ms=180),
    TurnEnded(call_sid="CA1", turn=TURN),
    ToolReturned(call_sid="CA1", at_ms=1, call_id="c", name="book", output="my secret", ms=5),
    KeyPressed(call_sid="CA1", at_ms=1, digit="7"),
    USED,
    SilenceFilled(call_sid="CA1", at_ms=1, silent_ms=2500, sound="filler"),
    CallControlled(call_sid="CA1", at_ms=1, operation="hang-up"),
    Trouble(call_sid="CA1", at_ms=1, what="something is odd"),
    ENDED,
    FILLED,
    UNFILLED,
]


@pytest.mark.parametrize(("by", "level"), [("agent", logging.INFO), ("line", logging.INFO), ("error", logging.ERROR)])
def test_a_call_that_we_failed_is_an_alarm(caplog: pytest.LogCaptureFixture, by: EndedBy, level: int) -> None:
    caplog.set_level(logging.DEBUG)
    log_event(replace(ENDED, ended_by=by))
    assert [record.levelno for record in caplog.records] == [level]


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


def test_silences_are_measured_and_their_sounds_counted() -> None:
    metrics = Metrics()
    metrics.tell(STARTED)
    for sound in ("filler", "filler", "apology"):
        metrics.tell(SilenceFilled(call_sid="CA1", at_ms=1, silent_ms=2500, sound=sound))  # type: ignore[arg-type]
    metrics.tell(replace(ENDED, dead_air_ms=2600))
    text = metrics.text().decode()
    assert 'phoneagent_silences_filled_total{sound="filler"} 2.0' in text
    assert 'phoneagent_silences_filled_total{sound="apology"} 1.0' in text
    assert "phoneagent_dead_air_seconds_sum 2.6" in text


def test_rate_limits_are_shown_as_the_provider_told_them_last() -> None:
    metrics = Metrics()
    for remaining in (900, 250):
        limit = RateLimit(name="tokens", limit=1000, remaining=remaining, reset_seconds=3)
        metrics.tell(RateLimitsUpdated(call_sid="CA1", at_ms=1, model="m", limits=(limit,)))
    text = metrics.text().decode()
    assert 'phoneagent_rate_limit{model="m",name="tokens"} 1000.0' in text
    assert 'phoneagent_rate_limit_remaining{model="m",name="tokens"} 250.0' in text


@pytest.mark.parametrize(
    ("caller", "shown"),
    [
        ("+15550100001", "+1••••••01"),
        ("+33123456789", "+3••••••89"),
        ("0123456789", "••••••89"),
        ("12345", "••••••"),
        ("anonymous", "unknown"),
        (None, "unknown"),
        ("sip:alice@pbx.example:5060;transport=tls", "sip:••••••@pbx.example"),
        ("client:alice", "••••••"),
        ("+15550100001\nCA2 ended", "unknown"),
        ("sip:+15550100001@pbx.example:5060", "+1••••••01"),
        ("sip:anonymous@anonymous.invalid", "unknown"),
    ],
)
def test_the_caller_is_masked(caller: str | None, shown: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_event(replace(STARTED, caller=caller, called="+33987654321"))
    log_event(replace(RESUMED, caller=caller, called="+33987654321"))
    assert [record.getMessage() for record in caplog.records] == [
        f"CA1 started, inbound from {shown} to +3••••••21",
        f"CA1 resumed, inbound from {shown} to +3••••••21",
    ]


def test_the_caller_is_shown_whole_on_request_and_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_event(replace(STARTED, caller="+15550100001\n\x1b[2J", called=None), pii=True)
    (record,) = caplog.records
    assert record.getMessage() == "CA1 started, inbound from +15550100001 [2J to unknown"


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


def test_a_tool_s_name_that_the_model_made_up_is_one_line_and_cut(caplog: pytest.LogCaptureFixture) -> None:
    name = "look\nup\x1b" + "x" * 1000
    with caplog.at_level(logging.INFO):
        log_event(ToolCalled(call_sid="CA1", at_ms=1, call_id="c1", name=name, arguments="{}"))
    assert caplog.messages == ["CA1 tool look up " + "x" * 92 + "… called"]


def test_the_end_of_a_call_tells_what_it_cost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log_event(USED)
    log_event(replace(ENDED, cost=Cost(Decimal("1.25"), at_least=True)))
    assert [record.getMessage() for record in caplog.records] == [
        "CA1 response by m cost $0.2500, in all $1.2500",
        "CA1 ended by agent after 1000 ms, cost at least $1.2500: hung up",
    ]


def test_money_is_counted() -> None:
    metrics = Metrics()
    metrics.tell(USED)
    metrics.tell(replace(USED, number=2))
    metrics.tell(replace(USED, number=3, usage=Usage(), cost=Cost(at_least=True)))
    text = metrics.text().decode()
    assert "phoneagent_cost_dollars_total 0.5\n" in text
    assert 'phoneagent_tokens_total{kind="text_in"} 200.0' in text
    assert 'phoneagent_tokens_total{kind="audio_out"} 80.0' in text
    assert "phoneagent_transcribed_seconds_total 3.0" in text
    assert "phoneagent_usage_unpriced_total 1.0" in text


def test_outcomes_are_counted_with_their_cost() -> None:
    metrics = Metrics()
    for event in (FILLED, FILLED, UNFILLED):
        metrics.tell(event)
    text = metrics.text().decode()
    assert 'phoneagent_outcomes_total{result="filled"} 2.0' in text
    assert 'phoneagent_outcomes_total{result="error"} 1.0' in text
    assert "phoneagent_cost_dollars_total 1.5\n" in text
    assert 'phoneagent_tokens_total{kind="text_in"} 27.0' in text


def test_metrics_of_two_apps_do_not_meet() -> None:
    one, other = Metrics(), Metrics()
    for event in EVENTS:
        one.tell(event)
    assert b"calls_started_total 1.0" in one.text()
    assert b"calls_resumed_total 1.0" in one.text()
    assert b"calls_handed_over_total 1.0" in one.text()
    assert b"calls_live 0.0" in one.text()
    assert b"barge_in_reaction_seconds_sum 0.18" in one.text()
    assert b'calls_ended_total{ended_by="agent"} 1.0' in one.text()
    assert b'tool_seconds_count{name="book"} 1.0' in one.text()
    assert b"calls_started_total 0.0" in other.text()


def test_a_call_is_live_from_each_start_to_its_end_or_hand_over() -> None:
    metrics = Metrics()
    for event, live in ((STARTED, 1), (HANDED_OVER, 0), (RESUMED, 1), (STARTED, 2), (ENDED, 1), (ENDED, 0)):
        metrics.tell(event)
        assert f"calls_live {live}.0".encode() in metrics.text()


def test_what_the_app_measures_itself() -> None:
    metrics = Metrics()
    metrics.bridged("to_model", 0.0004)
    metrics.bridged("to_caller", 0.003)
    metrics.bridged("to_caller", 3)
    metrics.turned_away("denied")
    text = metrics.text().decode()
    assert 'bridge_seconds_bucket{direction="to_model",le="0.0005"} 1.0' in text
    assert 'bridge_seconds_bucket{direction="to_caller",le="0.005"} 1.0' in text
    assert 'bridge_seconds_bucket{direction="to_caller",le="1.0"} 1.0' in text
    assert 'bridge_seconds_count{direction="to_caller"} 2.0' in text
    assert 'calls_turned_away_total{reason="denied"} 1.0' in text
    assert 'calls_turned_away_total{reason="full"} 0.0' in text


def test_the_event_loop_s_lag_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 100.0
        late = iter((0.0, 3.5, 0.0))  # so long after its time each sleep ends

        def time(self) -> float:
            return self.now

        async def sleep(self, seconds: float) -> None:
            self.now += seconds + next(self.late)

    clock, metrics = Clock(), Metrics()
    monkeypatch.setattr(telemetry, "asyncio", SimpleNamespace(get_running_loop=lambda: clock, sleep=clock.sleep))
    with pytest.raises(RuntimeError):  # the clock has stopped
        watch_loop(metrics, 1.0).send(None)
    text = metrics.text().decode()
    assert 'event_loop_lag_seconds_bucket{le="0.001"} 2.0' in text
    assert "event_loop_lag_seconds_count 3.0" in text
    assert "event_loop_lag_seconds_sum 3.5" in text


@pytest.mark.anyio
async def test_watching_the_event_loop_ends_when_it_is_cancelled() -> None:
    watching = asyncio.create_task(watch_loop(Metrics(), 60))
    await asyncio.sleep(0)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


@pytest.mark.parametrize(
    "path",
    [
        "/twilio/media/SECRET",
        "/twilio/media/%41SECRET",
        "/twilio/voice?From=%2BSECRET",
        "/twilio/voice/?From=%2BSECRET",
        "/twilio/voice?again=1&CallerName=O'Brien&From=%2BSECRET",
        "/twilio/after?CallSid=CA1&From=%2BSECRET",
        "/twilio/status?From=%2BSECRET",
        "/console/phone/media/SECRET",
    ],
)
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
    assert line.startswith(f"1.2.3.4:5 GET /{path.split('/')[1]}/")
    assert line.endswith("… HTTP/1.1 403 Forbidden")
