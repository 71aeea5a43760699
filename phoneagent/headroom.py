"""How much is left of the models' rate limits: new calls are turned away before they starve those that are live.

A provider tells it with every response, for all calls of the account together. Between two such words what was used
comes back evenly, as far as we know.
"""

from __future__ import annotations

from .events import RateLimit, RateLimitsUpdated

MAX_LIMITS = 100
"""Limits of different models and names that are remembered."""


class Headroom:
    """Knows the rate limits of the models of a process. `now` is in seconds.

    Args:
        reserve: the part of each limit that is kept for live calls, from 0 to 1; with 0 nobody is turned away.
    """

    def __init__(self, reserve: float) -> None:
        self._reserve = reserve
        self._told: dict[tuple[str, str], tuple[RateLimit, float]] = {}

    def tell(self, event: RateLimitsUpdated, now: float) -> None:
        """Take what a provider tells."""
        for limit in event.limits:
            key = (event.model, limit.name)
            if key in self._told or len(self._told) < MAX_LIMITS:
                self._told[key] = (limit, now)

    def short(self, now: float) -> bool:
        """Return whether each model has a limit of which less than the reserve is left."""
        short: dict[str, bool] = {}
        for (model, _), (limit, at) in self._told.items():
            short[model] = short.get(model, False) or _left(limit, now - at) < self._reserve
        return bool(short) and all(short.values())


def _left(limit: RateLimit, seconds: float) -> float:
    """Return the part of a limit that is left so many seconds after it was told."""
    if limit.limit <= 0 or limit.remaining is None or seconds >= limit.reset_seconds:
        return 1.0
    left = limit.remaining / limit.limit
    return left + (1 - left) * seconds / limit.reset_seconds
