"""The journal of calls: it records tools before they run, and the step that follows a media stream.

After a stream the call is hung up, passed on, or continued in another stream, in this process or another one. Twilio
asks any process for that step once our side of a stream is closed. So the step is written before we close the stream;
if the database does not take it, it is carried out over Twilio's REST API instead. This process remembers its own steps
for a while, so that a call survives an outage of the database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar, assert_never

from phoneagent.bridge.history import Note, Past, ToolRun
from phoneagent.bridge.steps import FallBack, HangUp, NextStep, Pending, Resume, Transfer
from phoneagent.errors import PhoneAgentError, RequestRefused, StoreError
from phoneagent.events import EndedBy, TransferOutcome
from phoneagent.store import RecordingRecord, SoFar, Standing
from phoneagent.twilio.parameters import shown_by_forward
from phoneagent.twilio.twiml import fall_back

if TYPE_CHECKING:
    from phoneagent.agent.call import Call
    from phoneagent.store import Store
    from phoneagent.twilio.rest import LiveCalls

log = logging.getLogger("phoneagent.calls.journal")

WRITE_SECONDS = 0.5
"""How long the caller waits in silence for the next step to be written, before REST carries it out."""

PATIENT_SECONDS = 2.0
"""How long writing a step may take if REST cannot carry it out."""

REST_SECONDS = 4.0
"""How long Twilio's REST API may take."""

READ_SECONDS = 4.0
"""How long Twilio's question waits for the database. Twilio waits 5 s, and silence beats a lost call."""

KNOWN_SECONDS = 120.0
MAX_KNOWN = 1000
"""For how long and how many calls this process remembers the next step: a database may fail before Twilio asks."""

KNOWN_READ_SECONDS = 1.0
"""How long Twilio's question waits for the database if this process knows the step itself."""

FAULTS_AT_ONCE = 5
FAULTS_A_MINUTE = 1
MAX_FAULTS = 60
"""How often a call is reconnected after a fault: five times, plus once per minute of the call, and sixty times at most.
A fault that ends each stream at once must not reconnect a call forever."""

Kind: TypeAlias = Literal["hang_up", "fall_back", "resume", "recover", "apologize", "transfer"]
"""How a call continues: "resume" after a planned hand-over, "recover" after a crash or a broken line."""

RETURNED: dict[TransferOutcome, str] = {
    "declined": "did not take the caller: they declined, or an answering machine answered",
    "busy": "is busy",
    "no-answer": "did not answer",
    "canceled": "did not answer",
    "failed": "could not be reached",
    "error": "could not be called: there is a fault on our side",
    "unknown": "was being called, and it is unknown how that ended",
}
"""What the model is told about a transfer that was not completed."""


_Found = TypeVar("_Found", bound=Standing)


@dataclass(slots=True)
class _Known:
    """A step that came from this process."""

    step: NextStep
    given_at: datetime
    since: float
    """The same moment on the monotonic clock."""
    written: bool = False


class Continuation(NamedTuple):
    """How a call continues, after which media stream ("" if unknown), and with which `call.state`."""

    kind: Kind
    stream_sid: str = ""
    state: str | None = None
    transfer: Transfer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPast(Past):
    """A call so far, its `call.state`, its recording, and when it began, if that is known."""

    started_at: datetime | None = None
    state: str | None = field(default=None, repr=False)
    recording: RecordingRecord | None = None


def may_recover(faults: int, seconds: float) -> bool:
    """Tell whether a call that had this many faults in its first `seconds` may be reconnected."""
    return faults < min(MAX_FAULTS, FAULTS_AT_ONCE + int(seconds / 60 * FAULTS_A_MINUTE))


