"""Calls that the simulated phone makes while a browser looks: the restaurant of the demo, and a short one."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from phoneagent import Agent, Call, hang_up, tool
from phoneagent.demo.run import Senses
from phoneagent.demo.stories import RESTAURANT
from phoneagent.sim.twilio.phone import CallFailed, Line
from tests.browser.conftest import Served

INTERRUPT_MS = 5000
POLITE_MS = 700
WAIT_SECONDS = 25.0


@tool
async def book_table(call: Call, guests: int, time: str) -> str:
    """Book a table for this evening. `time` is like "19:30"."""
    call.state["table"] = {"guests": guests, "time": time}
    return f"Booked for {guests} at {time}, reference 41."


def restaurant() -> Agent:
    """Return the agent of the demo's restaurant."""
    return Agent(
        name="host",
        instructions="You answer the phone of Chez Nous.",
        greeting="Chez Nous, good evening! How can I help you?",
        tools=[book_table, hang_up],
    )


async def book(served: Served, *, lines: int = 3, hang_up: bool = True, caller: str = "+15550100077") -> str:
    """Call the restaurant, interrupt its offer and book a table; return the call's sid.

    With fewer `lines`, the caller falls silent after them, and hangs up unless told otherwise.
    """
    voice = Senses.scripted().caller
    said = [turn.caller for turn in RESTAURANT.script().turns if turn.caller][:lines]
    async with served.phone(caller=caller).dial() as line:
        served.lines[line.call_sid] = line
        with suppress(CallFailed, TimeoutError):
            for number, text in enumerate(said):
                clip = await asyncio.to_thread(voice.render, text)
                if number == 1:
                    await line.wait_for_agent(ms=INTERRUPT_MS, timeout=WAIT_SECONDS)
                else:
                    await line.wait_for_silence(ms=POLITE_MS, timeout=WAIT_SECONDS)
                await line.say(clip, text)
            await line.wait_for_silence(ms=POLITE_MS, timeout=WAIT_SECONDS)
        while not hang_up and line.ended_by is None and not served.done.is_set():
            await asyncio.sleep(0.1)
    return line.call_sid


__all__ = ["Line", "book", "restaurant"]
