"""A receptionist who knows the date and takes messages: `phoneagent serve examples/receptionist.py`."""

from datetime import datetime

from phoneagent import Agent, Call, CallEnded, PhoneApp, hang_up, tool


def instructions(call: Call) -> str:
    today = f"{datetime.now().astimezone():%A, %d %B %Y, %H:%M}"
    return (
        "You answer the phone of Miller & Daughters, piano tuners. Be brief and warm, one question at a time. "
        f"It is {today}. The workshop is open on weekdays from nine to five. "
        "Take a message if the caller wants to be called back, then say goodbye and hang up."
    )


@tool
async def take_message(call: Call, name: str, message: str) -> str:
    """Write down a message for the workshop, with the caller's name."""
    call.state.setdefault("messages", []).append((name, message))
    return "The message is written down."


receptionist = Agent(
    name="receptionist",
    instructions=instructions,
    greeting="Miller and Daughters, good day! What can I do for you?",
    tools=[take_message, hang_up],
)
app = PhoneApp(receptionist)


@app.on(CallEnded)
def note(event: CallEnded) -> None:
    print(f"{event.call_sid}: {len(event.transcript)} turns, ended by {event.ended_by}")
