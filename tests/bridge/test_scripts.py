"""The scripts of texts: what is one character, how long it takes to say, and what a text costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.bridge.scripts import (
    LATIN,
    begin_of,
    begin_of_tokens,
    chars_of,
    script_of,
    tokens_of,
    usual_ms,
)


@pytest.mark.parametrize(
    "chars",
    [
        ["H", "i", " ", "é", "e\u0301", "."],
        ["👨\u200d👩\u200d👧\u200d👦", "👍🏽", "❤\ufe0f\u200d🔥", "🙂\u200d↔\ufe0f", "1\ufe0f\u20e3"],
        ["🇩🇪", "🇫🇷", "🇯", "a", "🏴\U000e0067\U000e0062\U000e007f", "🎉"],
        ["न", "म", "स्ते", " ", "क्ष", "त्रि", "य"],
        ["क्\u200dष", "ร"],  # a joiner between two consonants
        ["ส", "วั", "ส", "ดี", "ค่ะ", "ไห", "ม", "กำ"],
        ["\u1112\u1161\u11ab", "한", "글", "\u1100\u1100\u1161", "\u1100가", "a", "\u1161"],
        ["ｶﾞ", "が", "か\u3099", "漢"],
        ["ش\u0651", "م", "س\u200f"],
        ["\u0301"],
        ["a\u200d", "b"],
    ],
)
def test_a_character_is_what_a_reader_takes_for_one(chars: list[str]) -> None:
    assert list(chars_of("".join(chars))) == chars


def test_no_text_has_no_characters() -> None:
    assert list(chars_of("")) == []


@given(st.text(), st.integers(0, 20))
def test_nothing_is_lost_and_a_beginning_is_one(text: str, length: int) -> None:
    assert "".join(chars_of(text)) == text
    begin = begin_of(text, length)
    assert text.startswith(begin)
    assert len(begin) <= length
    assert list(chars_of(begin)) == list(chars_of(text))[: len(list(chars_of(begin)))]


def test_a_beginning_splits_no_character() -> None:
    assert begin_of("ab👍🏽", 3) == "ab"
    assert begin_of("ab👍🏽", 4) == "ab👍🏽"
    assert begin_of("👨\u200d👩\u200d👧", 2) == ""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("The table for two people is free at seven tomorrow.", 3.2),
        ("ご予約は明日の午後七時に二名様で承りました。", 3.9),
        ("您好，请问有什么可以帮您？", 2.6),
        ("안녕하세요 무엇을 도와드릴까요", 2.3),
        ("สวัสดีค่ะ มีอะไรให้ช่วยไหมคะ", 2.3),
        ("مرحبا، كيف يمكنني مساعدتك اليوم؟", 2.7),
        ("नमस्ते, मैं आपकी क्या मदद कर सकता हूँ?", 2.8),
        ("Здравствуйте, чем я могу вам помочь?", 2.4),
        ("555 0100", 1.9),
    ],
)
def test_a_sentence_takes_about_as_long_as_it_is_spoken(text: str, seconds: float) -> None:
    assert usual_ms(text) / 1000 == pytest.approx(seconds, rel=0.2)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("The table for two people is free at seven tomorrow.", 11),
        ("Your reservation number is 4711-2026, isn't it?", 16),
        ('{"price": 12.50, "currency": "EUR"}', 13),
        ("\n\n    - one\n    - two\n", 7),
        ("ご予約は明日の午後七時に二名様で承りました。", 17),
        ("안녕하세요 무엇을 도와드릴까요", 9),
        ("مرحبا، كيف يمكنني مساعدتك اليوم؟", 12),
        ("Grüße aus Österreich", 4),
    ],
)
def test_what_a_text_costs_in_tokens(text: str, tokens: int) -> None:
    assert tokens_of(text) == tokens


@pytest.mark.parametrize(
    ("text", "begin"),
    [("four " * 5, "four " * 3), ("予約" * 20, "予約予"), ("ab", "ab"), ("", ""), ("a👍🏽👍🏽", "a👍🏽")],
)
def test_a_beginning_of_so_many_tokens(text: str, begin: str) -> None:
    assert begin_of_tokens(text, 3) == begin


@given(st.text(), st.integers(0, 20))
def test_a_beginning_costs_no_more_than_it_may(text: str, most: int) -> None:
    begin = begin_of_tokens(text, most)
    assert text.startswith(begin)
    assert tokens_of(begin) <= most
    assert begin == text or tokens_of(text) > most or not tokens_of(text[len(begin) :])


def test_every_code_point_has_a_script() -> None:
    assert script_of("\0") == script_of("z") == script_of("\ud800") == script_of("\U0010ffff") == LATIN
    assert not script_of("漢").spaced
    assert script_of("ب").spaced
