"""A dentist that reminds people of their visits by telephone, and leaves a message where a machine answers.

Run it with `phoneagent serve examples/reminder.py`. Then `python examples/reminder.py` queues the calls of tomorrow's
visits. However often it runs, each visit is one call.
"""

import asyncio
from dataclasses import dataclass

from phoneagent import Agent, Call, PhoneApp, TelephonyError, hang_up, tool


@dataclass(frozen=True)
class Visit:
    id: int
    name: str
    number: str
    when: str


VISITS = [Visit(7, "Anna", "+15550100009", "tomorrow at nine"), Visit(8, "Ben", "+15550100008", "tomorrow at ten")]
COMING: dict[int, bool] = {}  # your database


@tool
async def note_answer(call: Call, coming: bool) -> str:
    """Note whether the person comes to their visit."""
    if "visit" not in call.context:
        return "You have not called them: take no answer."
    COMING[call.context["visit"]] = coming
    return "Noted. Say goodbye, and hang up."


def instructions(call: Call) -> str:
    if not call.context:
        return "You answer the phone of a dentist. Say that the desk is open from nine to five, and hang up."
    return (
        f"You have called {call.context['name']} for a dentist. First say that you are an assistant with an artificial "
        f"voice. Remind them of their visit {call.context['when']}, ask whether they come, and note the answer."
    )


app = PhoneApp(Agent(name="reminder", instructions=instructions, tools=[note_answer, hang_up]))


async def remind(app: PhoneApp, visit: Visit) -> None:
    await app.dial(
        visit.number,
        context={"visit": visit.id, "name": visit.name, "when": visit.when},
        idempotency_key=f"visit-{visit.id}",
        on_machine="leave_message",
        message=f"This is your dentist. Your visit is {visit.when}. If you cannot come, please call us.",
    )


async def main() -> None:
    for visit in VISITS:
        try:
            await remind(app, visit)
        except TelephonyError as error:  # no number, or one that is never called
            print(f"visit {visit.id}: {error}")
    await app.stop_dialing()


if __name__ == "__main__":
    asyncio.run(main())
