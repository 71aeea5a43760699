"""The history of a call, for a model session that joins it: what was said, what was heard, and where it stopped.

A model session cannot be resumed. A new one gets the conversation as items, in order, and a final system message that
puts it back into the call.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from phoneagent.bridge.scripts import begin_of, tokens_of
from phoneagent.bridge.steps import Pending
from phoneagent.events import Cost, Turn
from phoneagent.protocol.items import assistant_message, system_message, tool_call, tool_output, user_message

Role: TypeAlias = Literal["system", "user"]
"""The roles of messages that user code may add: the system's, or the caller's."""

MAX_TOKENS = 12_000
"""Less than half of the smallest model's context; for a longer call, only the latest part is kept."""

MAX_PART_CHARS = 8_000
"""The most characters in one turn, or in one tool's arguments or output."""

_UNKNOWN_OUTCOME = json.dumps(
    {"error": "outcome unknown: the connection was lost while this ran. Check before you repeat it."}
)
_ANCHOR = (
    "The connection was interrupted for a moment and is back. This is the same phone call, and what you see above is "
    "what was said in it, as far as the caller heard it. Do not greet the caller again, and do not start over. "
)
_RETURNED = (
    "This is the same phone call, and the caller is back with you, waiting. Tell them what happened in one short "
    "sentence, do not greet them again, and offer what else you can do. Do not transfer them again unless they ask."
)
_GO_ON: dict[Pending, str] = {
    "nothing": "Wait until the caller speaks. But if you have called a tool and they do not know yet what it "
    "returned, tell them once you have its output.",
    "answer": "The caller is waiting: go on where you were cut off, without repeating what they have heard.",
    "words": "The caller's last words were lost. In one short sentence, say that you missed them and ask for them.",
    "unknown": "The last words may be lost. In one short sentence, say that you missed the last words, then go on.",
}
_GO_ON_AFTER_CRASH: dict[Pending, str] = {
    "nothing": "Neither of you was speaking. In one short sentence, say that the line broke off and that you may have "
    "missed the last words, then go on.",
    "answer": "The caller is waiting for your answer. In one short sentence, say that the line broke off, then answer.",
    "words": "The caller was speaking. In one short sentence, say that you missed their last words and ask for them.",
    "unknown": _GO_ON["unknown"],
}
"""The same after a crash, by what was open a second before it. The caller notices a crash, so the agent speaks."""

_GO_ON_IN_MID_TURN = (
    "The caller is waiting for the rest of your words. In one short sentence, say that the line broke off, then go on "
    "where you were cut off, without repeating what they have heard."
)
"""The same if a crash cut the agent off."""

