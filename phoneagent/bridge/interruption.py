"""Telling the model how much of what it said was heard.

A refused truncation leaves the model in the belief that it said everything, so a refusal that names the real length is
answered with that length, once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

from phoneagent.bridge.playback import Outcome
from phoneagent.protocol.realtime import ItemCreate, ItemTruncate, ToModel

MAX_OPEN = 64
"""Truncations are not acknowledged by number; so many of the latest can still be refused."""

_SHORTER = re.compile(r"Audio content of (\d+)\s*ms is already shorter than")


class Truncations:
    """The truncations of a session; what it wants to send goes to `outbox`."""

    def __init__(self, outbox: deque[ToModel]) -> None:
        self._outbox = outbox
        self._number = 0
        self._open: dict[str, ItemTruncate] = {}
        self._foreign: set[str] = set()

    def new_session(self, item_ids: Iterable[str]) -> None:
        """Another session takes over while these items still play: it knows them as text, under no id."""
        self._open.clear()
        self._foreign.update(item_ids)

    def truncate(self, outcome: Outcome, heard_text: str = "") -> None:
        """Tell the model that of this item only `heard_ms` were heard, in words where it has it as text."""
        if outcome.item_id in self._foreign:
            heard = heard_text or "nothing"
            text = f"The caller interrupted you. Of your last words they heard only this much: {heard}"
            content = [{"type": "input_text", "text": text}]
            self._outbox.append(ItemCreate(item={"type": "message", "role": "system", "content": content}))
            return
        message = self._send(outcome.item_id, outcome.content_index, outcome.heard_ms)
        self._open[message.event_id or ""] = message
        if len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]

    def refused(self, event_id: str, message: str) -> bool:
        """Take an error that answers a truncation. Returns True if it is asked again with the length that was named."""
        asked, length = self._open.pop(event_id, None), _SHORTER.search(message)
        if asked is None or length is None:
            return False
        self._send(asked.item_id, asked.content_index, min(int(length[1]), asked.audio_end_ms))
        return True

    @staticmethod
    def owns(event_id: str) -> bool:
        """Tell whether an event of that id was a truncation."""
        return event_id.startswith("truncate_")

    def _send(self, item_id: str, content_index: int, audio_end_ms: int) -> ItemTruncate:
        self._number += 1
        message = ItemTruncate(
            event_id=f"truncate_{self._number}",
            item_id=item_id,
            content_index=content_index,
            audio_end_ms=audio_end_ms,
        )
        self._outbox.append(message)
        return message
