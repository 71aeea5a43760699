"""Pointing a phone number at an app: the webhook that the number gets, and what prevents it."""

from __future__ import annotations

from dataclasses import replace

from phoneagent.errors import TelephonyError
from phoneagent.twilio import STATUS_PATH, VOICE_PATH
from phoneagent.twilio.rest import PhoneNumber, PhoneNumbers, Webhook
from phoneagent.twilio.spellings import is_same_page

RETRY = "#rc=3&rp=ct,5xx"
"""Makes Twilio retry while a changed file restarts the app, or while the database does not take the end of a call.
Twilio does not send the part after the #."""


def webhook_of(public_url: str) -> Webhook:
    """Return the webhook of an app at that address."""
    voice = f"{public_url}{VOICE_PATH}{RETRY}"
    return Webhook(voice_url=voice, voice_fallback_url=voice, status_callback=f"{public_url}{STATUS_PATH}{RETRY}")


def keeping_fallback(webhook: Webhook, before: Webhook) -> Webhook:
    """Return a webhook with the number's previous fallback, unless that is the same page as its previous webhook.

    Such a fallback was chosen for when the app does not answer, like a forward to a person.
    """
    kept = before.voice_fallback_url
    if not kept or is_same_page(kept.partition("#")[0], before.voice_url.partition("#")[0]):
        return webhook
    return replace(webhook, voice_fallback_url=kept, voice_fallback_method=before.voice_fallback_method)


async def find_free(numbers: PhoneNumbers, number: str) -> PhoneNumber:
    """Return the account's phone number `number` (E.164), if only its webhook takes its calls.

    Raises:
        TelephonyError: the number is not ours, something else takes its calls, or Twilio does not answer.
    """
    found = await numbers.find(number)
    if found.overridden_by is not None:
        raise TelephonyError(
            f"{found.overridden_by} takes the number's calls, not its webhook: remove it in the Twilio console"
        )
    return found
