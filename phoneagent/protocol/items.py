"""The items that phoneagent adds to a conversation, in GA's shape."""

from __future__ import annotations

from typing import Any


def system_message(text: str) -> dict[str, Any]:
    """Return an item: a system message to the model."""
    return _message("system", "input_text", text)


def user_message(text: str) -> dict[str, Any]:
    """Return an item: words of the caller."""
    return _message("user", "input_text", text)


def image_message(text: str, image_url: str) -> dict[str, Any]:
    """Return an item: an image as a data URL, with words of the caller, if any."""
    message = user_message(text)
    message["content"] = [*(message["content"] if text else ()), {"type": "input_image", "image_url": image_url}]
    return message


def assistant_message(text: str) -> dict[str, Any]:
    """Return an item: words of the agent."""
    return _message("assistant", "output_text", text)


def _message(role: str, kind: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """Return an item: a call that the model made; `arguments` is JSON."""
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def tool_output(call_id: str, output: str) -> dict[str, Any]:
    """Return an item: the output of a tool."""
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def approval_refusal(item_id: str, request_id: str, reason: str) -> dict[str, Any]:
    """Return an item: the refusal of a request to approve a tool of a hosted MCP server."""
    return {
        "id": item_id,
        "type": "mcp_approval_response",
        "approval_request_id": request_id,
        "approve": False,
        "reason": reason,
    }
