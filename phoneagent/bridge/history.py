"""What a new model session has to know of a call under way: what was said, what was heard, and where it stopped.

A model session cannot be resumed. A new one gets the conversation as items, in order, and a last word of ours that puts
it back into the call.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from phoneagent.events import Cost, Turn

Role: TypeAlias = Literal["system", "user"]
"""Whose message the user's code may add: ours, or the caller's."""

Pending: TypeAlias = Literal["nothing", "answer", "words", "unknown"]
"""What was open: nothing, the caller listens or thinks · the caller waits for an answer, or for the rest of one · the
caller's last words were lost · nobody knows, as after a crash."""

MAX_CHARS = 48_000
"""About 12,000 tokens, less than half of the smallest model's context; of longer calls the latest part is told."""

MAX_PART_CHARS = 8_000
"""What is told of one turn, or of one tool's arguments or output."""

_UNKNOWN_OUTCOME = json.dumps(
    {"error": "outcome unknown: the connection was lost while this ran. Check before you repeat it."}
)
_ANCHOR = (
    "The connection was interrupted for a moment and is back. This is the same phone call, and what you see above is "
    "what was said in it, as far as the caller heard it. Do not greet the caller again, and do not start over. "
)
_GO_ON: dict[Pending, str] = {
    "nothing": "Wait until the caller speaks.",
    "answer": "The caller is waiting: go on where you were cut off, without repeating what they have heard.",
    "words": "The caller's last words were lost. In one short sentence, say that you missed them and ask for them.",
    "unknown": "The last words may be lost. In one short sentence, say that you missed the last words, then go on.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun:
    """A tool call of the model; `output` is None if it was begun and nobody knows how it ended."""

    call_id: str
    name: str
    arguments: str = field(repr=False)
    output: str | None = field(repr=False)
    at_ms: int
    running: bool = False
    """It is at work here, and its output is going to be posted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A message that the user's code added to the conversation. `at` is when, in the unit of whoever holds it."""

    role: Role
    text: str = field(repr=False)
    at: float

    def item(self) -> dict[str, Any]:
        """Return it as an item of the Realtime API."""
        return _say(self.role, "input_text", self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A call so far. Times are milliseconds since it began, and `age_ms` is how long ago that was."""

    turns: tuple[Turn, ...] = field(default=(), repr=False)
    tools: tuple[ToolRun, ...] = ()
    notes: tuple[Note, ...] = ()
    pending: Pending = "unknown"
    age_ms: int = 0
    cost: Cost | None = None
    """What it cost so far; None if the models told of nothing."""

    @property
    def greeted(self) -> bool:
        """Whether the caller has heard anything of the agent; if nobody knows, they have."""
        return self.pending == "unknown" or any(turn.role == "agent" and turn.heard_ms > 0 for turn in self.turns)

    @property
    def asked(self) -> bool:
        """Whether the caller has said anything."""
        return any(turn.role == "caller" for turn in self.turns)

    def items(self, *, anchor: bool = True) -> list[dict[str, Any]]:
        """Return the conversation as items of the Realtime API, and (`anchor`) our last word."""
        told: list[tuple[int, list[dict[str, Any]]]] = [
            (turn.start_ms, [_message(turn)]) for turn in self.turns if turn.heard_text
        ]
        told += [(tool.at_ms, _tool(tool)) for tool in self.tools]
        told += [(round(note.at), [note.item()]) for note in self.notes]
        told.sort(key=lambda each: each[0])
        items: list[dict[str, Any]] = []
        room = MAX_CHARS
        for _, part in reversed(told):
            room -= sum(len(str(value)) for item in part for value in item.values())
            if room < 0:
                break
            items[:0] = part
        if anchor:
            items.append(_say("system", "input_text", _ANCHOR + _GO_ON[self.pending]))
        return items


def pending_now(*, turn_open: bool, owes: bool, words_lost: bool) -> Pending:
    """Tell what is open: the caller's turn, or an answer; of a turn without a text, the words are lost."""
    if turn_open:
        return "words"
    if owes:
        return "words" if words_lost else "answer"
    return "nothing"


def pending_of(value: object) -> Pending:
    """Read what was open from a next step; anything else than we write means that nobody knows."""
    return value if value in get_args(Pending) else "unknown"  # type: ignore[return-value]


def _message(turn: Turn) -> dict[str, Any]:
    if turn.role == "caller":
        return _say("user", "input_text", turn.heard_text)
    return _say("assistant", "output_text", turn.heard_text)


def _say(role: str, kind: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": _cut(text)}]}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_PART_CHARS else f"{text[:MAX_PART_CHARS]}… (cut)"


def _tool(tool: ToolRun) -> list[dict[str, Any]]:
    output = _UNKNOWN_OUTCOME if tool.output is None else _cut(tool.output)
    arguments = tool.arguments if len(tool.arguments) <= MAX_PART_CHARS else "{}"  # half a JSON is none
    call = {"type": "function_call", "call_id": tool.call_id, "name": tool.name, "arguments": arguments}
    if tool.running:
        return [call]
    return [
        call,
        {"type": "function_call_output", "call_id": tool.call_id, "output": output},
    ]
