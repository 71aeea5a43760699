"""Names that are unique in a call."""

from __future__ import annotations

from phoneagent.bridge.names import MAX_NAMES, Names, known_id


def test_names_are_unique_and_short() -> None:
    names = Names(["a"])
    assert [names.new("a"), names.new("a"), names.new("b")] == ["a~2", "a~3", "b"]
    long = "x" * 40
    assert names.new(long) == long
    assert len(names.new(long)) <= 32


def test_the_oldest_name_is_forgotten_first() -> None:
    names = Names()
    for number in range(MAX_NAMES + 1):
        names.new(str(number))
    assert names.new("0") == "0"
    assert names.new("100") == "100~2"


def test_a_name_that_we_made_up_is_no_id() -> None:
    assert (known_id("r1"), known_id("~1"), known_id(None)) == ("r1", None, None)
