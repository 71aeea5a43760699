"""The figures of `report.json`, as far as the phone alone can measure a call.

A phone hears audio, not words: the text of the agent's turns is empty, and figures that only the server knows are null.
The speech of TwiML verbs is a turn of the agent too, with its words. Such a turn has a `twiml`, the verb, and if it
came before the first stream, a negative start. Without a stream, times count from the first such turn. The latencies
are those of the streams.
"""

from __future__ import annotations

import statistics
from typing import Any

from phoneagent.protocol.audio import BYTES_PER_MS
from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.line import Announcement, Line
from phoneagent.sim.twilio.playout import Clear, Span

TURN_GAP_MS = 700
"""The agent's audio is one turn unless it is silent for longer than this, or the caller spoke in between."""

Turn = dict[str, Any]


def call_report(line: Line) -> dict[str, Any]:
    """Return the report of a call that is over, ready for JSON; times in milliseconds from the first stream's start."""
    agent = _agent_turns(line)
    caller = [
        _turn("caller", each.text or "", each.start_ms, each.end_ms, each.end_ms - each.start_ms)
        for each in line.speech
    ]
    announced = [_announced_turn(line, each) for each in line.announcements]
    waits = response_ms(line)
    return {
        "call_sid": line.call_sid,
        "ended_by": line.ended_by,
        "duration_ms": round(line.duration_ms),
        "streams": len(line.streams),
        "turns": sorted([*announced, *caller, *agent], key=lambda turn: turn["start_ms"]),
        "barge_ins": [_barge_in(line, clear, agent) for clear in line.clears if clear.received_to > clear.heard_to],
        "tool_calls": [],
        "latency_ms": {
            "first_audio": round(line.heard[0].start_ms) if line.heard else None,
            "response_p50": _percentile(waits, 50),
            "response_p95": _percentile(waits, 95),
            "bridge_up_p99": None,
            "bridge_down_p99": None,
        },
        "violations": list(line.violations),
    }


def failed_report(failure: CallFailed) -> dict[str, Any]:
    """Return the report of a call that never reached a stream."""
    empty = dict.fromkeys(("first_audio", "response_p50", "response_p95", "bridge_up_p99", "bridge_down_p99"))
    return {
        "call_sid": None,
        "ended_by": "error",
        "duration_ms": 0,
        "streams": 0,
        "turns": [],
        "barge_ins": [],
        "tool_calls": [],
        "latency_ms": empty,
        "violations": list(dict.fromkeys([*failure.violations, str(failure)])),
    }


def response_ms(line: Line) -> list[float]:
    """Return the response times: from the end of each answered line of the caller to the agent's next sound, in ms.

    A line has no figure if the agent was still talking at its end, or if the caller went on before an answer.
    """
    waits = []
    spans = line.heard
    ends = [each.start_ms for each in line.speech[1:]] + [float("inf")]
    for utterance, next_ms in zip(line.speech, ends, strict=False):
        talking = any(span.start_ms <= utterance.end_ms < span.end_ms for span in spans)
        answers = [span.start_ms for span in spans if utterance.end_ms <= span.start_ms < next_ms]
        if answers and not talking:
            waits.append(answers[0] - utterance.end_ms)
    return waits


def _agent_turns(line: Line) -> list[Turn]:
    groups: list[list[Span]] = []
    for span in line.heard:
        last = groups[-1][-1] if groups else None
        if last and span.start_ms - last.end_ms <= TURN_GAP_MS and not _spoke(line, last.end_ms, span.start_ms):
            groups[-1].append(span)
        else:
            groups.append([span])
    turns = []
    for spans in groups:
        heard_ms = sum(span.end_ms - span.start_ms for span in spans)
        cut = [c for c in line.clears if c.heard_to == spans[-1].stream_end and c.received_to > c.heard_to]
        dropped_ms = (cut[0].received_to - cut[0].heard_to) / BYTES_PER_MS if cut else 0.0
        turn = _turn("agent", "", spans[0].start_ms, spans[-1].end_ms, heard_ms)
        turns.append({**turn, "said_ms": round(heard_ms + dropped_ms), "interrupted": bool(cut)})
    return turns


def _announced_turn(line: Line, heard: Announcement) -> Turn:
    began = line.started_at or line.announcements[0].started_at
    start_ms = (heard.started_at - began) * 1000
    end_ms = start_ms if heard.ended_at is None else (heard.ended_at - began) * 1000
    return {**_turn("agent", heard.text, start_ms, end_ms, end_ms - start_ms), "twiml": heard.verb}


def _spoke(line: Line, from_ms: float, to_ms: float) -> bool:
    return any(each.start_ms < to_ms and each.end_ms > from_ms for each in line.speech)


def _turn(role: str, text: str, start_ms: float, end_ms: float, heard_ms: float) -> Turn:
    return {
        "role": role,
        "text": text,
        "heard_text": text,
        "start_ms": round(start_ms),
        "end_ms": round(end_ms),
        "said_ms": round(heard_ms),
        "heard_ms": round(heard_ms),
        "interrupted": False,
    }


def _barge_in(line: Line, clear: Clear, agent: list[Turn]) -> dict[str, Any]:
    """Return the entry of a clear that dropped audio: how much of the turn was heard, and the reaction time."""
    began = [each.start_ms for each in line.speech if each.start_ms <= clear.at_ms]
    cut = [turn for turn in agent if turn["start_ms"] <= round(clear.at_ms)]
    return {
        "item_id": None,
        "audio_end_ms": None,
        "truth_heard_ms": cut[-1]["heard_ms"] if cut and cut[-1]["interrupted"] else 0,
        "reaction_ms": round(clear.at_ms - began[-1]) if began else None,
    }


def _percentile(values: list[float], percent: int) -> int | None:
    if len(values) < 2:
        return round(values[0]) if values else None
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1])
