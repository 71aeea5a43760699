"""Twilio's REST API: the account, its phone numbers and their webhooks, and changes to a live call."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from phoneagent.errors import TelephonyError
from phoneagent.twilio.api import RestApi
from phoneagent.twilio.browser import is_browser_call
from phoneagent.twilio.placing import OutgoingCalls

LIVE_SECONDS = 3.0
"""The timeout of a request about a live call, whose caller is waiting."""


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


class PhoneNumbers(RestApi):
    """The phone numbers of one account. `api_url` replaces Twilio's; retries start after `backoff_seconds`."""

    async def account(self) -> Account:
        """Return the account, which also verifies the credentials.

        Raises:
            TelephonyError: Twilio refuses the credentials, or does not answer.
        """
        found = await self.ask("the account", lambda: self.client.api.accounts(self.account_sid).fetch())
        return Account(str(found.status), str(found.type), _date(self.client.date))

    async def find(self, number: str) -> PhoneNumber:
        """Return the account's phone number `number`, given in E.164.

        Raises:
            TelephonyError: the account does not have that number, or Twilio does not answer.
        """
        listed = await self.ask(
            "the numbers", lambda: self.client.incoming_phone_numbers.list(phone_number=number, limit=20)
        )
        for each in listed:
            if each.phone_number == number:  # Twilio also lists numbers that only contain it
                return _number(each)
        raise TelephonyError(
            "TWILIO_PHONE_NUMBER is not a number of this account: compare it with the console's Active numbers",
            code=20404,
        )

    async def may_call(self, country: str) -> bool:
        """Return whether the account may call a country's ordinary numbers (its geo permissions).

        Raises:
            TelephonyError: Twilio knows no such country, or does not answer.
        """
        found = await self.ask(
            "the country", lambda: self.client.voice.v1.dialing_permissions.countries(country).fetch()
        )
        return bool(found.low_risk_numbers_enabled)

    async def is_verified(self, number: str) -> bool:
        """Return whether a number that is not the account's is verified as a caller ID for its calls.

        Raises:
            TelephonyError: Twilio does not answer.
        """
        found = await self.ask(
            "the caller IDs", lambda: self.client.outgoing_caller_ids.list(phone_number=number, limit=20)
        )
        return any(each.phone_number == number for each in found)

    async def set_webhook(self, sid: str, webhook: Webhook) -> None:
        """Set the webhook of the number with that sid (PN…).

        Raises:
            TelephonyError: the number is gone, or Twilio refuses a URL or does not answer.
        """
        await self.ask(
            "the number's webhook", lambda: self.client.incoming_phone_numbers(sid).update(**asdict(webhook))
        )

    async def webhook(self, sid: str) -> Webhook:
        """Return the webhook of the number with that sid (PN…).

        Raises:
            TelephonyError: the number is gone, or Twilio does not answer.
        """
        found = await self.ask("the number", lambda: self.client.incoming_phone_numbers(sid).fetch())
        return _number(found).webhook


class LiveCalls(OutgoingCalls):
    """The live calls of one account, and calls that are placed while the caller of one waits.

    `api_url` and `backoff_seconds` are as for `RestApi`.
    """

    seconds = LIVE_SECONDS

    async def complete(self, call_sid: str) -> None:
        """Hang up a call. It is not an error if the call is already over.

        Raises:
            TelephonyError: Twilio refuses, or does not answer.
        """
        await self._update(call_sid, status="completed")

    async def redirect(self, call_sid: str, twiml: str) -> None:
        """Continue a call with other TwiML, which replaces its media stream. It is not an error if the call is over.

        Raises:
            TelephonyError: Twilio refuses, or does not answer.
        """
        await self._update(call_sid, twiml=twiml)

    async def _update(self, call_sid: str, **changes: str) -> None:
        if is_browser_call(call_sid):
            return  # it has no leg at Twilio: when its socket closes, the page asks what comes next
        try:
            await self.ask("the call", lambda: self.client.calls(call_sid).update(**changes))
        except TelephonyError as error:
            if error.code not in (20404, 21220):  # the call is over
                raise


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