MAX_QUOTE_CHARS = 200
"""How much of the agent's words is repeated on either side of the cut. The caller's words are not repeated: this is a
system message, and theirs must not become part of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun:
    """A tool call by the model; `output` is None if it was begun and its outcome is unknown."""

    call_id: str
    name: str
    arguments: str = field(repr=False)
    output: str | None = field(repr=False)
    at_ms: int
    running: bool = False
    """Whether it runs here, and its output will be posted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A message that user code added to the conversation, with its time in milliseconds of the call."""

    role: Role
    text: str = field(repr=False)
    at_ms: int

    def item(self) -> dict[str, Any]:
        """Return the message as an item of the Realtime API."""
        text = _cut(self.text)
        return system_message(text) if self.role == "system" else user_message(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A call so far. Times are milliseconds since it began, and `age_ms` is how long ago that was."""

    turns: tuple[Turn, ...] = field(default=(), repr=False)
    tools: tuple[ToolRun, ...] = ()
    notes: tuple[Note, ...] = ()
    pending: Pending = "unknown"
    before_crash: Pending = "unknown"
    """What was open about a second before a crash, where `pending` is unknown."""
    age_ms: int = 0
    cost: Cost | None = None
    """What the call has cost so far; None if the models reported nothing."""
    returned: str = ""
    """Why the call comes back from a transfer, in words for the model; "" if it does not."""

    @property
    def greeted(self) -> bool:
        """Whether the caller has heard a word from the agent; true if that is unknown."""
        if self.pending == self.before_crash == "unknown":
            return True
        heard = (turn for turn in self.turns if turn.role == "agent" and turn.heard_ms > 0)
        return any(turn.heard_text or not turn.text for turn in heard)  # some servers give no text

    @property
    def caller_spoke(self) -> bool:
        """Whether the caller has said anything."""
        return any(turn.role == "caller" for turn in self.turns)

    def extended(
        self, *, turns: Iterable[Turn], tools: Iterable[ToolRun], notes: Iterable[Note], pending: Pending
    ) -> Past:
        """Return the call extended by this media stream, whose times count from the stream's start."""
        age_ms = self.age_ms
        return replace(
            self,
            turns=(*self.turns, *(replace(turn, start_ms=turn.start_ms + age_ms) for turn in turns)),
            tools=(*self.tools, *(replace(run, at_ms=run.at_ms + age_ms) for run in tools)),
            notes=(*self.notes, *(replace(note, at_ms=note.at_ms + age_ms) for note in notes)),
            pending=pending,
        )

    def items(self, *, anchor: bool = True) -> list[dict[str, Any]]:
        """Return the conversation as items of the Realtime API, with (`anchor`) the final system message."""
        told: list[tuple[int, list[dict[str, Any]]]] = [
            (turn.start_ms, [_message(turn)]) for turn in self.turns if turn.heard_text
        ]
        told += [(tool.at_ms, _tool(tool)) for tool in self.tools]
        told += [(note.at_ms, [note.item()]) for note in self.notes]
        told.sort(key=lambda each: each[0])
        items: list[dict[str, Any]] = []
        room = MAX_TOKENS
        for _, part in reversed(told):
            room -= sum(tokens_of(str(value)) for item in part for value in item.values())
            if room < 0:
                break
            items[:0] = part
        if anchor and self.returned:
            items.append(system_message(f"{self.returned} {_RETURNED}"))
        elif anchor:
            cut_off = self._cut_off()
            items.append(system_message(_ANCHOR + self._go_on(cut_off=bool(cut_off)) + cut_off))
        return items

    def _go_on(self, *, cut_off: bool) -> str:
        if self.pending != "unknown":
            return _GO_ON[self.pending]
        in_mid_turn = cut_off and self.before_crash == "answer"
        return _GO_ON_IN_MID_TURN if in_mid_turn else _GO_ON_AFTER_CRASH[self.before_crash]

    def _cut_off(self) -> str:
        """Return the agent's last words if they were cut off, as lines: what was heard, and what was not."""
        said = [turn for turn in self.turns if turn.heard_text]
        last = max(reversed(said), key=lambda turn: turn.start_ms, default=None)
        if last is None or last.role == "caller" or not last.interrupted or self.pending == "nothing":
            return ""
        lines = f"\nYou were saying, and the caller has heard this much: {_end_of(last.heard_text)}"
        rest = last.text.removeprefix(last.heard_text).strip()
        if "answer" in (self.pending, self.before_crash) and rest and rest != last.text:
            lines += f"\nThe caller has not heard: {_cut(rest, MAX_QUOTE_CHARS)}"
        return lines


def pending_now(*, turn_open: bool, owes: bool, words_lost: bool) -> Pending:
    """Return what is open: the caller's turn, or an answer. The words of a turn without a text are lost."""
    if turn_open:
        return "words"
    if owes:
        return "words" if words_lost else "answer"
    return "nothing"


def _message(turn: Turn) -> dict[str, Any]:
    text = _cut(turn.heard_text)
    return user_message(text) if turn.role == "caller" else assistant_message(text)


def _cut(text: str, max_chars: int = MAX_PART_CHARS) -> str:
    return text if len(text) <= max_chars else f"{begin_of(text, max_chars)}… (cut)"


def _end_of(text: str) -> str:
    """Return the end of a text, beginning with a whole word where the script has spaces."""
    if len(text) <= MAX_QUOTE_CHARS:
        return text
    end = text[-MAX_QUOTE_CHARS:]
    return f"…{end[end.find(' ') + 1 :]}"


def _tool(tool: ToolRun) -> list[dict[str, Any]]:
    arguments = tool.arguments if len(tool.arguments) <= MAX_PART_CHARS else "{}"  # cut JSON is not JSON
    call = tool_call(tool.call_id, tool.name, arguments)
    if tool.running:
        return [call]
    output = _UNKNOWN_OUTCOME if tool.output is None else _cut(tool.output)
    return [call, tool_output(tool.call_id, output)]
