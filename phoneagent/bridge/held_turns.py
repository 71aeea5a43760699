"""Held turns: what the server does while it is unclear whether the caller's turn counts.

The server commits each turn, and may begin its answer. Neither makes sense for a turn that was a cough. So turns are
held back from the `ResponseGate`, the audio of such an answer from the caller, and its tool calls from the shell, until
they count. If they do not, the answer is canceled, and what it left in the conversation is deleted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from phoneagent.bridge.backchannels import Words
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.names import known_id
from phoneagent.bridge.playback import Playback
from phoneagent.bridge.requests import State
from phoneagent.protocol.realtime import Failure, ItemDelete, Response

MAX_REMEMBERED = 64
"""How many turns that did not count, and answers to them, are remembered for late events."""

ANSWER_SECONDS = 2.0
"""How long after a turn the server may begin to answer it."""

_DELETE = "delete_"


@dataclass(slots=True)
class HeldTurn:
    """A held turn: how long its sound was, and whether it was too `soft` to measure.

    With `any_words` it counts if it has words, even a back-channel's: it was said over speech that nothing stops.
    """

    length_ms: int
    soft: bool = False
    any_words: bool = False
    words: Words | None = None


class HeldTurns:
    """The held turns of one call. `now` is in seconds; `server_answers`: the server answers turns by itself."""

    def __init__(self, conversation: Conversation, playback: Playback, *, server_answers: bool) -> None:
        self._conversation = conversation
        self._outbox = conversation.outbox
        self._responses = conversation.responses
        self._signs = conversation.signs
        self._playback = playback
        self._server_answers = server_answers
        self._number = 0
        self.new_session()

    def new_session(self) -> None:
        """Switch to another session, which knows none of this."""
        self._held: dict[str, HeldTurn] = {}
        self.late = False
        """Whether a turn that did not count does now: its words came late."""
        self.counted = 0
        """How many turns counted so far."""
        self._will_answer = False  # whether the server answers the last one by itself
        self._answer: str | None = None  # the response with which it does
        self._answer_items: list[str] = []
        self._dropped: dict[str, HeldTurn] = {}  # turns that do not count, whose words may still come
        self._answer_due_until = -math.inf  # the server may begin an answer to one of these until then
        self._undone: dict[str, None] = {}  # canceled answers to these

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._held

    @property
    def words(self) -> Words | None:
        """What the caller said in the held turns; None until that is known."""
        known = [turn.words for turn in self._held.values()]
        if "words" in known:
            return "words"
        if not known or None in known:
            return None
        return "backchannel" if "backchannel" in known else "none"

    @property
    def answered(self) -> bool:
        """Whether the server has begun to answer a held turn."""
        return self._answer is not None

    def count(self, item_id: str, now: float) -> None:
        """Count a turn."""
        self._dropped.pop(item_id, None)
        self.counted += 1
        self._responses.turn_committed(now, server_answers=self._server_answers)

    def hold(self, item_id: str, turn: HeldTurn) -> None:
        """Hold a turn that may not count."""
        self._held[item_id] = turn
        # A due or active response answers what was said before; the server begins no other in parallel.
        self._will_answer = self._server_answers and not self._responses.busy

    def release(self, now: float) -> None:
        """Let what is held count, and late words too."""
        self.counted += bool(self._held or self.late)
        if (self._held and not self.answered) or self.late:
            self._responses.turn_committed(now, server_answers=self._will_answer and not self.late)
        self._let_go()
        self._conversation.release_calls(now)

    def drop(self, now: float, *, delete: bool = False) -> None:
        """Drop what is held. The model forgets turns without words, and with `delete` all of them."""
        for item_id, turn in self._held.items():
            if delete or turn.words == "none":
                self._delete(item_id)  # its transcript may still come, and means nothing
            elif turn.words is None:
                self._dropped[item_id] = turn
        while len(self._dropped) > MAX_REMEMBERED:
            del self._dropped[next(iter(self._dropped))]
        if self._answer is not None:
            self._undo(self._answer, now)
            self._conversation.tools.drop()
        elif self._held and self._will_answer:
            self._answer_due_until = now + ANSWER_SECONDS
        self._let_go()

    def _let_go(self) -> None:
        self._held, self._answer, self._answer_items = {}, None, []
        self._will_answer = self.late = False

    # --- the server's answer ------------------------------------------------------------------------------------------

    def response_created(self, response: Response, now: float) -> bool:
        """Handle a response before it becomes the active one. Return whether it answers a turn that does not count."""
        if self._responses.expects(response):
            if self._answer is not None:
                self._hold_answer(response)  # the server's answer failed, and it was requested again
            return False
        if now < self._answer_due_until:
            self._answer_due_until = -math.inf
            self._remember_undone(response.id or "")
            self._conversation.tools.void(self._signs.number(response.id))
            return True
        if self._held and self._responses.state is State.NONE:
            self._hold_answer(response)
            self._playback.hold_answer()
        return False

    def _hold_answer(self, response: Response) -> None:
        self._answer = response.id or ""
        self._conversation.tools.hold(self._signs.number(response.id))

    def response_done(self, response: Response) -> None:
        """Handle the end of a response, when it is known what it left in the conversation."""
        response_id, items = response.id or "", [item.id for item in response.output or () if item.id]
        if response_id in self._undone:
            del self._undone[response_id]
            for item_id in items:
                self._delete(item_id)
        elif response_id == self._answer:
            self._answer_items = items

    def _undo(self, response_id: str, now: float) -> None:
        if self._responses.state is State.ACTIVE and (self._responses.id or "") == response_id:
            self._responses.discard(now)
            self._remember_undone(response_id)
        else:  # it is done; if it failed, it is not asked for again
            self._responses.interrupt(now)
            self._responses.forgive()
        for item_id in self._answer_items:
            self._delete(item_id)

    def _remember_undone(self, response_id: str) -> None:
        self._undone[response_id] = None
        if len(self._undone) > MAX_REMEMBERED:
            del self._undone[next(iter(self._undone))]

    # --- items --------------------------------------------------------------------------------------------------------

    def transcribed(self, item_id: str, meaning: Callable[[HeldTurn], Words]) -> None:
        """Handle the words of a turn: `meaning` returns what they mean."""
        if (turn := self._held.get(item_id)) is not None:
            turn.words = meaning(turn)
        if item_id not in self._dropped:
            return
        words = meaning(self._dropped.pop(item_id))
        if words == "none":
            self._delete(item_id)
        self.late = self.late or words == "words"

    def _delete(self, item_id: str) -> None:
        known = known_id(self._signs.wire_id(item_id))
        if known is not None:
            self._number += 1
            self._outbox.append(ItemDelete(event_id=f"{_DELETE}{self._number}", item_id=known))

    @staticmethod
    def owns(failure: Failure) -> bool:
        """Return whether an error answers a deletion: the item was already gone, or the server cannot delete."""
        return (failure.event_id or "").startswith(_DELETE)
