"""Twilio's REST API: the account's phone numbers and where their calls go, and what can be done to a live call.

Twilio's client is blocking, so it runs in threads, and not in asyncio's own: those resolve names for new calls.
What may help when it is tried again (429, 5xx) is tried again, `TRIES` times in all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from twilio.base.exceptions import TwilioException
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

from phoneagent.errors import TelephonyError
from phoneagent.usercode import run_in_thread

API_URL = "https://api.twilio.com"

REQUEST_SECONDS = 10.0
"""What one request may take; Twilio's client would wait for ever."""

LIVE_SECONDS = 3.0
"""What a request about a live call may take: its caller waits."""

TRIES = 3
_Result = TypeVar("_Result")

_quiet = logging.getLogger("phoneagent.twilio.rest.twilio")
_quiet.setLevel(logging.WARNING)  # below that, Twilio's client writes the parameters: phone numbers


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where Twilio asks about a number's calls. Addresses are "" where there is none, methods POST or GET."""

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
    """What takes the calls instead of the webhook, in words, with its sid: a TwiML app or a SIP trunk."""
    has_voice: bool = True


@dataclass(frozen=True, slots=True)
class Account:
    """The account: its status (active, suspended, closed), its kind (Trial, Full) and what time it is at Twilio."""

    status: str
    kind: str
    date: datetime | None


class PhoneNumbers:
    """The numbers of one account. `api_url` is another server than Twilio's; `backoff_s` the first wait, in seconds."""

    def __init__(
        self, account_sid: str, auth_token: str, *, api_url: str | None = None, backoff_seconds: float = 0.5
    ) -> None:
        self._http = _Http((api_url or API_URL).rstrip("/"))
        self._client = Client(account_sid, auth_token, http_client=self._http)
        self._account_sid = account_sid
        self._backoff_seconds = backoff_seconds

    async def account(self) -> Account:
        """Return the account itself, which proves the credentials.

        Raises:
            TelephonyError: Twilio refuses the credentials, or cannot be asked.
        """
        found = await self._ask("the account", lambda: self._client.api.accounts(self._account_sid).fetch())
        return Account(str(found.status), str(found.type), _date(self._http.date))

    async def find(self, number: str) -> PhoneNumber:
        """Return the account's phone number `number`, in E.164.

        Raises:
            TelephonyError: it is not among the account's numbers, or Twilio cannot be asked.
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
        """Point the calls of the number with that sid (PN…) somewhere.

        Raises:
            TelephonyError: the number is gone, Twilio refuses an address, or cannot be asked.
        """
        await self._ask(
            "the number's webhook", lambda: self._client.incoming_phone_numbers(sid).update(**asdict(webhook))
        )

    async def webhook(self, sid: str) -> Webhook:
        """Return where the calls of the number with that sid (PN…) go.

        Raises:
            TelephonyError: the number is gone, or Twilio cannot be asked.
        """
        found = await self._ask("the number", lambda: self._client.incoming_phone_numbers(sid).fetch())
        return _number(found).webhook

    async def _ask(self, what: str, request: Callable[[], _Result]) -> _Result:
        return await _ask(what, request, self._backoff_seconds)


class LiveCalls:
    """The calls of one account, while they are up. `api_url` and `backoff_s` are as for `PhoneNumbers`."""

    def __init__(
        self, account_sid: str, auth_token: str, *, api_url: str | None = None, backoff_seconds: float = 0.5
    ) -> None:
        http = _Http((api_url or API_URL).rstrip("/"), LIVE_SECONDS)
        self._client = Client(account_sid, auth_token, http_client=http)
        self._backoff_seconds = backoff_seconds

    async def complete(self, call_sid: str) -> None:
        """Hang up.

        Raises:
            TelephonyError: Twilio refuses it, or cannot be asked.
        """
        await self._update(call_sid, status="completed")

    async def redirect(self, call_sid: str, twiml: str) -> None:
        """Let the call go on with other TwiML, in place of its media stream.

        Raises:
            TelephonyError: Twilio refuses it, or cannot be asked.
        """
        await self._update(call_sid, twiml=twiml)

    async def _update(self, call_sid: str, **changes: str) -> None:
        try:
            await _ask("the call", lambda: self._client.calls(call_sid).update(**changes), self._backoff_seconds)
        except TelephonyError as error:
            if error.code not in (20404, 21220):  # it is over
                raise


async def _ask(what: str, request: Callable[[], _Result], backoff_seconds: float) -> _Result:
    for wait in [backoff_seconds * 2**count for count in range(TRIES - 1)]:
        try:
            return await run_in_thread(_answer, what, request)
        except TelephonyError as error:
            if not error.retry or error.code is None:  # without an answer, a second wait only takes longer
                raise
        await asyncio.sleep(wait)
    return await run_in_thread(_answer, what, request)


class _Http(TwilioHttpClient):  # type: ignore[misc]
    """Twilio's HTTP client, with a limit in time, for an API that may be elsewhere."""

    def __init__(self, api_url: str, seconds: float = REQUEST_SECONDS) -> None:
        super().__init__(timeout=seconds, logger=_quiet)
        self.date: str | None = None
        """The `Date` of the latest answer."""
        self._api_url = api_url

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        answer = super().request(method, url.replace(API_URL, self._api_url, 1), *args, **kwargs)
        self.date = answer.headers.get("Date")
        return answer


def _answer(what: str, request: Callable[[], _Result]) -> _Result:
    """Carry a request out; what Twilio's client raises becomes a TelephonyError without any phone number."""
    try:
        return request()
    except TwilioException as error:
        # Of its two exceptions only this is common; their text may hold numbers, so it is not repeated.
        raise _refusal(what, int(getattr(error, "status", 0)), int(getattr(error, "code", 0) or 0)) from None
    except OSError as error:  # requests' exceptions are OSErrors
        raise TelephonyError(
            f"no connection to Twilio's API ({type(error).__name__}): check the network", retry=True
        ) from None
    except ValueError:
        raise TelephonyError("what answers for Twilio's API is not Twilio: check proxy and TWILIO_API_URL") from None


def _refusal(what: str, status: int, code: int) -> TelephonyError:
    if status == 401:
        text, retry = "Twilio refused the credentials: check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN", False
    elif status == 404:
        text, retry = f"Twilio does not have {what}: check TWILIO_ACCOUNT_SID and TWILIO_PHONE_NUMBER", False
    elif status == 429:
        text, retry = "Twilio gets too many requests from this account: try again in a minute", True
    elif status >= 500:
        text, retry = f"Twilio's API is in trouble (HTTP {status}): try again later", True
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
