"""A hotel that answers in the caller's language and has a person for each: `phoneagent serve examples/languages.py`.

The country code of the caller's number decides the language of the greeting. From then on the agent follows the caller.
Try it without a telephone: `phoneagent chat examples/languages.py --caller +33555010000`.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from phoneagent import Agent, Call, Hearing, PhoneApp, ToolError, Voice, hang_up, tool

Language = Literal["en", "fr", "de"]


@dataclass(frozen=True, slots=True)
class FrontDesk:
    """What the hotel offers in one language. `hours` are said as written: a translation may get a time wrong."""

    name: str
    greeting: str
    hours: str
    person: str
    voice: Voice


DESKS: dict[Language, FrontDesk] = {
    "en": FrontDesk(
        "English",
        "Hôtel du Lac, good day! What can I do for you?",
        "Reception is open from seven in the morning to eleven at night, the restaurant from six in the evening.",
        "Priya",
        Voice("marin"),
    ),
    "fr": FrontDesk(
        "French",
        "Hôtel du Lac, bonjour ! Que puis-je faire pour vous ?",
        "La réception est ouverte de sept à vingt-trois heures, le restaurant à partir de dix-huit heures.",
        "Camille",
        Voice("cedar", speed=1.05),
    ),
    "de": FrontDesk(
        "German",
        "Hôtel du Lac, guten Tag! Was kann ich für Sie tun?",
        "Der Empfang ist von sieben bis dreiundzwanzig Uhr besetzt, das Restaurant öffnet um achtzehn Uhr.",
        "Jonas",
        Voice("marin"),
    ),
}
COUNTRIES: dict[str, Language] = {"+33": "fr", "+49": "de", "+43": "de"}

# Per member of staff: the caller's name, wish and number. In your app this is a mailbox, or a list in the office.
to_call_back: dict[str, list[tuple[str, str, str]]] = defaultdict(list)


@tool
async def opening_hours(language: Language) -> str:
    """Tell the opening hours, in the language that you are speaking with the caller. Say them word for word."""
    return DESKS[language].hours


@tool(once=True)
async def have_called_back(call: Call, language: Language, name: str, wish: str, number: str | None = None) -> str:
    """Have a person who speaks the caller's language call back: at `number`, or at the number they call from."""
    number = number or call.party
    if number is None or not number.startswith("+"):  # withheld: the network says "anonymous", or nothing
        raise ToolError("The number is withheld. Ask for one with its country code, like +33 5 55 01 00 00.")
    person = DESKS[language].person
    to_call_back[person].append((name, wish, number))
    return f"{person} speaks {DESKS[language].name} and calls back within the hour."


def agent(language: Language) -> Agent:
    desk = DESKS[language]
    return Agent(
        name=f"{desk.name} reception",
        instructions=(
            f"You are the receptionist of the Hôtel du Lac. Be brief and courteous. Begin in {desk.name}. Follow the "
            "caller: when they say a whole sentence in another language, or ask you to, go on in it, and tell the "
            "tools so. A name, a single word or an accent is no reason to switch. Never mix languages in one answer. "
            f"You speak {', '.join(each.name for each in DESKS.values())}; in any other say in one sentence that you "
            "cannot, and go on in English. Have people called back for what you cannot do yourself."
        ),
        greeting=desk.greeting,
        voice=desk.voice,
        tools=[opening_hours, have_called_back, hang_up],
        # No language is set: the recognizer detects it, as the model does. The keywords are names it could not know.
        hearing=Hearing(keywords=["Hôtel du Lac", *(each.person for each in DESKS.values())]),
    )


agents = {language: agent(language) for language in DESKS}


def answerer(call: Call) -> Agent:
    return agents[COUNTRIES.get((call.party or "")[:3], "en")]


app = PhoneApp(answerer)
