"""The tools that the model has called: each call runs once, whatever announces it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .realtime import Item

MAX_TOOL_CALLS = 1_000
"""So many tool calls in one call are a loop; further ones are refused."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of the model: `arguments` is its JSON as it came, `since` when, in seconds."""

    call_id: str
    name: str
    arguments: str = field(repr=False)
    since: float


class ToolCalls:
    """The tool calls of a call."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._running: dict[str, ToolCall] = {}

    @property
    def running(self) -> bool:
        """Whether any tool is at work."""
        return bool(self._running)

    @property
    def too_many(self) -> bool:
        """Whether there were more calls than any conversation has."""
        return len(self._seen) > MAX_TOOL_CALLS

    def begin(self, item: Item, now: float) -> ToolCall | None:
        """Take an output item. Returns the call to run if it is one, complete, and new."""
        if item.type != "function_call" or item.status not in (None, "completed") or not item.call_id or not item.name:
            return None
        if item.call_id in self._seen:
            return None
        self._seen.add(item.call_id)
        call = self._running[item.call_id] = ToolCall(item.call_id, item.name, item.arguments or "{}", now)
        return call

    def end(self, call_id: str) -> ToolCall | None:
        """Take the end of a call. Returns None if none of that id is running."""
        return self._running.pop(call_id, None)
