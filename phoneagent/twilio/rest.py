"""Twilio's REST API: the account, its phone numbers and their webhooks, and changes to a live call.

Twilio's client blocks, so it runs in threads, but not in asyncio's own pool: DNS lookups of new calls need that pool.
A request that fails with 429 or 5xx is retried, up to `TRIES` attempts in all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from twilio.base.exceptions import TwilioException

from phoneagent.errors import TelephonyError, network
from phoneagent.twilio import API_URL
from phoneagent.usercode import run_in_thread

if TYPE_CHECKING:
    from phoneagent.twilio.client import TwilioClient

REQUEST_SECONDS = 10.0
"""The timeout of a request. Twilio's client has none by default."""

LIVE_SECONDS = 3.0
"""The timeout of a request about a live call, whose caller is waiting."""

TRIES = 3
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Webhook:
    """A number's webhook settings at Twilio. A URL that is not set is ""; methods are POST or GET."""

    voice_url: str = ""
    voice_method: str = "POST"
    voice_fallback_url: str = ""
    voice_fallback_method: str = "POST"
    status_callback: str = ""
    status_callback_method: str = "POST"


@dataclass(frozen=True, slots=True)
class PhoneNumber:
    """A phone number of the account."""

    sid: str
    webhook: Webhook
    overridden_by: str | None
    """The TwiML app or SIP trunk that takes the calls instead of the webhook, in words, with its sid."""
    has_voice: bool = True


@dataclass(frozen=True, slots=True)
class Account:
    """An account: its status (active, suspended, closed), its kind (Trial, Full), and the time at Twilio."""

    status: str
    kind: str
    date: datetime | None


class _Rest:
    """The REST API for one account. `api_url` replaces Twilio's; retries start after `backoff_seconds`."""

    seconds = REQUEST_SECONDS

    def __init__(
        self, account_sid: str, auth_token: str, *, api_url: str | None = None, backoff_seconds: float = 0.5
    ) -> None:
        self._account_sid = account_sid
        self._auth_token = auth_token
        self._api_url = (api_url or API_URL).rstrip("/")
        self._backoff_seconds = backoff_seconds

    @cached_property
    def _client(self) -> TwilioClient:
        from phoneagent.twilio.client import TwilioClient  # most processes never ask anything of the REST API

        return TwilioClient(self._account_sid, self._auth_token, self._api_url, self.seconds)

    async def _ask(self, what: str, request: Callable[[], _Result]) -> _Result:
        for wait in [self._backoff_seconds * 2**count for count in range(TRIES - 1)]:
            try:
                return await run_in_thread(_answer, what, request, self._api_url)
            except TelephonyError as error:
                if not error.retry or error.code is None:  # after a timeout, another attempt only adds another
                    raise
            await asyncio.sleep(wait)
        return await run_in_thread(_answer, what, request, self._api_url)


class PhoneNumbers(_Rest):
    """The phone numbers of one account. `api_url` replaces Twilio's; retries start after `backoff_seconds`."""

    async def account(self) -> Account:
        """Return the account, which also verifies the credentials.

        Raises:
            TelephonyError: Twilio refuses the credentials, or does not answer.
        """
        found = await self._ask("the account", lambda: self._client.api.accounts(self._account_sid).fetch())
        return Account(str(found.status), str(found.type), _date(self._client.date))

    async def find(self, number: str) -> PhoneNumber:
        """Return the account's phone number `number`, given in E.164.

        Raises:
            TelephonyError: the account does not have that number, or Twilio does not answer.
        """
        listed = await self._ask(
            "the numbers", lambda: self._client.incoming_phone_numbers.list(phone_number=number, limit=20)
        )
        for each in listed:
            if each.phone_number == number:  # Twilio also lists numbers that only contain it
                return _number(each)
        raise TelephonyError(
            "TWILIO_PHONE_NUMBER is not a number of this account: compare it with the console's Active numbers",
            code=20404,
        )

    async def set_webhook(self, sid: str, webhook: Webhook) -> None:
        """Set the webhook of the number with that sid (PN…).

        Raises:
            TelephonyError: the number is gone, or Twilio refuses a URL or does not answer.
        """
        await self._ask(
            "the number's webhook", lambda: self._client.incoming_phone_numbers(sid).update(**asdict(webhook))
        )

    async def webhook(self, sid: str) -> Webhook:
        """Return the webhook of the number with that sid (PN…).

        Raises:
            TelephonyError: the number is gone, or Twilio does not answer.
        """
        found = await self._ask("the number", lambda: self._client.incoming_phone_numbers(sid).fetch())
        return _number(found).webhook


