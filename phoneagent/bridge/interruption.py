"""Interruption: whether the caller's speech stops the agent, and what the model then has to know.

The model runs ahead of the caller: its words are generated faster than they are played. So what was not heard must be
taken back, item by item (`conversation.item.truncate`). A refused truncation would leave the model in the belief that
it said everything; a refusal that names the real length is therefore answered with that length, once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.names import known_id
from phoneagent.bridge.playback import Outcome, Playback
from phoneagent.bridge.requests import Verdict
from phoneagent.protocol.realtime import FATAL_CODES, Failure, ItemCreate, ItemTruncate, system_message

MAX_OPEN = 64
"""Truncations are not acknowledged by number; this many of the latest can still be refused."""

_SHORTER = re.compile(r"Audio content of (\d+)\s*ms is already shorter than")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """What of the caller's speech stops the agent."""

    enabled: bool = True
    """Whether any speech does. Without it, speech is answered once the agent has finished."""
    greeting: bool = False
    """Whether that holds for the greeting too; otherwise the greeting is protected until it was heard."""

    @property
    def server_may_answer(self) -> bool:
        """Whether the server may answer each turn by itself. Where speech can be ignored, it would answer that too."""
        return self.enabled


class Interruptions:
    """The interruptions of one call. `now` is in seconds."""

    def __init__(self, policy: Interruption, playback: Playback, conversation: Conversation) -> None:
        self._policy = policy
        self._playback = playback
        self._outbox = conversation.outbox
        self._responses = conversation.responses
        self._signs = conversation.signs
        self._greeting_items: set[str] = set()
        self._speaking = False
        self._decide_at: float | None = None  # a speech that was not decided on yet
        self._number = 0
        self._open: dict[str, ItemTruncate] = {}
        self._foreign: set[str] = set()  # items that play on from an earlier session

    def new_session(self, playing: Iterable[Outcome]) -> None:
        """The session is gone while these items still play: the next one knows them as text, under no id."""
        self._open.clear()
        self._foreign.update(outcome.item_id for outcome in playing)
        self._speaking, self._decide_at = False, None

    # --- whether ---

    def allowed(self) -> bool:
        """Tell whether speech may stop the agent now."""
        if not self._policy.enabled:
            return False
        protected = self._responses.waits_for("greeting") or any(map(self._playback.holds, self._greeting_items))
        return self._policy.greeting or not protected

    def agent_speaks(self, item_id: str) -> None:
        """Take audio of an item, which may belong to the greeting."""
        current = self._responses.current
        if current is not None and current.kind == "greeting":
            self._greeting_items.add(item_id)

    def speech_started(self, now: float) -> None:
        """The caller began to speak; whether that interrupts is decided next."""
        self._speaking, self._decide_at = True, now

    def speech_stopped(self) -> None:
        """The caller stopped speaking: a speech that was not decided on does not interrupt."""
        self._speaking, self._decide_at = False, None

    def decide(self, now: float, *, agents_turn: bool) -> bool:
        """Tell, once for each speech, whether it interrupts. `agents_turn`: the agent speaks, or is about to."""
        if self._decide_at is None or now < self._decide_at:
            return False
        self._decide_at = None
        return agents_turn and self.allowed()

    def forbids_response(self) -> bool:
        """Tell whether a response that begins now would be interrupted at once: the caller speaks, and may stop it."""
        return self._speaking and self.allowed()

    def get_timer(self) -> float | None:
        """Return when a speech is to be decided on."""
        return self._decide_at

    # --- what follows ---

    def interrupt(self, now: float) -> list[Outcome]:
        """Stop the response and drop what was not heard. Returns the items that were cut, oldest first."""
        self._responses.interrupt(now)
        return self._playback.cut(now)

    def truncate(self, outcome: Outcome, heard_text: str = "") -> None:
        """Tell the model that only `heard_ms` of this item were heard; in words, where it knows the item as text."""
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
        """Take an error that answers a truncation; None if that was sent once more, with the length that was named."""
        asked, length = self._open.pop(failure.event_id or "", None), _SHORTER.search(failure.message or "")
        if asked is None or length is None:
            return Verdict(
                "trouble", "a truncation was refused: the model may think the caller heard more than they did"
            )
        self._send(asked.item_id, asked.content_index, min(int(length[1]), asked.audio_end_ms))
        return None

    @staticmethod
    def owns(failure: Failure) -> bool:
        """Tell whether an error answers a truncation, and says nothing of the session."""
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
