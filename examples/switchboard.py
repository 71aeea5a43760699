"""An office: calls to sales reach a person and are transcribed, an agent takes all others.

`phoneagent serve examples/switchboard.py`
"""

from phoneagent import Agent, Call, Hearing, PhoneApp, Transcriber, TurnEnded, hang_up, tool

SALES, SALES_DESK = "+15550100003", "+15550100009"
messages: list[str] = []


@tool
def take_message(name: str, message: str) -> str:
    """Take a message for someone in the office."""
    messages.append(f"{name}: {message}")
    return "Noted."


desk = Agent(
    name="desk",
    instructions="You take messages for an office. Ask for the caller's name, then take the message with the tool.",
    greeting="The office, hello!",
    tools=[take_message, hang_up],
)
sales = Transcriber(dial=SALES_DESK, announcement="This call is transcribed.", hearing=Hearing(language="en"))


async def answer(call: Call) -> Agent | Transcriber:
    return sales if call.called == SALES else desk


app = PhoneApp(answer)


@app.on(TurnEnded)
def show(event: TurnEnded) -> None:
    print(f"{event.turn.role}: {event.turn.heard_text}")
