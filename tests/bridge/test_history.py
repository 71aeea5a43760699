"""What a new model session is told of a call under way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from phoneagent.bridge.history import MAX_PART_CHARS, MAX_TOKENS, Past, ToolRun, pending_now
from phoneagent.bridge.scripts import tokens_of
from phoneagent.events import Turn


def said(role: Any, text: str, at_ms: int, *, heard: str | None = None, heard_ms: int = 1000) -> Turn:
    return Turn(
        role=role,
        item_id=f"item_{at_ms}",
        text=text,
        heard_text=text if heard is None else heard,
        start_ms=at_ms,
        end_ms=at_ms + 1000,
        said_ms=1000,
        heard_ms=heard_ms,
        interrupted=heard is not None,
    )


def tool(at_ms: int, output: str | None, call_id: str = "c1") -> ToolRun:
    return ToolRun(call_id=call_id, name="book", arguments='{"n": 2}', output=output, at_ms=at_ms)


def told(past: Past) -> list[Any]:
    """Role or type, and text, of every item but the last word."""
    short = []
    for item in past.items()[:-1]:
        if item["type"] == "message":
            (part,) = item["content"]
            short.append((item["role"], part["type"], part["text"]))
        else:
            short.append((item["type"], item["call_id"], item.get("output") or item["arguments"]))
    return short


def test_the_conversation_is_told_in_order_as_it_was_heard() -> None:
    past = Past(
        turns=(
            said("agent", "Hello!", 0),
            said("caller", "A table for two.", 2000),
            said("agent", "At eight or at nine?", 6000, heard="At eight or"),
        ),
        tools=(tool(4000, '"free"'),),
    )
    assert told(past) == [
        ("assistant", "output_text", "Hello!"),
        ("user", "input_text", "A table for two."),
        ("function_call", "c1", '{"n": 2}'),
        ("function_call_output", "c1", '"free"'),
        ("assistant", "output_text", "At eight or"),
    ]


def test_what_was_not_heard_or_not_understood_is_not_told() -> None:
    past = Past(turns=(said("agent", "Hello!", 0, heard=""), said("caller", "", 2000)))
    assert told(past) == []


def test_a_tool_without_an_output_may_have_run() -> None:
    *_, (kind, call_id, output) = told(Past(tools=(tool(0, None),)))
    assert (kind, call_id) == ("function_call_output", "c1")
    assert "outcome unknown" in json.loads(output)["error"]


def test_of_a_very_long_call_the_end_is_told_and_a_tool_keeps_its_output() -> None:
    turns = tuple(said("caller", f"{number} " + "word " * 250, number * 1000) for number in range(100))
    items = told(Past(turns=turns, tools=(tool(99_500, "done"),)))
    assert 40 < len(items) < 50
    assert sum(tokens_of(text) for *_, text in items) < MAX_TOKENS
    assert [kind for kind, *_ in items[-2:]] == ["function_call", "function_call_output"]
    assert items[-3][2].startswith("99 ")


def test_of_a_long_call_in_japanese_less_is_told() -> None:
    turns = tuple(said("caller", f"{number} " + "予約" * 500, number * 1000) for number in range(100))
    items = told(Past(turns=turns))
    assert 10 < len(items) < 20
    assert items[-1][2].startswith("99 ")


def test_a_long_turn_is_cut_between_characters() -> None:
    (item,) = told(Past(turns=(said("caller", "x" + "👍🏽" * MAX_PART_CHARS, 0),)))
    assert item[2] == "x" + "👍🏽" * (MAX_PART_CHARS // 2 - 1) + "… (cut)"


def test_one_long_output_does_not_empty_the_history() -> None:
    items = told(Past(turns=(said("caller", "Hello", 0),), tools=(tool(1000, "x" * 60_000),)))
    assert items[0] == ("user", "input_text", "Hello")
    assert items[2][2] == "x" * MAX_PART_CHARS + "… (cut)"


@pytest.mark.parametrize(
    ("pending", "word"),
    [("nothing", "Wait"), ("answer", "go on where you were cut off"), ("words", "missed"), ("unknown", "missed")],
)
def test_our_last_word_puts_the_model_back_into_the_call(pending: Any, word: str) -> None:
    last = Past(pending=pending).items()[-1]
    assert last["role"] == "system"
    text = last["content"][0]["text"]
    assert "Do not greet the caller again" in text
    assert word in text


def test_a_call_that_is_still_to_be_greeted_needs_no_such_word() -> None:
    assert (
        Past(turns=(said("caller", "Hello?", 0),)).items(anchor=False)
        == Past(turns=(said("caller", "Hello?", 0),)).items()[:-1]
    )


def test_whether_the_caller_was_greeted() -> None:
    assert Past().greeted  # nobody knows, so not again
    assert not Past(pending="nothing").greeted
    assert not Past(pending="answer", turns=(said("agent", "Hello!", 0, heard="", heard_ms=0),)).greeted
    assert not Past(pending="answer", turns=(said("caller", "Hello?", 0),)).greeted
    assert Past(pending="answer", turns=(said("agent", "Hello!", 0, heard="Hel"),)).greeted


@pytest.mark.parametrize(
    ("turn_open", "owes", "words_lost", "pending"),
    [
        (False, False, False, "nothing"),
        (False, False, True, "nothing"),  # it was answered
        (False, True, False, "answer"),
        (False, True, True, "words"),
        (True, False, False, "words"),
        (True, True, False, "words"),
    ],
)
def test_what_is_open(turn_open: bool, owes: bool, words_lost: bool, pending: str) -> None:
    assert pending_now(turn_open=turn_open, owes=owes, words_lost=words_lost) == pending


def test_nothing_said_is_shown_by_accident() -> None:
    assert "secret" not in repr(Past(turns=(said("caller", "secret", 0),), tools=(tool(0, "secret"),)))


# --- after a crash ---


def anchor(*turns: Turn, pending: Any = "unknown", before: Any = "unknown") -> str:
    text: str = Past(turns=turns, pending=pending, before_crash=before).items()[-1]["content"][0]["text"]
    return text


CUT = said("agent", "At eight or at nine?", 6000, heard="At eight or")
WISH = said("caller", "A table for two.", 2000)


def test_the_words_that_a_crash_cut_off_are_named() -> None:
    text = anchor(WISH, CUT, before="answer")
    assert "go on where you were cut off" in text
    heard, unheard = text.splitlines()[-2:]
    assert heard.endswith("the caller has heard this much: At eight or")
    assert unheard.endswith("has not heard: at nine?")


def test_where_the_caller_spoke_into_the_agents_words_the_rest_of_them_is_not_to_be_said() -> None:
    text = anchor(WISH, CUT, before="words")
    assert text.endswith("the caller has heard this much: At eight or")
    assert "missed their last words" in text


def test_the_callers_words_do_not_become_words_of_the_system() -> None:
    assert all("A table" not in anchor(WISH, before=before) for before in ("answer", "words", "nothing", "unknown"))


def test_after_a_crash_a_greeting_that_was_not_heard_is_said() -> None:
    assert not Past(before_crash="answer").greeted
    assert not Past(before_crash="answer", turns=(WISH,)).greeted
    assert not Past(before_crash="answer", turns=(said("agent", "Hello!", 0, heard="", heard_ms=90),)).greeted
    assert Past(before_crash="answer", turns=(said("agent", "", 0, heard="", heard_ms=900),)).greeted  # without a text
    assert Past(before_crash="answer", turns=(CUT,)).greeted


@pytest.mark.parametrize(
    ("before", "word"), [("nothing", "Neither"), ("answer", "then answer"), ("words", "ask"), ("unknown", "missed")]
)
def test_after_a_crash_the_agent_says_a_word_whatever_was_open(before: Any, word: str) -> None:
    text = anchor(before=before)
    assert word in text
    assert "one short sentence" in text


def test_what_was_open_before_a_crash_does_not_count_where_it_is_known_what_is_open_now() -> None:
    assert anchor(WISH, pending="nothing", before="words") == anchor(pending="nothing")


def test_after_a_hand_over_the_words_that_were_cut_off_are_named_as_well() -> None:
    assert anchor(WISH, CUT, pending="answer").endswith("has not heard: at nine?")
    assert anchor(WISH, said("agent", "At eight.", 6000), pending="answer").count("\n") == 0


def test_only_a_part_of_long_words_is_repeated() -> None:
    text = anchor(said("agent", "one " * 60 + "last " + "more " * 100, 0, heard="one " * 60 + "last"), before="answer")
    heard, unheard = text.splitlines()[-2:]
    assert ": …one one" in heard
    assert heard.endswith("one last")
    assert unheard.count("more") == 40
    assert ": …予予" in anchor(said("agent", "予" * 400, 0, heard="予" * 300), before="answer")


def test_where_the_words_came_after_their_audio_only_those_are_told_that_were_heard() -> None:
    text = anchor(said("agent", "At nine?", 0, heard="At eight or"), before="answer")
    assert text.endswith("has heard this much: At eight or")


def test_a_caller_who_comes_back_from_a_transfer_is_told_why() -> None:
    past = Past(pending="answer", returned="The transfer is over: billing is busy.")
    text = past.items()[-1]["content"][0]["text"]
    assert text.startswith("The transfer is over: billing is busy. This is the same phone call")
    assert "interrupted for a moment" not in text
    assert past.items(anchor=False) == []
