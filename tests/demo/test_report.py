from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from phoneagent.demo.report import Latency, Report, Turn, clock, counted, measure, percentile, plain
from phoneagent.events import Pause
from phoneagent.protocol.audio import tone

LONG = tone(440, 4000)
SHORT = tone(660, 1000)
WORDS = "one two three four five six seven eight nine ten"


def a_call(call):
    """A greeting, a question, a long answer that is interrupted after 1.5 s, a tool, an answer, the end."""
    call.agent("greeting", "Hello there.", SHORT, 200)
    call.says("A question?", 1500, 2500)
    call.agent("long", WORDS, LONG, 3000)
    call.says("Stop!", 4400, 5200, understood="Stop it")
    call.clear(4502)
    call.truncate("long", 1480)
    call.tool("book", {"guests": 4}, "done", 5600, 250)
    call.agent("last", "Goodbye.", SHORT, 5900)
    call.end(7000)
    return measure(call.line, call.session)


def test_shape_is_the_documented_one(handmade):
    report = json.loads(a_call(handmade).json())
    assert list(report) == [
        "call_sid", "ended_by", "duration_ms", "turns", "barge_ins", "tool_calls", "latency_ms", "violations",
        "dead_air_ms", "pauses",
    ]  # fmt: skip
    assert list(report["turns"][0]) == [
        "role", "text", "heard_text", "start_ms", "end_ms", "said_ms", "heard_ms", "interrupted",
    ]  # fmt: skip
    assert list(report["barge_ins"][0]) == ["item_id", "audio_end_ms", "truth_heard_ms", "reaction_ms"]
    assert list(report["tool_calls"][0]) == ["name", "arguments", "output", "ms"]
    assert list(report["latency_ms"]) == [
        "first_audio", "response_p50", "response_p95", "bridge_up_p99", "bridge_down_p99",
    ]  # fmt: skip


def test_turns_stand_on_the_phones_clock(handmade):
    report = a_call(handmade)
    assert [(turn.role, turn.text) for turn in report.turns] == [
        ("agent", "Hello there."),
        ("caller", "A question?"),
        ("agent", WORDS),
        ("caller", "Stop!"),
        ("agent", "Goodbye."),
    ]
    greeting, question, long, stop, _ = report.turns
    assert (greeting.start_ms, greeting.end_ms, greeting.heard_ms) == (202, 1202, 1000)
    assert not greeting.interrupted
    assert (question.start_ms, question.end_ms) == (1600, 2300)  # the voice, not the silence around it
    assert question.heard_text == "A question?"
    assert (long.start_ms, long.end_ms, long.said_ms, long.heard_ms) == (3002, 4502, 4000, 1500)
    assert long.interrupted
    assert stop.heard_text == "Stop it"
    assert report.duration_ms == 7000


def test_heard_text_is_a_share_of_the_words_cut_at_a_word(handmade):
    long = a_call(handmade).turns[2]
    assert WORDS.startswith(long.heard_text + " ")
    assert 3 <= len(long.heard_text.split()) <= 4  # 1.5 of 4 seconds


def test_barge_in_is_told_beside_the_truth(handmade):
    (barge,) = a_call(handmade).barge_ins
    assert (barge.item_id, barge.audio_end_ms) == ("long", 1480)
    assert barge.truth_heard_ms == 1500
    assert barge.reaction_ms == 2  # speech truly began at 4500


def test_refused_truncations_do_not_count(handmade):
    handmade.truncate("long", 9999, ok=False)
    assert [barge.audio_end_ms for barge in a_call(handmade).barge_ins] == [1480]


def test_a_truncation_without_a_clear_has_no_reaction(handmade):
    handmade.agent("only", WORDS, LONG, 100)
    handmade.truncate("only", 500)
    handmade.end(2102)
    (barge,) = measure(handmade.line, handmade.session).barge_ins
    assert barge.reaction_ms is None
    assert barge.truth_heard_ms == 2000


def test_an_item_that_never_got_through_was_heard_for_nothing(handmade):
    handmade.agent("first", "One.", LONG, 100)
    handmade.agent("second", "Two.", SHORT, 110, reaching=0)
    handmade.clear(1102)
    handmade.truncate("first", 990)
    handmade.truncate("second", 0)
    handmade.end(2000)
    report = measure(handmade.line, handmade.session)
    assert [(barge.item_id, barge.truth_heard_ms) for barge in report.barge_ins] == [("first", 1000), ("second", 0)]
    unheard = report.turns[1]
    assert (unheard.text, unheard.heard_text, unheard.heard_ms, unheard.interrupted) == ("Two.", "", 0, True)
    assert unheard.start_ms == unheard.end_ms == 1102


