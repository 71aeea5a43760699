"""What was heard of a text, from how much of its audio was heard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.bridge.heard import heard_part
from phoneagent.bridge.scripts import char_ms, chars_of


def test_half_of_the_audio_is_half_of_the_text_in_whole_words() -> None:
    assert heard_part("one two three four", 500, 1000, complete=True) == "one two"
    assert heard_part("one two three four", 400, 1000, complete=True) == "one two"
    assert heard_part("one two three four", 100, 1000, complete=True) == ""


def test_all_of_the_audio_is_all_of_the_text() -> None:
    assert heard_part("one two", 1000, 1000, complete=True) == "one two"
    assert heard_part("", 0, 0, complete=True) == ""


def test_nothing_heard_is_no_text() -> None:
    assert heard_part("one two", 0, 1000, complete=True) == ""
    assert heard_part("予約", 0, 1000, complete=True) == ""
    assert heard_part("", 0, 1000, complete=True) == ""


def test_words_run_ahead_of_audio_that_is_not_complete() -> None:
    text = "word " * 20  # 100 characters, about 6 s of speech
    assert heard_part(text, 500, 500, complete=False) == "word"
    assert heard_part(text, 500, 500, complete=True) == text


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("ご予約は明日の午後七時に二名様で承りました。ありがとうございます。", "ご予約は明日の午後七時に二名"),
        ("您好，请问有什么可以帮您？", "您好，请问有"),
        ("안녕하세요 무엇을 도와드릴까요", "안녕하세요 무엇"),
        ("สวัสดีค่ะ มีอะไรให้ช่วยไหมคะ", "สวัสดีค่ะ มีอะ"),
        ("مرحبا، كيف يمكنني مساعدتك اليوم؟", "مرحبا، كيف"),
        ("नमस्ते, मैं आपकी क्या मदद कर सकता हूँ?", "नमस्ते, मैं आपकी क्या"),
        ("今日はiPhoneを買いました", "今日は"),  # a Latin word stays whole
        ("Your number is 555 0100, is that right?", "Your number is 555"),
        ("👨\u200d👩\u200d👧👍🏽👍🏽🎉", "👨\u200d👩\u200d👧👍🏽"),
    ],
)
def test_half_of_the_audio_in_any_script(text: str, heard: str) -> None:
    assert heard_part(text, 2000, 4000, complete=True) == heard


def test_before_all_audio_came_the_script_tells_how_much_it_can_be() -> None:
    text = "かしこまりました。明日の午後七時に二名様でご予約を承ります。" * 3
    assert heard_part(text, 1000, 1000, complete=False) == "かしこまりまし"
    assert heard_part("one two three four five six seven", 1000, 1000, complete=False) == "one two three"


@given(st.text(), st.integers(0, 10_000), st.integers(0, 10_000), st.booleans())
def test_what_was_heard_is_a_beginning_in_whole_characters(text: str, heard: int, said: int, complete: bool) -> None:
    part = heard_part(text, heard, said, complete=complete)
    assert text.startswith(part)
    whole = list(chars_of(text))
    if text[len(part) :].strip():  # what is left out at the end is more than space
        assert list(chars_of(part)) == whole[: len(list(chars_of(part)))]


@given(st.text(), st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000))
def test_hearing_more_is_never_less_text(text: str, heard: int, more: int, said: int) -> None:
    less = heard_part(text, heard, said, complete=True)
    assert len(heard_part(text, heard + more, said, complete=True)) >= len(less)


@given(st.text("あ漢ไ한👍", min_size=1, max_size=60), st.integers(0, 9_999))
def test_without_spaces_the_part_takes_as_long_as_was_heard(text: str, heard_ms: int) -> None:
    chars = list(chars_of(text))
    total = sum(char_ms(char[0]) for char in chars)
    count = len(list(chars_of(heard_part(text, heard_ms, 10_000, complete=True))))
    shares = [sum(char_ms(char[0]) for char in chars[:number]) / total for number in (count, count + 1)]
    assert shares[0] <= heard_ms / 10_000 < shares[1]
