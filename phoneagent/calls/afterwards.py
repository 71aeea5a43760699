"""The work after a call has ended: fill in its outcome, and deliver `call.ended` to the receiver.

Both are steps of a row in the database (see `store/afterwards.py`), and each step is taken, done and recorded by
itself. If a process dies between a hang-up and the delivery, another one takes the step again. If it dies between the
receiver's answer and recording it, the same webhook is delivered again, with the same id.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from phoneagent.agent.outcome import any_outcome
from phoneagent.errors import PhoneAgentError, StoreError
from phoneagent.store.afterwards import DELIVER, DELIVERED, DONE, FAILED, OPEN, OUTCOME, Afterwards
from phoneagent.store.rows import now

if TYPE_CHECKING:
    from phoneagent.calls.delivery import Receiver
    from phoneagent.store import CallDetails, Store

log = logging.getLogger("phoneagent.calls.afterwards")

POLL_SECONDS = 30.0
"""How often the outbox is checked for steps that another process left behind."""

AT_ONCE = 4
"""How many steps of a kind this process does at the same time: a slow receiver takes up no more, and delays no
outcome."""

CLOSE_SECONDS = 2.0
"""How long running steps may continue when the process ends. Another process takes them again."""

HOLD_SECONDS = 10.0
"""How often the hold on a running step is renewed, so that no other process takes it."""

OUTCOME_RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0)
"""When an outcome is tried again. After that the webhook is sent without it, and says why."""

RETRY_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"""When a delivery is retried: for three days, as Standard Webhooks proposes."""


class Outcomes(Protocol):
    """What fills in outcomes; see `calls/outcomes.py`."""

    async def fill(self, call_sid: str) -> None:
        """Record the outcome, or why it cannot be filled in, unless that is recorded. If it raises, try again."""

    async def give_up(self, call_sid: str, reason: str) -> None:
        """Record that no further attempt is made."""


class _TooOften(PhoneAgentError):
    """A step was begun too often, and never finished."""


class Outbox:
    """Does the work that is left after calls have ended, in the order in which it is due.

    While this process is `draining`, no step is begun.
    """

    def __init__(
        self,
        store: Store,
        *,
        receiver: Receiver | None,
        outcomes: Outcomes | None = None,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._rows = store.afterwards
        self._receiver = receiver
        self._outcomes = outcomes
        self._draining = draining
        self._busy: dict[asyncio.Task[None], str] = {}
        self._woken = asyncio.Event()
        self._troubled = False
        self._running: asyncio.Task[None] | None = None
        self._closed = False
        self._rows.first, self._rows.wake = self._first, self.wake

    def _first(self, had: bool = True) -> str | None:
        # A function that chooses agents may define them per call: this process does not know another one's agents.
        if self._outcomes is not None and (any_outcome() or not had):
            return OUTCOME
        return None if self._receiver is None else DELIVER

    def wake(self) -> None:
        """Check the outbox now."""
        if self._closed:
            return
        if self._running is None or self._running.done():  # a mounted app has no lifespan
            self._running = asyncio.create_task(self._run(), name="phoneagent afterwards")
        self._woken.set()

    async def close(self) -> None:
        """Begin no further step, and let running ones finish, for up to CLOSE_SECONDS."""
        self._closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._busy:
            _, late = await asyncio.wait(self._busy, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            wait = POLL_SECONDS
            try:
                wait = await self._begin()
                self._troubled = False
            except StoreError as error:
                log.log(logging.DEBUG if self._troubled else logging.WARNING, "no webhook is sent for now: %s", error)
                self._troubled = True
            except Exception:
                log.exception("internal error in phoneagent: the outbox will be looked at again")
            try:
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _begin(self) -> float:
        """Begin the steps that are due; return after how many seconds to look again."""
        while (free := self._free()) and not self._draining():
            step = await self._rows.take(free)
            if step is None:
                due = await self._rows.next_due(free)
                return POLL_SECONDS if due is None else min(max((due - now()).total_seconds(), 0.05), POLL_SECONDS)
            task = asyncio.create_task(self.do(step))
            self._busy[task] = step.state
            task.add_done_callback(self._done)
        return POLL_SECONDS

    def _free(self) -> list[str]:
        """Return the kinds of steps that have room for another one."""
        busy = list(self._busy.values())
        return [state for state in OPEN if busy.count(state) < AT_ONCE]

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._busy[task]
        self._woken.set()

    async def do(self, step: Afterwards) -> None:
        """Do a step that was taken. It never raises: a step whose result is not recorded is taken again."""
        holding = asyncio.create_task(self._hold(step))
        try:
            await (self._fill_in(step) if step.state == OUTCOME else self._deliver(step))
        except PhoneAgentError as error:  # of the database
            log.warning("a step after the call will be retried: %s", error, extra={"call_sid": step.call_sid})
        except Exception:  # one call must not stop the others
            log.exception("internal error in phoneagent after a call", extra={"call_sid": step.call_sid})
        finally:
            holding.cancel()

    async def _hold(self, step: Afterwards) -> None:
        while True:
            await asyncio.sleep(HOLD_SECONDS)
            with suppress(StoreError):
                await self._rows.hold(step)

    async def _fill_in(self, step: Afterwards) -> None:
        if self._outcomes is not None:
            last = len(OUTCOME_RETRY_SECONDS) + 1
            try:
                if step.attempts > last:
                    raise _TooOften(f"it was tried {last} times, and each time the process ended")
                await self._outcomes.fill(step.call_sid)
            except Exception as error:  # noqa: BLE001 - users' models may raise anything
                words = _words(error)
                if step.attempts < last:
                    await self._rows.again(step, OUTCOME_RETRY_SECONDS[step.attempts - 1], words)
                    return
                log.error("giving up on the outcome of the call: %s", words, extra={"call_sid": step.call_sid})
                await self._outcomes.give_up(step.call_sid, words)
        await self._rows.filled(step)

    async def _deliver(self, step: Afterwards) -> None:
        from phoneagent.calls.delivery import Message, NotDelivered

        if self._receiver is None:
            await self._rows.finish(step, DONE)
            return
        record = await self._store.call(step.call_sid)
        if record is None or record.ended_at is None:  # it was forgotten, or is live again
            return
        about, last = {"call_sid": step.call_sid}, len(RETRY_SECONDS) + 1
        id = message_id(step.call_sid, [each.stream_sid for each in record.streams])
        try:
            if step.attempts > last:
                raise NotDelivered(f"it was tried {last} times, and what became of it is unknown", retry=False)
            await self._receiver.deliver(Message(id=id, body=call_ended(record)))
        except NotDelivered as error:
            if error.retry and step.attempts < last:
                seconds = max(error.after_seconds or 0, RETRY_SECONDS[step.attempts - 1])
                words = "the webhook was not delivered: %s; trying again in %.0f s"
                log.warning(words, error, seconds, extra=about)
                await self._rows.again(step, seconds, str(error))
            else:
                words = "the webhook is given up: %s; `phoneagent calls --resend %s` sends it again"
                log.error(words, error, step.call_sid, extra=about)
                await self._rows.finish(step, FAILED, str(error))
        else:
            await self._rows.finish(step, DELIVERED)


def message_id(call_sid: str, stream_sids: Sequence[str] = ()) -> str:
    """Return the id of a call's webhook, after these media streams: the same at each attempt, and in each process.

    A call that comes back after its webhook was sent does so in another stream, and ends again. Receivers drop an id
    that they have seen, so the id of a call that had several streams names the last one.
    """
    return "_".join(["call_ended", call_sid, *stream_sids[1:][-1:]])


def call_ended(record: CallDetails) -> bytes:
    """Return the body of a call's webhook: the record as the control API shows it, with whole phone numbers."""
    call = record.as_dict()
    beside = {name: call.get(name) for name in ("outcome", "outcome_error", "cost")}
    body = {"type": "call.ended", "timestamp": call["ended_at"], "data": {"call": call, **beside}}
    return json.dumps(body, ensure_ascii=False).encode()


def _words(error: Exception) -> str:
    """Return the text to show for an error. The message of a foreign error may contain anything."""
    return str(error) if isinstance(error, PhoneAgentError) else type(error).__name__
