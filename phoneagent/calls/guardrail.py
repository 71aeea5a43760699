"""The guardrail: a function of the user that sees what the agent is saying, and may have it say something else.

The words of a model run ahead of their audio, so a guardrail that is quick is often faster than the voice. It is asked
about the newest text whenever it has answered, never twice at a time, and nothing waits for it.
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
"""How long it may take to judge a text: what is said meanwhile is heard."""

MAX_FAILURES = 5
"""After so many failures in a row the call goes on without it."""

MAX_CHARS = 64 * 1024
"""No answer is longer; of one that is, the beginning is judged."""


class Guard:
    """Shows the words of each answer to a guardrail. `replace` is given what to say instead, `report` troubles."""

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
        """What is at work, if anything."""

    def words(
        self, guardrail: Guardrail, response_id: str, item_id: str, words: str, *, complete: bool = False
    ) -> None:
        """Take more words of an item of an answer, or (`complete`) all of them."""
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
            if replacement and not (self._replaced and response == self._response):
                self._replaced, self._unseen = response == self._response, False
                self._replace(replacement)

    async def _judge(self, guardrail: Guardrail, text: str) -> str | None:
        try:
            async with asyncio.timeout(GUARDRAIL_SECONDS):
                verdict: str | None = await call_user(guardrail, self._call, text)
            if verdict is not None and not isinstance(verdict, str):
                raise TypeError(f"it returned {type(verdict).__name__}, not text or None")
        except Exception as error:  # noqa: BLE001 - a user's function, and it is reported
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
