"""The model sessions of a call, one after another: what each has to begin with, and what is kept when one is gone.

A session begins with the greeting, or with what was said before in the call: in an earlier media stream, or in this one
with a session that was lost. What it has said and is still played is played to its end.

A session has its time (an hour, at OpenAI). Some minutes before that is over another one is opened beside it, and takes
over when nobody has said anything for a second, so that nobody notices. If there is no such moment, it takes over when
the old one ends, as if that had been lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Literal, Protocol

from phoneagent.bridge import prompts
from phoneagent.bridge.asked import Asked
from phoneagent.bridge.caller import CallerAudio, CallerTurn
from phoneagent.bridge.history import Past, Pending, pending_now
from phoneagent.bridge.interruption import Truncations
from phoneagent.bridge.playback import Playback
from phoneagent.bridge.policy import PATIENCE_SECONDS, SILENCE_SECONDS, OpenNext, Policy, Renew, Request
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.responses import ResponseGate
from phoneagent.bridge.toolcalls import ToolCalls
from phoneagent.protocol.realtime import AudioAppend, ItemCreate, ItemTruncate, ToModel

OPENING_SECONDS = 0.5
"""With less patience than this left, no session is opened any more."""

MAX_FRUITLESS = 6
"""So many sessions in a row of which the caller heard nothing are enough."""

MAX_LOSSES_A_MINUTE = 12
"""So many sessions lost within a minute are enough, whatever was heard of them."""

ROTATE_SECONDS = 300.0
"""So long before a session's time is over the next one is opened; of a short one, in its second half."""

SHORTEST_SECONDS = 60.0
"""A session that says to last less long is not rotated: another one would say the same, without end."""

QUIET_SECONDS = 1.0
"""For so long nobody has said anything when the next one takes over."""

LOOK_SECONDS = 0.2
"""How often to look whether somebody speaks, until then."""

OPEN_AGAIN_SECONDS = 30.0
"""How long to wait before the next session is tried again, where it did not come."""


class Rotation:
    """When the next session is to be opened, and when to take over. All times are in seconds of `now`."""

    def __init__(self) -> None:
        self._due: float | None = None
        self._quiet_since: float | None = None
        self._ready = False

    def begin(self, now: float, lasts: float | None) -> None:
        """A session begins that `lasts` so many seconds; None if nobody knows."""
        self._ready, self._quiet_since = False, None
        if lasts is None or lasts < SHORTEST_SECONDS:
            self._due = None
        else:
            self._due = now + lasts - min(ROTATE_SECONDS, lasts / 2)

    def end(self) -> None:
        """The session is gone: what takes its place comes at once."""
        self._due = None

    def opened(self, now: float, *, ready: bool) -> None:
        """The next session is there, or did not come."""
        if self._due is not None:
            self._ready, self._due = ready, now + (LOOK_SECONDS if ready else OPEN_AGAIN_SECONDS)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        return self._due

    def handle_timer(self, now: float, *, quiet: bool) -> Literal["open", "take over"] | None:
        """Return what is to be done now; `quiet` tells that nobody speaks and nothing is owed."""
        if self._due is None or now < self._due:
            return None
        if not self._ready:
            self._due = now + OPEN_AGAIN_SECONDS
            return "open"
        self._due = now + LOOK_SECONDS
        if not quiet:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        elif now >= self._quiet_since + QUIET_SECONDS:
            return "take over"
        return None


class Parts(Protocol):
    """The parts of a call that have to do with its model's session."""

    playback: Playback
    caller_audio: CallerAudio
    turn: CallerTurn
    responses: ResponseGate
    asked: Asked
    truncations: Truncations
    tools: ToolCalls
    reporter: Reporter


