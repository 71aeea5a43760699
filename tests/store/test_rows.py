"""Events to rows: which ones are kept, and on which clock. No database is needed for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from phoneagent.events import Event, KeyPressed, RateLimitsUpdated
from phoneagent.store import rows
from phoneagent.store.rows import CALL_ITSELF, ROW_BYTES, Kind, Row, RowBuilder, clean
from tests.store.conftest import (
    ANSWERED,
    CALLED,
    CALLER,
    FACT,
    GREETING,
    HEARD,
    RETURNED,
    SID,
    TOOL,
    USED,
    WHOLE,
    WISH,
    ended,
    said,
    started,
)

BEGAN = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECOND = started(stream_sid="MZ2", resumed=True)


class Clock:
    def __init__(self) -> None:
        self.now = BEGAN

    def wait(self, ms: int) -> None:
        self.now += timedelta(milliseconds=ms)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(rows, "now", lambda: made.now)
    return made


def after(ms: int, start: datetime = BEGAN) -> datetime:
    return start + timedelta(milliseconds=ms)


def only(found: list[Row], kind: Kind) -> Row:
    (row,) = found
    assert row.kind is kind
    assert row.call_sid == row.values["of_call"] == SID
    return row


def test_the_time_has_milliseconds_and_a_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    moment = rows.now()
    assert moment.microsecond % 1000 == 0
    assert moment.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("text", "cleaned"), [("a\0b", "ab"), ("\ud83d", "?"), ("\udc00!", "?!"), ("😀 é", "😀 é"), ("", "")]
)
def test_what_no_database_takes_is_cleaned(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_every_text_of_a_row_is_cleaned() -> None:
    call, _ = RowBuilder().rows(started("CA\x001", caller="+1\x00555"))
    assert (call.call_sid, call.values["of_call"], call.values["caller"]) == ("CA1", "CA1", "+1555")


def test_a_row_weighs_its_texts() -> None:
    (row,) = RowBuilder().rows(said(GREETING))
    longer = replace(GREETING, text=GREETING.text + "x" * 1000)
    (heavy,) = RowBuilder().rows(said(longer))
    assert row.weight > ROW_BYTES
    assert heavy.weight - row.weight == 1000


@pytest.mark.parametrize(("event", "kind"), [(started(), Kind.STARTED), (SECOND, Kind.RESUMED)])
def test_a_start_is_a_row_of_the_call_and_one_of_its_stream(event: Event, kind: Kind) -> None:
    call, stream = RowBuilder().rows(event)
    assert (call.kind, stream.kind) == (kind, Kind.STREAM)
    assert (call.values["caller"], call.values["called"], call.values["direction"]) == (CALLER, CALLED, "inbound")
    assert call.values["started_at"] == stream.values["started_at"] == BEGAN
    assert call.values["of_stream"] == stream.values["of_stream"]


def test_a_start_that_is_told_twice_keeps_its_first_moment(clock: Clock) -> None:
    builder = RowBuilder()
    once = builder.rows(started())
    clock.wait(500)
    assert builder.rows(started()) == once


@pytest.mark.parametrize(
    ("event", "kind", "when", "at_ms"),
    [
        (said(WISH), Kind.TURN, "started_at", WISH.start_ms),
        (FACT, Kind.MESSAGE, "at", FACT.at_ms),
        (TOOL, Kind.TOOL_STARTED, "started_at", TOOL.at_ms),
        (RETURNED, Kind.TOOL_RETURNED, "started_at", RETURNED.at_ms - RETURNED.ms),
        (ANSWERED, Kind.ANSWERED, "at", ANSWERED.at_ms),
    ],
)
def test_what_happens_is_on_the_clock_of_its_stream(
    clock: Clock, event: Event, kind: Kind, when: str, at_ms: int
) -> None:
    builder = RowBuilder()
    builder.rows(started())
    clock.wait(60_000)  # the event arrives whenever it may
    assert only(builder.rows(event), kind).values[when] == after(at_ms)


def test_of_several_streams_the_latest_is_meant_unless_another_is_named(clock: Clock) -> None:
    builder = RowBuilder()
    builder.rows(started())
    clock.wait(10_000)
    builder.rows(SECOND)
    latest, first = builder.rows(said(WISH))[0], builder.rows(said(WISH), "MZ1")[0]
    assert (latest.values["of_stream"], latest.values["started_at"]) == ("MZ2", after(10_000 + WISH.start_ms))
    assert (first.values["of_stream"], first.values["started_at"]) == ("MZ1", after(WISH.start_ms))


def test_an_event_of_an_unknown_stream_happened_just_now() -> None:
    row = only(RowBuilder().rows(TOOL), Kind.TOOL_STARTED)
    assert row.values["started_at"] == BEGAN
    turn = only(RowBuilder().rows(said(WISH)), Kind.TURN)
    assert turn.values["of_stream"] == ""
    assert turn.values["started_at"] == after(WISH.start_ms - WISH.end_ms)


def test_a_turn_keeps_what_was_said_and_what_was_heard() -> None:
    turn = replace(WISH, said_ms=2500, heard_ms=800, heard_text="A", interrupted=True)
    values = only(RowBuilder().rows(said(turn)), Kind.TURN).values
    assert (values["text"], values["heard_text"], values["interrupted"]) == ("A table", "A", True)
    assert (values["length_ms"], values["said_ms"], values["heard_ms"]) == (1000, 2500, 800)


def test_dollars_are_kept_in_whole_billionths() -> None:
    values = only(RowBuilder().rows(USED), Kind.USED).values
    assert (values["nano_usd"], values["at_least"]) == (8_160_001, False)
    assert (values["text_cached"], values["audio_out"], values["number"]) == (900, 70, 1)
    assert only(RowBuilder().rows(HEARD), Kind.USED).values["at_least"] is True


def test_the_end_tells_all_turns_once_more(clock: Clock) -> None:
    builder = RowBuilder()
    builder.rows(started())
    clock.wait(60_000)
    greeting, wish, silence, end = builder.rows(ended(transcript=(GREETING, WISH), dead_air_ms=700))
    assert [greeting.values["text"], wish.values["text"]] == [GREETING.text, WISH.text]
    assert (silence.kind, silence.values["longest_ms"]) == (Kind.DEAD_AIR, 700)
    assert end.kind is Kind.ENDED
    assert (end.values["ended_by"], end.values["ended_at"]) == ("agent", after(9000))
    assert "started_at" not in end.values


def test_the_end_of_a_stream_whose_start_was_never_told_says_when_it_began() -> None:
    *_, end = RowBuilder().rows(ended(), "MZ9")
    assert end.kind is Kind.ENDED_UNSEEN
    assert (end.values["of_stream"], end.values["started_at"], end.values["ended_at"]) == ("MZ9", after(-9000), BEGAN)


def test_what_is_remembered_of_streams_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_STREAMS", 2)
    builder = RowBuilder()
    sids = ["CA1", "CA2", "CA3"]
    for sid in sids:
        builder.rows(started(sid))
    kinds = [builder.rows(ended(sid))[-1].kind for sid in sids]
    assert kinds == [Kind.ENDED_UNSEEN, Kind.ENDED, Kind.ENDED]


def test_state_and_a_tool_s_start_have_rows_of_their_own() -> None:
    state = only([RowBuilder().state(SID, "MZ1", '{"n": 1}')], Kind.STATE)
    assert (state.values["of_stream"], state.values["state"]) == ("MZ1", '{"n": 1}')
    tool = only([RowBuilder().tool_started(SID, "call_1", "book", "{}", BEGAN)], Kind.TOOL_STARTED)
    assert (tool.values["call_id"], tool.values["started_at"]) == ("call_1", BEGAN)


def test_other_events_are_not_kept() -> None:
    for event in (
        KeyPressed(call_sid=SID, at_ms=1, digit="7"),
        RateLimitsUpdated(call_sid=SID, at_ms=1, model="m", limits=()),
    ):
        assert RowBuilder().rows(event) == []


def test_only_starts_and_ends_may_never_be_dropped() -> None:
    builder = RowBuilder()
    kinds = {row.kind for event in (*WHOLE, SECOND, ended("CA9")) for row in builder.rows(event)}
    assert kinds & CALL_ITSELF == CALL_ITSELF
    assert kinds - CALL_ITSELF == set(Kind) - CALL_ITSELF - {Kind.STATE, Kind.PENDING, Kind.TRANSFERRED}