def test_latencies(handmade):
    latency = a_call(handmade).latency_ms
    assert latency.first_audio == 202
    assert latency.response_p50 == 702  # 2300 → 3002
    assert latency.response_p95 == 902  # 5000 → 5902
    assert latency.bridge_up_p99 == pytest.approx(2, abs=0.1)  # frames held back at the start are left out
    assert latency.bridge_down_p99 == pytest.approx(2, abs=0.1)


def test_tool_calls(handmade):
    (call,) = a_call(handmade).tool_calls
    assert (call.name, call.arguments, call.output, call.ms) == ("book", {"guests": 4}, "done", 250)


def test_arguments_that_are_no_json_stay_text(handmade):
    handmade.tool("book", {}, "", 0, 0)
    handmade.session.tool_calls[0].arguments = "{guests"
    handmade.session.tool_calls[0].returned_at = None
    (call,) = a_call(handmade).tool_calls[:1]
    assert (call.arguments, call.ms) == ("{guests", None)


def test_a_call_without_a_model_session(handmade):
    handmade.line.ended_by = None
    handmade.line.violations = ["31951: nonsense"]
    handmade.end(1000)
    report = measure(handmade.line, None)
    assert (report.turns, report.latency_ms) == ([], Latency())
    assert (report.ended_by, report.violations) == ("error", ["31951: nonsense"])


@pytest.mark.parametrize(
    ("ended_by", "violations", "passed"),
    [("agent", [], True), ("caller", [], True), ("agent", ["x"], False), ("line", [], False), ("error", [], False)],
)
def test_passed(ended_by, violations, passed):
    assert Report("CA", ended_by, 1, violations=violations).passed is passed


def test_what_others_say_cannot_control_the_terminal():
    words = "a\x1b[2J\x9b\u202eb\n\tc\ud83d 👨‍👩 می‌روم"
    assert plain(words) == "a [2J b c  👨‍👩 می‌روم"
    assert plain(words, lines=True) == "a [2J b\n\tc  👨‍👩 می‌روم"
    turn = Turn("agent", "a\x1bb c\x1bd", "a\x1bb", 0, 9, 9, 5, interrupted=True)
    assert Report("CA1", "agent", 9, [turn]).transcript() == "0:00.0  agent   a b [cut off, not heard: c d]\n"


def test_transcript_shows_what_was_cut_off(handmade):
    lines = a_call(handmade).transcript().splitlines()
    assert lines[0] == "0:00.2  agent   Hello there."
    assert lines[2].startswith("0:03.0  agent   one two three")
    assert lines[2].endswith("eight nine ten]")
    assert "[cut off, not heard:" in lines[2]


def test_percentile():
    assert percentile([], 50) is None
    assert percentile([3.04, 1, 2], 50) == 2
    assert percentile(list(range(1, 201)), 99) == 198
    assert percentile([7], 99) == 7


def test_clock():
    assert [clock(ms) for ms in (0, 7340, 59_960, 61_000)] == ["0:00.0", "0:07.3", "1:00.0", "1:01.0"]


def test_speech_that_cannot_be_heard_keeps_its_bounds(handmade):
    handmade.caller += b"\xff" * 8000
    handmade.line.speech.append(SimpleNamespace(text="…", start_ms=200, end_ms=700))
    handmade.end(1000)
    (turn,) = measure(handmade.line, handmade.session).turns
    assert (turn.start_ms, turn.end_ms, turn.heard_text) == (200, 700, "")


@pytest.mark.parametrize(("number", "words"), [(0, "0 turns"), (1, "1 turn"), (2, "2 turns")])
def test_a_number_of_things(number: int, words: str) -> None:
    assert counted(number, "turn") == words


def test_a_turn_that_goes_on_after_a_pause_is_heard_to_its_end_and_answers_nothing(handmade):
    voice = tone(300, 1500) + tone(410, 1500) + tone(530, 1000)
    handmade.says("A question?", 0, 1000)
    handmade.agent("long", WORDS, voice, 1500)
    handmade.says("", 2400, 3000)
    handmade.clear(2702)
    item = handmade.agent("rest", "", voice[1200 * 8 - 80 :], 3500)
    handmade.session.audio_items.remove(item)
    handmade.end(8000)
    pause = Pause(start_ms=2700, end_ms=3500, cause="noise")
    report = measure(handmade.line, handmade.session, pauses=[pause], dead_air_ms=700)
    (long,) = [turn for turn in report.turns if turn.role == "agent"]
    assert (long.start_ms, long.end_ms, long.said_ms, long.heard_ms) == (1502, pytest.approx(6312, abs=2), 4000, 4000)
    assert (long.interrupted, long.heard_text) == (False, WORDS)
    assert (report.pauses, report.dead_air_ms, report.barge_ins) == ([pause], 700, [])
    assert report.latency_ms.response_p50 == report.latency_ms.response_p95 == 702
    assert json.loads(report.json())["pauses"] == [{"start_ms": 2700, "end_ms": 3500, "cause": "noise"}]
