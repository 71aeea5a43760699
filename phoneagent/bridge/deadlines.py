"""Deadlines: the maximum duration of a call, which is announced and then ends it with a goodbye."""

from __future__ import annotations

import math
from collections.abc import Callable

from phoneagent.bridge import prompts
from phoneagent.bridge.requests import Verdict
from phoneagent.bridge.responses import ResponseGate

PATIENCE_SECONDS = 5.0
"""How long the caller waits for a session, or for room within a rate limit, before they hear an apology."""

ANNOUNCE_SECONDS = 30.0
"""The announcement of the call's end comes this long before it; in a very short call, in its last quarter."""


class Deadlines:
    """The end of a call that lasts too long, or costs too much. Times are in seconds of `now`.

    `age_seconds` is the call's age before this media stream. `ready` returns whether the model can be asked to speak
    and the call is not already closing.
    """

    def __init__(
        self,
        max_call_seconds: float,
        responses: ResponseGate,
        ready: Callable[[], bool],
        *,
        age_seconds: float = 0.0,
    ) -> None:
        self._max_call_seconds = max_call_seconds
        self._age_seconds = age_seconds
        self._responses = responses
        self._ready = ready
        self._started_at = 0.0
        self._ends_by = math.inf
        self._reason = "the call reached its maximum duration"
        self.announced = False
        """Whether the caller knows that the call is about to end."""

    def start(self, now: float) -> None:
        """Note that the media stream begins."""
        self._started_at = now

    @property
    def _ends_at(self) -> float:
        return min(self._ends_by, self._started_at - self._age_seconds + self._max_call_seconds)

    def end_by(self, when: float, reason: str) -> None:
        """End the call then, if not earlier; the caller has been told, or is about to be."""
        if when < self._ends_at:
            self._ends_by, self._reason = when, reason
        self.announced = True

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        if not self._ready():
            return None
        return self._ends_at if self.announced else self._ends_at - min(ANNOUNCE_SECONDS, self._max_call_seconds / 4)

    def handle_timer(self, now: float) -> Verdict | None:
        """Announce the end of the call, or end it."""
        due = self.get_timer()
        if due is None or now < due:
            return None
        if self.announced:
            return Verdict("time_up", self._reason)
        self.announced = True
        self._responses.want(prompts.announcement())
        return None
