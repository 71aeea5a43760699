"""The calls that an app makes: checked, queued, and recognized when Twilio asks for them.

Every URL that Twilio gets for such a call has the row's id in its query (`DIAL`), so each request identifies the call,
in any process. The row has the call's context.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

from phoneagent.agent.call import Call, sendable
from phoneagent.bridge.history import Past
from phoneagent.calls.dialer import Barred, Dialer
from phoneagent.calls.screening import Screening
from phoneagent.errors import ConfigurationError, DefinitionError, StoreError, TelephonyError
from phoneagent.protocol.dialing import NUMBER, refusal
from phoneagent.settings import Settings
from phoneagent.store import Store
from phoneagent.store.outbound import PROGRESS, OutboundCalls
from phoneagent.store.records import CALL_OVER, OutboundCall
from phoneagent.twilio import AMD_PATH, STATUS_PATH, VOICE_PATH
from phoneagent.twilio.placing import OutgoingCalls, Placing
from phoneagent.twilio.twiml import RETRY

log = logging.getLogger("phoneagent.calls.outbound")

DIAL = "dial"
"""The name of the row's id in the URLs of a call."""

MAX_CONTEXT_CHARS = 16 * 1024
MAX_MESSAGE_CHARS = 1000
MAX_KEY_CHARS = 200
ATTACH_SECONDS = 3.0
"""How long a call waits for its context. The callee has answered, and hears nothing in that time."""

MAX_SECONDS = 86_400
"""The maximum duration of a call at Twilio."""

USUAL_MAX_SECONDS = 14_400
"""The maximum duration of a call in an account whose owner has not raised it."""

LAST_WORDS_SECONDS = 60
"""How much later than ours Twilio's time limit is. Twilio counts from the answer, we from the media stream, and the
agent says goodbye after our limit. Twilio would cut it off."""

MAX_KNOWN = 2000
"""How many calls are remembered without asking the store."""

OnMachine: TypeAlias = Literal["talk", "hang_up", "leave_message"]
First: TypeAlias = Literal["agent", "callee"]


class KeyOfAnotherCall(DefinitionError):
    """An idempotency key that was used for another call before."""


