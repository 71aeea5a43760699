from __future__ import annotations

from typing import Any

import pytest

from phoneagent.bridge.playback import Outcome
from phoneagent.bridge.reporting import MAX_TROUBLES, Reporter
from phoneagent.events import AgentAnswered, BargeIn, CallEnded, CallerSpoke, KeyPressed, ToolCalled, TurnEnded
from phoneagent.protocol.realtime import TranscriptDelta, TranscriptDone


@pytest.fixture
def reporter() -> Reporter:
    reporter = Reporter("CA1")
    reporter.start(100.0)
    return reporter


def told(reporter: Reporter) -> list[Any]:
    return list(reporter.take())


def test_times_count_from_the_start_of_the_stream() -> None:
    reporter = Reporter("CA1")
    assert reporter.ms(99.0) == 0
    reporter.start(100.0)
    assert reporter.ms(101.2345) == 1234


def test_events_are_taken_once(reporter: Reporter) -> None:
    reporter.key_pressed("5", 100.5)
    assert told(reporter) == [KeyPressed(call_sid="CA1", at_ms=500, digit="5")]
    assert told(reporter) == []


def test_the_same_trouble_is_told_once(reporter: Reporter) -> None:
    for what in ("bad", "worse", "bad"):
        reporter.trouble(what, 101.0)
    assert [(event.what, event.at_ms) for event in told(reporter)] == [("bad", 1000), ("worse", 1000)]


def test_so_many_troubles_are_told(reporter: Reporter) -> None:
    for number in range(MAX_TROUBLES + 5):
        reporter.trouble(f"bad {number}", 101.0)
    assert len(told(reporter)) == MAX_TROUBLES


def test_speech_is_dated_when_it_was_not_when_it_was_noticed(reporter: Reporter) -> None:
    reporter.speech_started(300, 102.0)
    assert told(reporter) == [CallerSpoke(call_sid="CA1", at_ms=1700)]
    reporter.speech_stopped(500, 104.0)
    reporter.committed("u1", 104.0)
    reporter.understood("u1", "Hello")
    (event,) = told(reporter)
    assert (event.turn.start_ms, event.turn.end_ms, event.turn.text) == (1700, 3500, "Hello")


def test_speech_did_not_begin_before_the_call(reporter: Reporter) -> None:
    reporter.speech_started(5000, 102.0)
    assert told(reporter)[0].at_ms == 0


def test_a_text_for_no_turn_tells_nothing(reporter: Reporter) -> None:
    reporter.understood("u9", "Hello")
    assert told(reporter) == []


def test_latency_counts_from_the_end_of_speech_to_the_first_audio(reporter: Reporter) -> None:
    reporter.speech_stopped(500, 102.0)
    reporter.audio_sent(102.1)  # of what was said before
    reporter.answer_begins()
    reporter.audio_sent(102.3)
    reporter.audio_sent(102.4)
    assert told(reporter) == [AgentAnswered(call_sid="CA1", at_ms=2300, latency_ms=800)]


def test_a_caller_who_goes_on_is_not_waiting(reporter: Reporter) -> None:
    reporter.speech_stopped(0, 102.0)
    reporter.speech_started(0, 102.1)
    told(reporter)
    reporter.answer_begins()
    reporter.audio_sent(102.3)
    assert told(reporter) == []


def test_a_caller_who_goes_on_after_the_answer_began_is_not_waiting_either(reporter: Reporter) -> None:
    reporter.speech_stopped(0, 102.0)
    reporter.answer_begins()
    reporter.speech_started(0, 102.1)
    told(reporter)
    reporter.audio_sent(102.3)
    assert told(reporter) == []


@pytest.mark.parametrize(
    ("heard", "complete", "interrupted"), [(1000, True, False), (500, True, True), (1000, False, True)]
)
def test_a_turn_of_the_agent(reporter: Reporter, heard: int, complete: bool, interrupted: bool) -> None:
    reporter.agent_says(TranscriptDelta(response_id="r1", item_id="i1", delta="one two "))
    reporter.agent_says(TranscriptDone(response_id="r1", item_id="i1", transcript="one two three four"))
    reporter.heard(Outcome("i1", 0, heard, 1000, complete), 103.0)
    (event,) = told(reporter)
    assert isinstance(event, TurnEnded)
    assert (event.turn.heard_ms, event.turn.said_ms, event.turn.interrupted) == (heard, 1000, interrupted)
    assert event.turn.text.startswith(event.turn.heard_text)
    assert (event.turn.heard_text == event.turn.text) is not interrupted


def test_a_barge_in(reporter: Reporter) -> None:
    reporter.speech_started(150.0, 103.0)
    reporter.barge_in(Outcome("i1", 0, 400, 1000, True), 103.0, by_caller=True)
    reporter.barge_in(Outcome("i1", 0, 400, 1000, True), 104.0, by_caller=False)
    caller = BargeIn(call_sid="CA1", at_ms=3000, item_id="i1", audio_end_ms=400, said_ms=1000, reaction_ms=150)
    code = BargeIn(call_sid="CA1", at_ms=4000, item_id="i1", audio_end_ms=400, said_ms=1000)
    assert told(reporter)[1:] == [caller, code]


def test_a_tool(reporter: Reporter) -> None:
    reporter.tool_called("c1", "f", "{}", 101.0)
    reporter.tool_returned("c1", "f", "42", 101.0, 101.25)
    called, returned = told(reporter)
    assert called == ToolCalled(call_sid="CA1", at_ms=1000, call_id="c1", name="f", arguments="{}")
    assert (returned.at_ms, returned.ms, returned.output) == (1250, 250, "42")


def test_the_end_tells_of_turns_without_text_and_then_of_everything(reporter: Reporter) -> None:
    reporter.speech_started(0, 101.0)
    reporter.speech_stopped(0, 102.0)
    reporter.committed("u1", 102.0)
    told(reporter)
    reporter.end("caller", "the caller hung up", 110.0)
    turn, ended = told(reporter)
    assert isinstance(turn, TurnEnded)
    assert ended == CallEnded(
        call_sid="CA1", ended_by="caller", reason="the caller hung up", duration_ms=10_000, transcript=(turn.turn,)
    )


def test_numbers_and_speech_stay_out_of_what_is_printed(reporter: Reporter) -> None:
    reporter.key_pressed("7", 101.0)
    reporter.tool_called("c1", "f", '{"card": 4929}', 101.0)
    reporter.tool_returned("c1", "f", "4929", 101.0, 101.0)
    assert not any(secret in repr(event) for event in told(reporter) for secret in ("7'", "4929"))