class CallJournal:
    """The journal of calls, and the answers that follow from it. `live_calls` is the REST API, if there is one.

    `calls` are the live ones. A forward of a caller without a number shows the number that was called, or `own_number`.
    """

    def __init__(
        self,
        store: Store,
        live_calls: LiveCalls | None,
        *,
        fallback_number: str | None,
        calls: Mapping[str, Call] | None = None,
        own_number: str | None = None,
    ) -> None:
        self._store = store
        self._live_calls = live_calls
        self._fallback_number = fallback_number
        self._calls: Mapping[str, Call] = {} if calls is None else calls
        self._own_number = own_number
        self._steps: OrderedDict[str, _Known] = OrderedDict()
        self._writes: set[asyncio.Task[None]] = set()

    # --- the journal ---

    async def tool_started(self, call_sid: str, call_id: str, name: str, arguments: str) -> None:
        """Write down that a tool is about to run (see `Journal`)."""
        await self._store.tool_started(call_sid, call_id, name, arguments)

    async def next_step(self, call_sid: str, step: NextStep, *, early: bool = False) -> None:
        """Write down the next step, or have Twilio carry it out (see `Journal`).

        An `early` step is written while the last words are still being said: if the process dies during them, the call
        has ended. Otherwise the same step, or another one, follows without `early`. The step that was given last
        counts, in whatever order the steps of a stream reach the database. A failure to write an early one is logged.

        Raises:
            TelephonyError: neither worked. Twilio will ask, and only this process will know.
        """
        known = self._known(call_sid)
        if known is not None and known.written and known.step == step:
            return  # the early one is there
        known = self._remember(call_sid, step)
        rest = None if early or isinstance(step, Resume | Transfer) else self._live_calls
        try:
            async with asyncio.timeout(PATIENT_SECONDS if rest is None else WRITE_SECONDS):
                writing = self._write(call_sid, known)
                await (self._late(writing) if rest is None else writing)  # what REST does must not be written late
            return
        except (StoreError, TimeoutError):
            remedy = (
                "only this process knows it" if rest is None else "carrying it out through Twilio's REST API instead"
            )
            log.warning("the call's next step was not saved: %s", remedy, extra={"call_sid": call_sid})
        if rest is not None:
            async with asyncio.timeout(REST_SECONDS):
                if isinstance(step, FallBack):
                    call = self._calls.get(call_sid)
                    shown = None if call is None else shown_by_forward(call, self._own_number)
                    await rest.redirect(call_sid, fall_back(self._fallback_number, apologize=False, caller_id=shown))
                else:
                    await rest.complete(call_sid)

    def _late(self, writing: Coroutine[Any, Any, None]) -> Awaitable[None]:
        """Return a wait for a write that goes on when its caller no longer waits. What fails then was reported."""
        task = asyncio.create_task(writing)
        self._writes.add(task)
        task.add_done_callback(self._written)
        return asyncio.shield(task)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()

    async def _write(self, call_sid: str, known: _Known) -> None:
        await self._store.flush()  # the step belongs to the latest stream, and the next process needs what was said
        await self._store.next_step(call_sid, known.step, at=known.given_at)
        known.written = True

    # --- when Twilio asks ---

    async def answer(self, call_sid: str) -> Continuation:
        """Return how a call continues after its media stream has ended."""
        try:
            standing = await self._standing(call_sid)
        except StoreError as error:
            log.error("the next step of the call is unknown: %s", error, extra={"call_sid": call_sid})
            return Continuation("apologize")
        step = standing.step
        if isinstance(step, Transfer):
            return Continuation("transfer", standing.stream_sid or step.stream_sid, standing.state, step)
        if isinstance(step, FallBack):
            return Continuation("fall_back")
        if _over(standing):
            return Continuation("hang_up")
        if not isinstance(step, Resume) or step.broke:
            return Continuation("recover", standing.stream_sid or "", standing.state)
        return Continuation("resume", step.stream_sid, standing.state)

    async def transferred(self, call_sid: str, stream_sid: str, outcome: TransferOutcome) -> Continuation:
        """Write down the outcome of the transfer after that media stream, and return how the call continues.

        The result's `transfer` is the transfer, or None if its outcome was written before: Twilio asks twice.
        """
        kind: Kind = "hang_up" if outcome == "completed" else "resume"
        try:
            standing = await self._standing(call_sid)
        except StoreError as error:
            log.error("the outcome of a transfer is not written down: %s", error, extra={"call_sid": call_sid})
            return Continuation(kind, stream_sid)
        if not isinstance(standing.step, Transfer):
            return (await self.answer(call_sid))._replace(transfer=None)
        transfer = standing.step
        step: NextStep = HangUp(stream_sid=stream_sid)
        if outcome != "completed":
            told = f"The transfer is over: {transfer.name} {RETURNED[outcome]}."
            step = Resume(stream_sid=stream_sid, pending="answer", broke=False, returned=told)
        with suppress(PhoneAgentError):  # it is logged, and this process knows the step
            await self.next_step(call_sid, step, early=True)
        if outcome == "completed":
            try:
                await self.settle(call_sid, "agent", f"transferred to {transfer.name}")
            except StoreError as error:  # Twilio reports the end of the call as well
                log.warning("the end of the call was not recorded: %s", error, extra={"call_sid": call_sid})
        return Continuation(kind, stream_sid, standing.state, transfer)

    async def comes_back(self, call_sid: str) -> Continuation | None:
        """Return how a call that reaches the number's webhook again continues; None for a call that begins.

        Its stream was stopped because other TwiML had the call for a while. Whatever step was written then, Twilio's
        request shows that the call is up. If the database does not answer soon, the call starts over.
        """
        try:
            async with asyncio.timeout(KNOWN_READ_SECONDS):
                standing = await self._store.standing(call_sid)
                if standing.stream_sid is None:
                    return None
                step = Resume(stream_sid=standing.stream_sid, pending="answer", broke=False)
                known = self._remember(call_sid, step)
                await self._write(call_sid, known)
        except (StoreError, TimeoutError) as error:
            why = str(error) or "the database does not answer"
            log.warning("cannot tell whether the call has come back: %s", why, extra={"call_sid": call_sid})
            self._steps.pop(call_sid, None)
            return None
        return Continuation("resume", standing.stream_sid, standing.state)

    async def went_on(self, call_sid: str, after: str) -> bool:
        """Tell whether the call has a newer media stream than that one ("" for none), in any process."""
        with suppress(StoreError):
            return (await self._store.standing(call_sid)).stream_sid not in (None, "", after)
        return False

    async def past(self, call_sid: str, pending: Pending | None = None) -> RecordedPast | None:
        """Return the call so far, for the session that continues it; `pending` is what is known to be open.

        None for a call that has never begun: no stream of it was recorded, though there is a database. For a call that
        has begun and has no record, what was open is unknown.

        Raises:
            RequestRefused: the call is over.
            StoreError: the database does not answer, and this process knows nothing of the call.
        """
        try:
            so_far = await self._look(call_sid, self._store.so_far(call_sid), SoFar, READ_SECONDS)
        except StoreError as error:
            if pending is None:
                raise
            log.warning("the call goes on without what was said in it: %s", error, extra={"call_sid": call_sid})
            so_far = SoFar()
        step = so_far.step
        if _over(so_far):
            raise RequestRefused("a media socket for a call that is over")
        if so_far.started_at is None:
            begun = step is not None or pending is not None or self._store.empty
            return RecordedPast(pending="unknown") if begun else None
        if pending is None:
            pending = step.pending if isinstance(step, Resume) else "unknown"
        tools = tuple(
            ToolRun(call_id=run.call_id, name=run.name, arguments=run.arguments, output=run.output, at_ms=run.at_ms)
            for run in so_far.tools
        )
        age_ms = round((datetime.now(UTC) - so_far.started_at).total_seconds() * 1000)
        return RecordedPast(
            turns=so_far.turns,
            notes=tuple(Note(role=each.role, text=each.text, at_ms=each.at_ms) for each in so_far.messages),
            tools=tools,
            pending=pending,
            before_crash=so_far.pending,
            age_ms=max(0, age_ms),
            started_at=so_far.started_at,
            cost=so_far.cost,
            state=so_far.state,
            recording=so_far.recording,
            returned=step.returned if isinstance(step, Resume) else "",
        )

    async def _standing(self, call_sid: str) -> Standing:
        seconds = READ_SECONDS if self._known(call_sid) is None else KNOWN_READ_SECONDS
        return await self._look(call_sid, self._store.standing(call_sid), Standing, seconds)

    async def _look(self, call_sid: str, reading: Awaitable[_Found], kind: type[_Found], seconds: float) -> _Found:
        """Return what the database says. If it does not answer, or never took the step, this process may know it.

        Raises:
            StoreError: the database does not answer within `seconds`, and this process does not know the step.
        """
        known = self._known(call_sid)
        try:
            async with asyncio.timeout(seconds):
                found = await reading
        except (StoreError, TimeoutError) as error:
            why = str(error) or f"the database did not answer within {seconds:g} s"
            if known is None:
                raise StoreError(why) from None
            log.warning("the call continues from what this process remembers: %s", why, extra={"call_sid": call_sid})
            return kind(step=known.step, stream_sid=known.step.stream_sid or None)
        if known is None or found.stream_sid not in (None, known.step.stream_sid):
            return found
        newer = found.step is None or not known.written
        return replace(found, step=known.step) if newer else found

    def _remember(self, call_sid: str, step: NextStep) -> _Known:
        self._steps.pop(call_sid, None)
        known = _Known(step, datetime.now(UTC), time.monotonic())
        self._steps[call_sid] = known
        if len(self._steps) > MAX_KNOWN:
            self._steps.popitem(last=False)
        return known

    def _known(self, call_sid: str) -> _Known | None:
        """Return the next step of a call, if it is a recent one from this process."""
        known = self._steps.get(call_sid)
        return known if known is not None and time.monotonic() - known.since < KNOWN_SECONDS else None

    async def settle(self, call_sid: str, ended_by: EndedBy, reason: str) -> None:
        """End the record of a call that Twilio reports as over.

        If its session still reports its end, that replaces this one. If the session died during the
        call's last words, the early step tells which side ended the call.

        Raises:
            StoreError: the end was not recorded.
        """
        self._steps.pop(call_sid, None)
        try:
            async with asyncio.timeout(READ_SECONDS):
                step = (await self._store.standing(call_sid)).step
                by = _ended_by(step) or ended_by
                await self._store.settle(call_sid, ended_by=by, reason=reason)
        except TimeoutError:
            raise StoreError(f"the database did not answer within {READ_SECONDS:g} s") from None


def _ended_by(step: NextStep | None) -> EndedBy | None:
    """Return which side has ended a call with that next step; None if neither has."""
    match step:
        case HangUp():
            return "agent"
        case FallBack():
            return "error"
        case Resume() | Transfer() | None:
            return None
        case _:
            assert_never(step)


def _over(standing: Standing) -> bool:
    """Tell whether either side has ended the call; a broken line or our own fault has not."""
    if standing.step is not None:
        return not isinstance(standing.step, Resume | Transfer)
    return standing.ended_by in ("agent", "caller")
