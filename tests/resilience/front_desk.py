"""The agent that answers in these tests, as a person would write it; `phoneagent serve` runs it in each process.

Its instructions say which call it answers and in which process, so that a model session tells who opened it. What its
tool did is counted in a file, the one thing in the world that no process takes with it when it dies.
"""

from __future__ import annotations

import asyncio
import os

from phoneagent import Agent, Call, PhoneApp, Recording, hang_up, tool

GREETING = "Chez Nous, good evening!"


def instructions(call: Call) -> str:
    return f"You answer {call.sid} in process {os.getpid()}."


def count(call: Call) -> None:
    with open(os.environ["LEDGER"], "a", encoding="utf-8") as ledger:
        ledger.write(f"{call.sid}\n")


@tool(timeout=60)
async def book_table(call: Call, guests: int) -> str:
    """Book a table."""
    count(call)
    await asyncio.sleep(float(os.environ["TOOL_SECONDS"]))
    return f"Booked for {guests}."


app = PhoneApp(
    Agent(
        instructions=instructions,
        greeting=GREETING,
        tools=[book_table, hang_up],
        recording=Recording() if "RECORD_AUDIO" in os.environ else None,
    )
)
