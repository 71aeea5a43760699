"""What happened in a call, as events on the call's clock."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.reporting import MAX_TROUBLES, Reporter
from phoneagent.bridge.spoken_items import Outcome
from phoneagent.bridge.toolcalls import ToolCall
from phoneagent.events import (
    AgentAnswered,
    BargeIn,
    CallControlled,
    CallEnded,
    CallerSpoke,
    CallHandedOver,
    Cost,
    KeyPressed,
    MessageAdded,
    RateLimit,
    RateLimitsUpdated,
    ToolCalled,
    Turn,
    TurnEnded,
    Usage,
)

TURN = Turn(role="caller", item_id="u1", text="Hi", heard_text="Hi", start_ms=1000, end_ms=2000, said_ms=1, heard_ms=1)


@pytest.fixture
def reporter() -> Reporter:
    clock = CallClock()
    clock.start(100.0)
    return Reporter("CA1", clock)


def told(reporter: Reporter) -> list[Any]:
    events = list(reporter.events)
    reporter.events.clear()
    return events


def test_times_count_from_the_start_of_the_stream() -> None:
    clock = CallClock()
    reporter = Reporter("CA1", clock)
    reporter.key_pressed("5", 99.0)
    clock.start(100.0)
    reporter.key_pressed("6", 100.5)
    assert told(reporter) == [
        KeyPressed(call_sid="CA1", at_ms=0, digit="5"),
        KeyPressed(call_sid="CA1", at_ms=500, digit="6"),
    ]


def test_the_same_trouble_is_told_once(reporter: Reporter) -> None:
    for what in ("bad", "worse", "bad"):
        reporter.trouble(what, 101.0)
    assert [(event.what, event.at_ms) for event in told(reporter)] == [("bad", 1000), ("worse", 1000)]


def test_words_of_a_far_end_are_one_line_and_cut(reporter: Reporter) -> None:
    words = "refused:\n\x1b[2J" + "x" * 1000
    reporter.trouble(words, 101.0)
    reporter.trouble(words, 101.0)
    reporter.handed_over(words, 101.0)
    reporter.ended("error", words, (), 101.0)
    trouble, handed_over, ended = told(reporter)
    assert trouble.what == handed_over.reason == ended.reason == "refused: [2J" + "x" * 488 + "…"


def test_the_number_of_troubles_is_bounded(reporter: Reporter) -> None:
    for number in range(MAX_TROUBLES + 5):
        reporter.trouble(f"bad {number}", 101.0)
    assert len(told(reporter)) == MAX_TROUBLES


def test_latency_counts_from_the_end_of_speech_to_the_first_audio(reporter: Reporter) -> None:
    reporter.speech_stopped(500, 102.0)
    reporter.audio_sent(102.1)  # of what was said before
    reporter.answer_begins()
    reporter.audio_sent(102.3)
    reporter.audio_sent(102.4)
    assert told(reporter) == [AgentAnswered(call_sid="CA1", at_ms=2300, latency_ms=800)]


def test_a_caller_who_goes_on_is_not_waiting(reporter: Reporter) -> None:
    reporter.speech_stopped(0, 102.0)
    reporter.speech_started(2100)
    reporter.answer_begins()
    reporter.audio_sent(102.3)
    assert told(reporter) == [CallerSpoke(call_sid="CA1", at_ms=2100)]


def test_a_caller_who_goes_on_after_the_answer_began_is_not_waiting_either(reporter: Reporter) -> None:
    reporter.speech_stopped(0, 102.0)
    reporter.answer_begins()
    reporter.speech_started(2100)
    reporter.audio_sent(102.3)
    assert told(reporter) == [CallerSpoke(call_sid="CA1", at_ms=2100)]


def test_a_barge_in_by_the_caller_has_a_reaction_time_and_one_by_code_has_none(reporter: Reporter) -> None:
    outcome = Outcome("i1", 0, 400, 1000, True)
    reporter.barge_in(outcome, 2850, 103.0)
    reporter.barge_in(outcome, 3100, 103.0)  # a clock of the model that runs ahead
    reporter.barge_in(outcome, None, 104.0)
    figures = {"call_sid": "CA1", "item_id": "i1", "audio_end_ms": 400, "said_ms": 1000}
    assert told(reporter) == [
        BargeIn(at_ms=3000, reaction_ms=150, **figures),
        BargeIn(at_ms=3000, reaction_ms=0, **figures),
        BargeIn(at_ms=4000, **figures),
    ]


def test_messages_are_numbered(reporter: Reporter) -> None:
    reporter.message_added("system", "It rains.", 101.0)
    reporter.message_added("user", "Hello?", 102.0)
    assert told(reporter) == [
        MessageAdded(call_sid="CA1", at_ms=1000, number=1, role="system", text="It rains."),
        MessageAdded(call_sid="CA1", at_ms=2000, number=2, role="user", text="Hello?"),
    ]


def test_a_tool(reporter: Reporter) -> None:
    call = ToolCall("c1", "f", "{}", 101.0)
    reporter.tool_called(call, 101.0)
    reporter.tool_returned(call, "42", 101.25)
    called, returned = told(reporter)
    assert called == ToolCalled(call_sid="CA1", at_ms=1000, call_id="c1", name="f", arguments="{}")
    assert (returned.at_ms, returned.ms, returned.output) == (1250, 250, "42")


def test_reports_of_usage_are_numbered(reporter: Reporter) -> None:
    for source in ("response", "transcription"):
        reporter.used(source, "m", Usage(), Cost(), Cost(), 101.0)  # type: ignore[arg-type]
    assert [(event.number, event.source, event.model) for event in told(reporter)] == [
        (1, "response", "m"),
        (2, "transcription", "m"),
    ]


def test_rate_limits(reporter: Reporter) -> None:
    limit = RateLimit(name="tokens", limit=100, remaining=7, reset_seconds=3.0)
    reporter.rate_limits("m", iter([limit]), 101.0)
    assert told(reporter) == [RateLimitsUpdated(call_sid="CA1", at_ms=1000, model="m", limits=(limit,))]


def test_a_turn_and_the_end(reporter: Reporter) -> None:
    reporter.turn_ended(TURN)
    reporter.ended("caller", "the caller hung up", (TURN,), 110.0)
    assert told(reporter) == [
        TurnEnded(call_sid="CA1", turn=TURN),
        CallEnded(
            call_sid="CA1", ended_by="caller", reason="the caller hung up", duration_ms=10_000, transcript=(TURN,)
        ),
    ]


def test_a_call_that_goes_on_elsewhere_has_not_ended(reporter: Reporter) -> None:
    reporter.handed_over("the process ends", 110.0)
    assert told(reporter) == [CallHandedOver(call_sid="CA1", at_ms=10_000, reason="the process ends")]


def test_numbers_and_speech_stay_out_of_what_is_printed(reporter: Reporter) -> None:
    call = ToolCall("c1", "f", '{"card": 4929}', 101.0)
    reporter.key_pressed("7", 101.0)
    reporter.tool_called(call, 101.0)
    reporter.tool_returned(call, "4929", 101.0)
    reporter.message_added("system", "4929", 101.0)
    assert not any(secret in repr(event) for event in told(reporter) for secret in ("7'", "4929"))


def test_what_is_done_from_outside(reporter: Reporter) -> None:
    reporter.controlled("mute", 101.0)
    assert told(reporter) == [CallControlled(call_sid="CA1", at_ms=1000, operation="mute")]


def test_what_a_muted_agent_says_at_last_is_no_late_answer(reporter: Reporter) -> None:
    reporter.speech_stopped(0.0, 101.0)
    reporter.answer_begins()
    assert reporter.answers_since is not None
    reporter.unmuted()
    assert reporter.answers_since is None
    reporter.answer_begins()
    assert reporter.answers_since is None
