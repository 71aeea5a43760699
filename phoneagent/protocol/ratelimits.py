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
        left = {name: at + limit.reset_seconds - now for name, (limit, at) in self._told.items()}
        used_up = [seconds for name, seconds in left.items() if self._told[name][0].remaining <= 0]
        return max(0.0, max(used_up or left.values(), default=UNKNOWN_WAIT_SECONDS))
