"""How much the model's provider still lets us use, as it told last."""

from __future__ import annotations

from collections.abc import Iterable

from phoneagent.events import RateLimit

RATE_LIMIT_CODES = frozenset({"rate_limit_exceeded", "inference_rate_limit_exceeded"})
"""Refusals that time heals."""

UNKNOWN_WAIT_SECONDS = 1.0
"""How long to wait where nobody told."""

MAX_LIMITS = 20
"""Limits of different names that are remembered."""


class RateLimits:
    """The limits of a call's model. `now` is in seconds."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[RateLimit, float]] = {}

    def update(self, limits: Iterable[RateLimit], now: float) -> None:
        """Take what `rate_limits.updated` tells."""
        for limit in limits:
            if limit.name in self._told or len(self._told) < MAX_LIMITS:
                self._told[limit.name] = (limit, now)

    def wait(self, now: float) -> float:
        """Return after how many seconds a request that was refused for a limit may succeed."""
        told = [(limit, at) for limit, at in self._told.values() if limit.remaining is not None and limit.limit > 0]
        if not told:
            return UNKNOWN_WAIT_SECONDS
        limit, at = min(told, key=lambda each: (each[0].remaining or 0) / each[0].limit)  # the scarcest
        return max(0.0, at + limit.reset_seconds - now)