class LiveCalls(_Rest):
    """The live calls of one account. `api_url` and `backoff_seconds` are as for `PhoneNumbers`."""

    seconds = LIVE_SECONDS

    async def complete(self, call_sid: str) -> None:
        """Hang up a call. A call that is already over is no error.

        Raises:
            TelephonyError: Twilio refuses, or does not answer.
        """
        await self._update(call_sid, status="completed")

    async def redirect(self, call_sid: str, twiml: str) -> None:
        """Continue a call with other TwiML, which replaces its media stream. A call that is already over is no error.

        Raises:
            TelephonyError: Twilio refuses, or does not answer.
        """
        await self._update(call_sid, twiml=twiml)

    async def _update(self, call_sid: str, **changes: str) -> None:
        try:
            await self._ask("the call", lambda: self._client.calls(call_sid).update(**changes))
        except TelephonyError as error:
            if error.code not in (20404, 21220):  # the call is over
                raise


def _answer(what: str, request: Callable[[], _Result], api_url: str) -> _Result:
    """Make a request. An exception of Twilio's client becomes a TelephonyError without phone numbers."""
    try:
        return request()
    except TwilioException as error:
        # Both exceptions of the client derive from this one. Their text may contain numbers, so it is not repeated.
        raise _refusal(what, int(getattr(error, "status", 0)), int(getattr(error, "code", 0) or 0)) from None
    except (OSError, ValueError) as error:  # requests' exceptions are OSErrors
        if not isinstance(error, OSError) and not network.find_faults(api_url, network.REQUESTS):
            words = "the server at Twilio's API is not Twilio: check the proxy and TWILIO_API_URL"
            raise TelephonyError(words) from None
        fault = network.explain(error, api_url, network.REQUESTS)
        raise TelephonyError(f"no connection to Twilio's API: {fault}", retry=True) from None


def _refusal(what: str, status: int, code: int) -> TelephonyError:
    if status == 401:
        text, retry = "Twilio refused the credentials: check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN", False
    elif status == 404:
        text, retry = f"Twilio does not have {what}: check TWILIO_ACCOUNT_SID and TWILIO_PHONE_NUMBER", False
    elif status in (407, 511):
        text, retry = f"a proxy between here and Twilio asks for a login (HTTP {status}): check HTTPS_PROXY", False
    elif status == 429:
        text, retry = "Twilio received too many requests from this account: try again in a minute", True
    elif status >= 500:
        text, retry = f"Twilio's API is having problems (HTTP {status}): try again later", True
    else:
        text, retry = f"Twilio refused {what} (HTTP {status}): see https://www.twilio.com/docs/errors/{code}", False
    return TelephonyError(text, code=code, retry=retry)


def _number(found: Any) -> PhoneNumber:
    override = None
    if found.trunk_sid:
        override = f"the SIP trunk {found.trunk_sid}"
    elif found.voice_application_sid:
        override = f"the TwiML app {found.voice_application_sid}"
    return PhoneNumber(
        sid=str(found.sid),
        webhook=Webhook(**{name: getattr(found, name) or default for name, default in asdict(Webhook()).items()}),
        overridden_by=override,
        has_voice=bool((found.capabilities or {}).get("voice", True)),
    )


def _date(header: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(header) if header else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found
