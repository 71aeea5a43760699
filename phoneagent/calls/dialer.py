"""The dialer, which places the queued calls: one at a time, at the account's pace, and each one once, whatever fails.

taken, never asked for           → ask Twilio for it
taken, and it was asked for      → look for it among the calls to that number; there → it is placed
not there, SETTLE_SECONDS later  → ask Twilio again
Twilio refuses it                → refused, with the reason
Twilio is busy, or out of reach  → queued again, later
the answer was lost              → queued again, to be looked for
it has waited too long, or the answers about it were lost too often → refused
placed, and no end was reported  → ask Twilio what became of it, every SILENT_SECONDS

Only a request that may have placed the call counts as an attempt.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TypeAlias

from phoneagent.errors import StoreError, TelephonyError
from phoneagent.store.outbound import OutboundCalls
from phoneagent.store.records import CALL_OVER, OutboundCall
from phoneagent.store.rows import now
from phoneagent.twilio.placing import MaybePlaced, NotPlaced, OutgoingCalls, Placing

log = logging.getLogger("phoneagent.calls.dialer")

POLL_SECONDS = 30.0
"""How often the queue is checked for calls that another process left behind."""

SETTLE_SECONDS = 15.0
"""How long a call that was placed may be missing from Twilio's list, which is only eventually consistent."""

RETRY_SECONDS = 2.0
MAX_RETRY_SECONDS = 60.0
MAX_ATTEMPTS = 12
"""How often a call is asked for whose answers are lost."""

MAX_WAIT_SECONDS = 3600.0
"""A call that has waited longer is not placed: the occasion has passed. A call that was asked for is looked for as
long, if Twilio cannot say whether it was placed."""


Barred: TypeAlias = Callable[[OutboundCall, str | None], Awaitable[str | None]]
"""A function that returns why a queued call must no longer be placed. It runs just before the call is placed.

Its second argument is why the call is too late, or None. It returns that if there is no other reason.
"""


