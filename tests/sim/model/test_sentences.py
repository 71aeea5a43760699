"""Sentences of a text that comes in pieces: each as early as it can be spoken."""

from __future__ import annotations

import pytest

from phoneagent.sim.model.sentences import MAX_CHARS, Sentences


def spoken(*pieces: str) -> list[list[str]]:
    """Return what each piece adds, and at last the rest."""
    sentences = Sentences()
    return [*(sentences.feed(piece) for piece in pieces), sentences.rest()]


def test_a_sentence_is_complete_when_the_next_word_begins() -> None:
    assert spoken("With plea", "sure.", " For", " four?") == [[], [], ["With pleasure."], [], ["For four?"]]


@pytest.mark.parametrize("text", ["Yes. Dr. Who", "It is 7.30 now", "1. Soup"])
def test_no_sentence_ends_within_a_few_characters_or_a_number(text: str) -> None:
    assert spoken(text) == [[], [text]]


def test_the_first_sentence_begins_with_its_first_clause_if_it_is_long() -> None:
    first, rest = spoken("I can offer you a table by the window, or one by the fire, which is warm")
    assert first == ["I can offer you a table by the window,"]
    assert rest == ["or one by the fire, which is warm"]


def test_later_sentences_are_whole() -> None:
    text = "Here you are, Sir. I can offer you a table by the window, or one by the fire. Well"
    assert spoken(text)[0] == ["Here you are, Sir.", "I can offer you a table by the window, or one by the fire."]


def test_a_sentence_without_end_is_cut_between_words() -> None:
    found, rest = spoken("word " * 60)
    assert [len(part) for part in found] == [MAX_CHARS - 1]
    assert " ".join([*found, *rest]) == " ".join(["word"] * 60)


def test_markup_is_not_read_aloud() -> None:
    assert spoken("**Hours**\n# Open from `nine`\n") == [["Hours Open from nine"], []]


def test_scripts_without_spaces() -> None:
    assert spoken("本日はありがとうございます。また") == [["本日はありがとうございます。"], ["また"]]
