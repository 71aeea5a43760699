"""Browser sessions. A sign-in stores one in a cookie, signed and with an expiry, so no process has to remember it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from pydantic import SecretStr

COOKIE = "phoneagent_session"

SESSION_SECONDS = 12 * 3600
"""How long a sign-in lasts."""

MAX_ENDED = 10_000
"""How many sessions are remembered that were signed out before their expiry."""

_MAX_CHARS = 200
_PURPOSE = b"phoneagent console session v1"


class Sessions:
    """Sessions made from the configured token. Another token ends them all.

    Every process that has the token accepts them. A sign-out deletes the cookie, and this process no longer accepts it.
    `clock` returns the Unix time.
    """

    def __init__(self, token: SecretStr, *, clock: Callable[[], float] = time.time) -> None:
        self._key = hmac.digest(token.get_secret_value().encode(), _PURPOSE, hashlib.sha256)
        self._clock = clock
        self._ended: OrderedDict[str, None] = OrderedDict()

    def issue(self) -> str:
        """Return the value of the cookie of a new session."""
        signed = f"{int(self._clock()) + SESSION_SECONDS}.{secrets.token_urlsafe(16)}"
        return f"{signed}.{self._signature(signed)}"

    def holds(self, cookie: str | None) -> bool:
        """Tell whether a cookie is one of ours that has neither expired nor been signed out."""
        if cookie is None or not cookie.isascii() or len(cookie) > _MAX_CHARS:
            return False
        signed, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature, self._signature(signed)):
            return False
        return int(signed.partition(".")[0]) > self._clock() and cookie not in self._ended

    def end(self, cookie: str | None) -> None:
        """Stop accepting that session."""
        if cookie is not None and self.holds(cookie):
            self._ended[cookie] = None
            if len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)

    def _signature(self, signed: str) -> str:
        return hmac.digest(self._key, signed.encode(), hashlib.sha256).hex()
