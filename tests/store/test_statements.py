"""The statements that write a call with several media streams, in one process or in several: one record, for which the
latest stream speaks.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from phoneagent.bridge.steps import FallBack, HangUp, Resume
from phoneagent.events import CallEnded, CallHandedOver, CallTransferred, EndedBy, Event
from phoneagent.store import Store, forgetting, rows, statements, writer
from phoneagent.store.rows import Kind, Row, RowBuilder
from tests.store.conftest import (
    BROKEN,
    CALLER,
    GREETING,
    RETURNED,
    SID,
    TOOL,
    WHOLE,
    WISH,
    a_moment,
    ended,
    record_of,
    said,
    started,
    stores,
)

pytestmark = pytest.mark.anyio

SECOND = started(stream_sid="MZ2", resumed=True)
THIRD = started(stream_sid="MZ3", resumed=True)
LATER_WISH = replace(WISH, item_id="item_1", text="And a high chair", heard_text="And a high chair")
HANDED_OVER = CallHandedOver(call_sid=SID, at_ms=4000, reason="this process ends")


@pytest.fixture(params=["one batch", "many batches"])
def in_batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many batches":
        monkeypatch.setattr(writer, "BATCH_ROWS", 1)


# --- without a database ---


def rows_of_every_kind() -> dict[Kind, Row]:
    builder = RowBuilder()
    transferred = CallTransferred(call_sid=SID, to_name="billing", outcome="completed")
    found = [row for event in (*WHOLE, SECOND, transferred, ended("CA2")) for row in builder.rows(event)]
    found += [builder.state(SID, "MZ1", "{}"), *builder.unfinished(SID, "MZ1", [WISH], "answer")]
    return {row.kind: row for row in found}


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=["sqlite", "postgresql"])
@pytest.mark.parametrize("kind", Kind)
def test_the_statement_of_every_kind_asks_for_what_its_row_has(kind: Kind, dialect: Dialect) -> None:
    wanted = set(statements.statements(dialect.name)[kind].compile(dialect=dialect).params)
    given = set(statements.parameters(rows_of_every_kind()[kind]))
    constants = {name for name in wanted if name.startswith(("param_", "stream_sid_", "ended_by_", "name_"))}
    assert wanted - constants <= given


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=["sqlite", "postgresql"])
def test_forgetting_an_ended_call_asks_for_what_the_end_has(dialect: Dialect) -> None:
    text = str(statements.forget_ended().compile(dialect=dialect))
    assert text.startswith("DELETE FROM calls WHERE")
    wanted = {name for name in statements.forget_ended().compile(dialect=dialect).params if name.startswith("of_")}
    assert wanted <= set(statements.parameters(rows_of_every_kind()[Kind.ENDED]))


def test_only_a_later_stream_minds_that_clocks_differ() -> None:
    for kind, row in rows_of_every_kind().items():
        parameters = statements.parameters(row)
        if kind is Kind.RESUMED:
            late = parameters["late"] - row.values["started_at"]
            assert late == timedelta(seconds=statements.CLOCKS_DIFFER_SECONDS)
        else:
            assert parameters == row.values


# --- in both databases ---


@pytest.mark.parametrize(("ended_by", "opens"), [("line", True), ("error", True), ("agent", False), ("caller", False)])
@pytest.mark.usefixtures("in_batches")
async def test_a_call_goes_on_unless_it_has_ended_for_good(ready: str, ended_by: EndedBy, opens: bool) -> None:
    async with stores(ready) as (first, second):
        first.tell(started())
        first.tell(said(GREETING))
        first.tell(ended(ended_by=ended_by))
        before = await record_of(first)
        await a_moment()
        second.tell(SECOND)
        record = await record_of(second)
        assert (record.stream_sid, record.started_at) == ("MZ2", before.started_at)
        assert (record.ended_by, record.ended_at is None, record.reason is None) == (
            None if opens else ended_by,
            opens,
            opens,
        )
        assert [(stream.stream_sid, stream.at_ms > 0) for stream in record.streams] == [("MZ1", False), ("MZ2", True)]
        second.tell(ended(ended_by="agent", reason="the goodbye was heard"))
        assert (await record_of(second)).ended_by == "agent"


async def test_many_calls_of_every_kind_are_written_in_one_batch(ready: str) -> None:
    """What comes once in a hundred calls comes twice in one batch at a deploy."""
    sids = ["CA" + digit * 32 for digit in "123"]
    facts: tuple[Event, ...] = (
        started(),
        said(GREETING),
        SECOND,
        said(WISH),
        TOOL,
        RETURNED,
        HANDED_OVER,
        THIRD,
        ended(),
    )
    async with Store.from_url(ready) as kept:
        for sid in sids:
            for fact in facts:
                kept.tell(replace(fact, call_sid=sid))
        for sid in sids:
            kept.tell(replace(ended(), call_sid=sid.replace("CA", "CB")))  # of calls whose start was never told
        await kept.flush()
        assert kept._writer.waiting == 0
        for sid in sids:
            record = await kept.call(sid)
            assert record is not None
            assert record.stream_sid == "MZ3"
            assert len(record.tools) == 1


@pytest.mark.parametrize(("end", "ended_by"), [(BROKEN, None), (ended(), "agent")])
async def test_what_happens_within_one_batch_happens_in_its_order(
    ready: str, end: CallEnded, ended_by: EndedBy | None
) -> None:
    async with Store.from_url(ready) as kept:
        for event in (started(), said(GREETING), end, SECOND, said(LATER_WISH)):
            kept.tell(event)
        record = await record_of(kept)
        assert (record.stream_sid, record.ended_by) == ("MZ2", ended_by)
        assert [turn.text for turn in record.turns] == [GREETING.text, LATER_WISH.text]


async def test_a_call_whose_first_stream_was_never_written_has_a_record(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(SECOND)
        kept.tell(said(WISH))
        record = await record_of(kept)
        assert (record.caller, record.stream_sid, record.turns) == (CALLER, "MZ2", (WISH,))


@pytest.mark.usefixtures("in_batches")
async def test_the_end_of_an_older_stream_is_not_the_call_s(ready: str) -> None:
    async with stores(ready) as (first, second):
        first.tell(started())
        await first.flush()
        second.tell(SECOND)
        await second.flush()
        for event in (said(GREETING), TOOL, RETURNED, ended(transcript=(GREETING, WISH))):
            first.tell(event)
        record = await record_of(first)
        assert (record.stream_sid, record.ended_by, record.ended_at) == ("MZ2", None, None)
        assert [turn.text for turn in record.turns] == [GREETING.text, WISH.text]
        assert [tool.output for tool in record.tools] == ["Booked"]


async def test_two_streams_of_a_call_in_one_process_are_told_apart(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started(), stream_sid="MZ1")
        await kept.flush()
        first = await record_of(kept)
        await a_moment()
        kept.tell(SECOND, stream_sid="MZ2")
        kept.tell(said(LATER_WISH), stream_sid="MZ2")
        kept.tell(TOOL, stream_sid="MZ1")
        kept.tell(RETURNED, stream_sid="MZ1")
        kept.tell(ended(transcript=(GREETING,)), stream_sid="MZ1")
        record = await record_of(kept)
        assert (record.stream_sid, record.ended_by, record.started_at) == ("MZ2", None, first.started_at)
        assert {turn.text for turn in record.turns} == {GREETING.text, LATER_WISH.text}
        assert [tool.at_ms for tool in record.tools] == [TOOL.at_ms]  # on the clock of its own stream
        kept.tell(ended(ended_by="caller", reason="the caller hung up"), stream_sid="MZ2")
        assert (await record_of(kept)).ended_by == "caller"


async def test_a_first_stream_that_is_heard_of_last_does_not_speak_for_the_call(ready: str) -> None:
    async with stores(ready) as (first, second):
        second.tell(SECOND)
        await second.flush()
        first.tell(started())
        first.tell(ended())
        record = await record_of(first)
        assert (record.stream_sid, record.ended_by) == ("MZ2", None)


async def test_a_stream_that_is_heard_of_late_does_not_take_over(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "CLOCKS_DIFFER_SECONDS", 0.0)
    monkeypatch.setattr(writer, "LINGER_SECONDS", 60.0)
    async with stores(ready, 3) as (first, second, third):
        first.tell(started())
        await first.flush()
        second.tell(SECOND)  # waits for a database that is away
        await a_moment()
        third.tell(THIRD)
        await third.flush()
        second.tell(ended())
        record = await record_of(second)
        assert (record.stream_sid, record.ended_by) == ("MZ3", None)
        assert [stream.stream_sid for stream in record.streams] == ["MZ1", "MZ2", "MZ3"]


async def test_a_clock_that_is_a_little_slow_changes_nothing(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LINGER_SECONDS", 60.0)
    async with stores(ready, 3) as (first, second, third):
        first.tell(started())
        await first.flush()
        third.tell(THIRD)  # by its clock it began before the second
        await a_moment()
        second.tell(SECOND)
        await second.flush()
        assert (await record_of(third)).stream_sid == "MZ3"


async def test_a_stream_takes_a_call_over_once(ready: str) -> None:
    async with stores(ready, 3) as (first, second, third):
        for kept, event in ((first, started()), (second, SECOND), (third, THIRD), (second, SECOND)):
            kept.tell(event)
            await kept.flush()
        assert (await record_of(first)).stream_sid == "MZ3"


@pytest.mark.parametrize("record_days", [0, 90])
async def test_a_hand_over_ends_nothing(ready: str, record_days: int) -> None:
    async with Store.from_url(ready, record_days=record_days) as kept:
        for event in (started(), said(GREETING), HANDED_OVER):
            kept.tell(event)
        record = await record_of(kept)
        assert (record.ended_by, record.turns) == (None, (GREETING,))


async def test_a_tool_that_outlives_its_call_is_recorded(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        for event in (started(), TOOL, ended()):
            kept.tell(event)
        assert [tool.output for tool in (await record_of(kept)).tools] == [None]
        kept.tell(RETURNED)
        record = await record_of(kept)
        assert [(tool.output, tool.at_ms, tool.ms) for tool in record.tools] == [("Booked", 3100, 50)]
        assert record.ended_by == "agent"


# --- RECORD_DAYS=0 ----------------------------------------------------------------------------------------------------


async def test_with_record_days_0_only_the_latest_stream_deletes(ready: str) -> None:
    async with Store.from_url(ready, record_days=0) as first, Store.from_url(ready, record_days=0) as second:
        first.tell(started())
        await first.flush()
        second.tell(SECOND)
        await second.flush()
        first.tell(ended())
        assert (await record_of(first)).ended_by is None
        second.tell(ended())
        assert await second.calls() == []


@pytest.mark.usefixtures("in_batches")
async def test_with_record_days_0_calls_that_end_together_are_deleted_together(ready: str) -> None:
    sids = [f"CA{number:032x}" for number in range(1, 4)]
    async with Store.from_url(ready, record_days=0) as kept:
        for sid in sids:
            kept.tell(started(sid))
        for sid, by in zip(sids, ("caller", "line", "agent"), strict=True):
            kept.tell(ended(sid, ended_by=by))
        assert [call.call_sid for call in await kept.calls()] == [sids[1]]  # its line broke, so it may come back


@pytest.mark.usefixtures("in_batches")
async def test_with_record_days_0_what_was_said_outlives_a_broken_line_but_not_the_call(ready: str) -> None:
    async with Store.from_url(ready, record_days=0) as kept:
        for event in (started(), said(GREETING), BROKEN):
            kept.tell(event)
        assert (await record_of(kept)).turns == (GREETING,)
        await kept.sweep()
        kept.tell(SECOND)
        assert [turn.text for turn in (await record_of(kept)).turns] == [GREETING.text]
        kept.tell(ended())
        assert await kept.calls() == []


@pytest.mark.parametrize("by", ["Twilio's word", "a sweep"])
async def test_with_record_days_0_a_broken_line_that_is_not_resumed_is_forgotten(
    ready: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "RESUME_SECONDS", 0.0)
    async with Store.from_url(ready, record_days=0) as kept:
        kept.tell(started())
        kept.tell(ended(ended_by="line", duration_ms=0))
        await kept.flush()
        await a_moment()
        if by == "a sweep":
            assert await kept.sweep() == 1
        else:
            assert not await kept.settle(SID, ended_by="caller", reason="completed")
        assert await kept.calls() == []


# --- next steps and ends from elsewhere -------------------------------------------------------------------------------


async def test_a_step_of_an_older_stream_is_void(ready: str) -> None:
    step = Resume(stream_sid="MZ1", pending="answer")
    async with stores(ready) as (first, second):
        await first.next_step(SID, step)
        assert (await second.standing(SID)).step == step  # there is no record to say otherwise
        first.tell(started())
        await first.flush()
        assert (await second.standing(SID)).step == step
        second.tell(SECOND)
        await second.flush()
        assert (await first.standing(SID)).step is None
        await second.next_step(SID, HangUp(stream_sid="MZ2"))
        assert (await first.standing(SID)).step == HangUp(stream_sid="MZ2")
        await second.next_step(SID, HangUp())
        assert (await first.standing(SID)).step == HangUp()


async def test_a_step_that_an_older_stream_writes_late_replaces_none(ready: str) -> None:
    async with stores(ready) as (first, second):
        first.tell(started())
        await first.flush()
        second.tell(SECOND)
        await second.next_step(SID, HangUp(stream_sid="MZ2"))
        await second.flush()
        await first.next_step(SID, Resume(stream_sid="MZ1"))
        assert (await first.standing(SID)).step == HangUp(stream_sid="MZ2")


async def test_of_two_steps_of_a_stream_the_one_that_was_given_later_stays(ready: str) -> None:
    early, late = HangUp(stream_sid="MZ1"), FallBack(stream_sid="MZ1")
    moment = rows.now()
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        await kept.next_step(SID, late, at=moment + timedelta(milliseconds=1))
        await kept.next_step(SID, early, at=moment)  # overtaken on its way
        assert (await kept.standing(SID)).step == late
        await kept.next_step(SID, early)
        assert (await kept.standing(SID)).step == early


async def test_a_stream_that_has_just_begun_voids_the_step_before_it_at_once(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        await kept.next_step(SID, Resume(stream_sid="MZ1"))
        kept.tell(SECOND)
        assert (await kept.standing(SID)).step is None


@pytest.mark.parametrize(("stream_sid", "wins"), [("MZ1", False), ("MZ2", True)])
async def test_the_latest_stream_s_own_end_is_better_than_one_from_elsewhere(
    ready: str, stream_sid: str, wins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LINGER_SECONDS", 60.0)
    events: list[Event] = [started(), SECOND]
    async with stores(ready, 3) as (ours, theirs, late):
        for event in events:
            ours.tell(event)
        await ours.flush()
        late.tell(THIRD)
        await a_moment()
        assert await theirs.settle(SID, ended_by="caller", reason="completed")
        ours.tell(ended(), stream_sid=stream_sid)
        await ours.flush()
        assert (await record_of(theirs)).ended_by == ("agent" if wins else "caller")
        assert not await theirs.settle(SID, ended_by="error", reason="failed")
        ours.tell(started())  # late, and told twice
        await ours.flush()
        record = await record_of(late)  # it began before the end
        assert (record.stream_sid, record.ended_by) == ("MZ3", "agent" if wins else "caller")


@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.parametrize("ended_by", ["agent", "caller", "line"])
@pytest.mark.usefixtures("in_batches")
async def test_a_call_whose_stream_begins_after_its_end_has_come_back(
    ready: str, ended_by: EndedBy, resumed: bool
) -> None:
    """Other TwiML had it in between. It is open, the new stream speaks for it, and that is told once or twice."""
    back = started(stream_sid="MZ2", resumed=resumed)
    async with stores(ready) as (first, second):
        first.tell(started())
        first.tell(said(GREETING))
        first.tell(ended(ended_by=ended_by, duration_ms=0))
        before = await record_of(first)
        await a_moment()
        for _ in range(2):
            second.tell(back)
            await second.flush()
        first.tell(started())  # late, and told twice
        record = await record_of(first)
        assert (record.stream_sid, record.started_at, record.ended_by) == ("MZ2", before.started_at, None)
        assert record.turns == (GREETING,)
        await second.next_step(SID, Resume(stream_sid="MZ2"))
        assert (await first.standing(SID)).step == Resume(stream_sid="MZ2")
        second.tell(ended(ended_by="agent", duration_ms=0))
        second.tell(back)
        assert (await record_of(second)).ended_by == "agent"


async def test_settling_changes_no_end_and_makes_no_record(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        assert not await kept.settle("CA0", ended_by="caller", reason="completed")
        assert await kept.calls() == []
        kept.tell(started())
        kept.tell(BROKEN)
        assert not await kept.settle(SID, ended_by="caller", reason="completed")
        record = await record_of(kept)
        assert (record.ended_by, record.duration_ms) == ("line", 4000)


@pytest.mark.usefixtures("in_batches")
@pytest.mark.parametrize("silences", [(300, 900), (900, 300), (0, 0)])
async def test_the_longest_silence_of_all_streams_is_the_call_s(ready: str, silences: tuple[int, int]) -> None:
    first, last = silences
    async with Store.from_url(ready) as kept:
        for event in (started(), replace(HANDED_OVER, dead_air_ms=first), SECOND):
            kept.tell(event)
        record = await record_of(kept)
        assert (record.dead_air_ms, record.ended_at) == (first, None)
        kept.tell(ended(dead_air_ms=last))
        assert (await record_of(kept)).dead_air_ms == max(silences)
