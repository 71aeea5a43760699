"""A game host who rolls dice, and a tool that is a plain function: `phoneagent serve examples/dice.py`."""

import random
from typing import Annotated

from pydantic import Field

from phoneagent import Agent, PhoneApp, hang_up, tool


@tool
def roll(dice: Annotated[int, Field(ge=1, le=10)] = 2) -> list[int]:
    """Roll some six-sided dice and return what each shows."""
    return [random.randint(1, 6) for _ in range(dice)]


app = PhoneApp(
    Agent(
        name="croupier",
        instructions="You host a dice game on the phone. Roll with the tool, never make numbers up, and be quick.",
        greeting="Welcome to the table! Shall I roll?",
        greeting_interruptible=True,
        tools=[roll, hang_up],
    )
)
