"""A front desk that asks the workshop before it puts a caller through: `phoneagent serve examples/front_desk.py`.

Export WORKSHOP_NUMBER and OFFICE_NUMBER first. In `.env` they would do nothing: that is for phoneagent's own settings.
"""

import os

from phoneagent import Agent, CallTransferred, PhoneApp, hang_up, transfer

WORKSHOP = os.environ.get("WORKSHOP_NUMBER", "+12025550107")
OFFICE = os.environ.get("OFFICE_NUMBER", "+12025550108")

front_desk = Agent(
    name="front desk",
    instructions=(
        "You answer the phone of Miller & Daughters, piano tuners. Be brief and warm. "
        "If somebody has a question about a piano, ask for their name and their question, and offer them to the "
        "workshop. If somebody wants to pay a bill, transfer them to the office. "
        "If nobody is there, say so, and offer to take a message."
    ),
    greeting="Miller and Daughters, good day! What can I do for you?",
    tools=[
        transfer(to={"workshop": WORKSHOP}, warm=True, name="offer"),
        transfer(to={"office": OFFICE}, screen=True),
        hang_up,
    ],
)
app = PhoneApp(front_desk)


@app.on(CallTransferred)
def note(event: CallTransferred) -> None:
    print(f"{event.call_sid}: {event.to_name}, {event.outcome}")
