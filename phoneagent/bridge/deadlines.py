"""How long things may take: the line's silence, the model's, and the whole call."""

from __future__ import annotations

import math

from phoneagent.bridge.policy import ANNOUNCE_SECONDS, LINE_LOST_SECONDS, MODEL_STALLED_SECONDS


class Deadlines:
    """The clocks of a call; all times are seconds of `now`. `age_seconds` is what passed before this media stream."""

    def __init__(self, max_call_seconds: float, *, age_seconds: float = 0.0) -> None:
        self._max_call_seconds = max_call_seconds
        self._age_seconds = age_seconds
        self.started_at = 0.0
        self.media_at = 0.0
        """When audio of the caller came last."""
        self.model_at = 0.0
        """When anything of the model came last."""
        self.announced = False
        """Whether the caller knows that the longest call is about to end."""
        self.reason = "the call reached its longest duration"
        self._ends_by = math.inf

    def start(self, now: float) -> None:
        """The media stream begins."""
        self.started_at = self.media_at = self.model_at = now

    @property
    def line_lost_at(self) -> float:
        return self.media_at + LINE_LOST_SECONDS

    @property
    def longest_at(self) -> float:
        """When the longest call ends; until it is announced, when that is due."""
        ends_at = self._ends_at
        return ends_at if self.announced else ends_at - min(ANNOUNCE_SECONDS, self._max_call_seconds / 4)

    @property
    def _ends_at(self) -> float:
        return min(self._ends_by, self.started_at - self._age_seconds + self._max_call_seconds)

    def end_by(self, when: float, reason: str) -> None:
        """The call ends then, if not before; whoever says so has it announced."""
        if when < self._ends_at:
            self._ends_by, self.reason = when, reason
        self.announced = True

    def stalled_at(self, played_at: float) -> float:
        """When a response of which nothing comes is dead; what was written plays until `played_at`."""
        return max(self.model_at, played_at) + MODEL_STALLED_SECONDS
