from __future__ import annotations

from typing import Any

import pytest

from phoneagent.events import AgentAnswered, BargeIn, CallEnded, CallerSpoke, KeyPressed, ToolCalled, TurnEnded
from phoneagent.protocol.narration import MAX_TROUBLES, Narration
from phoneagent.protocol.playback import Outcome
from phoneagent.protocol.realtime import TranscriptDelta, TranscriptDone


@pytest.fixture
def narration() -> Narration:
    narration = Narration("CA1")
    narration.start(100.0)
    return narration


def told(narration: Narration) -> list[Any]:
    return list(narration.take())


def test_times_count_from_the_start_of_the_stream() -> None:
    narration = Narration("CA1")
    assert narration.ms(99.0) == 0
    narration.start(100.0)
    assert narration.ms(101.2345) == 1234


def test_events_are_taken_once(narration: Narration) -> None:
    narration.key_pressed("5", 100.5)
    assert told(narration) == [KeyPressed(call_sid="CA1", at_ms=500, digit="5")]
    assert told(narration) == []


def test_the_same_trouble_is_told_once(narration: Narration) -> None:
    for what in ("bad", "worse", "bad"):
        narration.trouble(what, 101.0)
    assert [(event.what, event.at_ms) for event in told(narration)] == [("bad", 1000), ("worse", 1000)]


def test_so_many_troubles_are_told(narration: Narration) -> None:
    for number in range(MAX_TROUBLES + 5):
        narration.trouble(f"bad {number}", 101.0)
    assert len(told(narration)) == MAX_TROUBLES


def test_speech_is_dated_when_it_was_not_when_it_was_noticed(narration: Narration) -> None:
    narration.speech_started(300, 102.0)
    assert told(narration) == [CallerSpoke(call_sid="CA1", at_ms=1700)]
    narration.speech_stopped(500, 104.0)
    narration.committed("u1", 104.0)
    narration.understood("u1", "Hello")
    (event,) = told(narration)
    assert (event.turn.start_ms, event.turn.end_ms, event.turn.text) == (1700, 3500, "Hello")


def test_speech_did_not_begin_before_the_call(narration: Narration) -> None:
    narration.speech_started(5000, 102.0)
    assert told(narration)[0].at_ms == 0


def test_a_text_for_no_turn_tells_nothing(narration: Narration) -> None:
    narration.understood("u9", "Hello")
    assert told(narration) == []


def test_latency_counts_from_the_end_of_speech_to_the_first_audio(narration: Narration) -> None:
    narration.speech_stopped(500, 102.0)
    narration.audio_sent(102.1)  # of what was said before
    narration.answer_begins()
    narration.audio_sent(102.3)
    narration.audio_sent(102.4)
    assert told(narration) == [AgentAnswered(call_sid="CA1", at_ms=2300, latency_ms=800)]


def test_a_caller_who_goes_on_is_not_waiting(narration: Narration) -> None:
    narration.speech_stopped(0, 102.0)
    narration.speech_started(0, 102.1)
    told(narration)
    narration.answer_begins()
    narration.audio_sent(102.3)
    assert told(narration) == []


def test_a_caller_who_goes_on_after_the_answer_began_is_not_waiting_either(narration: Narration) -> None:
    narration.speech_stopped(0, 102.0)
    narration.answer_begins()
    narration.speech_started(0, 102.1)
    told(narration)
    narration.audio_sent(102.3)
    assert told(narration) == []


@pytest.mark.parametrize(
    ("heard", "complete", "interrupted"), [(1000, True, False), (500, True, True), (1000, False, True)]
)
def test_a_turn_of_the_agent(narration: Narration, heard: int, complete: bool, interrupted: bool) -> None:
    narration.agent_says(TranscriptDelta(response_id="r1", item_id="i1", delta="one two "))
    narration.agent_says(TranscriptDone(response_id="r1", item_id="i1", transcript="one two three four"))
    narration.heard(Outcome("i1", 0, heard, 1000, complete), 103.0)
    (event,) = told(narration)
    assert isinstance(event, TurnEnded)
    assert (event.turn.heard_ms, event.turn.said_ms, event.turn.interrupted) == (heard, 1000, interrupted)
    assert event.turn.text.startswith(event.turn.heard_text)
    assert (event.turn.heard_text == event.turn.text) is not interrupted


def test_a_barge_in(narration: Narration) -> None:
    narration.speech_started(150.0, 103.0)
    narration.barge_in(Outcome("i1", 0, 400, 1000, True), 103.0, by_caller=True)
    narration.barge_in(Outcome("i1", 0, 400, 1000, True), 104.0, by_caller=False)
    caller = BargeIn(call_sid="CA1", at_ms=3000, item_id="i1", audio_end_ms=400, said_ms=1000, reaction_ms=150)
    code = BargeIn(call_sid="CA1", at_ms=4000, item_id="i1", audio_end_ms=400, said_ms=1000)
    assert told(narration)[1:] == [caller, code]


def test_a_tool(narration: Narration) -> None:
    narration.tool_called("c1", "f", "{}", 101.0)
    narration.tool_returned("c1", "f", "42", 101.0, 101.25)
    called, returned = told(narration)
    assert called == ToolCalled(call_sid="CA1", at_ms=1000, call_id="c1", name="f", arguments="{}")
    assert (returned.at_ms, returned.ms, returned.output) == (1250, 250, "42")


def test_the_end_tells_of_turns_without_text_and_then_of_everything(narration: Narration) -> None:
    narration.speech_started(0, 101.0)
    narration.speech_stopped(0, 102.0)
    narration.committed("u1", 102.0)
    told(narration)
    narration.end("caller", "the caller hung up", 110.0)
    turn, ended = told(narration)
    assert isinstance(turn, TurnEnded)
    assert ended == CallEnded(
        call_sid="CA1", ended_by="caller", reason="the caller hung up", duration_ms=10_000, transcript=(turn.turn,)
    )


def test_numbers_and_speech_stay_out_of_what_is_printed(narration: Narration) -> None:
    narration.key_pressed("7", 101.0)
    narration.tool_called("c1", "f", '{"card": 4929}', 101.0)
    narration.tool_returned("c1", "f", "4929", 101.0, 101.0)
    assert not any(secret in repr(event) for event in told(narration) for secret in ("7'", "4929"))