class Outbound:
    """The calls that an app makes. `url` returns a public address of this app, and `claim` is `Store.claim`.

    `caller_id` is the number that calls are made from by default, and `max_seconds` how long they may last.
    """

    def __init__(
        self,
        queue: OutboundCalls,
        twilio: OutgoingCalls,
        *,
        claim: Any,
        url: Callable[..., str],
        caller_id: str | None,
        max_seconds: float,
        calls_per_second: float,
        draining: Callable[[], bool] = lambda: False,
        barred: Barred | None = None,
    ) -> None:
        self._queue = queue
        self._url = url
        self._caller_id = caller_id
        self._max_seconds = max_seconds
        self.dialer = Dialer(
            queue,
            twilio,
            placing=self._placing,
            claim=claim,
            calls_per_second=calls_per_second,
            draining=draining,
            barred=barred,
            over=lambda: self.call_over(),
        )
        self.call_over: Callable[[], None] = lambda: None
        """Called when the end of a call has become known."""
        self._known: dict[str, OutboundCall] = {}
        self._screenings: dict[str, Screening] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def dial(
        self,
        to: str,
        *,
        agents: Collection[str],
        agent: str | None,
        context: Mapping[str, Any] | None,
        idempotency_key: str | None,
        from_: str | None,
        first: First,
        on_machine: OnMachine,
        message: str | None,
        timeout: int,
        time_limit: int | None,
    ) -> OutboundCall:
        """Queue a call (see `PhoneApp.dial`); `agents` are the names that `agent` may have."""
        if (why := refusal(to)) is not None:
            raise TelephonyError(f"the number is not called: {why}")
        plan = self.plan(
            agents=agents,
            agent=agent,
            context=context,
            from_=from_,
            first=first,
            on_machine=on_machine,
            message=message,
            timeout=timeout,
            time_limit=time_limit,
        )
        key = isinstance(idempotency_key, str) and 0 < len(idempotency_key) <= MAX_KEY_CHARS
        _check("idempotency_key", idempotency_key is None or key, f"text of up to {MAX_KEY_CHARS} characters")
        made = await self._queue.add(to, plan, idempotency_key)
        plan = json.loads(json.dumps(plan))
        for name, given in (("from", from_), ("time_limit", time_limit)):
            if not given and name in made.plan:
                plan[name] = made.plan[name]  # a setting decided it, and may have changed since
        if made.to not in (to, "") or (made.plan and made.plan != plan):
            raise KeyOfAnotherCall("dial has an idempotency_key that another call was made with: use one key per call")
        self.dialer.wake()
        return made

    def plan(
        self,
        *,
        agents: Collection[str],
        agent: str | None,
        context: Mapping[str, Any] | None,
        from_: str | None,
        first: First,
        on_machine: OnMachine,
        message: str | None,
        timeout: int,
        time_limit: int | None,
    ) -> dict[str, Any]:
        """Return the plan of a call (see `PhoneApp.dial`) as its row stores it; `agents` are the valid names.

        Raises:
            DefinitionError: an argument cannot be used.
            ConfigurationError: there is no number to call from.
        """
        caller = from_ or self._caller_id
        if caller is None:
            raise ConfigurationError(["TWILIO_PHONE_NUMBER is missing: set it, or name the number to call from (from)"])
        _check("from_", NUMBER.fullmatch(caller) is not None, "a number of the account in E.164, like +15550100002")
        _check("first", first in ("agent", "callee"), '"agent" or "callee"')
        _check("on_machine", on_machine in ("talk", "hang_up", "leave_message"), '"talk", "hang_up" or "leave_message"')
        words = isinstance(message, str) and 0 < len(message.strip()) <= MAX_MESSAGE_CHARS
        if on_machine == "leave_message":
            _check("message", words, f"the words to leave, up to {MAX_MESSAGE_CHARS} characters")
        else:
            _check("message", message is None, 'None, unless on_machine is "leave_message"')
        limit = max(1, min(int(self._max_seconds), MAX_SECONDS)) if time_limit is None else time_limit
        _check("timeout", type(timeout) is int and 5 <= timeout <= 600, "the seconds to ring, 5 to 600")
        _check("time_limit", type(limit) is int and 1 <= limit <= MAX_SECONDS, "the seconds of the call, 1 to 86400")
        if agent is not None and agent not in agents:
            known = ", ".join(sorted(map(repr, agents))) or "none: the app's agent is a function, which can choose"
            raise DefinitionError(f"dial has agent={agent!r}: the agents are {known}")
        return {
            "from": caller,
            "context": _json(context or {}),
            "agent": agent,
            "first": first,
            "on_machine": on_machine,
            "message": None if message is None else sendable(message),
            "amd": on_machine != "talk",
            "timeout": timeout,
            "time_limit": limit,
        }

    async def get(self, id: str) -> OutboundCall | None:
        """Return a call in its current state; None if there is none with this id."""
        return await self._queue.get(id)

    def _placing(self, made: OutboundCall) -> Placing:
        address = partial(self._url, query={DIAL: made.id})
        plan = made.plan
        return Placing(
            to=made.to,
            from_=plan["from"],
            url=address(VOICE_PATH) + RETRY,
            status_url=address(STATUS_PATH) + RETRY,
            amd_url=address(AMD_PATH) + RETRY if plan["amd"] else None,
            ring_seconds=int(plan["timeout"]),
            time_limit=_twilio_limit(int(plan["time_limit"])),
        )

    # --- what Twilio requests -----------------------------------------------------------------------------------------

    async def attach(self, call: Call, *, answered: bool = False) -> bool | None:
        """Give a call that this app made its context. None: the app did not make it; False: it is hung up.

        With `answered`, Twilio asks for the call's first TwiML. A call that rang a second time, or whose person was
        forgotten while it rang, is hung up.
        """
        id = call.parameters.get(DIAL)
        if id is None or not call.direction.startswith("outbound"):
            return None
        made = self._known.get(call.sid)
        try:
            async with asyncio.timeout(ATTACH_SECONDS):
                if answered and not await self._queue.tell(id, call.sid, "in-progress"):
                    return False
                made = made or await self._queue.get(id)
        except (StoreError, TimeoutError) as error:
            why = str(error) or "the database does not answer"
            log.warning("a call that was made has no context: %s", why, extra={"call_sid": call.sid})
        if made is None:
            return None
        call.context = made.plan.get("context", {})
        self._known[call.sid] = made
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return True

    async def tell(self, form: Mapping[str, str]) -> None:
        """Handle Twilio's report of a call's status.

        Raises:
            StoreError: it was not recorded. Twilio must send it again.
        """
        status = form["CallStatus"]
        if status not in CALL_OVER and status not in PROGRESS:
            return
        if status in CALL_OVER:
            self._known.pop(form["CallSid"], None)
        await self._queue.tell(form[DIAL], form["CallSid"], status)
        if status in CALL_OVER:
            self.call_over()

    async def turned_away(self, call: Call, why: str) -> None:
        """Note that a call was answered, and that this process could not take it."""
        made = self._known.pop(call.sid, None)
        if made is None:
            return
        try:
            await self._queue.fail(made.id, call.sid, f"turned away: {why}")
        except StoreError as error:
            log.warning("a call that was turned away counts as answered: %s", error, extra={"call_sid": call.sid})

    async def amd(self, form: Mapping[str, str]) -> None:
        """Handle the result of Twilio's answering machine detection.

        Raises:
            StoreError: it was not recorded. Twilio must send it again.
        """
        call_sid, answered_by = form["CallSid"], form.get("AnsweredBy", "")[:40]
        if (screening := self._screenings.get(call_sid)) is not None:
            screening.amd(answered_by)
        await self._queue.answered_by(form.get(DIAL, ""), call_sid, answered_by)

    # --- the live call ------------------------------------------------------------------------------------------------

    def agent_of(self, call: Call) -> str | None:
        """Return the name of the agent that a call was made for; None for the app's own."""
        made = self._known.get(call.sid)
        name: str | None = None if made is None else made.plan.get("agent")
        return name

    def time_limit_of(self, call: Call) -> int | None:
        """Return how many seconds a call may last; None if the app did not make it."""
        made = self._known.get(call.sid)
        limit = None if made is None else made.plan.get("time_limit")
        return None if limit is None else min(limit, _twilio_limit(limit) - LAST_WORDS_SECONDS)

    def screen(self, call: Call, greeting: str | None, past: Past | None = None) -> Screening | None:
        """Return the screening of a call's media stream; None for a call that the app has not made."""
        made = self._known.get(call.sid)
        if made is None:
            return None
        poll = partial(self._queue.get, made.id)
        made_screening = Screening(
            call, made, greeting=greeting, poll=poll, decided=partial(self._decided, call.sid, made), past=past
        )
        self._screenings[call.sid] = made_screening
        return made_screening

    def over(self, call: Call, screening: Screening) -> None:
        """Note that a media stream has ended."""
        screening.close()
        if self._screenings.get(call.sid) is screening:
            del self._screenings[call.sid]

    def _decided(
        self, call_sid: str, made: OutboundCall, verdict: str, message_left: bool | None
    ) -> asyncio.Task[None]:
        self._known[call_sid] = replace(made, decided=verdict, message_left=message_left)

        async def record() -> None:
            try:
                await self._queue.decided(made.id, verdict, message_left)
            except StoreError as error:
                log.warning("the far end of a call was not recorded: %s", error)

        task = asyncio.create_task(record())
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)
        return task


