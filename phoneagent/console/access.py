"""Access to the console and the control API: with the configured token, with the session of a browser that signed in
with it, or from this machine if that is enough."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.requests import HTTPConnection

from phoneagent.console.bearer import has_token, is_token
from phoneagent.console.problems import Problem
from phoneagent.console.sessions import COOKIE, Sessions
from phoneagent.twilio.verification import is_from_here

MAX_TRIES = 10
TRIES_SECONDS = 60.0
"""An address that gives this many wrong tokens is refused until this long after the first one."""

MAX_ADDRESSES = 10_000
"""How many addresses have their wrong tokens counted."""

FOREIGN = "this came from a page of another site, which may not do it"

_SAFE = ("GET", "HEAD", "OPTIONS")


class Access:
    """The check of each request. With `local`, programs and browsers on this machine need no token.

    `public_url` is the URL in the browsers' address bar, if it differs behind a proxy. `clock` returns monotonic
    seconds.
    """

    def __init__(
        self,
        token: SecretStr | None,
        *,
        local: bool,
        public_url: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token = token
        self._local = local
        self._public_host = urlsplit(public_url).netloc.lower()
        self._clock = clock
        self._tries: OrderedDict[str, tuple[float, int]] = OrderedDict()  # since when and how many, by address
        self.sessions = None if token is None else Sessions(token)

    def check(self, request: HTTPConnection) -> Problem | None:
        """Return the refusal of a request; None if it is allowed.

        A browser's session or address counts only if the request did not come from a page of another site.

        Raises:
            Hidden: this client must not learn that the API exists.
        """
        if self.is_here(request):
            return None
        if self._token is None:
            raise Hidden
        if self.is_signed_in(request):
            return Problem(403, FOREIGN) if self.is_foreign(request) else None
        return self.check_token(request)

    def still_allows(self, connection: HTTPConnection) -> bool:
        """Tell whether a connection that was allowed still is: its session may have expired, or been signed out."""
        has_own = self._token is not None and has_token(connection, self._token)
        return has_own or self.is_here(connection) or self.is_signed_in(connection)

    def check_token(self, request: HTTPConnection) -> Problem | None:
        """Return the refusal of a request that needs the token in any case; None if it has it.

        Raises:
            Hidden: there is no token, so no client may learn that the API exists.
        """
        if self._token is None:
            raise Hidden
        if (refusal := self._too_many(request)) is not None:
            return refusal
        if has_token(request, self._token):
            return None
        if "authorization" in request.headers:
            self._count(_network_of(request))
        return Problem(401, "give PHONEAGENT_API_TOKEN as a bearer token", {"WWW-Authenticate": "Bearer"})

    def check_public(self, request: HTTPConnection) -> Problem | None:
        """Return the refusal of a request for a resource open to all clients that may know that the console exists.

        Raises:
            Hidden: this client must not learn that the API exists.
        """
        if self._token is None and not self.is_here(request):
            raise Hidden
        is_unsafe = request.scope.get("method") not in _SAFE
        return Problem(403, FOREIGN) if is_unsafe and self.is_foreign(request) else None

    def is_here(self, request: HTTPConnection) -> bool:
        """Tell whether a request comes from this machine and needs no token."""
        return self._local and is_from_here(request) and not _is_foreign(request, {_authority_of(request)})

    def is_signed_in(self, request: HTTPConnection) -> bool:
        """Tell whether a request has the cookie of a valid session."""
        return self.sessions is not None and self.sessions.holds(request.cookies.get(COOKIE))

    def is_foreign(self, request: HTTPConnection) -> bool:
        """Tell whether a page of another site sent a request. It may link here, but neither act nor read."""
        return _is_foreign(request, {_authority_of(request), self._public_host} - {""})

    def check_page(self, request: HTTPConnection) -> bool:
        """Tell whether a browser may see the pages without signing in again."""
        return self.is_here(request) or self.is_signed_in(request)

    def try_token(self, request: HTTPConnection, given: str) -> Problem | None:
        """Return the refusal of a sign-in with a token; None if the token is right."""
        if (refusal := self._too_many(request)) is not None:
            return refusal
        if self._token is not None and is_token(given, self._token):
            return None
        self._count(_network_of(request))
        return Problem(401, "this is not PHONEAGENT_API_TOKEN")

    def _too_many(self, request: HTTPConnection) -> Problem | None:
        wait_seconds = self._wait_seconds(_network_of(request))
        if wait_seconds is None:
            return None
        retry = {"Retry-After": str(int(wait_seconds) + 1)}
        return Problem(429, "too many wrong tokens came from this address: try again later", retry)

    def _wait_seconds(self, address: str) -> float | None:
        since, tries = self._tries.get(address, (0.0, 0))
        left = since + TRIES_SECONDS - self._clock()
        if left <= 0:
            self._tries.pop(address, None)
            return None
        return left if tries >= MAX_TRIES else None

    def _count(self, address: str) -> None:
        since, tries = self._tries.get(address, (self._clock(), 0))
        self._tries[address] = (since, tries + 1)
        if len(self._tries) > MAX_ADDRESSES:
            self._tries.popitem(last=False)


class Hidden(Exception):
    """A request that must be answered as if the API did not exist."""


def _is_foreign(request: HTTPConnection, own_hosts: set[str]) -> bool:
    """Tell whether a page of another host sent a request, other than by a link.

    Browsers say so in `Sec-Fetch-Site`, or in `Origin`. Programs send neither.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        leads_here = request.headers.get("sec-fetch-mode") == "navigate" and request.scope.get("method") == "GET"
        return site not in ("same-origin", "none") and not leads_here
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() not in own_hosts


def _authority_of(request: HTTPConnection) -> str:
    return request.headers.get("host", "").lower()


def _network_of(request: HTTPConnection) -> str:
    """Return the address of a client, or its network for IPv6: a household has 2^64 addresses."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
        if not address.is_global and (chain := request.headers.getlist("x-forwarded-for")):
            address = ipaddress.ip_address(chain[-1].rpartition(",")[2].strip())  # what the nearest proxy saw
            host = str(address)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host
