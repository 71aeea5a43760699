"""The transfers of one call, from its media stream: when it may be transferred, and the result of a warm transfer."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from phoneagent.agent.call import Call
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.prompts import Sound
from phoneagent.bridge.steps import Resume, Transfer
from phoneagent.calls.journal import RETURNED
from phoneagent.calls.warm import WarmTransfers
from phoneagent.events import CallTransferred, Event, TransferOutcome
from phoneagent.protocol.tones import ringing
from phoneagent.store.records import ACCEPTED, TransferRecord
from phoneagent.twilio.browser import is_browser_call

log = logging.getLogger("phoneagent.calls.transfers")

QUIET_SECONDS = 4.0
"""While a party is being called, the caller hears a ringing tone after this much silence."""

LOOK_SECONDS = 1.0

SUMMARY = (
    "The caller is about to be offered to {name}. Write what {name} is told on the telephone before taking the call: "
    "who is calling, and what they want, in {language}, in at most two short sentences. Write only that, and no more."
)


class CallTransfers:
    """The transfers of a call in one media stream.

    `can_return` tells whether the call could come back to the agent. `warm` is None if no party can be called.
    """

    def __init__(
        self,
        call: Call,
        bridge: Bridge,
        warm: WarmTransfers | None,
        flush: Callable[[], None],
        emit: Callable[[Event], None],
        *,
        can_return: bool,
    ) -> None:
        self._call = call
        self._bridge = bridge
        self._can_return = can_return
        self._warm = warm
        self._flush = flush
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self.task: asyncio.Task[None] | None = None
        """The warm transfer in progress."""

    def problem(self, *, warm: bool) -> str | None:
        """Return why the call cannot be transferred now; None if it can."""
        closing = self._bridge.closing
        if not self._can_return:
            return "there is no database with which it could come back: set DATABASE_URL, or give the app a store"
        if self._bridge.ended is not None:
            return "it is over"
        if self._calling or (closing.active and closing.ended_by is None):
            return "it is being transferred already"
        if closing.active:
            return "it is about to end"
        if warm and is_browser_call(self._call.sid):  # Twilio has no such call that could join a conference
            return "the caller is in a browser: try a warm transfer by telephone"
        if warm and self._warm is None:
            return "no party can be called without Twilio's REST API"
        if warm and self._from is None:
            return "there is no number of ours to call from: set TWILIO_PHONE_NUMBER"
        return None

    def begin(self, step: Transfer, *, warm: bool) -> None:
        """Transfer the call."""
        if self.problem(warm=warm) is not None:
            return
        if warm:
            self.task = asyncio.create_task(self._offer(step))
        else:
            self._bridge.transfer(self._loop.time(), step)

    def resume(self) -> None:
        """Continue the warm transfer that the call was in when its previous media stream was lost."""
        if self._warm is not None:
            self.task = asyncio.create_task(self._go_on(self._warm))

    async def close(self) -> None:
        """End this media stream's part; if the call is over too, hang up on the party."""
        ended = self._bridge.ended
        over = ended is not None and not isinstance(ended.next_step, Resume | Transfer)  # a broken line is not the end
        if self.task is not None and over and self._warm is not None:
            await self._warm.give_up(self._call.sid)

    @property
    def _calling(self) -> bool:
        return self.task is not None and not self.task.done()

    @property
    def _from(self) -> str | None:
        """The number that a party sees. It is one of ours: Twilio accepts no other."""
        own = self._call.caller if self._call.direction.startswith("outbound") else self._call.called
        if own is not None and own.startswith("+"):
            return own
        return None if self._warm is None else self._warm.own_number

    async def _offer(self, step: Transfer) -> None:
        if self._warm is not None and self._from is not None:
            offering = self._warm.offer(self._call.sid, step, from_=self._from, summary=lambda: self._summary(step))
            row = await self._not_silent(asyncio.create_task(offering))
            self._settle(step, row)

    async def _go_on(self, warm: WarmTransfers) -> None:
        if (row := await warm.open(self._call.sid)) is not None:
            step, told = row.step, row.summary
            following = warm.follow(row.id, lambda: self._summary(step, told))
            self._settle(step, await self._not_silent(asyncio.create_task(following)))

    async def _summary(self, step: Transfer, told: str | None = None) -> str:
        language = f"the language with the code {step.language}" if step.language else "English"
        return told or await self._call.ask(SUMMARY.format(name=step.name, language=language))

    async def _not_silent(self, work: asyncio.Task[TransferRecord | None]) -> TransferRecord | None:
        """Return the result of `work`. Until then the caller hears a ringing tone whenever nothing else is heard."""
        quiet_since: float | None = None
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=LOOK_SECONDS)
                now = self._loop.time()
                if not self._bridge.quiet(now):
                    quiet_since = None
                elif quiet_since is None:
                    quiet_since = now
                elif now - quiet_since >= QUIET_SECONDS and not work.done():
                    quiet_since = None
                    if self._bridge.sounds is not None:
                        self._bridge.sounds.play(_ringing())
                        self._bridge.move_on(now)
                        self._flush()
            return work.result()
        except Exception:  # the database, or no thread: the agent is told that it failed
            log.exception("a warm transfer failed", extra={"call_sid": self._call.sid})
            return None
        finally:
            work.cancel()
            await asyncio.wait({work})

    def _settle(self, step: Transfer, row: TransferRecord | None) -> None:
        """Have the caller join the party, or tell the agent why not."""
        now = self._loop.time()
        if row is not None and row.state == ACCEPTED:
            self._bridge.transfer(now, replace(step, conference=row.id), announce=True)
            self._flush()
            return
        outcome: TransferOutcome = "error"
        for known in RETURNED:
            if row is not None and row.state == known:
                outcome = known
        self._emit(CallTransferred(call_sid=self._call.sid, to_name=step.name, outcome=outcome, warm=True))
        told = f"The transfer is over: {step.name} {RETURNED[outcome]}. Tell the caller so, and go on with them."
        self._bridge.conversation.add(told, "system", now)
        self._bridge.conversation.respond({})
        self._bridge.move_on(now)
        self._flush()


@cache
def _ringing() -> Sound:
    return Sound(base64.b64encode(ringing()).decode(), "[ringing]")
