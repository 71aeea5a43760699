"""Warm transfers: the other party is called while the caller stays with the agent, and asked to take the call.

The database has the state of each transfer (`store/transfers`), because any process may get Twilio's requests about the
party, and the caller's media stream may move to another process. Each state is written before it is acted on, and each
change succeeds once. So a party is never called twice, and nothing is lost if a process dies.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from phoneagent.bridge.steps import Transfer
from phoneagent.errors import PhoneAgentError, StoreError, TelephonyError
from phoneagent.events import TransferOutcome
from phoneagent.store.records import ACCEPTED, DIALING, JOINED, LEFT, OPEN, OVER, TransferRecord
from phoneagent.twilio import AFTER_PATH, PARTY_PATH, twiml
from phoneagent.twilio.placing import NotPlaced, Placing

if TYPE_CHECKING:
    from phoneagent.store.transfers import TransferRows
    from phoneagent.twilio.rest import LiveCalls

log = logging.getLogger("phoneagent.calls.warm")

LOOK_SECONDS = 1.0
"""How often a process checks whether the party has decided: another process may have received Twilio's request."""

SUMMARY_SECONDS = 12.0
"""How long the model may take to write the summary for the party."""

SUMMARY_WAIT_SECONDS = 4.0
"""How long the party waits in silence for the summary after answering."""

MAX_SUMMARY_CHARS = 280
"""About 20 s of speech."""

DECIDE_SECONDS = 75.0
"""How long the party may listen and think after answering. Its TwiML ends earlier."""

LOST_SECONDS = 10.0
"""How long after its ring time a party counts as not called if Twilio never reported anything."""

EMPTY_SECONDS = 3.0
"""How long after the party the caller's own call takes to leave the conference."""

DIALED = "dialed"
"""The parameter of AFTER_PATH after a transfer: the media stream before it, "" if unknown."""

CONFERENCE = "conference"
"""The parameter after a warm transfer: its conference, which has the id of the transfer."""

GONE = "The caller is no longer waiting. Goodbye."

_OUTCOMES: dict[str, TransferOutcome] = {
    "completed": "declined",
    "busy": "busy",
    "no-answer": "no-answer",
    "failed": "failed",
    "canceled": "canceled",
}
"""What the end of a party's call means if the party had not accepted, by Twilio's CallStatus."""