def outbound_from(settings: Settings, store: Store, url: Callable[..., str], draining: Callable[[], bool]) -> Outbound:
    """Return the calls of an app with these settings."""
    twilio = OutgoingCalls(
        settings.twilio_account_sid, settings.auth_tokens[0], api_url=settings.twilio_api_url, backoff_seconds=0.5
    )
    return Outbound(
        store.outbound,
        twilio,
        claim=store.claim,
        url=url,
        caller_id=settings.twilio_phone_number,
        max_seconds=settings.max_call_seconds,
        calls_per_second=settings.calls_per_second,
        draining=draining,
        barred=store.campaigns.barred,
    )


def _twilio_limit(time_limit: int) -> int:
    """Return the time limit that Twilio gets for a call: it ends a call only if we have not ended it."""
    most = USUAL_MAX_SECONDS if time_limit <= USUAL_MAX_SECONDS else MAX_SECONDS
    return min(time_limit + LAST_WORDS_SECONDS, most)


def _check(name: str, fine: bool, remedy: str) -> None:
    if not fine:
        raise DefinitionError(f"dial has a {name} that cannot be used: give {remedy}")


def _json(context: Mapping[str, Any]) -> Any:
    """Return the context after a round trip through JSON.

    Raises:
        DefinitionError: JSON cannot express it, or it is too long.
    """
    try:
        if not isinstance(context, Mapping):
            raise TypeError
        text = json.dumps(dict(context), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise DefinitionError("dial has a context that JSON cannot express: give a dict of plain values") from None
    if len(text) > MAX_CONTEXT_CHARS:
        raise DefinitionError(f"dial has a context of more than {MAX_CONTEXT_CHARS} characters as JSON: pass an id")
    return json.loads(sendable(text))
