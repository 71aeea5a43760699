"""The tracks of a call that is transcribed: frames in, turns out, whatever becomes of the sessions."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import pytest

from phoneagent.billing.prices import PRICES
from phoneagent.bridge.names import Names
from phoneagent.bridge.tracks import KEPT_MS, MAX_HELD_MS, MAX_OUTSTANDING, Track, TranscribedCall
from phoneagent.events import CallEnded, CallerSpoke, Turn, TurnEnded, UsageReported
from phoneagent.protocol.audio import base64_bytes
from phoneagent.protocol.carrier import AudioIn
from phoneagent.protocol.realtime import (
    Committed,
    Error,
    Failure,
    FromModel,
    InputTranscript,
    InputTranscriptFailed,
    SpeechStarted,
    SpeechStopped,
)

FRAME = base64.b64encode(bytes(160)).decode()
VAD = {"type": "server_vad", "prefix_padding_ms": 300, "silence_duration_ms": 500}
SESSION = {"audio": {"input": {"transcription": {"model": "gpt-transcribe"}}}}


def track() -> Track:
    return Track("callee", Names(), VAD)


def play(track: Track, begin_ms: int, end_ms: int) -> int:
    """Let the session hear frames of the call; return how many messages that were."""
    for at_ms in range(begin_ms, end_ms, 20):
        track.hear(AudioIn(FRAME, at_ms))
    return len(track.take(10_000))


def turns(track: Track, *events: FromModel) -> list[Turn]:
    return [found for event in events for found in track.receive(event) if isinstance(found, Turn)]


def spoken(item: str, start_ms: int, end_ms: int) -> list[FromModel]:
    return [SpeechStarted(item, start_ms), SpeechStopped(item, end_ms), Committed(item)]


def test_a_turn_has_the_times_of_its_speech_in_the_call() -> None:
    callee = track()
    callee.new_session(SESSION)
    play(callee, 5_000, 8_000)  # the session hears it from its own zero on
    assert turns(callee, *spoken("a", 700, 2_500)) == []
    (turn,) = turns(callee, InputTranscript("a", " Hello. "))
    assert (turn.role, turn.text, turn.heard_text) == ("callee", "Hello.", "Hello.")
    assert (turn.start_ms, turn.end_ms, turn.said_ms) == (6_000, 7_000, 1_000)
    assert callee.recognizer == "gpt-transcribe"


def test_the_padding_is_not_counted_where_there_was_no_room_for_it() -> None:
    callee = track()
    play(callee, 60, 2_000)
    (turn,) = turns(callee, *spoken("a", 0, 1_500), InputTranscript("a", "Yes."))
    assert (turn.start_ms, turn.end_ms) == (60, 1_060)


def test_noise_is_no_turn_and_a_failed_transcript_is_one_without_words() -> None:
    callee = track()
    play(callee, 0, 3_000)
    assert turns(callee, *spoken("a", 0, 900), InputTranscript("a", " ")) == []
    assert [turn.text for turn in turns(callee, *spoken("b", 1_000, 2_000), InputTranscriptFailed("b"))] == [""]
    assert callee.settled


def test_transcripts_come_in_any_order() -> None:
    callee = track()
    play(callee, 0, 5_000)
    turns(callee, *spoken("a", 400, 1_500), *spoken("b", 2_000, 3_000))
    found = turns(callee, InputTranscript("b", "Two."), InputTranscript("a", "One."), InputTranscript("a", "Again."))
    assert [(turn.text, turn.start_ms) for turn in found] == [("Two.", 2_300), ("One.", 700)]


def test_the_next_session_gets_what_the_lost_one_made_no_words_of() -> None:
    callee = track()
    play(callee, 0, 6_000)
    turns(callee, *spoken("a", 1_000, 2_500), InputTranscript("a", "Before."), SpeechStarted("b", 4_000))
    callee.hear(AudioIn(FRAME, 6_000))
    callee.new_session(SESSION)
    replayed = callee.take(10_000)
    assert len(replayed) == (6_020 - 4_000) // 20  # from the turn's beginning on
    (turn,) = turns(callee, *spoken("x", 0, 1_800), InputTranscript("x", "After."))
    assert (turn.text, turn.start_ms) == ("After.", 4_000)


@pytest.mark.parametrize("session", [True, False])
def test_what_is_held_is_bounded(session: bool) -> None:
    callee = track()
    for minute in range(10):
        for at_ms in range(minute * 60_000, (minute + 1) * 60_000, 20):
            callee.hear(AudioIn(FRAME, at_ms))
            if session:
                callee.take(16)
    callee.new_session(SESSION)
    held_ms = sum(base64_bytes(each.audio) // 8 for each in callee.take(100_000))
    assert held_ms == pytest.approx(KEPT_MS if session else MAX_HELD_MS, abs=40)


def test_a_session_that_never_writes_words_costs_no_memory() -> None:
    callee = track()
    play(callee, 0, 50_000)
    found = [turn for n in range(1_000) for turn in turns(callee, *spoken(f"i{n}", n * 10, n * 10 + 900))]
    assert len(found) == 1_000 - MAX_OUTSTANDING
    assert len(list(callee.close())) == MAX_OUTSTANDING


def test_silence_after_the_call_ends_the_last_turn() -> None:
    callee = track()
    play(callee, 0, 1_000)
    turns(callee, SpeechStarted("a", 200))
    assert not callee.settled
    callee.finish()
    (quiet,) = callee.take(10)
    assert base64.b64decode(quiet.audio) == b"\xff" * 8_000  # twice the silence that ends a turn
    assert [
        turn.text for turn in turns(callee, SpeechStopped("a", 1_500), Committed("a"), InputTranscript("a", "Bye."))
    ] == ["Bye."]
    assert callee.settled


def test_a_track_without_a_single_frame_comes_to_its_end() -> None:
    callee = track()
    callee.finish()
    assert callee.settled
    assert list(callee.close()) == []


@pytest.mark.parametrize(
    "event",
    [
        SpeechStopped("a", 10**9),
        Committed(""),
        Committed("never heard of"),
        InputTranscript("", "Out of nowhere."),
        InputTranscript("zzz", "Out of nowhere."),
        InputTranscriptFailed(""),
        SpeechStarted(None, -5),
    ],
)
def test_odd_events_break_nothing(event: FromModel) -> None:
    callee = track()
    turns(callee, event)
    play(callee, 0, 3_000)
    turns(callee, event, event)
    assert "Well." in [turn.text for turn in turns(callee, *spoken("w", 500, 2_000), InputTranscript("w", "Well."))]


def call(**options: Any) -> TranscribedCall:
    made = TranscribedCall("CA1", VAD, PRICES, **options)
    made.start(100.0)
    for each in made.tracks:
        each.new_session(SESSION)
    return made


def test_each_track_has_its_own_turns_and_the_call_all_of_them_in_order() -> None:
    made = call()
    for at_ms in range(0, 4_000, 20):
        assert made.hear(AudioIn(FRAME, at_ms)) is made.caller
        assert made.hear(AudioIn(FRAME, at_ms, outbound=True)) is made.callee
    for each in made.tracks:
        each.take(1_000)
    for event in [*spoken("a", 1_000, 3_000), InputTranscript("a", "Second.", {"type": "duration", "seconds": 60})]:
        made.receive(made.callee, event, 104.0)
    for event in [*spoken("a", 400, 1_500), InputTranscript("a", "First.", {"type": "duration", "seconds": 60})]:
        made.receive(made.caller, event, 104.0)
    made.end("caller", "over", 104.0)
    events = list(made.reporter.events)
    (ended,) = [event for event in events if isinstance(event, CallEnded)]
    assert [(turn.role, turn.text) for turn in ended.transcript] == [("caller", "First."), ("callee", "Second.")]
    assert len({turn.item_id for turn in ended.transcript}) == 2  # both servers counted from one
    assert [event.at_ms for event in events if isinstance(event, CallerSpoke)] == [700]
    assert [event.number for event in events if isinstance(event, UsageReported)] == [1, 2]
    assert ended.cost is not None
    assert ended.cost.usd == Decimal(".0090")
    assert sum(isinstance(event, TurnEnded) for event in events) == 2


def test_the_cost_limit_and_reports_that_are_missing() -> None:
    made = call(max_cost=Decimal(".004"))
    made.receive(made.caller, InputTranscript("a", "x", None), 101.0)
    made.receive(made.caller, InputTranscript("b", "x", None), 101.0)
    assert made.cost is not None
    assert made.cost.at_least
    assert len(made.reporter.events) == 1 + 2  # one report; turns that no speech announced
    assert not made.over_budget
    made.receive(made.caller, InputTranscript("c", "x", {"seconds": 60}), 101.0)
    assert made.over_budget


def test_an_error_of_the_recognizer_is_reported_once() -> None:
    made = call()
    for _ in range(3):
        made.receive(made.caller, Error(Failure(code="server_error", message="Sorry.")), 101.0)
    assert [event.what for event in made.reporter.events] == ["the recognizer reports server_error: Sorry."]  # type: ignore[union-attr]
