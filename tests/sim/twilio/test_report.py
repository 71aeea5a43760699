"""The report of a call, as the phone alone can tell."""

from __future__ import annotations

from phoneagent.sim.twilio.line import Announcement, Line
from phoneagent.sim.twilio.microphone import Utterance
from phoneagent.sim.twilio.report import call_report, response_ms


def finished_call() -> Line:
    """A greeting of 1 s in two pieces, a question, an answer of 5 s cut after 1.5 s, another question, no answer."""
    line = Line(call_sid="CA1", account_sid="AC1")
    line.started_at = line.playout.started_at = 100.0
    line.playout.media(bytes(4000), 100.2)
    line.playout.media(bytes(4000), 101.0)
    line.speech.append(Utterance("A table, please.", 2000, 3000))
    line.playout.media(bytes(40000), 103.5)
    line.speech.append(Utterance(None, 4800, 5600))
    line.playout.clear(105.0)
    line.ended_at, line.ended_by = 107.0, "caller"
    line.report("31950 x")
    return line


def test_turns_barge_ins_and_latency():
    report = call_report(finished_call())
    assert report["call_sid"] == "CA1"
    assert report["ended_by"] == "caller"
    assert report["duration_ms"] == 7000
    assert report["streams"] == 0
    assert report["violations"] == ["31950 x"]
    assert report["tool_calls"] == []
    greeting, question, answer, interruption = report["turns"]
    assert greeting == {
        "role": "agent",
        "text": "",
        "heard_text": "",
        "start_ms": 200,
        "end_ms": 1500,
        "said_ms": 1000,
        "heard_ms": 1000,
        "interrupted": False,
    }
    assert (question["role"], question["text"], question["start_ms"], question["said_ms"]) == (
        "caller",
        "A table, please.",
        2000,
        1000,
    )
    assert (answer["said_ms"], answer["heard_ms"], answer["interrupted"]) == (5000, 1500, True)
    assert (interruption["text"], interruption["end_ms"]) == ("", 5600)
    assert report["barge_ins"] == [{"item_id": None, "audio_end_ms": None, "truth_heard_ms": 1500, "reaction_ms": 200}]
    assert report["latency_ms"] == {
        "first_audio": 200,
        "response_p50": 500,
        "response_p95": 500,
        "bridge_up_p99": None,
        "bridge_down_p99": None,
    }


def test_what_twiml_said_is_a_turn_with_its_words():
    line = finished_call()
    line.announcements += [Announcement("Say", "Please hold.", 98.0, 99.5), Announcement("Play", "", 106.5)]
    report = call_report(line)
    greeting, last = report["turns"][0], report["turns"][-1]
    assert (greeting["twiml"], greeting["text"], greeting["start_ms"], greeting["heard_ms"]) == (
        "Say",
        "Please hold.",
        -2000,
        1500,
    )
    assert (last["twiml"], last["text"], last["start_ms"], last["heard_ms"]) == ("Play", "", 6500, 0)
    assert report["latency_ms"]["first_audio"] == 200, "that of the stream"


def test_a_call_without_a_stream_has_no_duration_and_its_words_count_from_the_first():
    line = Line(call_sid="CA1", account_sid="AC1")
    line.announcements += [Announcement("Say", "Hello.", 5000.0, 5001.0), Announcement("Say", "Bye.", 5002.0, 5003.0)]
    line.end("agent")
    report = call_report(line)
    assert report["duration_ms"] == 0
    assert [(turn["start_ms"], turn["end_ms"]) for turn in report["turns"]] == [(0, 1000), (2000, 3000)]


def test_a_line_that_the_agent_talked_over_has_no_response_time():
    line = finished_call()
    line.speech.insert(0, Utterance("Hello?", 0, 400))
    assert response_ms(line) == [500]


def test_a_clear_that_dropped_nothing_is_no_barge_in():
    line = Line(call_sid="CA1", account_sid="AC1")
    line.started_at = line.playout.started_at = 100.0
    line.playout.clear(101.0)
    line.ended_at = 102.0
    report = call_report(line)
    assert (report["barge_ins"], report["turns"]) == ([], [])
    assert report["latency_ms"]["first_audio"] is None
    assert report["latency_ms"]["response_p50"] is None