class WarmTransfers:
    """The warm transfers of a process. `url` makes the public address of a path with a query.

    `own_number` is the number from which a party is called if the call itself has none of our numbers.
    """

    def __init__(
        self, rows: TransferRows, live_calls: LiveCalls, *, url: Callable[..., str], own_number: str | None
    ) -> None:
        self.own_number = own_number
        self._rows = rows
        self._live_calls = live_calls
        self._url = url
        self._news: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the caller's side ---

    async def offer(
        self, call_sid: str, step: Transfer, *, from_: str, summary: Callable[[], Awaitable[str]]
    ) -> TransferRecord | None:
        """Call a party, have it told the `summary`, and return the transfer once it is decided.

        None if the transfer could not be written down; then the party was not called.
        """
        transfer_id = secrets.token_hex(8)
        try:
            await self._rows.begin(transfer_id, call_sid, step)
        except StoreError as error:
            log.error("the transfer was not begun: %s", str(error), extra={"call_sid": call_sid})
            return None
        placing = asyncio.create_task(self._place(transfer_id, call_sid, step, from_))
        self._tasks.add(placing)  # it continues if the caller hangs up now: the party's sid has to be known
        placing.add_done_callback(self._tasks.discard)
        await asyncio.shield(placing)
        return await self.follow(transfer_id, summary)

    async def follow(self, transfer_id: str, summary: Callable[[], Awaitable[str]]) -> TransferRecord | None:
        """Have the party of a transfer told the `summary`, and return the transfer once it is decided."""
        telling = asyncio.create_task(self._describe(transfer_id, summary))
        try:
            return await self._watch(transfer_id)
        finally:
            telling.cancel()
            await asyncio.wait({telling})

    async def _place(self, transfer_id: str, call_sid: str, step: Transfer, from_: str) -> None:
        query = {"transfer": transfer_id}
        callback = self._url(PARTY_PATH, query={**query, "ended": 1})
        wanted = Placing(
            to=step.to,
            from_=from_,
            url=self._url(PARTY_PATH, query=query) + twiml.RETRY,
            status_url=callback + twiml.RETRY,
            ring_seconds=step.timeout,
            events=("completed",),
        )
        try:
            sid = await self._live_calls.place(wanted, repeat=True)
        except TelephonyError as error:
            log.error("the other party was not called: %s", str(error), extra={"call_sid": call_sid})
            if error.code is not None or isinstance(error, NotPlaced):  # else it may still ring, and Twilio reports it
                await self._decide(transfer_id, "error")
            return
        with suppress(StoreError):  # Twilio's requests contain it too
            await self._rows.called(transfer_id, sid)
            row = await self._rows.get(transfer_id)
            if row is not None and row.state == "canceled":  # the caller has hung up
                await self._hang_up(row)

    async def _describe(self, transfer_id: str, summary: Callable[[], Awaitable[str]]) -> None:
        text = ""
        try:
            async with asyncio.timeout(SUMMARY_SECONDS):
                text = await summary()
        except (PhoneAgentError, TimeoutError) as error:
            log.warning("the other party hears no summary: %s", str(error) or "the model took too long")
        with suppress(StoreError):
            await self._rows.describe(transfer_id, _one_line(text)[:MAX_SUMMARY_CHARS])

    async def open(self, call_sid: str) -> TransferRecord | None:
        """Return the transfer that a call was in when its previous media stream was lost; None if there is none."""
        with suppress(StoreError):
            return await self._rows.open(call_sid)
        return None

    async def _watch(self, transfer_id: str) -> TransferRecord | None:
        """Return the transfer once it is decided, or its time is up."""
        news = self._news.setdefault(transfer_id, asyncio.Event())
        try:
            while True:
                news.clear()
                with suppress(StoreError):
                    row = await self._rows.get(transfer_id)
                    if row is None or row.state != DIALING:
                        return row
                    age = (datetime.now(UTC) - row.at).total_seconds() - row.step.timeout
                    if age > (LOST_SECONDS if row.callee_sid is None else DECIDE_SECONDS):
                        await self._decide(transfer_id, "unknown")
                        await self._hang_up(row)
                        continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await news.wait()
        finally:
            self._news.pop(transfer_id, None)

    async def give_up(self, call_sid: str, *, over: bool = False) -> None:
        """Hang up on the party, if it is on the line: the caller is gone. Never raises.

        A caller who may have joined the party is gone only if Twilio reports that the call is `over`. If they talked,
        their conference ended with it, and so did the party's call.
        """
        try:
            row = await self._rows.open(call_sid, joined=over)
            if row is None:
                return
            # The caller's request to join may come at the same time, so JOINED follows the states before it.
            moved = await self._rows.move(row.id, "canceled", of=OPEN)
            if moved or (over and await self._rows.move(row.id, OVER, of=(JOINED,))):
                await self._hang_up(await self._rows.get(row.id) or row)
        except StoreError as error:
            log.warning("a transfer of a call that is over was not ended: %s", str(error), extra={"call_sid": call_sid})

    async def join(self, transfer_id: str) -> bool:
        """Tell whether the caller may join the waiting party; if so, the caller joins."""
        try:
            return await self._rows.move(transfer_id, JOINED, of=(ACCEPTED, JOINED))
        except StoreError:
            return True  # the party most likely still waits

    async def finish(self, transfer_id: str) -> bool:
        """Tell whether the party was in the conference that the caller has left."""
        with suppress(StoreError):
            if await self._rows.move(transfer_id, OVER, of=(JOINED,)):
                return True
            row = await self._rows.get(transfer_id)
            return row is None or row.state != LEFT
        return True

    async def _hang_up(self, row: TransferRecord) -> None:
        if row.callee_sid is not None:
            try:
                await self._live_calls.complete(row.callee_sid)
            except TelephonyError as error:
                log.warning("the other party was not hung up on: %s", str(error), extra={"call_sid": row.call_sid})

    async def _decide(self, transfer_id: str, state: str) -> bool:
        moved = await self._rows.move(transfer_id, state, of=(DIALING,))
        if (news := self._news.get(transfer_id)) is not None:
            news.set()
        return moved

    # --- the party's side: the answers to Twilio ---

    async def answer(self, form: Mapping[str, str]) -> str:
        """Answer Twilio about the call of a party.

        Raises:
            StoreError: the database does not answer. Twilio asks again.
        """
        transfer_id = form["transfer"]
        row = await self._rows.get(transfer_id)
        if row is None:
            return twiml.say_and_hang_up(GONE)
        if row.callee_sid is None:
            await self._rows.called(transfer_id, form["CallSid"])
        if "ended" in form:
            await self._ended(row, form)
            return twiml.nothing()
        if "Digits" in form:
            return await self._decided(row, form["Digits"])
        if row.state != DIALING:
            return _gone(row)
        summary, step = await self._summary(row), row.step
        words = summary if step.ask else f"A caller for {step.name}. {summary}"
        action = self._url(PARTY_PATH, query={"transfer": transfer_id})
        return twiml.ask_party(words.strip(), ask=step.ask, language=step.language, action=action)

    async def _decided(self, row: TransferRecord, digits: str) -> str:
        if digits != twiml.ACCEPT_KEY:
            await self._decide(row.id, "declined")
            return twiml.hang_up()
        if await self._decide(row.id, ACCEPTED) or row.state in (ACCEPTED, JOINED):
            return twiml.wait_in(row.id)
        return _gone(row)

    async def _ended(self, row: TransferRecord, form: Mapping[str, str]) -> None:
        if await self._decide(row.id, _OUTCOMES.get(form["CallStatus"], "unknown")):
            return
        if await self._rows.move(row.id, LEFT, of=(ACCEPTED,)):
            return
        task = asyncio.create_task(self._bring_back(row))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_back(self, row: TransferRecord) -> None:
        """Bring back a caller who joins a conference just as the party leaves, and would be alone there."""
        await asyncio.sleep(EMPTY_SECONDS)
        try:
            if await self._rows.move(row.id, LEFT, of=(JOINED,)):
                log.warning("the other party left just as the caller joined", extra={"call_sid": row.call_sid})
                url = self._url(AFTER_PATH, query={DIALED: "", CONFERENCE: row.id})
                await self._live_calls.redirect(row.call_sid, twiml.redirect(url))
        except (StoreError, TelephonyError) as error:
            log.error("the caller may be alone in the conference: %s", str(error), extra={"call_sid": row.call_sid})

    async def _summary(self, row: TransferRecord) -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(SUMMARY_WAIT_SECONDS):
                while row.summary is None:
                    await asyncio.sleep(0.25)
                    row = await self._rows.get(row.id) or row
        return row.summary or ""

    async def close(self) -> None:
        """Stop the tasks that are still waiting."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _gone(row: TransferRecord) -> str:
    """Return TwiML for a party whose caller has left; in another language the line just ends."""
    return twiml.hang_up() if row.step.language else twiml.say_and_hang_up(GONE)


def _one_line(text: str) -> str:
    """Return text without line breaks, and without characters that XML does not have."""
    return "".join(char for char in " ".join(text.split()) if char.isprintable())
