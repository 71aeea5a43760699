"""The rules of a campaign, and what they decide for a number at a moment: call it, wait, or stop calling it.

Nothing here reads a clock or a database. The calling hours are those of the called number's own time zone. A number
that may be in several zones, like a mobile number of a large country, is called when all of them are within the hours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta, Struct

from phoneagent.errors import DefinitionError
from phoneagent.store.campaign_records import CampaignCall, Dial, End, Step, WaitUntil

MAX_AT_ONCE = 1000
MAX_PER_SECOND = 100.0
LEAST_PER_SECOND = 0.001
MAX_ATTEMPTS = 10
MAX_RETRY_SECONDS = 7 * 86_400

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
SEARCHED_DAYS = 8
"""How many days ahead to look for an hour that suits all of a number's time zones: a week has every case."""

LOST_AFTER = timedelta(minutes=10)
"""How long after the longest possible duration of a call its end must be known. Twilio's callback may be late."""

Retried: TypeAlias = Literal["busy", "no-answer", "machine", "failed"]

_HOURS = re.compile(r"([01]\d|2[0-4]):([0-5]\d)\s*[-–]\s*([01]\d|2[0-4]):([0-5]\d)", re.ASCII)
_UNKNOWN = "Etc/Unknown"


class Rules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules of a campaign: when, how many at once, and how often each number is called.

    `hours` and `days` hold in the called number's time zone; `time_zone` is for numbers that have none, or so many that
    no moment is within the hours in all. After a call whose result is in `retry`, the next of at most `attempts` calls
    comes `retry_seconds` later. A machine is called again only if it was hung up on.
    """

    start_at: datetime | None = None
    hours: str = "09:00-20:00"
    days: str = "mon-fri"
    time_zone: str | None = None
    at_once: Annotated[int, Meta(ge=1, le=MAX_AT_ONCE)] = 5
    calls_per_second: Annotated[float, Meta(ge=0, le=MAX_PER_SECOND)] = 1.0
    attempts: Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)] = 3
    retry_seconds: Annotated[int, Meta(ge=1, le=MAX_RETRY_SECONDS)] = 3600
    retry: tuple[Retried, ...] = ("busy", "no-answer", "machine", "failed")
    agent: str | None = None
    first: Literal["agent", "callee"] = "callee"
    on_machine: Literal["talk", "hang_up", "leave_message"] = "hang_up"
    message: str | None = None
    from_: str | None = msgspec.field(name="from", default=None)
    timeout: Annotated[int, Meta(ge=5, le=600)] = 30
    time_limit: Annotated[int, Meta(ge=1, le=86_400)] | None = None

    def __repr__(self) -> str:  # the caller ID is a phone number
        return f"<Rules {self.hours} {self.days}, {self.at_once} at once, {self.attempts} attempts>"


def read_rules(given: Mapping[str, Any]) -> Rules:
    """Return the rules with these fields.

    Raises:
        DefinitionError: one of them cannot be used.
    """
    fields = {"from" if name == "from_" else name: value for name, value in given.items()}
    try:
        rules = msgspec.convert(fields, Rules)
    except msgspec.ValidationError as error:
        raise DefinitionError(f"the campaign has rules that cannot be used: {error}") from None
    check_rules(rules)
    return rules


def check_rules(rules: Rules) -> None:
    """Check what the types of the rules do not express.

    Raises:
        DefinitionError: one of them cannot be used.
    """
    Hours.of(rules)
    if rules.start_at is not None and rules.start_at.tzinfo is None:
        raise DefinitionError(
            "the campaign has a start_at without a time zone: write it like 2026-11-29T09:00:00+01:00"
        )
    if 0 < rules.calls_per_second < LEAST_PER_SECOND:
        raise DefinitionError(
            f"the campaign has calls_per_second={rules.calls_per_second:g}: give {LEAST_PER_SECOND:g} or more, or 0"
        )
    if rules.time_zone is not None and zone_of(rules.time_zone) is None:
        raise DefinitionError(f"the campaign has the time zone {rules.time_zone!r:.60}: write one like Europe/Paris")


@dataclass(frozen=True, slots=True)
class Hours:
    """The hours of the days on which people are called, as minutes since midnight."""

    opens: int
    closes: int
    days: frozenset[int]

    @classmethod
    def of(cls, rules: Rules) -> Hours:
        """Return the hours of these rules.

        Raises:
            DefinitionError: the hours or the days are not valid.
        """
        return cls._parse(rules.hours, rules.days)

    @classmethod
    @lru_cache(maxsize=64)
    def _parse(cls, hours: str, days: str) -> Hours:
        found = _HOURS.fullmatch(hours.strip())
        h1, m1, h2, m2 = map(int, found.groups()) if found else (0, 0, 0, 0)
        opens, closes = h1 * 60 + m1, h2 * 60 + m2
        if not found or not opens < closes <= 24 * 60:
            raise DefinitionError(
                f"the campaign has the hours {hours!r:.60}: write them like 09:00-20:00, within a day"
            )
        chosen: set[int] = set()
        for part in days.lower().replace(" ", "").split(","):
            first, dash, last = part.partition("-")
            if first not in DAYS or (dash and last not in DAYS):
                raise DefinitionError(
                    f"the campaign has the days {days!r:.60}: write them like mon-fri, or mon,wed,sat"
                )
            begin = DAYS.index(first)
            chosen |= {(begin + n) % 7 for n in range((DAYS.index(last or first) - begin) % 7 + 1)}
        return cls(opens, closes, frozenset(chosen))

    def hold(self, moment: datetime, zone: tzinfo) -> bool:
        """Return whether a moment is within the hours in a time zone."""
        local = moment.astimezone(zone)
        return local.weekday() in self.days and self.opens <= local.hour * 60 + local.minute < self.closes

    def next_opening(self, moment: datetime, zone: tzinfo) -> datetime:
        """Return the first moment of the hours after one that is outside of them."""
        today = moment.astimezone(zone).date()
        for ahead in range(SEARCHED_DAYS + 1):
            day = today + timedelta(days=ahead)
            if day.weekday() in self.days:
                for fold in (0, 1):  # the same time occurs twice when the clocks go back
                    opening = _at(day, self.opens, zone, fold)
                    if opening > moment:  # equal if the clocks skip the hours entirely
                        return opening
        raise AssertionError("a week has each day")

    def closing(self, moment: datetime, zone: tzinfo) -> datetime:
        """Return the end of the hours in which a moment is."""
        return _at(moment.astimezone(zone).date(), self.closes, zone, 0)


def _at(day: date, minutes: int, zone: tzinfo, fold: int) -> datetime:
    """Return the moment that is `minutes` after midnight on a day in a time zone."""
    days, minutes = divmod(minutes, 24 * 60)
    wall = time(minutes // 60, minutes % 60, fold=fold)
    return datetime.combine(day + timedelta(days=days), wall, zone).astimezone(UTC)


# --- the time zones of a number ---------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def zone_of(name: str) -> ZoneInfo | None:
    """Return a time zone by its name; None if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def zones_of(number: str) -> tuple[ZoneInfo, ...]:
    """Return the time zones that a number in E.164 may be in; none if they are unknown."""
    import phonenumbers as pn
    from phonenumbers import timezone

    try:
        names = timezone.time_zones_for_number(pn.parse(number))
    except pn.NumberParseException:
        return ()
    found = [zone_of(name) for name in names if name != _UNKNOWN]
    return () if None in found else tuple(zone for zone in found if zone is not None)


