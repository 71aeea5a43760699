"""A record of a call: its figures, its JSON, and what its repr leaves out."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from phoneagent.events import Cost, Usage
from phoneagent.store import (
    AnswerRecord,
    CallDetails,
    MessageRecord,
    StreamRecord,
    ToolRecord,
    UsageRecord,
)
from tests.store.conftest import (
    CALLED,
    CALLER,
    GREETING,
    SID,
)

pytestmark = pytest.mark.anyio
START = datetime(2026, 11, 20, 19, 30, tzinfo=UTC)


def call(**changes: Any) -> CallDetails:
    values: dict[str, Any] = {
        "call_sid": SID,
        "stream_sid": "MZ2",
        "caller": CALLER,
        "called": CALLED,
        "direction": "inbound",
        "started_at": START,
        "ended_at": START + timedelta(seconds=9.25),
        "ended_by": "agent",
        "reason": "the goodbye was heard",
        "cost": Cost(Decimal("1E-9")),
        "streams": (StreamRecord(stream_sid="MZ1", at_ms=0), StreamRecord(stream_sid="MZ2", at_ms=4000)),
        "turns": (GREETING,),
        "messages": (MessageRecord(role="system", text="A regular.", at_ms=1200),),
        "tools": (ToolRecord(call_id="c", name="book", arguments="{}", output=None, at_ms=3100, ms=None),),
        "answers": (),
        "usage": (UsageRecord(model="m", usage=Usage(text_in=5), cost=Cost(Decimal("1E-9"), at_least=True)),),
    }
    return CallDetails(**values | changes)


def answers(*latencies: int) -> tuple[AnswerRecord, ...]:
    return tuple(AnswerRecord(at_ms=1000 * place, latency_ms=ms) for place, ms in enumerate(latencies))


# --- figures and JSON, without a database ---


def test_a_live_call_has_no_duration() -> None:
    assert call().duration_ms == 9250
    assert call(ended_at=None).duration_ms is None


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 300), (0.25, 300), (0.26, 500), (0.5, 500), (0.95, 900), (1.0, 900)]
)
def test_the_latency_that_a_share_of_the_answers_did_not_exceed(share: float, expected: int) -> None:
    assert call(answers=answers(900, 300, 700, 500)).latency_ms(share) == expected


def test_without_an_answer_there_is_no_latency() -> None:
    assert call().latency_ms(0.5) is None
    assert call().as_dict()["latency_ms"] == {"response_p50": None, "response_p95": None}


def test_a_record_survives_json() -> None:
    shown = call(answers=answers(600)).as_dict()
    assert json.loads(json.dumps(shown)) == shown
    assert (shown["caller"], shown["called"]) == (CALLER, CALLED)
    assert (shown["started_at"], shown["ended_at"]) == ("2026-11-20T19:30:00+00:00", "2026-11-20T19:30:09.250000+00:00")
    assert shown["duration_ms"] == 9250
    assert [stream["stream_sid"] for stream in shown["streams"]] == ["MZ1", "MZ2"]
    assert shown["tool_calls"][0] == {
        "call_id": "c",
        "name": "book",
        "arguments": "{}",
        "output": None,
        "at_ms": 3100,
        "ms": None,
    }
    assert shown["turns"][0]["heard_text"] == GREETING.heard_text
    assert shown["answers"] == [{"at_ms": 0, "latency_ms": 600}]


def test_dollars_are_exact_and_never_in_scientific_notation() -> None:
    shown = call().as_dict()
    assert shown["cost"] == {"usd": "0.000000001", "at_least": False}
    assert shown["usage"][0]["cost"] == {"usd": "0.000000001", "at_least": True}
    assert shown["usage"][0]["text_in"] == 5
    assert call(cost=None).as_dict()["cost"] is None


def test_numbers_and_speech_are_not_in_a_record_s_repr() -> None:
    shown = repr(call())
    assert SID in shown
    for private in (CALLER, CALLED, GREETING.text, "A regular.", "{}"):
        assert private not in shown


# --- from a database ---
