"""The guardrail: the user's function that sees what the agent is saying and may replace it.

A model's text runs ahead of its audio, so a quick guardrail often decides before the caller hears the words. It judges
one text at a time: when it is done, it gets the newest one. Nothing waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from phoneagent.agent.agent import Guardrail
from phoneagent.agent.call import Call
from phoneagent.usercode import call_user

log = logging.getLogger("phoneagent.calls.guardrail")

GUARDRAIL_SECONDS = 2.0
"""How long a guardrail may take to judge a text; the caller goes on hearing the agent in that time."""

MAX_FAILURES = 5
"""How many failures in a row disable the guardrail for the rest of the call."""

MAX_CHARS = 64 * 1024
"""How much of an answer is judged; no answer should be longer."""


class Guard:
    """Passes the text of each answer to a guardrail. `replace` gets the text to say instead, `report` gets problems."""

    def __init__(self, call: Call, *, replace: Callable[[str], None], report: Callable[[str], None]) -> None:
        self._call = call
        self._replace = replace
        self._report = report
        self._response = ""
        self._items: dict[str, str] = {}
        self._guardrail: Guardrail | None = None
        self._unseen = self._replaced = False
        self._failures = 0
        self.task: asyncio.Task[None] | None = None
        """The task in which the guardrail runs or last ran, if any."""

    def words(
        self, guardrail: Guardrail, response_id: str, item_id: str, words: str, *, complete: bool = False
    ) -> None:
        """Add words to an item of an answer, or replace the item's text with all its words if `complete`."""
        if response_id != self._response:
            self._response, self._replaced = response_id, False
            self._items.clear()
        said = self._items.get(item_id, "")
        if self._replaced or self._failures >= MAX_FAILURES or sum(map(len, self._items.values())) > MAX_CHARS:
            return
        self._items[item_id] = words if complete else said + words
        self._guardrail = guardrail
        self._unseen = self._unseen or self._items[item_id] != said
        if self._unseen and (self.task is None or self.task.done()):
            self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._unseen and self._guardrail is not None:
            self._unseen = False
            response = self._response
            replacement = await self._judge(self._guardrail, " ".join(filter(None, self._items.values())))
            # An answer is replaced once. A replacement that comes after the next answer began still counts: the caller
            # may have heard words that the guardrail objects to.
            if replacement and not (self._replaced and response == self._response):
                self._replaced, self._unseen = response == self._response, False
                self._replace(replacement)

    async def _judge(self, guardrail: Guardrail, text: str) -> str | None:
        try:
            async with asyncio.timeout(GUARDRAIL_SECONDS):
                verdict: str | None = await call_user(guardrail, self._call, text)
            if verdict is not None and not isinstance(verdict, str):
                raise TypeError(f"it returned {type(verdict).__name__}, not text or None")
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything, and the error is reported
            self._failed(error)
            return None
        self._failures = 0
        return verdict

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        log.error("the guardrail failed", exc_info=error, extra={"call_sid": self._call.sid})
        self._report(f"the guardrail failed: {type(error).__name__}")
        if self._failures == MAX_FAILURES:
            self._report(f"the guardrail failed {MAX_FAILURES} times in a row: the call goes on without it")
