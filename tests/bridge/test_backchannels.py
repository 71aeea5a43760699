"""Which words only show that the caller listens."""

from __future__ import annotations

import pytest

from phoneagent.bridge.backchannels import known_words, meaning_of, repeats, words_of

ALL = known_words()


@pytest.mark.parametrize(
    "text",
    ["Mhm.", "Uh-huh.", "YES", "okay, okay", "I see.", "Got it!", "Genau.", "D’accord", "はい。", "好的", "ठीक है"],
)
def test_a_back_channel(text: str) -> None:
    assert meaning_of(text, 1000, ALL) == "backchannel"


@pytest.mark.parametrize(
    "text", ["No.", "Stop", "Wait!", "Yes, but", "How much?", "okay okay okay okay okay", "Nein", "いいえ"]
)
def test_words_that_say_something(text: str) -> None:
    assert meaning_of(text, 2000, ALL) == "words"


@pytest.mark.parametrize("text", ["", " ", "...", "♪", "\x00"])
def test_a_text_without_words(text: str) -> None:
    assert meaning_of(text, 1000, ALL) == "none"


def test_words_need_their_time() -> None:
    text = "Thank you for watching, and see you next time."
    assert meaning_of(text, 300, ALL) == "none"
    assert meaning_of(text, 2500, ALL) == "words"
    assert meaning_of("Stop!", 0, ALL) == "words", "it may be too soft to be measured"


def test_only_the_languages_of_the_caller_count() -> None:
    german = known_words(("de-AT", "xx"))
    assert meaning_of("Genau.", 1000, german) == "backchannel"
    assert meaning_of("Sure.", 1000, german) == "words"
    assert meaning_of("Mhm.", 1000, german) == "backchannel"
    assert known_words(("xx",)) == ALL


def test_more_words_can_be_given() -> None:
    assert meaning_of("Roger that", 1000, known_words(("en",), ("roger that",))) == "backchannel"


def test_apostrophes_and_hyphens_stay_within_words() -> None:
    assert words_of("Uh-huh, d’accord!") == ["uhhuh", "d'accord"]


@pytest.mark.parametrize(
    ("text", "same"),
    [("by the window", True), ("By the window?", True), ("window", False), ("the table", False), ("", False)],
)
def test_a_transcript_that_repeats_the_agents_words(text: str, same: bool) -> None:
    assert repeats(text, "A table by the window, at eight.") is same
    assert not repeats(text, "")
