from __future__ import annotations

import pytest

from phoneagent.bridge.far_end import BEEP_SECONDS, FarEnd
from phoneagent.protocol.beep import Tone

BEEP, FAX = Tone(1000, 400), Tone(2100, 800)


@pytest.mark.parametrize(
    "words",
    [
        "You have reached Anna. Please leave a message after the tone.",
        "Hi, leave your name and number and I'll call you back.",
        "The person you are calling is not available to take your call.",
        "Your call has been forwarded to an automated voice mail system.",
        "Bitte hinterlassen Sie eine Nachricht nach dem Signalton.",
        "Deje su mensaje después de la señal.",
        "Laissez un message après le bip.",
    ],
)
def test_the_words_of_a_machine(words: str) -> None:
    far = FarEnd()
    far.words(words, to_agent=False)
    assert far.verdict == "machine"
    assert not far.ready, "it still speaks"


@pytest.mark.parametrize(
    "words",
    [
        "Hello?",
        "Speaking. What is this about?",
        "He's not here. Would you like to leave a message?",
        "Can I take a message?",
        "I got your message. Press on with it!",
        "We're in the middle of dinner.",
    ],
)
def test_the_words_of_a_person(words: str) -> None:
    far = FarEnd()
    far.words(words, to_agent=False)
    assert far.verdict is None


@pytest.mark.parametrize(
    "words", ["For billing, press one. For support, press 2.", "Für Deutsch drücken Sie die Eins."]
)
def test_the_words_of_a_menu_outweigh_amd(words: str) -> None:
    far = FarEnd()
    far.words(words, to_agent=False)
    far.amd("machine_end_silence")
    assert (far.verdict, far.ready) == ("menu", False)
    far.tone(BEEP, 20)
    assert far.verdict == "machine", "a machine may offer keys"


def test_a_beep_makes_it_a_machine_that_records() -> None:
    far = FarEnd()
    far.amd("human")
    assert far.verdict == "person"
    far.tone(BEEP, 5)
    assert (far.verdict, far.ready) == ("machine", True)


@pytest.mark.parametrize("said", ["machine_end_beep", "machine_end_silence", "machine_end_other"])
def test_amd_tells_of_the_end_of_a_greeting(said: str) -> None:
    far = FarEnd()
    far.amd(said)
    assert (far.verdict, far.ready) == ("machine", True)


def test_a_conversation_outweighs_amd_and_beeps_but_no_machine_s_words() -> None:
    far = FarEnd()
    far.words("Who is this?", to_agent=True)
    far.words("Oh, hello.", to_agent=True)
    far.amd("machine_end_silence")
    far.tone(BEEP, 10)
    assert (far.verdict, far.ready) == ("person", False)
    far.words("Please leave a message after the tone.", to_agent=True)
    assert far.verdict == "machine"


def test_what_decides_nothing() -> None:
    far = FarEnd()
    far.amd("machine_start")
    far.amd("unknown")
    far.amd("")
    far.words("", to_agent=True)
    far.words("x" * 100_000, to_agent=False)
    far.tone(BEEP, BEEP_SECONDS + 1)
    assert far.verdict is None


def test_faxes() -> None:
    heard, told = FarEnd(), FarEnd()
    heard.tone(FAX, 2)
    told.amd("fax")
    assert heard.verdict == told.verdict == "fax"


def test_a_machine_that_falls_silent_without_a_beep_is_ready() -> None:
    far = FarEnd()
    far.words("Please leave a message.", to_agent=False)
    for tenths in range(100):
        far.sound(loud=tenths < 20, now=tenths / 10)
        assert far.ready == (tenths >= 70)
    person = FarEnd()
    person.sound(loud=False, now=0)
    person.sound(loud=False, now=60)
    assert not person.ready


def test_a_person_who_has_answered_once_is_not_hung_up_on_because_of_amd() -> None:
    far = FarEnd()
    far.words("Hello?", to_agent=False)
    far.words("Who is this?", to_agent=True)
    far.amd("machine_end_other")
    assert (far.verdict, far.ready) == (None, False)
    far.amd("machine_end_beep")
    assert far.verdict == "machine"


def test_what_was_known_before_is_kept_and_a_machine_may_still_be_greeting() -> None:
    far = FarEnd()
    far.known("machine")
    assert (far.verdict, far.ready) == ("machine", False)
    far.tone(BEEP, 1)
    assert far.ready
    for verdict, expected in (("fax", "fax"), ("person", "person"), ("menu", "menu")):
        far = FarEnd()
        far.known(verdict)
        assert far.verdict == expected
        far.amd("machine_end_other")
        assert (far.verdict, far.ready) == (expected, False)
