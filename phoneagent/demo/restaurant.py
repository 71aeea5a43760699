"""A restaurant with an agent that answers its phone: the example that `phoneagent demo` plays.

Run it for real with `phoneagent serve phoneagent.demo.restaurant:app`.
"""

from __future__ import annotations

from phoneagent import Agent, Call, PhoneApp, hang_up, tool

diary: dict[int, tuple[str, int]] = {}
"""The evening's bookings, by reference: the time and the number of guests."""


@tool
async def book_table(call: Call, guests: int, time: str) -> str:
    """Book a table for this evening. `time` is like "19:30"."""
    reference = 41 + len(diary)
    diary[reference] = (time, guests)
    return f"Booked for {guests} at {time}, reference {reference}."


host = Agent(
    name="host",
    instructions=(
        "You answer the phone of Chez Nous, a small restaurant. Be brief and warm. Offer what is free, book the table "
        "that the caller chooses, read back the reference, and end the call when the caller says goodbye."
    ),
    greeting="Chez Nous, good evening! How can I help you?",
    voice="marin",
    tools=[book_table, hang_up],
)

app = PhoneApp(host)
