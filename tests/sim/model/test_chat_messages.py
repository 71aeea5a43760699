"""A session's conversation as chat messages: the order that models demand, and only what was heard."""

from __future__ import annotations

from typing import Any

from phoneagent.sim.model.chat_messages import SPOKEN, chat_messages, chat_tool_choice, chat_tools, prescribed_words
from phoneagent.sim.model.records import AudioItem


def message(role: str, text: str, item_id: str = "i") -> dict[str, Any]:
    return {"id": item_id, "type": "message", "role": role, "content": [{"type": "text", "text": text}]}


def call(name: str, call_id: str) -> dict[str, Any]:
    return {"id": f"i-{call_id}", "type": "function_call", "name": name, "call_id": call_id, "arguments": "{}"}


def output(call_id: str, text: str) -> dict[str, Any]:
    return {"id": f"o-{call_id}", "type": "function_call_output", "call_id": call_id, "output": text}


def shapes(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(each["role"], each["content"]) for each in messages]


def test_instructions_come_first_and_an_empty_conversation_asks_for_a_beginning() -> None:
    messages = chat_messages([], instructions="You book tables.", spoken=True)
    assert shapes(messages) == [
        ("system", f"You book tables.\n\n{SPOKEN}"),
        ("user", "(The call was just answered. You speak first.)"),
    ]


def test_the_responses_own_instructions_replace_the_sessions_and_later_system_items_are_notes() -> None:
    items = [message("user", "Hi"), message("system", "Be brief.")]
    messages = chat_messages(items, instructions="You book tables.", asked="Say goodbye.")
    assert shapes(messages) == [
        ("system", "Say goodbye."),
        (
            "user",
            "Hi\n(A note from the system, not from the caller: Be brief.)\n"
            "(A note from the system, not from the caller: Say goodbye.)",
        ),
    ]


def test_a_greeting_that_was_prescribed_is_known_as_said_and_not_as_asked_for() -> None:
    items = [
        message("system", 'Greet the caller with exactly these words: "Good day!"'),
        message("assistant", "Good day!"),
        message("user", "Hi"),
    ]
    assert shapes(chat_messages(items, instructions="Be brief.")) == [
        ("system", "Be brief."),
        ("user", "(The call was just answered. You speak first.)"),
        ("assistant", "Good day!"),
        ("user", "Hi"),
    ]


def test_which_words_are_prescribed() -> None:
    assert prescribed_words('Say exactly this to the caller now, and nothing else: "Bye."') == "Bye."
    assert prescribed_words('Say this in your own words: "Bye."') is None
    assert prescribed_words('Be exactly as brief as "Bye" is, please') is None


def test_outputs_follow_their_calls_whenever_they_came() -> None:
    items = [
        message("user", "A table."),
        message("assistant", "Let me see."),
        call("book", "c1"),
        call("pay", "c2"),
        message("user", "Hurry!"),
        output("c1", "Booked."),
    ]
    messages = chat_messages(items, instructions="")
    assert shapes(messages) == [
        ("user", "A table."),
        ("assistant", "Let me see."),
        ("tool", "Booked."),
        ("tool", "(The tool is still running.)"),
        ("user", "Hurry!"),
    ]
    assert [made["id"] for made in messages[1]["tool_calls"]] == ["c1", "c2"]
    assert messages[2]["tool_call_id"] == "c1"
    assert messages[1]["tool_calls"][0]["function"] == {"name": "book", "arguments": "{}"}


def test_a_call_after_an_output_is_not_parallel_to_the_one_before() -> None:
    items = [message("user", "A table."), call("find", "c1"), output("c1", "Table 7."), call("book", "c2")]
    messages = chat_messages([*items, output("c2", "Booked.")], instructions="")
    assert shapes(messages) == [
        ("user", "A table."),
        ("assistant", ""),
        ("tool", "Table 7."),
        ("assistant", ""),
        ("tool", "Booked."),
    ]
    assert [made["id"] for each in messages for made in each.get("tool_calls", ())] == ["c1", "c2"]


def test_a_conversation_that_ends_with_the_assistant_is_asked_to_go_on() -> None:
    items = [message("user", "Hi"), message("assistant", "Hello.")]
    assert shapes(chat_messages(items, instructions=""))[-1] == ("user", "(Go on.)")


def test_of_a_truncated_message_only_what_was_heard_is_known() -> None:
    item = {**message("assistant", "", "a"), "content": [{"type": "output_audio"}]}
    spoken = AudioItem("a", "r", "One two three. Four five six.", parts=[("One two three.", 800), ("Four five.", 800)])
    spoken.truncated_ms = 150
    items = [message("user", "Count."), item, message("user", "Stop.")]
    messages = chat_messages(items, instructions="", said={"a": spoken})
    assert shapes(messages)[1] == ("assistant", "One two three. Four…")
    spoken.truncated_ms = 0
    assert shapes(chat_messages(items, instructions="", said={"a": spoken})) == [("user", "Count.\nStop.")]


def test_the_callers_audio_is_what_was_understood() -> None:
    audio = {"type": "input_audio", "transcript": None}
    items = [{"id": name, "type": "message", "role": "user", "content": [audio]} for name in ("a", "b", "c")]
    messages = chat_messages(items, instructions="", heard={"a": "A table."}, idle={"b"})
    said = "A table.\n(The caller says nothing.)\n(The caller said something that could not be understood.)"
    assert shapes(messages) == [("user", said)]


def test_tools_and_the_choice_of_one() -> None:
    function = {"type": "function", "name": "book", "description": "Book.", "parameters": {"type": "object"}}
    assert chat_tools([function, {"type": "mcp", "server_label": "shop"}]) == [
        {"type": "function", "function": {"name": "book", "description": "Book.", "parameters": {"type": "object"}}}
    ]
    assert chat_tool_choice("required") == "required"
    assert chat_tool_choice({"type": "function", "name": "book"}) == {"type": "function", "function": {"name": "book"}}
    assert chat_tool_choice({"type": "mcp", "server_label": "shop"}) == "auto"
