"""The dental practice: what can be booked, and a call that goes on at billing."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.examples.conftest import Players, load

pytestmark = pytest.mark.anyio
at = datetime.fromisoformat
FRIDAY = at("2026-11-20T15:10")

SCRIPT = """
[[turn]]
heard = "when"
call = "free_times"
arguments = { day = 2026-11-20 }
then = "Free are {output}"
[[turn]]
heard = "monday"
call = "book"
arguments = { start = "2026-11-23T10:30", name = "Ann Murphy" }
then = "{output}"
[[turn]]
heard = "me too"
call = "book"
arguments = { start = "2026-11-23T10:30", name = "Joe Byrne" }
then = "I am sorry."
[[turn]]
heard = "bill"
say = "I put you through."
call = "hand_off_to_billing"
then = "Which bill is it?"
[[turn]]
heard = "byrne"
call = "find_bill"
arguments = { number = "2042", surname = "byrne" }
then = "{output}"
[[turn]]
heard = "someone"
call = "find_bill"
arguments = { number = "2042", surname = "Murphy" }
then = "I am sorry."
[[turn]]
heard = "four"
call = "pay_in_instalments"
arguments = { number = "2042", surname = "Byrne", months = 4 }
then = "{output}"
[[turn]]
heard = "desk"
call = "hand_off_to_front_desk"
then = "Here I am again."
"""


@pytest.fixture
def practice(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load("appointments")
    monkeypatch.setattr(module, "now", lambda: FRIDAY)
    return module


async def test_an_appointment_is_booked_once(practice: Any, played: Players) -> None:
    async with played(practice, SCRIPT) as number:
        async with number.call() as caller:
            assert "Friday, 20 November 2026, 15:10" in caller.session.session["instructions"]
            await caller.says("When today?", hears='Free are ["15:30","16:00","16:30"]')
            await caller.says("No, Monday.", hears="Booked for Ann Murphy on Monday, 23 November at 10:30.")
            await caller.says("Monday, did you get that?", hears="Booked for Ann Murphy")
            first, again = caller.session.tool_calls[1:]
            assert (first.arguments, first.output) == (again.arguments, again.output)
        async with number.call() as caller:
            await caller.says("At Ann's time, me too!", hears="I am sorry.")
            assert "10:30 is taken. Free that day: 09:00, 09:30, 10:00, 11:00," in json.loads(caller.returned)["error"]
    assert practice.diary == {at("2026-11-23T10:30"): "Ann Murphy"}


async def test_billing_goes_on_with_the_call(practice: Any, played: Players) -> None:
    async with played(practice, SCRIPT) as number, number.call() as caller:
        session = caller.session.session
        assert session["audio"]["input"]["turn_detection"]["idle_timeout_ms"] == 10_000
        assert session["max_output_tokens"] == 1200
        assert (await caller.says("Monday, please.", hears="Booked")).agent == "front desk"
        assert (await caller.says("And my bill?", hears="Which bill")).agent == "billing"
        session = caller.session.session
        assert "have Ann Murphy on the line" in session["instructions"]
        tools = ["find_bill", "pay_in_instalments", "hang_up", "hand_off_to_front_desk"]
        assert [each["name"] for each in session["tools"]] == tools
        assert (await caller.says("It's Byrne.", hears="230.50 euros are owed.")).agent == "billing"
        await caller.says("Four months?", hears="Agreed: 59.50 euros this month, then 3 times 57.00 euros.")
        assert (await caller.says("The desk again!", hears="Here I am")).agent == "front desk"
        assert "You answer the phone" in caller.session.session["instructions"]
        assert len(number.world.model.sessions) == 1


async def test_a_stranger_learns_nothing_of_a_bill(practice: Any, played: Players) -> None:
    async with played(practice, SCRIPT) as number, number.call() as caller:
        await caller.says("My bill.", hears="Which bill")
        await caller.says("It is someone's.", hears="I am sorry.")
        assert json.loads(caller.returned) == {"error": "No bill has this number and this surname."}
        assert "somebody whose name you do not know yet" in caller.session.session["instructions"]


@pytest.mark.parametrize(
    ("start", "why"),
    [
        (at("2026-11-20T15:00"), "is in the past: it is Friday, 20 November 2026, 15:10"),
        (at("2026-11-20T15:30"), None),
        (at("2026-11-21T10:00"), "is outside opening hours"),
        (at("2026-11-23T12:00"), "is outside opening hours"),
        (at("2026-11-23T16:30"), None),
        (at("2026-11-23T17:00"), "is outside opening hours"),
        (at("2026-11-23T09:15"), "is outside opening hours"),
        (at("2027-02-18T15:00"), None),
        (at("2027-02-19T09:00"), "is too far ahead"),
    ],
)
def test_when_one_can_come(practice: Any, start: datetime, why: str | None) -> None:
    refusal = practice.refusal(start)
    assert refusal is None if why is None else why in refusal


@pytest.mark.parametrize("months", range(2, 7))
@pytest.mark.parametrize("amount", ["85.00", "230.50", "0.05"])
async def test_instalments_are_the_whole_bill(practice: Any, amount: str, months: int) -> None:
    practice.bills["1"] = ("Doe", Decimal(amount))
    told = await practice.pay_in_instalments.handler("1", "Doe", months)
    first, rest = (Decimal(word) for word in told.split() if word[-1].isdigit() and "." in word)
    assert first + rest * (months - 1) == Decimal(amount)
