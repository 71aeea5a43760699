"""The list of calls: live ones, then recorded ones, in pages that leave none out and show none twice."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Agent, Call
from phoneagent.bridge.policy import Floor
from phoneagent.console.feed import Feed
from phoneagent.console.listing import MAX_STATE_CHARS, MAX_STATE_VALUES, Listing, State
from phoneagent.console.problems import BadRequest
from phoneagent.events import AgentAnswered, CallEnded, CallStarted, Cost, Turn, TurnEnded, Usage, UsageReported
from phoneagent.store import CallFilter, Store

pytestmark = pytest.mark.anyio
CALLER = "+15550100001"
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
TURN = Turn(role="agent", item_id="i1", text="Hi you", heard_text="Hi", start_ms=1, end_ms=9, said_ms=8, heard_ms=4)


def started(sid: str) -> CallStarted:
    return CallStarted(call_sid=sid, stream_sid=f"MZ{sid}", caller=CALLER, called="+15550100009", direction="inbound")


def ended(sid: str) -> CallEnded:
    return CallEnded(call_sid=sid, ended_by="caller", reason="the caller hung up", duration_ms=9, transcript=())


def call(sid: str, minutes: int = 0) -> Call:
    started_at = NOON + timedelta(minutes=minutes)
    return Call(sid=sid, caller=CALLER, called="+15550100009", direction="inbound", started_at=started_at)


class Office:
    """The live calls of a process, and its records."""

    def __init__(self, store: Store | None) -> None:
        self.store = store
        self.feed = Feed()
        self.calls: dict[str, Call] = {}
        self.seen: dict[str, tuple[Floor, Agent]] = {}
        self.listing = Listing(self.calls, self.seen.get, self.feed.vitals, store)

    def live(self, *calls: Call) -> None:
        for each in calls:
            self.calls[each.sid] = each
            self.feed.tell(started(each.sid), f"MZ{each.sid}")

    def recorded(self, *events: Any) -> None:
        assert self.store is not None
        for event in events:
            self.store.tell(event)

    async def sids(self, limit: int, state: State | None = None) -> list[list[str]]:
        """Return the pages of the list."""
        pages, cursor = [], None
        for _ in range(50):
            page = await self.listing.page(limit, state=state, cursor=cursor, full=False)
            pages.append([each["call_sid"] for each in page.calls])
            if (cursor := page.cursor) is None:
                return pages
        raise AssertionError(f"the list does not end: {pages}")


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    async with Store.from_url(f"sqlite:///{tmp_path / 'calls.db'}") as store:
        yield Office(store)


async def test_a_live_call_shows_where_it_stands() -> None:
    office = Office(None)
    office.live(call("CA1"))
    cost = Cost(Decimal("0.02"))
    used = UsageReported(
        call_sid="CA1", at_ms=1, number=1, source="response", model="m", usage=Usage(), cost=cost, total=cost
    )
    office.feed.tell(used, "MZCA1")
    office.feed.tell(AgentAnswered(call_sid="CA1", at_ms=1, latency_ms=640), "MZCA1")
    office.seen["CA1"] = (Floor.THINKING, Agent(instructions="x", name="host"))
    (found,) = (await office.listing.page(10, state=None, cursor=None, full=False)).calls
    assert found == {
        "call_sid": "CA1",
        "stream_sid": "MZCA1",
        "caller": "+1••••••01",
        "called": "+1••••••09",
        "direction": "inbound",
        "started_at": "2026-11-29T12:00:00+00:00",
        "ended_at": None,
        "ended_by": None,
        "reason": None,
        "duration_ms": None,
        "cost": {"usd": "0.02", "at_least": False},
        "dead_air_ms": None,
        "recording": None,
        "outcome": None,
        "outcome_error": None,
        "state": "live",
        "agent": "host",
        "floor": "thinking",
        "last_latency_ms": 640,
        "muted": False,
        "latency_ms": {"response_p50": None, "response_p95": None},
    }
    assert await office.listing.call("CA1", full=True) == {
        **found,
        "call_state": {},
        "caller": CALLER,
        "called": "+15550100009",
        "record": None,
    }
    assert await office.listing.call("CA2", full=True) is None


async def test_a_call_that_is_just_over_is_shown_all_the_same() -> None:
    office = Office(None)
    office.live(call("CA1"))
    office.feed.tell(ended("CA1"), "MZCA1")  # its tools still run
    (found,) = (await office.listing.page(10, state="live", cursor=None, full=True)).calls
    assert (found["caller"], found["floor"], found["agent"], found["cost"]) == (CALLER, None, None, None)


async def test_live_calls_come_first_then_the_recorded_ones_each_once(office: Office) -> None:
    for sid in ("CA1", "CA2", "CA3", "CA4"):
        office.recorded(started(sid), ended(sid))
    office.recorded(started("CA5"), started("CA6"))  # of another process; and a live one that is recorded too
    office.live(call("CA6"), call("CA7", 1), call("CA8", 1))
    whole = await office.sids(50)
    assert len(whole) == 1
    assert whole[0][:3] == ["CA7", "CA8", "CA6"]
    assert sorted(whole[0]) == [f"CA{number}" for number in range(1, 9)]
    for limit in (1, 2, 3, 4, 7, 8):
        pages = await office.sids(limit)
        assert [sid for page in pages for sid in page] == whole[0]
        assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
        assert pages[-1]


async def test_one_state_at_a_time(office: Office) -> None:
    office.recorded(started("CA1"), ended("CA1"), started("CA2"), started("CA3"))
    office.live(call("CA3"))
    for state, sids in (("live", ["CA3"]), ("open", ["CA2"]), ("ended", ["CA1"])):
        page = await office.listing.page(10, state=state, cursor=None, full=False)  # type: ignore[arg-type]
        assert [(each["call_sid"], each["state"]) for each in page.calls] == [(sid, state) for sid in sids]
        assert page.cursor is None
        assert {each["caller"] for each in page.calls} == {"+1••••••01"}


async def test_calls_that_come_and_go_between_two_pages_do_no_harm(office: Office) -> None:
    office.recorded(started("CA1"), ended("CA1"))
    office.live(call("CA3", 3), call("CA2", 2))
    first = await office.listing.page(1, state=None, cursor=None, full=False)
    assert [each["call_sid"] for each in first.calls] == ["CA3"]
    del office.calls["CA3"], office.calls["CA2"]
    office.live(call("CA4", 4))
    second = await office.listing.page(5, state=None, cursor=first.cursor, full=False)
    assert [each["call_sid"] for each in second.calls] == ["CA1"]
    assert second.cursor is None


async def test_one_call_comes_with_its_record(office: Office) -> None:
    office.recorded(started("CA1"), TurnEnded(call_sid="CA1", turn=TURN), ended("CA1"))
    found = await office.listing.call("CA1", full=False)
    assert found is not None
    assert (found["state"], found["caller"], found["record"]["caller"]) == ("ended", "+1••••••01", "+1••••••01")
    assert [turn["heard_text"] for turn in found["record"]["turns"]] == ["Hi"]
    whole = await office.listing.call("CA1", full=True)
    assert whole is not None
    assert whole["record"]["caller"] == whole["caller"] == CALLER
    office.live(replace(call("CA1"), state={}))
    again = await office.listing.call("CA1", full=False)
    assert again is not None
    assert (again["state"], again["record"]["ended_by"]) == ("live", "caller")


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "x", "é", "====", "\ud800", "A" * 10_000),
        *(
            base64.urlsafe_b64encode(each).decode()
            for each in (b"[]", b"[true]", b'[true,"2026-11-29T12:00:00","CA1"]')
        ),
    ],
)
async def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    with pytest.raises(BadRequest, match="begin again without it"):
        await Office(None).listing.page(5, state=None, cursor=cursor, full=False)


async def test_the_state_of_a_live_call_is_shown_as_far_as_json_can_express_it() -> None:
    office = Office(None)
    office.live(call("CA1"))
    office.calls["CA1"].state.update(
        table={"guests": 4}, socket=object(), nan=float("nan"), long="x" * 3000, cut="\ud83d"
    )
    shown = await office.listing.call("CA1", full=False)
    assert shown is not None
    state = shown["call_state"]
    assert (state["table"], state["socket"], state["nan"]) == ({"guests": 4}, "<object>", "<float>")
    assert state["cut"] == "<str>"
    assert len(state["long"]) == MAX_STATE_CHARS + 1
    office.calls["CA1"].state.update({str(number): number for number in range(500)})
    shown = await office.listing.call("CA1", full=False)
    assert shown is not None
    assert len(shown["call_state"]) == MAX_STATE_VALUES


async def test_a_past_call_is_listed_with_its_agent_and_its_latencies(tmp_path: Path) -> None:
    async with Store.from_url(f"sqlite:///{tmp_path / 'calls.db'}") as store:
        office = Office(store)
        office.recorded(started("CA1"))
        for at_ms, latency_ms in ((10, 500), (20, 900), (30, 700)):
            office.recorded(AgentAnswered(call_sid="CA1", at_ms=at_ms, latency_ms=latency_ms))
        for name, start_ms in (("host", 1), ("kitchen", 20)):
            turn = replace(TURN, item_id=name, agent=name, start_ms=start_ms)
            office.recorded(TurnEnded(call_sid="CA1", turn=turn))
        office.recorded(ended("CA1"))
        (found,) = (await office.listing.page(10, state="ended", cursor=None, full=False)).calls
        assert (found["agent"], found["last_latency_ms"]) == ("kitchen", 700)
        assert found["latency_ms"] == {"response_p50": 700, "response_p95": 900}
        one = await office.listing.call("CA1", full=False)
        assert one is not None
        assert {name: one[name] for name in found} == found


async def test_a_search_leaves_out_what_is_live_here(tmp_path: Path) -> None:
    async with Store.from_url(f"sqlite:///{tmp_path / 'calls.db'}") as store:
        office = Office(store)
        office.live(call("CA1"))
        office.recorded(started("CA1"), started("CA2"), ended("CA2"))
        page = await office.listing.page(10, state=None, cursor=None, full=False, only=CallFilter(party="0001"))
        assert [each["call_sid"] for each in page.calls] == ["CA2"]


async def test_before_the_first_call_the_list_is_empty(tmp_path: Path) -> None:
    async with Store.from_url(f"sqlite:///{tmp_path / 'calls.db'}") as store:
        listing = Office(store).listing
        assert (await listing.page(10, state=None, cursor=None, full=False)).calls == []
        assert await listing.call("CA1", full=False) is None
