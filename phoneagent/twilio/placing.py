"""Placing calls through Twilio's REST API, so that a lost answer never makes a telephone ring twice.

Twilio has no idempotency keys for new calls. So a failure says whether the call may have been placed (`NotPlaced` or
`MaybePlaced`), and `find` looks for it among the latest calls to that number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from phoneagent.errors import TelephonyError
from phoneagent.protocol.callerid import caller_id
from phoneagent.twilio.api import TOO_MANY, RestApi

EVENTS = ("initiated", "ringing", "answered", "completed")
"""The events of a call that its status callback gets."""

CLOCKS_DIFFER = timedelta(seconds=60)
"""How much Twilio's clock may differ from ours."""

MAX_LISTED = 200

_NEVER_SENT = frozenset({"NewConnectionError", "ConnectTimeoutError", "NameResolutionError", "ProxyError"})
"""urllib3's errors before the first byte of a request is sent. A TLS fault may come later, so it is not one."""


class NotPlaced(TelephonyError):
    """No call was placed; `retry` says whether another attempt may succeed."""


class MaybePlaced(TelephonyError):
    """The answer was lost: the call may have been placed, or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """What Twilio is asked for. It calls back at `url`, `status_url` and `amd_url`; without the last, there is no AMD.

    `events` are the events of the call that Twilio reports to `status_url`. Without a `time_limit`, Twilio's own
    applies.
    """

    to: str = field(repr=False)
    from_: str = field(repr=False)
    url: str = field(repr=False)
    status_url: str = field(repr=False)
    amd_url: str | None = field(default=None, repr=False)
    ring_seconds: int
    time_limit: int | None = None
    events: tuple[str, ...] = EVENTS


class OutgoingCalls(RestApi):
    """The calls that one account makes. `api_url` and `backoff_seconds` are as for `RestApi`."""

    async def place(self, wanted: Placing, *, repeat: bool = False) -> str:
        """Place a call, and return its sid. It is asked for once.

        With `repeat` it is asked for again if Twilio refuses it because there are too many requests or calls.

        Raises:
            NotPlaced: there is no call.
            MaybePlaced: there may be one.
        """
        options: dict[str, Any] = {}
        if wanted.time_limit is not None:
            options["time_limit"] = wanted.time_limit
        if wanted.amd_url is not None:
            options |= {
                "machine_detection": "DetectMessageEnd",
                "async_amd": "true",
                "async_amd_status_callback": wanted.amd_url,
            }

        def request() -> str:
            made = self.client.calls.create(
                to=wanted.to,
                from_=wanted.from_,
                url=wanted.url,
                status_callback=wanted.status_url,
                status_callback_event=list(wanted.events),
                timeout=wanted.ring_seconds,
                **options,
            )
            return str(made.sid)

        sent = True

        def watched() -> str:
            nonlocal sent
            try:
                return request()
            except OSError as error:
                sent = not any(type(each).__name__ in _NEVER_SENT for each in _causes(error))
                raise

        try:
            return await self.ask("the call", watched, repeat=lambda error: repeat and error.code in TOO_MANY)
        except TelephonyError as error:
            refused = error.code is not None and not error.retry
            if refused or error.code in TOO_MANY or (error.code is None and not sent):
                raise NotPlaced(_words(error), code=error.code, retry=not refused) from None
            raise MaybePlaced(str(error), code=error.code, retry=True) from None

    async def status(self, call_sid: str) -> str:
        """Return the CallStatus of a call.

        Raises:
            TelephonyError: there is no such call, or Twilio does not answer.
        """
        found = await self.ask("the call", lambda: self.client.calls(call_sid).fetch())
        return str(found.status)

    async def find(self, wanted: Placing, since: datetime) -> list[str]:
        """Return the sids of the calls that were placed like this one since `since`, the earliest first.

        Raises:
            TelephonyError: Twilio does not answer, so there may be some.
        """
        listed = await self.ask(
            "the calls",
            lambda: self.client.calls.list(to=wanted.to, from_=wanted.from_, limit=MAX_LISTED),
        )
        after = since.astimezone(UTC) - CLOCKS_DIFFER
        found = [
            each
            for each in listed
            if str(each.direction) == "outbound-api"
            and (each.date_created is None or each.date_created.astimezone(UTC) >= after)
            and caller_id(each.to or wanted.to) == caller_id(wanted.to)
        ]
        return [str(each.sid) for each in reversed(found)]


def _words(error: TelephonyError) -> str:
    return _REASONS.get(error.code or 0, str(error))


_REASONS = {
    10004: "the account makes as many calls at once as it may: wait for one to end",
    21201: "Twilio does not take it for a phone number: write it in E.164, like +15550100001",
    21210: "the caller ID is not a number of the account and is not verified: use one of its numbers",
    21211: "Twilio does not take it for a phone number: write it in E.164, like +15550100001",
    21212: "the caller ID is not a number of the account and is not verified: use one of its numbers",
    21215: "the account may not call that country: allow it in the console, Voice > Settings > Geo permissions",
    21216: "the account may not call that number",
    21217: "Twilio does not take it for a phone number: write it in E.164, like +15550100001",
    21219: "a trial account calls verified numbers only: verify the number in the console, or upgrade",
}
"""What Twilio's refusals mean, and what to do. Its own words repeat the number."""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it wraps: requests wraps urllib3's errors as arguments."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inside = (*each.args, each.__cause__, each.__context__, getattr(each, "reason", None))
        waiting += [cause for cause in inside if isinstance(cause, BaseException)]