class ModelSessions:
    """What the present session was told, and what the next one has to know. `now` is in seconds.

    It begins with the call's `past`, if there is one, or with the greeting that nobody has heard yet. What it wants to
    send goes to `outbox`, and what the shell is to do to `requests`.
    """

    def __init__(
        self, past: Past | None, policy: Policy, outbox: deque[ToModel], requests: deque[Request], parts: Parts
    ) -> None:
        self._past = past
        self._earlier = past or Past(pending="nothing")
        self._greeting = policy.greeting
        self._rotates = policy.renews
        self._requests = requests
        self._outbox = outbox
        self._parts = parts
        self._away_since: float | None = None
        self._fruitless = 0
        self._lost_at: deque[float] = deque()
        self.rotation = Rotation()
        self.losses = 0
        """How many sessions of this media stream were lost, or did not come."""
        self._again = False  # the caller's turn is heard once more
        self.connected = False
        """Whether there is a session, configured as asked."""
        self.begun = False
        """Whether the session was told where the call is."""

    def connect(self, now: float, lasts: float | None) -> None:
        """Another session is there, for `lasts` seconds; None if nobody knows."""
        self.connected = True
        self.rotation.begin(now, lasts if self._rotates else None)
        if any(isinstance(message, AudioAppend) for message in self._outbox):
            self._parts.caller_audio.forget_given()  # a turn that was taken by hand waits there
        self._again = self._parts.caller_audio.again
        self._parts.caller_audio.new_session()
        if self._again and not self._parts.caller_audio.by_hand:
            self._parts.turn.replayed(now)

    def begin(self, now: float) -> None:
        """Tell the session where the call is, and ask for what is to be said first. The second time does nothing."""
        if self.begun:
            return
        self.begun, self._away_since = True, None
        greeting = self._greeting
        if self._past is not None:
            self._forget_items()  # they are told with the rest
            past = self._so_far(self._past.pending, now)
            greeting = None if past.greeted else greeting
            self._outbox.extendleft(ItemCreate(item=item) for item in reversed(past.items(anchor=not greeting)))
            if past.pending != "nothing" and (past.asked or not greeting):
                self._parts.responses.owed = True
        if self._again:
            self._parts.asked.commit_again()
        if greeting:
            self._parts.responses.want(prompts.greeting(greeting))

    def _forget_items(self) -> None:
        kept = [message for message in self._outbox if not isinstance(message, ItemCreate | ItemTruncate)]
        self._outbox.clear()
        self._outbox.extend(kept)

    def _so_far(self, pending: Pending, now: float) -> Past:
        """Return the call so far: what was before this media stream, and what is of it."""
        age_ms = self._earlier.age_ms
        turns = [replace(turn, start_ms=turn.start_ms + age_ms) for turn in self._parts.reporter.turns(now)]
        tools = [replace(run, at_ms=run.at_ms + age_ms) for run in self._parts.tools.runs(self._parts.reporter.ms)]
        notes = [replace(note, at=self._parts.reporter.ms(note.at) + age_ms) for note in self._parts.asked.added]
        return replace(
            self._earlier,
            turns=(*self._earlier.turns, *turns),
            tools=(*self._earlier.tools, *tools),
            notes=(*self._earlier.notes, *notes),
            pending=pending,
        )

    def pending(self, now: float, *, waits: bool) -> Pending:
        """Return what is open, for whoever goes on in another media stream; `waits` tells that the agent has the word.

        Before a session has begun, it is what was open before.
        """
        if self._past is not None and not self.begun:
            return "words" if self._parts.caller_audio.unsettled else self._past.pending
        return pending_now(
            turn_open=self._parts.turn.open(now),
            owes=self._parts.responses.owes or waits,
            words_lost=self._parts.reporter.lacks_text and self._parts.playback.idle,
        )

    def worthwhile(self, now: float) -> bool:
        """Take it that there is no session; return whether to look for another one."""
        if self._away_since is None:
            self._away_since = now
            self._fruitless += 1
            self._lost_at.append(now)
            self.losses += 1
            while self._lost_at[0] < now - 60:
                self._lost_at.popleft()
        self.rotation.end()
        since = self._parts.responses.waiting_since
        silent = since is not None and now >= max(since, self._parts.playback.dry_at) + SILENCE_SECONDS
        in_time = now < self._away_since + PATIENCE_SECONDS - OPENING_SECONDS and not silent
        return in_time and self._fruitless <= MAX_FRUITLESS and len(self._lost_at) <= MAX_LOSSES_A_MINUTE

    def started(self, now: float) -> None:
        """The caller is there, and waits for the first session from now on."""
        if not self.connected:
            self._away_since = now

    def interrupted(self) -> None:
        """The agent was stopped: a session that is to come does not go on with it."""
        if self._past is not None and not self.begun:
            self._past = replace(self._past, pending="nothing")
            self._parts.responses.owed = False

    def was_heard(self) -> None:
        """The session has said something."""
        self._fruitless = 0

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        return self.rotation.get_timer() if self.connected else None

    def handle_timer(self, now: float, *, quiet: bool) -> None:
        """Have the next session opened in time, and let it take over; `quiet` tells that nobody would notice."""
        match self.rotation.handle_timer(now, quiet=quiet) if self.connected else None:
            case "open":
                self._requests.append(OpenNext())
            case "take over":
                self._away_since = now  # and not for any fault
                self.rotation.end()
                self.lost()
                self._requests.append(Renew())

    def lost(self) -> None:
        """The session is gone: let go of what was its own, and keep what the next one needs."""
        self.connected = False
        again, playing = self._parts.caller_audio.again, self._parts.playback.playing()
        self._parts.responses.new_session()
        pending = pending_now(
            turn_open=False,  # the caller is heard once more
            owes=not again and self._parts.responses.owed,
            words_lost=self._parts.reporter.lacks_text and not self._parts.responses.spoke,
        )
        self._parts.reporter.session_lost(playing, heard_again=again)
        self._parts.truncations.new_session(outcome.item_id for outcome in playing)
        self._parts.turn.forget()
        self._parts.tools.new_session()
        if not self._parts.caller_audio.by_hand:
            self._parts.caller_audio.speech(False)
        self._outbox.clear()
        if self.begun:
            self._past, self.begun = replace(self._earlier, pending=pending), False
