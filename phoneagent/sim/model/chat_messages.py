"""The conversation of a session as messages of a chat completion, and its tools in that shape.

A chat endpoint is stricter than a Realtime server: many models accept a system message only at the start, and the
output of each tool call must follow the call at once. So later system items become notes in the user's messages, and a
tool that is still running gets an output that says so. The part of an interrupted message that the caller did not hear
is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from phoneagent.sim.model.config import Json
from phoneagent.sim.model.records import AudioItem

SPOKEN = "You are on the telephone: what you write is spoken aloud. Use short plain sentences, no lists and no markup."
"""The line that follows the instructions of a session that speaks. A speech model knows this by itself."""

_SILENT = "(The caller says nothing.)"
_UNCLEAR = "(The caller said something that could not be understood.)"
_RUNNING = "(The tool is still running.)"
_BEGIN = "(The call was just answered. You speak first.)"
_GO_ON = "(Go on.)"
_EXACTLY = re.compile(r"\bexactly\b[^\"]*\"([^\"]+)\"[.\s]*$", re.IGNORECASE)


def chat_messages(
    items: Sequence[Json],
    *,
    instructions: str,
    asked: str | None = None,
    spoken: bool = False,
    said: Mapping[str, AudioItem] | None = None,
    heard: Mapping[str, str] | None = None,
    idle: Collection[str] = (),
) -> list[Json]:
    """Return the messages for one answer.

    `asked` are the response's own instructions: they replace the session's, and follow once more at the end, because a
    small model forgets what it read at the start. `said` are the spoken items, `heard` the words of the caller's audio,
    both by item id; `idle` are the items that stand for the caller's silence.
    """
    instructions = instructions if asked is None else asked
    outputs = {item["call_id"]: item["output"] for item in items if item["type"] == "function_call_output"}
    system = "\n\n".join(text for text in (instructions.strip(), SPOKEN if spoken else "") if text)
    chat = _Chat([{"role": "system", "content": system}] if system else [], outputs)
    for number, item in enumerate(items):
        if item["type"] == "function_call":
            chat.call(item)
        elif item["type"] == "function_call_output":
            chat.end_calls()  # the next call is not parallel to the one that returned
        elif item["type"] == "message":
            text = _words(item, said or {}, heard or {}, idle)
            match item["role"]:
                case "assistant":
                    chat.add("assistant", text)
                case "system" if prescribed_words(text) and number < len(items) - 1:
                    pass  # the words were said, and follow as the next item
                case "system":
                    chat.add("user", _note(text))
                case _:
                    chat.add("user", text)
    chat.end_calls()
    if next((each["role"] for each in chat.messages if each["role"] != "system"), "") == "assistant":
        chat.messages.insert(1 if system else 0, {"role": "user", "content": _BEGIN})
    if asked:
        chat.add("user", _note(asked))
    elif not chat.messages or chat.messages[-1]["role"] == "system":
        chat.add("user", _BEGIN)
    elif chat.messages[-1]["role"] == "assistant":
        chat.add("user", _GO_ON)
    return chat.messages


def prescribed_words(text: str) -> str | None:
    """Return the words that a client's own text prescribes exactly, as in "… exactly these words: "Hello!""."""
    found = _EXACTLY.search(text)
    return found.group(1) if found else None


def chat_tools(tools: Sequence[Json]) -> list[Json]:
    """Return a session's functions in the shape of chat completions. Tools of MCP servers are left out."""
    kept = ("name", "description", "parameters")
    functions = [{key: tool[key] for key in kept if key in tool} for tool in tools if tool["type"] == "function"]
    return [{"type": "function", "function": function} for function in functions]


def chat_tool_choice(choice: Any) -> Any:
    """Return a session's `tool_choice` in the shape of chat completions."""
    if not isinstance(choice, dict):
        return choice
    return {"type": "function", "function": {"name": choice["name"]}} if choice.get("type") == "function" else "auto"


class _Chat:
    """The messages so far. Two in a row from the same side are merged, since some models accept no other order."""

    def __init__(self, messages: list[Json], outputs: Mapping[str, str]) -> None:
        self.messages = messages
        self._outputs = outputs
        self._calls: list[str] = []

    def add(self, role: str, text: str) -> None:
        self.end_calls()
        last = self.messages[-1] if self.messages else {}
        if not text:
            return
        if last.get("role") == role and "tool_calls" not in last:
            last["content"] += f"\n{text}"
        else:
            self.messages.append({"role": role, "content": text})

    def call(self, item: Json) -> None:
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        function = {"name": item["name"], "arguments": item["arguments"]}
        made = {"id": item["call_id"], "type": "function", "function": function}
        self.messages[-1].setdefault("tool_calls", []).append(made)
        self._calls.append(item["call_id"])

    def end_calls(self) -> None:
        """Add the outputs of the calls that were made last."""
        for call_id in self._calls:
            output = self._outputs.get(call_id, _RUNNING)
            self.messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
        self._calls.clear()


def _note(text: str) -> str:
    return f"(A note from the system, not from the caller: {text})" if text else ""


def _words(item: Json, said: Mapping[str, AudioItem], heard: Mapping[str, str], idle: Collection[str]) -> str:
    item_id = item["id"]
    if item_id in idle:
        return _SILENT
    if (spoken := said.get(item_id)) is not None and spoken.truncated_ms is not None:
        return spoken.text_until(spoken.truncated_ms)
    content = item.get("content") or ()
    parts = (part.get("text") or part.get("transcript") or "" for part in content)
    text = " ".join(part for part in parts if part).strip()
    if item["role"] == "user" and not text and any(part["type"] == "input_audio" for part in content):
        return heard.get(item_id) or _UNCLEAR
    return text
