"""Requests to Twilio's REST API: in threads, with time limits, and with errors that reveal no phone number.

Twilio's client blocks, so it runs in threads, but not in asyncio's own pool: DNS lookups of new calls need that pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from twilio.base.exceptions import TwilioException

from phoneagent.errors import TelephonyError, network
from phoneagent.twilio import API_URL
from phoneagent.usercode import run_in_thread

if TYPE_CHECKING:
    from phoneagent.twilio.client import TwilioClient

REQUEST_SECONDS = 10.0
"""The timeout of a request. Twilio's client has none by default."""

TRIES = 3
"""How many times a repeatable request is made."""

TOO_MANY = (20429, 10004)
"""Error codes for too many requests."""

_Result = TypeVar("_Result")


class RestApi:
    """The REST API for one account. `api_url` replaces Twilio's; retries start after `backoff_seconds`."""

    seconds = REQUEST_SECONDS

    def __init__(
        self, account_sid: str, auth_token: str, *, api_url: str | None = None, backoff_seconds: float = 0.5
    ) -> None:
        self.account_sid = account_sid
        self._auth_token = auth_token
        self._api_url = (api_url or API_URL).rstrip("/")
        self._backoff_seconds = backoff_seconds

    @cached_property
    def client(self) -> TwilioClient:
        """Twilio's client, for the functions that `ask` calls."""
        from phoneagent.twilio.client import TwilioClient  # most processes never use the REST API

        return TwilioClient(self.account_sid, self._auth_token, self._api_url, self.seconds)

    async def ask(
        self,
        what: str,
        request: Callable[[], _Result],
        *,
        repeat: Callable[[TelephonyError], bool] = lambda error: error.retry and error.code is not None,
    ) -> _Result:
        """Make a request about `what`, up to `TRIES` times while its error is one to `repeat`: by default 429 and 5xx.

        A lost answer is not among these: after a timeout, another attempt only adds another timeout.

        Raises:
            TelephonyError: Twilio refuses, or does not answer.
        """
        for wait in [self._backoff_seconds * 2**count for count in range(TRIES - 1)]:
            try:
                return await run_in_thread(_answer, what, request, self._api_url)
            except TelephonyError as error:
                if not repeat(error):
                    raise
            await asyncio.sleep(wait)
        return await run_in_thread(_answer, what, request, self._api_url)


def _answer(what: str, request: Callable[[], _Result], api_url: str) -> _Result:
    """Make a request. An exception of Twilio's client becomes a TelephonyError without phone numbers."""
    try:
        return request()
    except TwilioException as error:
        # Both of the client's exceptions derive from this one. Their text may contain numbers, so it is not repeated.
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
