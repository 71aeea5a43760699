"""The checks of an installation, run on demand. All open pages share their results.

The doctor is in a higher layer than the console, so the function that runs it is passed in. A run has a time limit,
there is a pause between two runs, and no call waits for one: it is a separate task.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol, TypeAlias

from phoneagent.telemetry import hidden, masked

log = logging.getLogger("phoneagent.console.checks")

RUN_SECONDS = 60.0
"""How long all checks of one run may take together."""

PAUSE_SECONDS = 5.0
"""How long after a run the next one may begin."""

MAX_CHECKS = 100

_NUMBER = re.compile(r"\+[1-9]\d{6,14}\b")
_LOGIN = re.compile(r"://[^/\s@]+@")
_QUERY = re.compile(r"(?<=\S)\?\S*[^\s,:.]")
_COMMAND = re.compile(r"`([^`]+)`")
_URL = re.compile(r"https?://[^\s,]+$")
_SETTING = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?:=\S+)?")


class Check(Protocol):
    """One line of a report, such as the doctor's checks."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def text(self) -> str: ...


Examine: TypeAlias = Callable[[], AsyncGenerator[Check]]
"""Runs the checks, and yields each when it is done."""


class Checks:
    """The latest run of the checks. `clock` returns monotonic seconds."""

    def __init__(self, examine: Examine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._examine = examine
        self._clock = clock
        self._done: list[Check] = []
        self._trouble: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended_at: float | None = None
        self._news = asyncio.Event()  # set at the next change, and then replaced
        self.running = False
        """Whether a run is in progress."""

    def begin(self) -> float:
        """Begin a run, unless one is in progress. Returns the seconds to wait first if one has just ended, else 0."""
        if self.running:
            return 0.0
        wait_seconds = 0.0 if self._ended_at is None else self._ended_at + PAUSE_SECONDS - self._clock()
        if wait_seconds <= 0:
            self._done, self._trouble, self.running = [], None, True
            self._task = asyncio.create_task(self._run())
        return max(0.0, wait_seconds)

    @property
    def begun(self) -> bool:
        """Whether a run has ever begun."""
        return self._task is not None

    async def wait(self, seen: int | None) -> None:
        """Wait until there are more than `seen` checks, or, if that is None, until the run has ended."""
        while self.running and (seen is None or len(self._done) <= seen):
            await self._news.wait()

    def report(self, *, full: bool) -> dict[str, Any]:
        """Return the state of the latest run, with masked phone numbers unless `full`."""
        checks = [_shown(each, full=full) for each in self._done]
        return {"running": self.running, "problem": self._trouble, "checks": checks}

    def end(self) -> None:
        """End a run in progress: a stopping server waits for requests that wait for the checks."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(RUN_SECONDS), aclosing(self._examine()) as checks:
                async for check in checks:
                    self._done.append(check)
                    self._tell()
                    if len(self._done) >= MAX_CHECKS:
                        break
        except TimeoutError:
            self._trouble = f"the checks took longer than {RUN_SECONDS:g} s: the one after the last above did not end"
        except Exception as error:  # an unforeseen error in a check: the page says so, and calls go on
            log.exception("the checks of the setup page failed")
            self._trouble = f"the checks failed ({type(error).__name__}): see the log"
        finally:
            self._ended_at, self.running = self._clock(), False
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _shown(check: Check, *, full: bool) -> dict[str, str | None]:
    text = without_passwords(hidden(check.text))
    if not full:
        text = _NUMBER.sub(lambda found: masked(found[0]), text)
    copied = remedy_line(text) if check.status == "failed" else None
    return {"name": check.name, "status": str(check.status), "text": text, "copy": copied}


def without_passwords(text: str) -> str:
    """Return a text with the logins and queries removed from its URLs: a number's webhook may have both."""
    return _QUERY.sub("?…", _LOGIN.sub("://…@", text))


def remedy_line(text: str) -> str | None:
    """Return the text to copy for a failed check: a command, a URL, or the line of a setting for `.env`."""
    if found := _COMMAND.search(text):
        return found[1]
    if found := _URL.search(text):
        return found[0]
    names = [found[0] for found in _SETTING.finditer(text)]
    if not names:
        return None
    return names[-1] if "=" in names[-1] else f"{names[0]}="
