"""Events as readers of the stream get them: their names, their numbers, their size."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

import pytest

from phoneagent.console.encoding import (
    MAX_CUT_CHARS,
    MAX_EVENT_BYTES,
    NAMES,
    Encoded,
    body_of,
    encode,
    server_sent,
    without_numbers,
)
from phoneagent.events import (
    CallEnded,
    CallStarted,
    Cost,
    Event,
    ModelEvent,
    RateLimitsUpdated,
    ToolReturned,
    Turn,
    TurnEnded,
    Usage,
    UsageReported,
)

AT = datetime(2026, 11, 29, 12, 0, 0, 123_456, tzinfo=UTC)
STARTED = CallStarted(call_sid="CA1", stream_sid="MZ1", caller="+15550100001", called=None, direction="inbound")
TURN = Turn(role="agent", item_id="i1", text="Hi you", heard_text="Hi", start_ms=1, end_ms=9, said_ms=8, heard_ms=4)
RETURNED = ToolReturned(call_sid="CA1", at_ms=5, call_id="c1", name="book", output="ok", ms=12)


def encoded_of(event: Event, number: int = 7, event_id: str = "p-7") -> Encoded:
    body = body_of(event, AT)
    assert body is not None
    return encode(body, number, event_id)


def fields_of(event: bytes) -> dict[str, str]:
    """Read the one event as a client does: lines of a name and a value, and an empty one at the end."""
    text = event.decode()
    assert text.endswith("\n\n")
    assert "\n\n" not in text[:-2]
    return dict(line.split(": ", 1) for line in text[:-2].split("\n"))


def data_of(event: Event) -> dict[str, Any]:
    encoded = encoded_of(event)
    assert encoded.number == 7
    data: dict[str, Any] = json.loads(fields_of(encoded.full)["data"])
    return data


def test_an_event_has_its_id_its_name_and_its_fields() -> None:
    encoded = encoded_of(TurnEnded(call_sid="CA1", turn=TURN))
    found = fields_of(encoded.full)
    assert (found["id"], found["event"]) == ("p-7", "turn_ended")
    data = json.loads(found["data"])
    assert (data["type"], data["at"], data["call_sid"]) == ("turn_ended", "2026-11-29T12:00:00.123+00:00", "CA1")
    assert (data["turn"]["text"], data["turn"]["heard_text"], data["turn"]["interrupted"]) == ("Hi you", "Hi", False)
    assert encoded.masked is encoded.full  # one piece of memory for all readers


def test_each_kind_of_event_has_a_name_of_its_own() -> None:
    assert len(set(NAMES.values())) == len(get_args(Event))
    assert {NAMES[kind] for kind in (CallStarted, TurnEnded, CallEnded)} == {"call_started", "turn_ended", "call_ended"}


def test_numbers_are_masked_unless_the_reader_asks_for_them() -> None:
    encoded = encoded_of(STARTED)
    hidden, whole = (json.loads(fields_of(each)["data"]) for each in (encoded.masked, encoded.full))
    assert (whole["caller"], whole["called"]) == ("+15550100001", None)
    assert (hidden["caller"], hidden["called"]) == ("+1••••••01", None)
    assert hidden == {**whole, "caller": hidden["caller"]}


def test_a_record_without_numbers_is_not_copied() -> None:
    data = {"caller": None, "reason": "x"}
    assert without_numbers(data) is data


@pytest.mark.parametrize("text", ["a\nb\r\nc\rd", "<script>alert(1)</script>", "שלום 😀", "id: 5\n\ndata: x", "\u2028"])
def test_no_text_breaks_the_stream(text: str) -> None:
    assert data_of(replace(RETURNED, output=text))["output"] == text


def test_money_stays_exact() -> None:
    cost, total = Cost(Decimal("0.000000001")), Cost(Decimal("1.20"), at_least=True)
    used = UsageReported(
        call_sid="CA1", at_ms=1, number=1, source="response", model="m", usage=Usage(text_in=3), cost=cost, total=total
    )
    data = data_of(used)
    assert data["cost"] == {"usd": "0.000000001", "at_least": False}
    assert data["total"] == {"usd": "1.20", "at_least": True}
    assert data["usage"]["text_in"] == 3


def test_the_end_of_a_call_does_not_repeat_its_turns() -> None:
    ended = CallEnded(call_sid="CA1", ended_by="caller", reason="x", duration_ms=9, transcript=(TURN,) * 500)
    data = data_of(ended)
    assert "transcript" not in data
    assert (data["ended_by"], data["duration_ms"]) == ("caller", 9)


def test_what_is_not_the_call_s_is_left_out() -> None:
    assert body_of(ModelEvent(call_sid="CA1", type="x", data={}), AT) is None
    assert body_of(RateLimitsUpdated(call_sid="CA1", at_ms=0, model="m", limits=()), AT) is None


def test_an_event_that_is_too_large_says_that_it_is_cut() -> None:
    data = data_of(replace(RETURNED, output="é" * MAX_EVENT_BYTES))
    assert (data["cut"], len(data["output"]), data["name"]) == (True, MAX_CUT_CHARS + 1, "book")
    turn = data_of(TurnEnded(call_sid="CA1", turn=replace(TURN, text="x" * MAX_EVENT_BYTES)))["turn"]
    assert (len(turn["text"]), turn["heard_text"], turn["start_ms"]) == (MAX_CUT_CHARS + 1, "Hi", 1)
    assert "cut" not in data_of(RETURNED)


def test_an_event_without_an_id_leaves_the_reader_s_last_one_as_it_is() -> None:
    assert fields_of(server_sent("missed", {"type": "missed"})) == {"event": "missed", "data": '{"type":"missed"}'}
