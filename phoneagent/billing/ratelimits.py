"""The rate limits of a model's provider, from its latest report.

A provider reports them with each response, for all calls of the account together. Between two reports, used capacity
is assumed to recover at a constant rate.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from phoneagent.events import RateLimit, RateLimitsUpdated

RATE_LIMIT_CODES = frozenset({"rate_limit_exceeded", "inference_rate_limit_exceeded"})
"""Error codes of a request that may succeed later."""

UNKNOWN_WAIT_SECONDS = 1.0
"""The shortest wait after a refusal. It is all there is if no report explains the refusal."""

MAX_LIMITS = 100
"""How many limits with different names are remembered. Further ones are ignored."""

_Key = TypeVar("_Key", bound=Hashable)


class _Reports(Generic[_Key]):
    """The latest report of each limit, and its time of arrival in seconds."""

    def __init__(self) -> None:
        self._latest: dict[_Key, tuple[RateLimit, float]] = {}

    def note(self, key: _Key, limit: RateLimit, now: float) -> None:
        if key in self._latest or len(self._latest) < MAX_LIMITS:
            self._latest[key] = (limit, now)

    def items(self) -> Iterable[tuple[_Key, tuple[RateLimit, float]]]:
        return self._latest.items()


MAX_WAIT_SECONDS = 3600.0
"""A limit that claims to be reset later than this is taken to be reset then: no call lasts longer."""


class RateLimits:
    """The rate limits of one call's model, which determine how long to wait after a refusal. `now` is in seconds."""

    def __init__(self) -> None:
        self._reports: _Reports[str] = _Reports()

    def update(self, limits: Iterable[RateLimit], now: float) -> None:
        """Store the limits of a `rate_limits.updated` event."""
        for limit in limits:
            self._reports.note(limit.name, limit, now)

    def wait(self, now: float, refusals: int = 1) -> float:
        """Return the seconds until a request that hit a limit may succeed: until the scarcest limit is reset.

        A refusal is newer than any report: other calls of the account may have used up what was left by then. So the
        wait has a minimum, which doubles with each of the `refusals` in a row.
        """
        least = UNKNOWN_WAIT_SECONDS * 2.0 ** (refusals - 1)
        known = [
            (limit, at) for _, (limit, at) in self._reports.items() if limit.remaining is not None and limit.limit > 0
        ]
        if not known:
            return least
        limit, at = min(known, key=lambda each: (each[0].remaining or 0) / each[0].limit)
        return max(least, at + min(limit.reset_seconds, MAX_WAIT_SECONDS) - now)


class RateLimitReserve:
    """The share of each rate limit that is reserved for live calls. `now` is in seconds.

    Args:
        reserve: the share, from 0 to 1. With 0, every new call is accepted.
    """

    def __init__(self, reserve: float) -> None:
        self._reserve = reserve
        self._reports: _Reports[tuple[str, str]] = _Reports()

    def update(self, event: RateLimitsUpdated, now: float) -> None:
        """Store a provider's report."""
        for limit in event.limits:
            self._reports.note((event.model, limit.name), limit, now)

    def short(self, now: float) -> bool:
        """Return whether every model has a limit with less than the reserve left."""
        short: dict[str, bool] = {}
        for (model, _), (limit, at) in self._reports.items():
            short[model] = short.get(model, False) or _left(limit, now - at) < self._reserve
        return bool(short) and all(short.values())


def _left(limit: RateLimit, seconds: float) -> float:
    """Return the share of a limit that is left `seconds` after its report."""
    if limit.limit <= 0 or limit.remaining is None or seconds >= limit.reset_seconds:
        return 1.0
    left = limit.remaining / limit.limit
    return left + (1 - left) * seconds / limit.reset_seconds
