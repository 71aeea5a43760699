from __future__ import annotations

from pathlib import Path

import pytest

from phoneagent.errors import DefinitionError
from phoneagent.sim.model.script import Script, ScriptedCall

TEXT = """
default = "What?"
goodbye = "Bye now."

[[turn]]
heard = "table|book"
caller = "A table, please."
say = "Of course."

[[turn]]
heard = "half past"
say = ["Let me see.", "One moment."]
call = "book_table"
arguments = { guests = 4, time = "19:30" }
then = "Done. {output}"

[[turn]]
calls = [{ name = "first" }, { name = "second", arguments = { n = 1 } }]
"""


def test_a_script_is_read_in_full() -> None:
    script = Script.parse(TEXT)

    assert (script.default, script.goodbye) == ("What?", "Bye now.")
    assert script.greeting == Script().greeting
    assert script.turns[0].caller == "A table, please."
    assert script.turns[1].say == ("Let me see.", "One moment.")
    assert script.turns[1].calls == (ScriptedCall("book_table", {"guests": 4, "time": "19:30"}),)
    assert script.turns[1].then == ("Done. {output}",)
    assert script.turns[2].calls == (ScriptedCall("first"), ScriptedCall("second", {"n": 1}))


def test_the_first_turn_that_matches_is_taken_whatever_the_case() -> None:
    script = Script.parse(TEXT)

    assert script.match("I'd like to BOOK for half past seven") is script.turns[0]
    assert script.match("at half past") is script.turns[1]
    assert script.match("hello") is None


def test_an_outcome_is_a_table_or_several() -> None:
    assert Script.parse("default = 'x'").outcomes == ()
    assert Script.parse("outcome = { guests = 4 }").outcomes == ({"guests": 4},)
    assert Script.parse("outcome = [{ guests = 0 }, { guests = 4 }]").outcomes == ({"guests": 0}, {"guests": 4})


def test_turns_are_counted_until_they_are_used_up() -> None:
    script = Script.parse(TEXT)

    assert script.turn(2) is script.turns[2]
    assert script.turn(3) is None


def test_a_script_may_be_given_in_any_form(tmp_path: Path) -> None:
    path = tmp_path / "call.toml"
    path.write_text(TEXT, encoding="utf-8")
    parsed = Script.parse(TEXT)

    assert Script.of(path).turns[0].say == Script.of(str(path)).turns[0].say == Script.of(TEXT).turns[0].say
    assert Script.of(parsed) is parsed


def test_the_built_in_script_chats_with_people_and_ends_the_call() -> None:
    script = Script.of(None)
    last = script.match("Thank you, goodbye")

    assert script.match("Good morning!") is script.turns[0]
    assert last is script.turns[-1]
    assert last.calls == (ScriptedCall("hang_up"),)
    assert all(turn.caller and script.match(turn.caller) is turn for turn in script.turns)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default = ", "not TOML"),
        ("hello = 'x'", "unknown key `hello`"),
        ("[[turn]]\nsay = 'x'\nkeys = '12x'", "turn 1: `keys` has one that no telephone has"),
        ("[[turn]]\nsay = 'x'\nkeys = 12", "turn 1: `keys` must be text"),
        ("[[turn]]\nhear = 'x'", "turn 1: unknown key `hear`; known are arguments, call"),
        ("[[turn]]\nheard = '('\nsay = 'x'", "`heard` is not a regular expression"),
        ("[[turn]]\nheard = 'x'", "neither says nor calls"),
        ("[[turn]]\nsay = 4", "`say` must be text, not 4"),
        ("[[turn]]\nsay = 'x'\narguments = {}", "`arguments` belongs to a `call`"),
        ("[[turn]]\ncall = 'x'\narguments = 'y'", "`arguments` must be a table"),
        ("[[turn]]\ncalls = 'x'", "`calls` must be a list"),
        ("[[turn]]\ncalls = ['x']", "a call must be a table"),
        ("turn = 1", "write [[turn]]"),
        ("default = 4", "`default` must be text"),
        ("outcome = 4", "`outcome` must be a table or a list of tables, not 4"),
        ("outcome = [{}, 4]", "`outcome` must be a table or a list of tables"),
    ],
)
def test_a_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        Script.parse(text)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"nothing\.toml cannot be read"):
        Script.of(str(tmp_path / "nothing.toml"))
