"""The model sessions of a call, one after another: what each has to begin with, and what is kept when one is gone.

A session begins with the greeting, or with what was said before in the call: in an earlier media stream, or in this one
with a session that was lost. What it has said and is still played is played to its end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Protocol

from . import prompts
from .history import Past, Pending, pending_now
from .listening import CallerAudio, CallerTurn
from .narration import Narration
from .playback import Playback
from .realtime import ItemCreate, ToModel
from .responses import ResponseGate
from .toolcalls import ToolCalls
from .truncation import Truncations

PATIENCE_SECONDS = 5.0
"""How long the caller waits for another session before they hear an apology."""

MAX_FRUITLESS = 6
"""So many sessions in a row of which the caller heard nothing are enough."""

MOST_A_MINUTE = 12
"""So many sessions lost within a minute are enough, whatever was heard of them."""


class Parts(Protocol):
    """The parts of a call that have to do with its model's session."""

    playback: Playback
    hearing: CallerAudio
    turn: CallerTurn
    responses: ResponseGate
    truncations: Truncations
    tools: ToolCalls
    narration: Narration


class ModelSessions:
    """What the present session was told, and what the next one has to know. `now` is in seconds.

    It begins with the call's `past`, if there is one, or with the `greeting` that nobody has heard yet. What it wants
    to send goes to `outbox`.
    """

    def __init__(self, past: Past | None, greeting: str | None, outbox: deque[ToModel], parts: Parts) -> None:
        self._past = past
        self._earlier = past or Past(pending="nothing")
        self._greeting = greeting
        self._outbox = outbox
        self._parts = parts
        self._away_since: float | None = None
        self._fruitless = 0
        self._lost_at: deque[float] = deque()
        self._renewed = False
        self.begun = False
        """Whether the session was told where the call is."""

    def begin(self, now: float) -> None:
        """Tell the session where the call is, and ask for what is to be said first. The second time does nothing."""
        if self.begun:
            return
        self.begun, self._away_since = True, None
        if self._renewed:
            self._outbox.clear()  # of the time between two sessions: it is told with the rest
        greeting = self._greeting
        if self._past is not None:
            past = self._so_far(self._past.pending, now)
            greeting = None if past.greeted else greeting
            self._outbox.extend(ItemCreate(item=item) for item in past.items(anchor=not greeting))
            if past.pending != "nothing" and (past.asked or not greeting):
                self._parts.responses.owed = True
        if greeting:
            self._parts.responses.want(prompts.greeting(greeting))

    def _so_far(self, pending: Pending, now: float) -> Past:
        """Return the call so far: what was before this media stream, and what is of it."""
        age_ms = self._earlier.age_ms
        turns = [replace(turn, start_ms=turn.start_ms + age_ms) for turn in self._parts.narration.turns(now)]
        tools = [replace(run, at_ms=run.at_ms + age_ms) for run in self._parts.tools.runs(self._parts.narration.ms)]
        return replace(
            self._earlier,
            turns=(*self._earlier.turns, *turns),
            tools=(*self._earlier.tools, *tools),
            pending=pending,
        )

    def pending(self, now: float, *, waits: bool) -> Pending:
        """Return what is open, for whoever goes on in another media stream; `waits` tells that the agent has the word.

        Before a session has begun, it is what was open before.
        """
        if self._past is not None and not self.begun:
            return self._past.pending
        return pending_now(
            turn_open=self._parts.turn.open(now),
            owes=self._parts.responses.owes or waits,
            words_lost=self._parts.narration.lacks_text and self._parts.playback.idle,
        )

    def worthwhile(self, now: float) -> bool:
        """Take it that there is no session; return whether to look for another one."""
        if self._away_since is None:
            self._away_since = now
            self._fruitless += 1
            self._lost_at.append(now)
            while self._lost_at[0] < now - 60:
                self._lost_at.popleft()
        in_time = now < self._away_since + PATIENCE_SECONDS
        return in_time and self._fruitless <= MAX_FRUITLESS and len(self._lost_at) <= MOST_A_MINUTE

    def was_heard(self) -> None:
        """The session has said something."""
        self._fruitless = 0

    def lost(self) -> None:
        """The session is gone: let go of what was its own, and keep what the next one needs."""
        again, playing = self._parts.hearing.unsettled, self._parts.playback.playing()
        pending = pending_now(
            turn_open=False,  # the caller is heard once more
            owes=not again and (self._parts.responses.owes or self._parts.responses.speaking),
            words_lost=self._parts.narration.lacks_text and not self._parts.responses.spoke,
        )
        self._parts.narration.session_lost(playing, heard_again=again)
        self._parts.truncations.new_session(outcome.item_id for outcome in playing)
        self._parts.turn.forget()
        self._parts.hearing.speech(False)
        self._parts.responses.new_session()
        self._outbox.clear()
        if self.begun:
            self._past, self._renewed, self.begun = replace(self._earlier, pending=pending), True, False
