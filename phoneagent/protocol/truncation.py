"""Telling the model how much of what it said was heard.

A refused truncation leaves the model in the belief that it said everything, so a refusal that names the real length is
answered with that length, once.
"""

from __future__ import annotations

import re
from collections import deque

from .playback import Outcome
from .realtime import ItemTruncate, ToModel

MAX_OPEN = 64
"""Truncations are not acknowledged by number; so many of the latest can still be refused."""

_SHORTER = re.compile(r"Audio content of (\d+)\s*ms is already shorter than")


class Truncations:
    """The truncations of a session; what it wants to send goes to `outbox`."""

    def __init__(self, outbox: deque[ToModel]) -> None:
        self._outbox = outbox
        self._number = 0
        self._open: dict[str, ItemTruncate] = {}

    def truncate(self, outcome: Outcome) -> None:
        """Tell the model that of this item only `heard_ms` were heard."""
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