def opening(moment: datetime, hours: Hours, zones: Sequence[tzinfo]) -> datetime | None:
    """Return the first moment from this one on that is within the hours in all zones; None if there is none."""
    last = moment + timedelta(days=SEARCHED_DAYS)
    while moment <= last:
        outside = next((zone for zone in zones if not hours.hold(moment, zone)), None)
        if outside is None:
            return moment
        moment = hours.next_opening(moment, outside)
    return None


def window(moment: datetime, number: str, rules: Rules) -> tuple[datetime, datetime] | str:
    """Return the next window, from this moment on, in which a number may be called; or why it never may be."""
    hours, zones = Hours.of(rules), zones_of(number)
    default = None if rules.time_zone is None else zone_of(rules.time_zone)
    found = opening(moment, hours, zones) if zones else None
    if found is None and default is not None:
        zones = (default,)
        found = opening(moment, hours, zones)
    if not zones:
        return "its time zone is unknown: give the campaign a time_zone for such numbers"
    if found is None:
        return f"it may be in {len(zones)} time zones, and the hours never hold in all: give the campaign a time_zone"
    return found, min(hours.closing(found, zone) for zone in zones)


# --- what a number does next ------------------------------------------------------------------------------------------


def before_call(rules: Rules, number: str, moment: datetime, *, barred: bool) -> Step:
    """Return the next step of a number that is due. It is `barred` if it is on the do-not-call list."""
    if barred:
        return End("given_up", "it is on the do-not-call list")
    earliest = moment if rules.start_at is None else max(moment, rules.start_at)
    found = window(earliest, number, rules)
    if isinstance(found, str):
        return End("given_up", found)
    opens, closes = found
    return Dial(closes) if opens <= moment else WaitUntil(opens, "outside of the calling hours")


def after_call(rules: Rules, call: CampaignCall, moment: datetime) -> Step:
    """Return the next step of a number after its call has ended, with a known `result`."""
    result = call.result or "unknown"
    if result in _REACHED:
        return End("finished", _REACHED[result])
    if result == "machine" and rules.on_machine == "talk":
        return End("finished", _WHY[result])
    why = _WHY.get(result, result) + (f": {call.reason}" if call.reason else "")
    kind = "failed" if result == "refused" else result
    if kind not in rules.retry:
        return End("given_up", why)
    if call.attempts >= rules.attempts:
        return End("given_up", f"{why}, after {call.attempts} of {rules.attempts} attempts")
    found = window(moment + timedelta(seconds=rules.retry_seconds), call.to, rules)
    return End("given_up", found) if isinstance(found, str) else WaitUntil(found[0], why)


_REACHED = {"completed": "answered", "message-left": "a machine got the message"}

_WHY = {
    "busy": "busy",
    "no-answer": "no answer",
    "machine": "a machine answered",
    "fax": "a fax answered",
    "failed": "the call failed",
    "canceled": "the call was canceled",
    "refused": "not placed",
    "maybe-placed": "not called again",
    "unknown": "the end of the call was never reported",
}


def lost_after(rules: Rules, time_limit: int) -> timedelta:
    """Return how long after the request for a call its end must be known."""
    return timedelta(seconds=rules.timeout + time_limit) + LOST_AFTER
