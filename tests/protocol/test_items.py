"""The items that we add to a conversation."""

from __future__ import annotations

from phoneagent.protocol import items


def test_the_items_of_a_conversation() -> None:
    message = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "x"}]}
    assert items.system_message("x") == message
    assert items.user_message("x") == message | {"role": "user"}
    assert items.assistant_message("x") == message | {
        "role": "assistant",
        "content": [{"type": "output_text", "text": "x"}],
    }
    assert items.tool_call("c1", "f", "{}") == {
        "type": "function_call",
        "call_id": "c1",
        "name": "f",
        "arguments": "{}",
    }
    assert items.tool_output("c1", "42") == {"type": "function_call_output", "call_id": "c1", "output": "42"}
    assert items.approval_refusal("i1", "r1", "no") == {
        "id": "i1",
        "type": "mcp_approval_response",
        "approval_request_id": "r1",
        "approve": False,
        "reason": "no",
    }


def test_an_image_comes_with_the_callers_words_or_alone() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    words = {"type": "input_text", "text": "Look."}
    assert items.image_message("Look.", image["image_url"])["content"] == [words, image]
    assert items.image_message("", image["image_url"]) == {"type": "message", "role": "user", "content": [image]}
