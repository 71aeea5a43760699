"""Waiting for something on a call until it happens, the call ends, or the time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from phoneagent.sim.twilio.alerts import CallFailed


class Waiting:
    """The waiters of one call."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._ended_by: str | None = None

    def note(self) -> None:
        """Wake all waiters to check again: something has changed."""
        self._changed.set()

    def end(self, ended_by: str) -> None:
        """End the waiting: the call is over, so nothing more will happen."""
        self._ended_by = ended_by
        self.note()

    async def until(self, missing: Callable[[], float | None], timeout: float, what: str) -> None:
        """Wait until `missing()` returns 0. Other values: seconds until the next check, or None to check at any change.

        Raises:
            TimeoutError: `timeout` seconds passed before `what`.
            CallFailed: the call ended before `what`.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self._changed.clear()
                    seconds = missing()
                    if seconds == 0:
                        return
                    if self._ended_by is not None:
                        raise CallFailed(f"the call ended (by {self._ended_by}) before {what}")
                    timer = None if seconds is None else loop.call_later(seconds, self._changed.set)
                    try:
                        await self._changed.wait()
                    finally:
                        if timer is not None:
                            timer.cancel()
        except TimeoutError:
            raise TimeoutError(f"{timeout:g} s passed before {what}") from None
