"""Where a call is taken up: with its greeting, or with what was said in it before this media stream."""

from __future__ import annotations

from collections import deque

from . import prompts
from .history import Past, Pending, pending_now
from .realtime import ItemCreate, ToModel
from .responses import ResponseGate


class Memory:
    """What the model session has to begin with: a `past`, or the `greeting` that nobody has heard yet."""

    def __init__(self, past: Past | None, greeting: str | None) -> None:
        self._past = past
        self._greeting = None if past is not None and past.greeted else greeting
        self.begun = False
        """Whether the session has been told."""

    def begin(self, outbox: deque[ToModel], responses: ResponseGate) -> None:
        """Tell the session where the call is, and ask for what is to be said first. The second time does nothing."""
        if self.begun:
            return
        self.begun = True
        if self._past is not None:
            outbox.extend(ItemCreate(item=item) for item in self._past.items(anchor=not self._greeting))
            responses.owed = self._past.pending != "nothing" and (self._past.asked or not self._greeting)
        if self._greeting:
            responses.want(prompts.greeting(self._greeting))

    def pending(self, *, turn_open: bool, owes: bool, words_lost: bool) -> Pending:
        """Return what is open, for whoever goes on; before it began, what was open before."""
        if self._past is not None and not self.begun:
            return self._past.pending
        return pending_now(turn_open=turn_open, owes=owes, words_lost=words_lost)
