"""A dental practice: the front desk books appointments and hands off to billing, all in one call.

Run it with `phoneagent serve examples/appointments.py`. The diary and the bills are in memory: in your app, these
functions ask your own systems.
"""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import Field, NaiveDatetime

from phoneagent import Agent, Call, Limits, PhoneApp, ToolError, Turns, hang_up, tool

ZONE = ZoneInfo("Europe/Dublin")  # the practice's own, as servers live in UTC (on Windows: pip install tzdata)
STARTS = [time(hour, minute) for hour in (9, 10, 11, 13, 14, 15, 16) for minute in (0, 30)]
AHEAD = timedelta(days=90)

diary: dict[datetime, str] = {}
bills = {"2041": ("Murphy", Decimal("85.00")), "2042": ("Byrne", Decimal("230.50"))}


def now() -> datetime:
    return datetime.now(ZONE).replace(tzinfo=None)


def refusal(start: datetime) -> str | None:
    """Return why that time cannot be booked, in words that help the model help the caller; None if it can."""
    if start <= now():
        return f"is in the past: it is {now():%A, %d %B %Y, %H:%M}"
    if start > now() + AHEAD:
        return f"is too far ahead: the diary ends {AHEAD.days} days from now"
    if start.weekday() > 4 or start.time() not in STARTS:
        return f"is outside opening hours: Monday to Friday, every half hour from {STARTS[0]:%H:%M}, not from 12 to 1"
    return "is taken" if start in diary else None


def free(day: date) -> list[str]:
    return [f"{each:%H:%M}" for each in STARTS if refusal(datetime.combine(day, each)) is None]


@tool
async def free_times(day: date) -> list[str]:
    """List the free times on a day, like 2026-11-23. An empty list means that the day is full, or closed."""
    return free(day)


@tool(once=True, filler="One moment, I am writing that down.")  # a real one asks another system, which may take a while
async def book(call: Call, start: NaiveDatetime, name: str) -> str:
    """Book half an hour, once the caller has agreed to the time. `start` is like 2026-11-23T10:30."""
    if (why := refusal(start)) is not None:
        possible = ", ".join(free(start.date())) or "nothing"
        raise ToolError(f"{start:%A, %d %B %Y, %H:%M} {why}. Free that day: {possible}.")
    diary[start] = call.state["patient"] = name
    return f"Booked for {name} on {start:%A, %d %B at %H:%M}."


def owed(number: str, surname: str) -> Decimal:
    name, amount = bills.get(number, ("", Decimal()))
    if not name or name.casefold() != surname.casefold():
        raise ToolError("No bill has this number and this surname.")  # tells no stranger which of the two is wrong
    return amount


@tool
async def find_bill(number: str, surname: str) -> str:
    """Tell what is owed. Ask for the number of the bill and for the surname on it."""
    return f"{owed(number, surname)} euros are owed."


@tool(once=True)  # agreed once, even if the caller says it twice or the model calls it twice
async def pay_in_instalments(number: str, surname: str, months: Annotated[int, Field(ge=2, le=6)]) -> str:
    """Let a bill be paid in two to six monthly instalments."""
    each, left = divmod(owed(number, surname), months)  # whole euros, and what is left over is paid first
    return f"Agreed: {each + left:.2f} euros this month, then {months - 1} times {each:.2f} euros."


def front_desk(call: Call) -> str:
    return (
        "You answer the phone of Hill Street Dental. Be brief and warm, one question at a time. "
        f"It is {now():%A, %d %B %Y, %H:%M}. Offer two or three free times, and say that something is booked only "
        "when the tool has said so. Bills are not yours: hand over to billing."
    )


def at_billing(call: Call) -> str:
    patient = call.state.get("patient", "somebody whose name you do not know yet")
    return f"You do the bills of Hill Street Dental, and have {patient} on the line. Never name an amount unasked."


billing = Agent(
    name="billing", instructions=at_billing, tools=[find_bill, pay_in_instalments, hang_up], handoffs=["front desk"]
)
app = PhoneApp(
    Agent(
        name="front desk",
        instructions=front_desk,
        greeting="Hill Street Dental, good day!",
        tools=[free_times, book, hang_up],
        handoffs=[billing],
        turns=Turns(silence_duration_ms=700, idle_timeout_ms=10_000),  # a caller who checks a diary pauses
        limits=Limits(max_output_tokens=1200),  # about a minute of speech
    )
)
