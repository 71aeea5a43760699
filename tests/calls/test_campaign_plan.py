"""The rules of campaigns at moments of all kinds: nights, weekends, other continents, and clocks that are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.calls.campaign_plan import (
    Hours,
    Rules,
    after_call,
    before_call,
    lost_after,
    opening,
    read_rules,
    window,
    zone_of,
    zones_of,
)
from phoneagent.errors import DefinitionError
from phoneagent.store.campaign_records import CampaignCall, Dial, End, WaitUntil

NEW_YORK, LONDON, BERLIN, UNKNOWN = "+12125550100", "+442079460000", "+4915112345678", "+15550100009"
MONDAY_NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
WEEK: dict[str, Any] = {"days": "mon-sun"}


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def called(result: str, attempts: int = 1, to: str = LONDON, reason: str | None = None) -> CampaignCall:
    return CampaignCall(
        position=2,
        to=to,
        context={},
        state="calling",
        attempts=attempts,
        due_at=None,
        call_sid=None,
        result=result,
        reason=reason,
        ended_at=None,
    )


# --- the calling hours ---


@pytest.mark.parametrize(
    ("moment", "number", "expected"),
    [
        (MONDAY_NOON, LONDON, MONDAY_NOON),
        (MONDAY_NOON, NEW_YORK, at("2026-11-30T09:00", "America/New_York")),  # it is seven in the morning there
        (at("2026-11-30T20:00", "Europe/London"), LONDON, at("2026-12-01T09:00", "Europe/London")),
        (at("2026-11-30T19:59", "Europe/London"), LONDON, at("2026-11-30T19:59", "Europe/London")),
        (at("2026-12-04T21:00", "Europe/London"), LONDON, at("2026-12-07T09:00", "Europe/London")),  # a Friday night
        (at("2026-11-29T12:00"), BERLIN, at("2026-11-30T09:00", "Europe/Berlin")),  # a Sunday
        (at("2026-11-30T23:30"), "+81312345678", at("2026-12-01T09:00", "Asia/Tokyo")),
    ],
)
def test_a_number_is_called_within_the_hours_of_its_own_time_zone(
    moment: datetime, number: str, expected: datetime
) -> None:
    step = before_call(Rules(), number, moment, barred=False)
    if expected == moment:
        assert isinstance(step, Dial)
    else:
        assert step == WaitUntil(expected, "outside of the calling hours")


def test_a_call_that_waits_in_the_queue_is_not_placed_after_the_hours() -> None:
    step = before_call(Rules(hours="09:00-18:30"), NEW_YORK, at("2026-11-30T18:00", "America/New_York"), barred=False)
    assert step == Dial(at("2026-11-30T18:30", "America/New_York"))
    all_day = Rules(hours="00:00-24:00")
    assert before_call(all_day, LONDON, MONDAY_NOON, barred=False) == Dial(at("2026-12-01T00:00"))


def test_when_the_clocks_go_forward_the_day_begins_an_hour_earlier_in_utc() -> None:
    rules = Rules(**WEEK)
    night = at("2026-03-28T22:00", "Europe/Berlin")
    assert window(night, BERLIN, rules) == (at("2026-03-29T07:00"), at("2026-03-29T18:00"))
    assert window(night - timedelta(days=1), BERLIN, rules) == (at("2026-03-28T08:00"), at("2026-03-28T19:00"))


def test_when_the_clocks_go_back_it_begins_an_hour_later_in_utc() -> None:
    night = at("2026-10-31T22:00", "America/New_York")
    assert window(night, NEW_YORK, Rules(**WEEK)) == (at("2026-11-01T14:00"), at("2026-11-02T01:00"))


def test_an_opening_in_the_hour_that_is_skipped_comes_after_it() -> None:
    rules = Rules(hours="02:30-05:00", **WEEK)
    found = window(at("2026-03-29T00:00", "Europe/Berlin"), BERLIN, rules)
    assert isinstance(found, tuple)
    local = found[0].astimezone(ZoneInfo("Europe/Berlin"))
    assert (local.hour, local.day) == (3, 29)


def test_an_opening_in_the_hour_that_comes_twice_is_found_in_both() -> None:
    hours, zone = Hours.of(Rules(hours="02:30-05:00", **WEEK)), ZoneInfo("Europe/Berlin")
    first = at("2026-10-25T00:30")  # 02:30 in summer time; at 01:00 UTC it is two o'clock again
    assert hours.next_opening(first - timedelta(minutes=10), zone) == first
    assert opening(first, hours, [zone]) == first
    between = at("2026-10-25T01:10")
    assert not hours.hold(between, zone)
    assert hours.next_opening(between, zone) == at("2026-10-25T01:30")


def test_the_hours_hold_in_all_zones_that_a_number_may_be_in() -> None:
    mobile = "+61412345678"
    zones = zones_of(mobile)
    assert len(zones) > 3
    found = window(at("2026-11-30T15:00"), mobile, Rules())
    assert isinstance(found, tuple)
    assert all(Hours.of(Rules()).hold(found[0], zone) for zone in zones)
    assert not all(Hours.of(Rules()).hold(found[0] - timedelta(minutes=1), zone) for zone in zones)
    assert all(Hours.of(Rules()).hold(found[1] - timedelta(minutes=1), zone) for zone in zones)


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.sampled_from([LONDON, NEW_YORK, BERLIN, "+61412345678", "+81312345678", "+79161234567"]),
    st.sampled_from([Rules(), Rules(hours="00:00-24:00"), Rules(hours="08:15-20:45", days="sat,mon")]),
)
def test_a_moment_that_is_found_is_within_the_hours_and_none_before_it_is(
    moment: datetime, number: str, rules: Rules
) -> None:
    found = window(moment, number, rules)
    assert isinstance(found, tuple)
    hours, zones = Hours.of(rules), zones_of(number)
    assert moment <= found[0] < found[1]
    assert all(hours.hold(found[0], zone) for zone in zones)
    if found[0] > moment:
        just_before = found[0] - timedelta(microseconds=1)
        assert not all(hours.hold(just_before, zone) for zone in zones)


def test_a_number_whose_zone_is_unknown_is_called_in_the_default_one_or_never() -> None:
    assert zones_of(UNKNOWN) == ()
    step = before_call(Rules(), UNKNOWN, MONDAY_NOON, barred=False)
    assert isinstance(step, End)
    assert "time zone is unknown" in step.why
    assert zones_of("no number") == ()
    step = before_call(Rules(time_zone="Asia/Tokyo"), UNKNOWN, MONDAY_NOON, barred=False)
    assert step == WaitUntil(at("2026-12-01T09:00", "Asia/Tokyo"), "outside of the calling hours")
    assert zone_of("Europe/Nowhere") is None
    assert zone_of("../etc/passwd") is None


def test_a_number_of_zones_with_no_common_hour_is_called_in_the_default_zone_or_never() -> None:
    toll_free = "+18005550100"
    step = before_call(Rules(hours="09:00-17:00"), toll_free, MONDAY_NOON, barred=False)  # also in Guam and Honolulu
    assert isinstance(step, End)
    assert "never hold in all" in step.why
    rules = Rules(hours="09:00-17:00", time_zone="America/New_York")
    assert before_call(rules, toll_free, at("2026-11-30T15:00"), barred=False) == Dial(at("2026-11-30T22:00"))


# --- before a call ---


def test_the_start_of_the_campaign_is_waited_for_and_then_its_hours() -> None:
    rules = Rules(start_at=at("2026-12-01T22:00", "Europe/London"))
    assert before_call(rules, LONDON, MONDAY_NOON, barred=False) == WaitUntil(
        at("2026-12-02T09:00", "Europe/London"), "outside of the calling hours"
    )


def test_a_number_on_the_do_not_call_list_is_not_called() -> None:
    assert before_call(Rules(), LONDON, MONDAY_NOON, barred=True) == End("given_up", "it is on the do-not-call list")


# --- after a call ---


@pytest.mark.parametrize("result", ["busy", "no-answer", "failed", "machine", "refused"])
def test_a_number_that_was_not_reached_is_called_again_up_to_the_bound(result: str) -> None:
    rules = Rules(attempts=2, retry_seconds=600)
    step = after_call(rules, called(result), MONDAY_NOON)
    assert isinstance(step, WaitUntil)
    assert step.moment == MONDAY_NOON + timedelta(seconds=600)
    step = after_call(rules, called(result, 2), MONDAY_NOON)
    assert isinstance(step, End)
    assert (step.state, "after 2 of 2 attempts" in step.why) == ("given_up", True)


def test_the_next_attempt_waits_for_the_hours_too() -> None:
    step = after_call(Rules(), called("busy"), at("2026-11-30T19:30", "Europe/London"))
    assert step == WaitUntil(at("2026-12-01T09:00", "Europe/London"), "busy")


@pytest.mark.parametrize("result", ["fax", "canceled", "unknown", "maybe-placed"])
def test_what_answered_or_may_have_rung_is_not_called_again(result: str) -> None:
    step = after_call(Rules(), called(result), MONDAY_NOON)
    assert isinstance(step, End)
    assert step.state == "given_up"


def test_only_chosen_results_are_called_again() -> None:
    rules = Rules(retry=("busy",))
    assert isinstance(after_call(rules, called("no-answer"), MONDAY_NOON), End)
    assert isinstance(after_call(rules, called("busy"), MONDAY_NOON), WaitUntil)


@pytest.mark.parametrize(
    ("on_machine", "result", "why"),
    [
        ("hang_up", "completed", "answered"),
        ("leave_message", "message-left", "a machine got the message"),
        ("talk", "machine", "a machine answered"),
    ],
)
def test_what_was_reached_is_finished(on_machine: Any, result: str, why: str) -> None:
    assert after_call(Rules(on_machine=on_machine), called(result), MONDAY_NOON) == End("finished", why)


@pytest.mark.parametrize("on_machine", ["hang_up", "leave_message"])
def test_a_machine_that_did_not_get_the_message_is_called_again(on_machine: Any) -> None:
    step = after_call(Rules(on_machine=on_machine), called("machine"), MONDAY_NOON)
    assert isinstance(step, WaitUntil)
    assert step.why == "a machine answered"


def test_the_reason_of_a_refusal_is_told() -> None:
    step = after_call(Rules(attempts=1), called("refused", reason="the country is not permitted"), MONDAY_NOON)
    assert isinstance(step, End)
    assert step.why.startswith("not placed: the country is not permitted")
    unclear = called("maybe-placed", reason="whether it was placed is unknown: HTTP 503")
    assert after_call(Rules(), unclear, MONDAY_NOON) == End(
        "given_up", "not called again: whether it was placed is unknown: HTTP 503"
    )


def test_an_end_is_waited_for_longer_than_a_call_can_take() -> None:
    assert lost_after(Rules(timeout=30), 600) > timedelta(seconds=630)


# --- rules that cannot be used ---


@pytest.mark.parametrize(
    "rules",
    [
        {"hours": "9-20"},
        {"hours": "20:00-09:00"},
        {"hours": "09:00-09:00"},
        {"hours": "09:00-24:30"},
        {"days": "monday"},
        {"days": "mon-xyz"},
        {"days": ""},
        {"time_zone": "Mars/Olympus"},
        {"start_at": datetime(2026, 12, 1, 9)},  # noqa: DTZ001 - without a time zone
        {"at_once": 0},
        {"at_once": 10_000},
        {"calls_per_second": -1},
        {"calls_per_second": 1e-300},
        {"attempts": 11},
        {"retry_seconds": 0},
        {"retry": ["always"]},
        {"timeout": 4},
        {"speed": 3},
    ],
)
def test_rules_that_cannot_be_used_are_named(rules: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match="the campaign has"):
        read_rules(rules)


def test_days_and_hours_in_other_spellings() -> None:
    assert Hours.of(Rules(days="Sat - Tue, thu")).days == {5, 6, 0, 1, 3}
    assert Hours.of(Rules(days="wed")).days == {2}
    assert Hours.of(Rules(hours="08:30 – 12:00")).opens == 510
    assert read_rules({"from_": "+15550100002"}).from_ == "+15550100002"
    assert "+15550100002" not in repr(read_rules({"from": "+15550100002"}))


def test_hours_that_the_clocks_skip_as_a_whole_come_a_week_later() -> None:
    rules = Rules(hours="02:00-03:00", days="sun")
    first = at("2027-03-21T02:00", "America/New_York")
    assert opening(at("2027-03-13T12:00", "America/New_York"), Hours.of(rules), zones_of(NEW_YORK)) == first
