"""The conversation of a simulated session: its items in order, their truncations, and those still unanswered."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from phoneagent.sim.model.audio import from_ulaw
from phoneagent.sim.model.checks import EventRefused, invalid_value
from phoneagent.sim.model.config import Json, given
from phoneagent.sim.model.events import check_item, encode_audio
from phoneagent.sim.model.records import AudioItem, CommittedTurn, Truncation

Emit = Callable[..., None]


class Conversation:
    """The items of one session. `emit(type, **fields)` sends an event to the client.

    `items` holds items in the protocol's shape. A truncated assistant item has no transcript.
    """

    def __init__(self, emit: Emit) -> None:
        self.items: list[Json] = []
        self.spoken: dict[str, AudioItem] = {}
        self.turns: dict[str, CommittedTurn] = {}
        self.truncations: list[Truncation] = []
        self._emit = emit
        self._answered: set[str] = set()

    @property
    def last_id(self) -> str | None:
        """The id of the newest item."""
        return self.items[-1]["id"] if self.items else None

    def call_ids(self) -> set[str]:
        """The ids of all function calls."""
        return {item["call_id"] for item in self.items if item["type"] == "function_call"}

    def add(self, item: Json, *, after: str | None = None, done: bool = True, replayed: bool = False) -> None:
        """Insert an item after another one, at the start (`root`) or at the end (None), and announce it.

        With `done` False, `finish` announces later that the item is complete. `replayed` marks an item that the client
        added: a replayed message or call of the assistant has answered everything before it.
        """
        index = len(self.items) if after is None else 0 if after == "root" else self._index(after) + 1
        previous = self.items[index - 1]["id"] if index else None
        self.items.insert(index, item)
        if replayed and (item.get("role") == "assistant" or item["type"] == "function_call"):
            self._answered.update(before["id"] for before in self.items[:index])
        self._emit("conversation.item.added", item=item, previous_item_id=previous)
        if done:
            self._emit("conversation.item.done", item=item, previous_item_id=previous)

    def finish(self, item: Json) -> None:
        """Announce that an item is complete, unless it has been deleted."""
        position = next((index for index, other in enumerate(self.items) if other is item), None)
        if position is not None:
            previous = self.items[position - 1]["id"] if position else None
            self._emit("conversation.item.done", item=item, previous_item_id=previous)

    def check_new(self, item: Json, after: str | None) -> None:
        """Refuse a client's item with a duplicate id, an unknown previous item, or an unknown call."""
        if any(other["id"] == item.get("id") for other in self.items):
            message = f"Error adding item: an item with id '{item['id']}' already exists."
            raise EventRefused(message, code="item_create_duplicate_item_id", param="item.id")
        if after not in (None, "root") and not any(other["id"] == after for other in self.items):
            message = f"Error adding item: the previous item with id '{after}' does not exist."
            raise EventRefused(message, code="item_create_invalid_previous_item_id", param="previous_item_id")
        if item["type"] == "function_call_output" and item["call_id"] not in self.call_ids():
            message = f"Tool call ID '{item['call_id']}' not found in conversation."
            raise EventRefused(message, code="invalid_tool_call_id", param="item.call_id")

    def delete(self, item_id: str) -> None:
        del self.items[self._index(item_id, "delete")]
        self._emit("conversation.item.deleted", item_id=item_id)

    def retrieve(self, item_id: str, input_format: Json) -> None:
        """Send an item with the audio that the conversation still holds, the caller's in the session's format."""
        item = dict(self.items[self._index(item_id, "retrieve")])
        if item_id in self.turns:
            audio = from_ulaw(self.turns[item_id].audio, input_format)
            item["content"] = [{**item["content"][0], "audio": encode_audio(audio)}]
        elif (said := self.spoken.get(item_id)) and item["content"]:
            held = said.audio[: said.held_ms * said.bytes_per_ms]
            item["content"] = [{**item["content"][0], "audio": encode_audio(held)}]
        self._emit("conversation.item.retrieved", item=item)

    def truncate(self, item_id: str, audio_end_ms: int) -> None:
        """Drop an assistant item's audio after `audio_end_ms`, and its whole transcript.

        Raises `EventRefused`: unknown item, not the model's audio, or `audio_end_ms` beyond its end.
        """
        try:
            self._truncate(item_id, audio_end_ms)
        except EventRefused:
            self.truncations.append(Truncation(item_id, audio_end_ms, time.monotonic(), ok=False))
            raise
        self.truncations.append(Truncation(item_id, audio_end_ms, time.monotonic(), ok=True))
        self._emit("conversation.item.truncated", item_id=item_id, content_index=0, audio_end_ms=audio_end_ms)

    def _truncate(self, item_id: str, audio_end_ms: int) -> None:
        item = self.items[self._index(item_id, "truncate")]
        said = self.spoken.get(item_id)
        if said is None or not said.audio:
            raise EventRefused("Only model output audio messages can be truncated", code=None)
        if audio_end_ms > said.held_ms:
            message = f"Audio content of {said.held_ms}ms is already shorter than {audio_end_ms}ms"
            raise invalid_value(message, "audio_end_ms")
        said.truncated_ms = audio_end_ms
        item["content"] = [{"type": "output_audio"}]

    def _index(self, item_id: str, doing: str = "create") -> int:
        for index, item in enumerate(self.items):
            if item["id"] == item_id:
                return index
        raise EventRefused("Item with item_id not found", code=f"item_{doing}_invalid_item_id", param="item_id")

    # -- unanswered items --

    def news(self) -> list[Json]:
        """Return the items that no response has answered yet."""
        return [item for item in self.items if item["id"] not in self._answered and _asks(item)]

    def resolve(self, item: Json, at: str) -> Json:
        """Return an item of a response's own input: a new one, or one of the conversation by reference."""
        if item.get("type") == "item_reference":
            return self.items[self._index(str(item.get("id")), "reference")]
        check_item(item, at)
        own_call = {"call_id": f"call_{secrets.token_hex(10)}"} if item["type"] == "function_call" else {}
        return {"id": "", **own_call, **given(item)}

    def answer(self, news: list[Json]) -> None:
        """Mark these items as answered."""
        self._answered.update(item["id"] for item in news)

    def give_back(self, news: list[Json]) -> None:
        """Mark these items as unanswered again: the response failed or said nothing."""
        self._answered.difference_update(item["id"] for item in news)


def _asks(item: dict[str, Any]) -> bool:
    returned = item["type"] == "mcp_call" and (item["output"] is not None or item["error"] is not None)
    return returned or item["type"] == "function_call_output" or item.get("role") in ("user", "system")
