"""The hotel: the language of each greeting, and the person for each language."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.examples.conftest import Players, load

pytestmark = pytest.mark.anyio

SCRIPT = """
[[turn]]
heard = "ouvert"
call = "opening_hours"
arguments = { language = "fr" }
then = "{output}"
[[turn]]
heard = "offen"
call = "opening_hours"
arguments = { language = "de" }
then = "{output}"
[[turn]]
heard = "italiano"
call = "opening_hours"
arguments = { language = "it" }
then = "I am sorry, I do not speak Italian."
[[turn]]
heard = "rappelez|ring me"
call = "have_called_back"
arguments = { language = "fr", name = "Luc", wish = "A boat." }
then = "{output}"
[[turn]]
heard = "nummer"
call = "have_called_back"
arguments = { language = "de", name = "Eva", wish = "Ein Boot.", number = "+4915550100001" }
then = "{output}"
"""


@pytest.fixture
def hotel() -> Any:
    return load("languages")


@pytest.mark.parametrize(
    ("caller", "greeting", "language", "voice"),
    [
        ("+33555010000", "bonjour", "French", "cedar"),
        ("+4915550100001", "guten Tag", "German", "marin"),
        ("+43555010000", "guten Tag", "German", "marin"),
        ("+15550100001", "good day", "English", "marin"),
        (None, "good day", "English", "marin"),
    ],
)
async def test_a_caller_is_greeted_in_the_language_of_their_country(
    hotel: Any, played: Players, caller: str | None, greeting: str, language: str, voice: str
) -> None:
    async with played(hotel, SCRIPT) as number, number.call(caller=caller) as call:
        assert call.greeting is not None
        assert greeting in call.greeting.text
        session = call.session.session
        assert f"Begin in {language}." in session["instructions"]
        assert session["audio"]["output"]["voice"] == voice
        transcription = session["audio"]["input"]["transcription"]
        assert transcription["keywords"] == ["Hôtel du Lac", "Priya", "Camille", "Jonas"]
        assert "language" not in transcription


async def test_the_language_follows_the_caller(hotel: Any, played: Players) -> None:
    async with played(hotel, SCRIPT) as number, number.call(caller="+33555010000") as call:
        await call.says("Vous êtes ouverts ?", hears="La réception est ouverte de sept à vingt-trois heures")
        await call.says("Ach, haben Sie morgen offen?", hears="Der Empfang ist von sieben bis dreiundzwanzig Uhr")
        await call.says("Parla italiano?", hears="I do not speak Italian.")
        assert "Input should be 'en', 'fr' or 'de'" in json.loads(call.returned)["error"]
        assert {each["name"] for each in call.session.session["tools"]} == {
            "opening_hours",
            "have_called_back",
            "hang_up",
        }


async def test_a_person_of_that_language_calls_back(hotel: Any, played: Players) -> None:
    async with played(hotel, SCRIPT) as number:
        async with number.call(caller="+33555010000") as call:
            await call.says("Rappelez-moi.", hears="Camille speaks French and calls back within the hour.")
            await call.says("Rappelez-moi, j'insiste.", hears="Camille speaks French")
        async with number.call(caller="+4915550100002") as call:
            await call.says("Unter dieser Nummer.", hears="Jonas speaks German")
    assert hotel.to_call_back == {
        "Camille": [("Luc", "A boat.", "+33555010000")],
        "Jonas": [("Eva", "Ein Boot.", "+4915550100001")],
    }


async def test_a_withheld_number_is_asked_for(hotel: Any, played: Players) -> None:
    async with played(hotel, SCRIPT) as number, number.call(caller=None) as call:
        await call.says("Please ring me.", hears="withheld")
        assert json.loads(call.returned)["error"].startswith("The number is withheld. Ask for one")
        assert hotel.to_call_back == {}
        await call.says("Meine Nummer ist...", hears="Jonas speaks German")
    assert hotel.to_call_back == {"Jonas": [("Eva", "Ein Boot.", "+4915550100001")]}
