"""A recorded call as text for a model: one JSON object per line, so that no speaker can forge another one's line."""

from __future__ import annotations

import json
from collections.abc import Mapping

from phoneagent.bridge.history import MAX_TOKENS
from phoneagent.bridge.scripts import begin_of, tokens_of
from phoneagent.store import CallDetails

MAX_PART_CHARS = 4_000
"""The most characters of one turn, or of one tool's arguments or output."""

_LINE_BREAKS = {ord(each): f"\\u{ord(each):04x}" for each in "\x85\u2028\u2029"}
"""Those that JSON leaves as they are."""

_LEFT_OUT = {"left out": "the beginning of the call, which is too long"}


def is_silent(record: CallDetails) -> bool:
    """Tell whether the other side of a call neither said nor typed anything, so that there is nothing to report."""
    spoke = any(turn.role != "agent" for turn in record.turns)
    return not spoke and not any(message.role == "user" for message in record.messages)


def text_of(record: CallDetails, max_tokens: int = MAX_TOKENS) -> str:
    """Return what was said, noted and done in a call, as far as it was heard. Of a long call, the end is kept."""
    entries: list[tuple[int, dict[str, str]]] = []
    for turn in record.turns:
        text = turn.heard_text if turn.role == "agent" else turn.text
        said = {turn.role: _cut(text) or "(no transcript)"}
        if turn.role != "agent" or text:
            entries.append((turn.start_ms, said | ({"name": turn.agent} if turn.agent else {})))
    for message in record.messages:
        who = "typed by the caller" if message.role == "user" else "note"
        entries.append((message.at_ms, {who: _cut(message.text)}))
    for tool in record.tools:
        output = "outcome unknown" if tool.output is None else _cut(tool.output)
        entries.append((tool.at_ms, {"tool": tool.name, "arguments": _cut(tool.arguments), "output": output}))
    entries.sort(key=lambda entry: entry[0])
    lines = [as_line(entry) for _, entry in entries]
    kept: list[str] = []
    room = max_tokens
    while lines and (tokens := tokens_of(lines[-1]) + 1) <= room:
        room -= tokens
        kept.append(lines.pop())
    if lines:
        kept.append(as_line(_LEFT_OUT))
    return "\n".join(reversed(kept))


def as_line(entry: Mapping[str, str]) -> str:
    """Return an entry as JSON without a line break of any kind."""
    return json.dumps(entry, ensure_ascii=False).translate(_LINE_BREAKS)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_PART_CHARS else begin_of(text, MAX_PART_CHARS - 1) + "…"
