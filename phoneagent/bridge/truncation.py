"""Truncation: what the model has to know after an interruption.

The model runs ahead of the caller: its words are generated faster than they are played. So what was not heard must be
taken back, item by item (`conversation.item.truncate`). After a refused truncation, the model would believe that it
said everything; if the refusal names the real length, the truncation is therefore sent again with that length, once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.names import known_id
from phoneagent.bridge.requests import Verdict
from phoneagent.bridge.spoken_items import Outcome
from phoneagent.protocol.items import system_message
from phoneagent.protocol.realtime import FATAL_CODES, Failure, ItemCreate, ItemTruncate

MAX_OPEN = 64
"""How many of the latest truncations are remembered: the server does not confirm each by id, so any of them may still
be refused."""

_SHORTER = re.compile(r"Audio content of (\d+)\s*ms is already shorter than")


class Truncations:
    """The truncations of one call."""

    def __init__(self, conversation: Conversation) -> None:
        self._outbox = conversation.outbox
        self._signs = conversation.signs
        self._number = 0
        self._open: dict[str, ItemTruncate] = {}
        self._foreign: set[str] = set()  # items that still play from an earlier session

    def new_session(self, playing: Iterable[Outcome]) -> None:
        """Replace a lost session while these items still play: the next one knows them as text, without ids."""
        self._open.clear()
        self._foreign.update(outcome.item_id for outcome in playing)

    def truncate(self, outcome: Outcome, heard_text: str = "") -> None:
        """Tell the model that only `heard_ms` of this item were heard; in words, if it knows the item as text."""
        item_id = known_id(self._signs.wire_id(outcome.item_id))
        if outcome.item_id in self._foreign or item_id is None:
            heard = heard_text or "nothing"
            text = f"The caller interrupted you. Of your last words they heard only this much: {heard}"
            self._outbox.append(ItemCreate(item=system_message(text)))
            return
        message = self._send(item_id, outcome.content_index, outcome.heard_ms)
        self._open[message.event_id or ""] = message
        if len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]

    def refused(self, failure: Failure) -> Verdict | None:
        """Handle an error that answers a truncation; None if the truncation was resent with the length it named."""
        asked, length = self._open.pop(failure.event_id or "", None), _SHORTER.search(failure.message or "")
        if asked is None or length is None:
            return Verdict(
                "trouble", "a truncation was refused: the model may think the caller heard more than they did"
            )
        self._send(asked.item_id, asked.content_index, min(int(length[1]), asked.audio_end_ms))
        return None

    @staticmethod
    def owns(failure: Failure) -> bool:
        """Return whether an error answers a truncation, and says nothing about the session."""
        return (failure.event_id or "").startswith("truncate_") and failure.code not in (
            *FATAL_CODES,
            "session_expired",
        )

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