class Dialer:
    """Places the calls of a queue. `placing` returns the request to Twilio, and `barred` why it must not be sent.

    `claim` claims a name that only one process can have (see `Store.claim`). With it, all processes together place
    `calls_per_second` calls; 0 means no limit. A `draining` process places none: it could not answer them. `over` is
    called when a call has ended without a report.
    """

    def __init__(
        self,
        queue: OutboundCalls,
        twilio: OutgoingCalls,
        *,
        placing: Callable[[OutboundCall], Placing],
        claim: Callable[[str, float], Awaitable[bool]],
        calls_per_second: float = 1.0,
        settle_seconds: float = SETTLE_SECONDS,
        draining: Callable[[], bool] = lambda: False,
        barred: Barred | None = None,
        over: Callable[[], None] = lambda: None,
    ) -> None:
        self._queue = queue
        self._twilio = twilio
        self._placing = placing
        self._claim = claim
        self._rate = calls_per_second
        self._settle = settle_seconds
        self._draining = draining
        self._barred = barred
        self._over = over
        self._woken = asyncio.Event()
        self._troubled = False

    def wake(self) -> None:
        """Check the queue now: it has a new call."""
        self._woken.set()

    async def run(self) -> None:
        """Place calls until this task is canceled. A call that is being placed at that moment is found again later."""
        while True:
            self._woken.clear()
            wait = POLL_SECONDS
            try:
                while not self._draining() and (await self.step() or await self.check()):
                    pass
                wait = await self._until_next()
                self._troubled = False
            except StoreError as error:
                log.log(logging.DEBUG if self._troubled else logging.WARNING, "no calls can be placed now: %s", error)
                self._troubled = True
            except Exception:  # one bad row must not stop the others
                log.exception("internal error in phoneagent: a call was not placed, and will be tried again")
            try:
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def step(self) -> bool:
        """Place the next call that is due; return whether there was one.

        Raises:
            StoreError: the database does not answer.
        """
        call = await self._queue.take()
        if call is None:
            return False
        await self._place(call)
        return True

    async def check(self) -> bool:
        """Ask Twilio about the next placed call of which no report has come for a while; return whether there was one.

        Raises:
            StoreError: the database does not answer.
        """
        call = await self._queue.take_silent()
        if call is None or call.call_sid is None:
            return call is not None
        try:
            status = await self._twilio.status(call.call_sid)
        except TelephonyError as error:
            log.info("what became of a call is unknown: %s", error, extra={"call_sid": call.call_sid})
            return True
        if status in CALL_OVER:
            await self._queue.tell(call.id, call.call_sid, status)
            self._over()
        return True

    async def _place(self, call: OutboundCall) -> None:
        try:
            wanted = self._placing(call)
        except (KeyError, TypeError, ValueError):
            words = "its row was written by another version"
            await self._queue.refuse(call.id, words, asked=call.asked_at is not None)
            return
        if call.asked_at is not None and await self._was_placed(call, wanted):
            return
        if call.attempts >= MAX_ATTEMPTS:
            await self._queue.refuse(call.id, f"given up after {call.attempts} attempts: {call.error}")
            return
        why: str | None = None
        if now() - call.created_at > timedelta(seconds=MAX_WAIT_SECONDS):
            why = f"it waited longer than {MAX_WAIT_SECONDS / 60:.0f} minutes"
            why = f"{why}: {call.error}" if call.error else why
        else:
            await self._pace()
        if self._barred is not None:
            why = await self._barred(call, why)
        if why is not None:
            await self._queue.refuse(call.id, why)
            return
        if await self._queue.asking(call.id, call.attempts + 1):
            await self._ask(call, wanted)

    async def _ask(self, call: OutboundCall, wanted: Placing) -> None:
        again = partial(self._queue.again, call.id, call.attempts + 1)
        try:
            call_sid = await self._twilio.place(wanted)
        except NotPlaced as error:
            if error.retry:
                await again(after_seconds=_delay(call.created_at), error=str(error), asked=False, counts=False)
            else:
                log.warning("a call was refused: %s", error)
                await self._queue.refuse(call.id, str(error))
        except MaybePlaced as error:
            log.warning("Twilio's answer about a new call was lost; looking for the call: %s", error)
            await again(after_seconds=RETRY_SECONDS, error=str(error), asked=True, counts=True)
        else:
            await self._queue.placed(call.id, call_sid, certain=True)

    async def _was_placed(self, call: OutboundCall, wanted: Placing) -> bool:
        """Look for a call that may have been placed; return True if it was, or if the search must be repeated."""
        current = await self._queue.get(call.id)
        if current is None or current.call_sid is not None:
            return True  # Twilio has reported it since
        assert call.asked_at is not None
        again = partial(self._queue.again, call.id, call.attempts + 1, asked=True, counts=False)
        missing = (now() - call.asked_at).total_seconds()
        try:
            found = await self._queue.unknown(await self._twilio.find(wanted, call.created_at))
        except TelephonyError as error:
            if missing > MAX_WAIT_SECONDS:  # it may still ring, so it is not placed again
                await self._queue.refuse(call.id, f"whether it was placed is unknown: {error}", asked=True)
            else:
                await again(after_seconds=_delay(call.asked_at), error=str(error))
            return True
        for call_sid in found:
            if await self._queue.placed(call.id, call_sid, certain=False):
                return True
        if missing < self._settle:
            await again(after_seconds=RETRY_SECONDS, error="it is not in Twilio's list of calls yet")
            return True
        return False

    async def _pace(self) -> None:
        """Wait for this process's turn: each slot of time is claimed by one call."""
        while self._rate > 0:
            moment = time.time() * self._rate
            slot = math.floor(moment)
            if await self._claim(f"outbound call {self._rate:g} {slot}", 2 + 2 / self._rate):
                return
            await asyncio.sleep(max((slot + 1 - moment) / self._rate, 0.01))

    async def _until_next(self) -> float:
        due = await self._queue.next_due()
        return POLL_SECONDS if due is None else min(max((due - now()).total_seconds(), 0.05), POLL_SECONDS)


def _delay(since: datetime) -> float:
    """Return how long to wait before the next try; the delay grows with the time since the first one."""
    return min(max((now() - since).total_seconds() / 2, RETRY_SECONDS), MAX_RETRY_SECONDS)
