"""Renewal: how one model session of a call follows another.

A lost session is replaced as long as that is worthwhile: the caller is patient for some seconds, and sessions that
bring no word to the caller are not opened forever.

A session also has a time limit (an hour, at OpenAI). Some minutes before it, the next one is opened in parallel, and
takes over once neither side has spoken for a second, so that the caller does not notice. If there is no such moment, it
takes over when the old one ends, as if the old one had been lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, assert_never

from phoneagent.bridge import prompts
from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.deadlines import PATIENCE_SECONDS
from phoneagent.bridge.history import Past, pending_now
from phoneagent.bridge.policy import Policy
from phoneagent.bridge.requests import OpenNext, Request, Verdict
from phoneagent.bridge.responses import ResponseGate
from phoneagent.bridge.steps import Pending
from phoneagent.bridge.transcript import Transcript

OPENING_SECONDS = 0.5
"""With less patience than this left, no more sessions are opened."""

MAX_FRUITLESS = 6
"""After this many sessions in a row without a word to the caller, no more are opened."""

MAX_LOSSES_A_MINUTE = 12
"""After this many sessions lost within a minute, no more are opened, whatever was heard of them."""

ROTATE_SECONDS = 300.0
"""The next session is opened this long before a session's time is over; for a short session, in its second half."""

SHORTEST_SECONDS = 60.0
"""A session that announces a shorter life than this is not rotated: the next one would announce the same, endlessly."""

SPREAD_SECONDS = 0.25
"""A provider that restarts loses the sessions of all calls; they open new ones spread over this time."""

FIRST_PAUSE_SECONDS = 0.2
LAST_PAUSE_SECONDS = 1.6
"""The pause after the second failed attempt, and the longest one; each is twice as long as the last."""

QUICK_SECONDS = 10.0
"""Losses within this time count as failed attempts."""

QUIET_SECONDS = 1.0
"""How long neither side must have spoken before the next session takes over."""

LOOK_SECONDS = 0.2
"""How often to check whether the line is quiet."""

OPEN_AGAIN_SECONDS = 30.0
"""How long to wait before the next session is tried again if it did not open."""


class Rotation:
    """The schedule of the next session: when to open it, and when it takes over. Times are in seconds of `now`."""

    def __init__(self) -> None:
        self._due: float | None = None
        self._quiet_since: float | None = None
        self._ready = False

    def begin(self, now: float, lasts_seconds: float | None) -> None:
        """Begin a session that lasts this many seconds; None if that is unknown."""
        self._ready, self._quiet_since = False, None
        if lasts_seconds is None or lasts_seconds < SHORTEST_SECONDS:
            self._due = None
        else:
            self._due = now + lasts_seconds - min(ROTATE_SECONDS, lasts_seconds / 2)

    def end(self) -> None:
        """Note that the session is gone: its replacement comes at once."""
        self._due = None

    def opened(self, now: float, *, ready: bool) -> None:
        """Note that the next session is open, or did not open."""
        if self._due is not None:
            self._ready, self._due = ready, now + (LOOK_SECONDS if ready else OPEN_AGAIN_SECONDS)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        return self._due

    def handle_timer(self, now: float, *, quiet: bool) -> Literal["open", "take over"] | None:
        """Return what to do now; `quiet`: neither side speaks, and nothing is owed."""
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


