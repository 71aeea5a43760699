"""The call's own clock: milliseconds since its media stream began."""

from __future__ import annotations


class CallClock:
    """Converts the shell's clock (`now`, in seconds) to milliseconds of the call."""

    def __init__(self) -> None:
        self._started_at: float | None = None

    def start(self, now: float) -> None:
        """Note that the media stream begins."""
        self._started_at = now

    def ms(self, now: float) -> int:
        """Return the milliseconds of the call; 0 before it started."""
        return 0 if self._started_at is None else round((now - self._started_at) * 1000)
