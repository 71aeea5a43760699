"""A shop and a hotline in one app: the called number decides which agent answers.

Try both without a telephone: `phoneagent chat examples/two_numbers.py --called +15550100009`.
"""

from phoneagent import Agent, Call, Hearing, Limits, PhoneApp, Turns, Voice, hang_up, tool

HOTLINE_NUMBER = "+15550100009"


@tool
async def open_ticket(call: Call, trouble: str) -> str:
    """Write down what is wrong with a bicycle, for the workshop."""
    call.state["ticket"] = trouble
    call.add("The workshop calls back within the hour.")  # a fact for the rest of the call
    return "The ticket is open."


@tool
async def opening_hours() -> str:
    """Tell when the shop is open."""
    return "Nine to six, Monday to Saturday."


shop = Agent(
    name="shop",
    instructions="You answer the phone of a bicycle shop. Be brief and warm.",
    greeting="The bicycle shop, hello!",
    voice=Voice("marin", speed=1.05),
    tools=[opening_hours, hang_up],
)
hotline = Agent(
    name="hotline",
    instructions="Cyclists call you from the roadside. Find out what broke and where they are, then open a ticket.",
    greeting="The breakdown line. What happened?",
    voice="cedar",
    tools=[open_ticket, hang_up],
    turns=Turns(detection="semantic_vad", eagerness="low"),  # a caller at the roadside pauses
    hearing=Hearing(keywords=["derailleur", "spoke", "tubeless"], noise_reduction="far_field"),
    limits=Limits(max_output_tokens=1000, retention_ratio=0.8),
)


def answerer(call: Call) -> Agent:
    return hotline if call.called == HOTLINE_NUMBER else shop


app = PhoneApp(answerer)