class Renewal:
    """The model sessions of a call, one after another. `now` is in seconds.

    The first one begins with the call's `past`, if there is one, or with the greeting. `quiet` returns whether the next
    session could take over unnoticed at that moment.
    """

    def __init__(
        self, policy: Policy, past: Past | None, requests: deque[Request], *, quiet: Callable[[float], bool]
    ) -> None:
        self._greeting = policy.greeting
        self.renews = policy.renews
        """Whether another session can be opened."""
        self._to_tell = past
        self._before_stream = past or Past(pending="nothing")
        self._requests = requests
        self._quiet = quiet
        self._away_since: float | None = None
        self._greeting_due = policy.greeting is not None and not self._before_stream.greeted
        self._fruitless = 0
        self._unopened = 0  # attempts in a row that brought no session
        self._lost_at: list[float] = []
        self._rotation = Rotation()
        self.losses = 0
        """How many sessions of this media stream were lost, or did not open."""
        self.begun = False
        """Whether the session was told where the call is."""

    @property
    def pending(self) -> Pending | None:
        """What was open when the previous session was lost; None if this is the call's first, or has begun."""
        return None if self.begun or self._to_tell is None else self._to_tell.pending

    @property
    def awaited(self) -> bool:
        """Whether the caller, and not only the call, waits for a session."""
        return not self.begun and (self.pending != "nothing" or self._greeting_due)

    def started(self, now: float) -> None:
        """Note that the media stream begins without a session: the caller waits from now on."""
        self._away_since = now

    def connect(self, now: float, lasts_seconds: float | None) -> None:
        """Note that a session is ready, for `lasts_seconds`; None if that is unknown."""
        self._unopened = 0
        self._rotation.begin(now, lasts_seconds if self.renews else None)

    def begin(self, conversation: Conversation, transcript: Transcript, clock: CallClock, now: float) -> None:
        """Tell the session where the call is, and ask for what should be said first."""
        pending, greeting = self.pending, self._greeting
        self.begun, self._away_since = True, None
        if pending is not None:
            past = self._before_stream.extended(
                turns=transcript.so_far(clock.ms(now)),
                tools=conversation.tools.runs(clock.ms),
                notes=conversation.notes(clock.ms),
                pending=pending,
            )
            greeting = None if past.greeted else greeting
            conversation.tell_past(past.items(anchor=not greeting))
            if pending != "nothing" and (past.caller_spoke or not greeting):
                conversation.responses.owe_answer()
        if greeting:
            conversation.responses.want(prompts.greeting(greeting))

    def was_heard(self) -> None:
        """Note that the session said something."""
        self._fruitless = 0
        self._greeting_due = False
        if self._before_stream.returned:
            self._before_stream = replace(self._before_stream, returned="")  # it has been told

    def interrupted(self, responses: ResponseGate) -> None:
        """Note that the agent was stopped: if there is no session, the next one does not continue its words."""
        if self.pending is not None and self._to_tell is not None:
            self._to_tell = replace(self._to_tell, pending="nothing")
            responses.forgive()

    def new_session(self, *, owes: bool, words_lost: bool) -> None:
        """Replace a lost session: it may have owed an answer, or lost a turn's words. An open turn is heard again."""
        self._rotation.end()
        if self.begun:
            pending = pending_now(turn_open=False, owes=owes, words_lost=words_lost)
            self._to_tell, self.begun = replace(self._before_stream, pending=pending), False

    def left_open(self, *, turn_open: bool, owes: bool, words_lost: bool, unsettled: bool) -> Pending:
        """Return what the next media stream finds open: what the session had, or what was open before it began."""
        if (before := self.pending) is not None:
            return "words" if unsettled else before
        return pending_now(turn_open=turn_open, owes=owes, words_lost=words_lost)

    def stop(self) -> None:
        """Open no more sessions."""
        self._rotation.end()

    def worthwhile(self, now: float) -> bool:
        """Note that there is no session; return whether to look for another one."""
        if self._away_since is None:
            self._away_since = now
            self._fruitless += 1
            self._lost_at.append(now)
            self.losses += 1
            while self._lost_at[0] < now - 60:
                self._lost_at.pop(0)
        self._rotation.end()
        in_time = now < self._away_since + PATIENCE_SECONDS - OPENING_SECONDS
        return in_time and self._fruitless <= MAX_FRUITLESS and len(self._lost_at) <= MAX_LOSSES_A_MINUTE

    def pause_seconds(self, now: float, chance: float) -> float:
        """Return how long to wait before the next attempt. `chance`, random from 0 to 1, spreads out the calls."""
        self._unopened += 1
        lost = sum(at > now - QUICK_SECONDS for at in self._lost_at)
        attempts = max(lost, 1) + self._unopened - 1
        if attempts == 1:
            return SPREAD_SECONDS * chance
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** (attempts - 2), LAST_PAUSE_SECONDS)
        return pause * (0.5 + chance / 2)

    def next_opened(self, now: float, *, ready: bool) -> None:
        """Note that the parallel session is open, or did not open."""
        self._rotation.opened(now, ready=ready)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        return self._rotation.get_timer()

    def handle_timer(self, now: float) -> Verdict | None:
        """Have the next session opened in time, and let it take over."""
        due_at = self._rotation.get_timer()
        if due_at is None or now < due_at:
            return None
        match due := self._rotation.handle_timer(now, quiet=self._quiet(now)):
            case "open":
                self._requests.append(OpenNext())
                return None
            case "take over":
                self._away_since = now  # not because of a fault
                self._rotation.end()
                return Verdict("take_over")
            case None:
                return None
            case _:
                assert_never(due)
