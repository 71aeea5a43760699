"""Twilio's own client, with a timeout, for an API that may be at another URL.

Its import takes longer than a request, so it is imported with the first one.
"""

from __future__ import annotations

import logging
from typing import Any

from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

from phoneagent.twilio import API_URL

VOICE_API_URL = "https://voice.twilio.com"
"""Where Twilio's client asks for the geo permissions."""

_quiet = logging.getLogger("phoneagent.twilio.rest.twilio")
_quiet.setLevel(logging.WARNING)  # below that, Twilio's client logs parameters, including phone numbers


class _Http(TwilioHttpClient):  # type: ignore[misc]
    def __init__(self, api_url: str, seconds: float) -> None:
        super().__init__(timeout=seconds, logger=_quiet)
        self.date: str | None = None
        """The `Date` header of the latest response."""
        self._api_url = api_url

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        url = url.replace(API_URL, self._api_url, 1)
        if self._api_url != API_URL:
            url = url.replace(VOICE_API_URL, self._api_url, 1)
        answer = super().request(method, url, *args, **kwargs)
        self.date = answer.headers.get("Date")
        return answer


class TwilioClient(Client):  # type: ignore[misc]
    """Twilio's client for one account at `api_url`; a request may take `seconds`."""

    def __init__(self, account_sid: str, auth_token: str, api_url: str, seconds: float) -> None:
        self._timed = _Http(api_url, seconds)
        super().__init__(account_sid, auth_token, http_client=self._timed)

    @property
    def date(self) -> str | None:
        """The `Date` header of the latest response."""
        return self._timed.date
