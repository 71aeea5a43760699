"""A dentist that calls everyone in visits.csv: at a decent hour where they live, and again if the line is busy.

Run it with `phoneagent serve examples/campaign.py`. Then
`phoneagent campaign start examples/visits.csv examples/campaign.py` calls the list, and shows how far it is. `python
examples/campaign.py` does the same from code. However often either one is run, it is the same campaign.
"""

import asyncio
from pathlib import Path

from phoneagent import Agent, Call, PhoneApp, hang_up, tool

LIST = Path(__file__).parent / "visits.csv"
COMING: dict[str, bool] = {}  # your database


@tool
async def note_answer(call: Call, coming: bool) -> str:
    """Note whether the person comes to their visit."""
    if "visit" not in call.context:
        return "You have not called them: take no answer."
    COMING[call.context["visit"]] = coming
    return "Noted. Say goodbye, and hang up."


@tool
async def never_call_again(call: Call) -> str:
    """Make sure that this person is never called again, when they ask for it."""
    if call.party is None:
        return "Their number is withheld, so nothing is noted. Ask them to call again without withholding it."
    await app.campaigns.never_call([call.party])
    return "Done. Apologize, say goodbye, and hang up."


def instructions(call: Call) -> str:
    if not call.context:
        return "You answer the phone of a dentist. Say that the desk is open from nine to five, and hang up."
    return (
        f"You have called {call.context['name']} for a dentist. First say that you are an assistant with an artificial "
        f"voice. Remind them of their visit {call.context['when']}, ask whether they come, and note the answer."
    )


app = PhoneApp(Agent(name="reminder", instructions=instructions, tools=[note_answer, never_call_again, hang_up]))


async def main() -> None:
    campaign = await app.campaigns.start(LIST.stem, LIST, hours="09:00-18:00", at_once=2, attempts=3)
    print(f"{campaign.state}: {dict(campaign.numbers)}")
    await app.stop_dialing()


if __name__ == "__main__":
    asyncio.run(main())
