"""The stream of a chat completion: server-sent events in, words and tool calls out.

Servers differ here. The pieces of a tool call come with an index, with an id, or with both, and some servers send every
call whole. A reasoning model may write its thoughts into the answer, between `<think>` and `</think>`; they are left
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from phoneagent.errors import shown

MAX_ANSWER_CHARS = 8_000
"""The length of an answer, including tool arguments, at which it counts as cut off."""

MAX_THOUGHT_CHARS = 64_000
"""The length of the thoughts before an answer at which it counts as cut off."""

MAX_CALLS = 16
"""The maximum number of tool calls in one answer."""

_THINK, _THOUGHT = "<think>", "</think>"


class BadStream(ValueError):
    """The data is not the stream of a chat completion, or the server reports an error in it."""


@dataclass(slots=True)
class ToolCall:
    """A tool call of the model. `arguments` is JSON as the model wrote it, which need not be valid."""

    name: str
    arguments: str
    key: str = ""
    """The server's own id of the call."""

    def is_over(self, name: str, key: str) -> bool:
        """Return whether a piece with this name and id begins another call. The id may be missing, or be repeated."""
        if key and self.key:
            return key != self.key
        return name != self.name or _is_json(self.arguments)


class ChatStream:
    """The reader of one stream, line by line.

    `ended`: the server said that the answer is over; a stream that stops earlier was cut. `over`: nothing more will
    come. `cut_short`: the answer reached a length limit.
    """

    def __init__(self) -> None:
        self.ended = False
        self.over = False
        self.cut_short = False
        self.calls: list[ToolCall] = []
        self._by_index: dict[int, ToolCall] = {}
        self._chars = 0
        self._thought_chars = 0
        self._thoughts = _Thoughts()

    def feed(self, line: bytes) -> str:
        """Return the words that a line of the stream adds, often none. Raises `BadStream`."""
        name, _, data = line.strip().partition(b":")
        data = data.strip()
        if name != b"data" or not data:
            return ""  # a comment, a blank line, another field
        if data == b"[DONE]":
            self.ended = self.over = True
            return self._thoughts.rest()
        try:
            event = msgspec.json.decode(data)
            return self._event(event)
        except (msgspec.DecodeError, AttributeError, TypeError, KeyError, IndexError) as error:
            raise BadStream(f"it sent {shown(data.decode(errors='replace'), 120)!r}, which is no chat event") from error

    def _event(self, event: Any) -> str:
        if (error := event.get("error")) is not None:
            told = error.get("message") if isinstance(error, dict) else error
            raise BadStream(f"it reports: {shown(told)}")
        words = ""
        for choice in (event.get("choices") or ())[:1]:
            delta = choice.get("delta") or {}
            for piece in delta.get("tool_calls") or ():
                self._take_call(piece)
            words = self._take_words(delta.get("content") or "")
            reason = choice.get("finish_reason")
            if reason is not None:
                self.ended = True
                self.cut_short = self.cut_short or reason == "length"
                words += self._thoughts.rest()
        return words

    def _take_words(self, text: str) -> str:
        if not isinstance(text, str):
            raise TypeError("content is not text")
        words = self._thoughts.feed(text)
        self._thought_chars += len(text) - len(words)
        self._count(words)
        return words

    def _take_call(self, piece: Any) -> None:
        function, key, index = piece.get("function") or {}, piece.get("id") or "", piece.get("index")
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        if not isinstance(arguments, str):  # some servers send the object itself
            arguments = msgspec.json.encode(arguments).decode()
        # The same number with another id is another call: some servers number all of them 0, or none.
        at = index if isinstance(index, int) else max(self._by_index, default=0)
        known = self._by_index.get(at)
        if known is None or (name and known.is_over(name, key)):
            if not name:
                raise BadStream("it sent a tool call without a name")
            if len(self.calls) == MAX_CALLS:
                raise BadStream(f"it sent more than {MAX_CALLS} tool calls in one answer")
            known = self._by_index[at] = ToolCall(str(name), "", str(key))
            self.calls.append(known)
        self._count(arguments)
        known.arguments += arguments

    def _count(self, text: str) -> None:
        self._chars += len(text)
        if self._chars > MAX_ANSWER_CHARS or self._thought_chars > MAX_THOUGHT_CHARS:
            self.ended = self.over = self.cut_short = True


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


class _Thoughts:
    """The filter that leaves out thoughts at the start of an answer."""

    def __init__(self) -> None:
        self._held = ""
        self._state = "start"  # then "thinking", if it thinks; then "answering"

    def feed(self, text: str) -> str:
        if self._state == "answering":
            return text
        self._held += text
        if self._state == "start":
            start = self._held.lstrip()
            if len(start) < len(_THINK) and _THINK.startswith(start):
                return ""
            self._state = "thinking" if start.startswith(_THINK) else "answering"
        if self._state == "thinking":
            _, ended, after = self._held.partition(_THOUGHT)
            if not ended:
                self._held = self._held[-len(_THOUGHT) :]  # enough to find the end mark
                return ""
            self._state, self._held = "answering", after.lstrip()
        text, self._held = self._held, ""
        return text

    def rest(self) -> str:
        """Return the text held back at the end: an answer shorter than the mark."""
        text, self._held = ("", "") if self._state == "thinking" else (self._held, "")
        return text
