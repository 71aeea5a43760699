from __future__ import annotations

from typing import Any

from phoneagent.sim.model.replies import PlannedCall, Question, Replies, Reply
from phoneagent.sim.model.script import Script

SCRIPT = Script.parse("""
default = "Pardon?"
greeting = "Hello!"
goodbye = "Farewell then."

[[turn]]
heard = "table"
caller = "A table."
say = "When?"

[[turn]]
heard = "seven"
caller = "Seven."
say = "Let me see."
call = "book"
arguments = { n = 4 }
then = "Done. {output}"

[[turn]]
heard = "bye"
call = "hang_up"
""")


def user(text: str, item_id: str = "u") -> dict[str, Any]:
    return {"id": item_id, "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def audio(item_id: str) -> dict[str, Any]:
    content = [{"type": "input_audio", "transcript": None}]
    return {"id": item_id, "type": "message", "role": "user", "content": content}


def system(text: str) -> dict[str, Any]:
    return {**user(text, "s"), "role": "system"}


def output(value: str, call_id: str = "c1") -> dict[str, Any]:
    return {"id": f"o{call_id}", "type": "function_call_output", "call_id": call_id, "output": value}


def ask(mind: Replies, *news: dict[str, Any], **changes: Any) -> Reply:
    question: dict[str, Any] = {
        "news": news,
        "heard": {},
        "instructions": None,
        "tools": {"book", "hang_up"},
        "tool_choice": "auto",
        "beginning": False,
    }
    return mind.answer(Question(**(question | changes)))


def mind(*, hears: bool = True) -> Replies:
    return Replies(SCRIPT, hears=hears)


def test_text_is_matched() -> None:
    assert ask(mind(), user("a table please")) == Reply(("When?",))
    assert ask(mind(), user("what is the weather")) == Reply(("Pardon?",))


def test_the_newest_of_several_turns_is_answered() -> None:
    assert ask(mind(), user("a table"), user("no, goodbye", "u2"), tools=()).say == ("Pardon?",)
    assert ask(mind(), user("seven"), user("a table", "u2")).say == ("When?",)


def test_what_was_heard_is_matched() -> None:
    assert ask(mind(), audio("a"), heard={"a": "At seven."}).say == ("Let me see.",)


def test_scripted_hearing_takes_the_lines_in_order_and_then_the_default() -> None:
    scripted = mind(hears=False)
    lines = [scripted.turn_began(f"a{number}") for number in range(4)]

    assert lines == ["A table.", "Seven.", "", ""]
    assert ask(scripted, audio("a1")).say == ("Let me see.",)
    assert ask(scripted, audio("a0")).say == ("When?",)
    assert ask(scripted, audio("a3")).say == ("Pardon?",)


def test_a_caller_who_says_nothing_does_not_use_up_a_line() -> None:
    scripted = mind(hears=False)
    scripted.idled("a0")

    assert ask(scripted, audio("a0")).say == (SCRIPT.idle,)
    assert scripted.turn_began("a1") == "A table."


def test_a_call_is_made_and_its_output_is_told() -> None:
    thinking = mind()
    reply = ask(thinking, user("seven"))

    assert reply == Reply(("Let me see.",), (PlannedCall("book", '{"n": 4}', ("Done. {output}",)),))
    thinking.called("c1", reply.calls[0])
    assert ask(thinking, output('"Reference 41."')).say == ("Done. Reference 41.",)


def test_an_output_without_a_line_is_spoken_as_it_is() -> None:
    assert ask(mind(), output('{"ok": true}')).say == ('{"ok": true}',)
    assert ask(mind(), output("not JSON")).say == ("not JSON",)


def test_several_outputs_are_told_at_once() -> None:
    thinking = mind()
    thinking.called("c1", PlannedCall("book", "{}", ("So: {output}",)))
    thinking.called("c2", PlannedCall("book", "{}", ("So: {output}",)))

    assert ask(thinking, output("one"), output("two", "c2")).say == ("So: one two",)


def test_an_output_and_a_question_are_both_answered() -> None:
    assert ask(mind(), output("It rains."), user("a table")).say == ("It rains.", "When?")


def test_a_tool_that_the_session_lacks_is_not_called() -> None:
    assert ask(mind(), user("seven"), tools=()) == Reply(("Let me see.",))
    assert ask(mind(), user("bye"), tools=()) == Reply(("Pardon?",))


def test_tool_choice_is_obeyed() -> None:
    assert ask(mind(), user("seven"), tool_choice="none") == Reply(("Let me see.",))
    assert ask(mind(), user("table"), tool_choice="required").calls == (PlannedCall("book", "{}"),)
    assert ask(mind(), user("seven"), tool_choice="required").calls[0].arguments == '{"n": 4}'
    forced = ask(mind(), user("seven"), tool_choice={"type": "function", "name": "hang_up"})
    assert forced == Reply(calls=(PlannedCall("hang_up", "{}"),))
    assert ask(mind(), user("table"), tool_choice="required", tools=()).calls == ()
    assert ask(mind(), user("seven"), tool_choice={"type": "function", "name": "other"}).calls[0].name == "book"


def test_a_function_that_is_forced_gets_what_the_script_has_or_its_schema_allows() -> None:
    choice = {"type": "function", "name": "book"}
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    made = ask(mind(), user("table"), tool_choice=choice, schemas={"book": schema})
    assert made == Reply(calls=(PlannedCall("book", '{"n": 1}'),))
    assert ask(mind(), user("seven"), tool_choice=choice).calls[0].arguments == '{"n": 4}'  # a turn calls it
    scripted = Replies(Script.parse("outcome = [{ n = 7 }, { day = 2026-11-30 }]"), hears=False)
    arguments = [ask(scripted, user("table"), tool_choice=choice).calls[0].arguments for _ in range(3)]
    assert arguments == ['{"n": 7}', '{"day": "2026-11-30"}', '{"day": "2026-11-30"}']


def test_quoted_words_are_said_exactly() -> None:
    wish = system('Greet the caller. Say exactly: "Chez Nous, good evening!"')

    assert ask(mind(), wish, beginning=True).say == ("Chez Nous, good evening!",)
    assert ask(mind(), user("table"), system('Not "this" but "that".')).say == ("that",)
    assert ask(mind(), user("table"), instructions="Say “one moment” now.").say == ("one moment",)
    assert ask(mind(), wish, user("table")).say == ("When?",)


def test_a_goodbye_is_said_when_asked_for() -> None:
    assert ask(mind(), output("hung up"), system("Say a short goodbye.")).say == ("Farewell then.",)
    assert ask(mind(), instructions="Say goodbye to the caller.").say == ("Farewell then.",)


def test_asked_for_nothing_in_particular_it_greets_fills_in_or_wonders() -> None:
    thinking = mind()

    assert ask(thinking, beginning=True).say == ("Hello!",)
    assert ask(thinking).say == ("Pardon?",)
    thinking.called("c1", PlannedCall("book", "{}"))
    assert ask(thinking).say == (SCRIPT.filler,)
    thinking.returned("c1")
    assert ask(thinking).say == ("Pardon?",)


def test_a_text_with_which_a_client_kicks_off_gets_the_greeting_unless_the_script_knows_it() -> None:
    assert ask(mind(), user("Greet the caller."), beginning=True).say == ("Hello!",)
    assert ask(mind(), user("a table please"), beginning=True).say == ("When?",)
    assert ask(mind(), user("Greet the caller.")).say == ("Pardon?",)
