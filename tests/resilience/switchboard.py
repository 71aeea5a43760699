"""The agent of the tests of transfers; `phoneagent serve` runs it in each process."""

from __future__ import annotations

from phoneagent import Agent, PhoneApp, hang_up, transfer

DESKS = {f"desk {number}": f"+120255501{number:02}" for number in range(20)}

app = PhoneApp(
    Agent(
        instructions="You put callers through.",
        greeting="Hello!",
        tools=[transfer(to=DESKS), transfer(to=DESKS, warm=True, name="offer"), hang_up],
    )
)
