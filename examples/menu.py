"""An agent that calls a company for you, and finds its way through the menu that answers there.

Run it with `phoneagent serve examples/menu.py`. Then `phoneagent call +12025550107 examples/menu.py` calls that number.
What the menu says is the far end's speech, and the agent presses keys.
"""

from phoneagent import Agent, Call, PhoneApp, hang_up, press_keys, tool

GOAL = "the state of the parcel 7 4 4 1"


@tool
async def report(call: Call, result: str) -> str:
    """Note what you have found out, word for word, before you hang up."""
    call.state["result"] = result
    return "Noted. Hang up now."


app = PhoneApp(
    Agent(
        name="errand",
        instructions=(
            f"You have called a company to find out {GOAL}. A menu answers: it is a machine, so do not talk to it. "
            "Listen to each level to its end, and press the key that leads to the goal. If a person answers, say in "
            "one sentence what you need. Report what you have found out, then hang up."
        ),
        tools=[press_keys, report, hang_up],
        keys="ignore",  # the far end presses none
    )
)
