"""The next step of a call, written down before Twilio asks for it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Protocol

from phoneagent.bridge.steps import NextStep, Resume
from phoneagent.errors import PhoneAgentError

log = logging.getLogger("phoneagent.calls.next_step")

STEP_SECONDS = 5.0
"""How long the end of a call waits for its next step to be settled, one way or another."""


class Journal(Protocol):
    """What a call records before it acts, so that another process knows it after a crash.

    The call awaits both with a time limit. They raise PhoneAgentError if it was not written.
    """

    async def tool_started(self, call_sid: str, call_id: str, name: str, arguments: str) -> None:
        """Record that a tool is about to run: it must not run a second time."""

    async def next_step(self, call_sid: str, step: NextStep, *, early: bool = False) -> None:
        """Record what comes next, before we close the media stream.

        `early`: it will close once its last words are said; a later step for it replaces this one.
        """


class StepWriter:
    """The next step of one media stream. Without a journal there is none."""

    def __init__(self, call_sid: str, journal: Journal | None) -> None:
        self._call_sid = call_sid
        self._journal = journal
        self.step: NextStep | None = None
        """The step after the stream, once it is known."""

    @property
    def can_resume(self) -> bool:
        """Whether a call can go on in another media stream."""
        return self._journal is not None

    @property
    def resumes(self) -> bool:
        """Whether the call goes on in another media stream."""
        return isinstance(self.step, Resume)

    def take(self, step: NextStep | None, *, broke: bool = False) -> None:
        """Note the step after the stream, which ends now; `broke`: through our own fault."""
        if step is not None:
            self.step = replace(step, broke=True) if broke and isinstance(step, Resume) else step

    async def settle(self) -> None:
        """Write down the step that was taken. Never raises, because the sockets still have to be closed."""
        if self.step is not None:
            await self.write(self.step, early=False)

    async def write(self, step: NextStep, *, early: bool) -> None:
        """Write a step down; an `early` one while the last words are still being said."""
        if self._journal is None:
            return
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await self._journal.next_step(self._call_sid, step, early=early)
        except (PhoneAgentError, TimeoutError) as error:
            why = str(error) or f"it took longer than {STEP_SECONDS:g} s"
            log.error(
                "the call's next step could not be saved or carried out: %s", why, extra={"call_sid": self._call_sid}
            )
        except Exception:  # whatever the journal raises, Twilio asks, and the caller is not left on a dead line
            log.exception("the call's next step could not be saved or carried out", extra={"call_sid": self._call_sid})
