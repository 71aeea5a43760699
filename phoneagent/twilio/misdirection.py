"""Addresses that Twilio may request instead of the one under PUBLIC_URL, and what to set so that both agree.

A proxy may strip a part of the path, or add one, and a number's webhook may name another host. The request's headers
hint at the address, but they come from the client. So an address counts only if Twilio's signature proves it. Then it
is logged; the request is still refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from urllib.parse import SplitResult

from starlette.requests import HTTPConnection

from phoneagent.errors import RequestRefused

_HOST = re.compile(r"[A-Za-z0-9.\-:\[\]]{1,255}", re.ASCII)
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%!$&'()*+,;=:@-]+){0,16}", re.ASCII)
_ORIGIN = re.compile(r"https?://[^/]*")
MAX_PREFIX_CHARS = 255
MAX_PLACES = 64
_HOST_HEADERS = ("host", "x-forwarded-host", "x-original-host")
_PREFIX_HEADERS = ("x-forwarded-prefix", "x-script-name")
_PATH_HEADERS = ("x-forwarded-uri", "x-original-uri", "x-original-url", "x-rewrite-url", "x-forwarded-path")
"""Headers in which proxies note the address before they changed it."""


class Misdirected(RequestRefused):
    """Twilio signed the request for another address than the one under PUBLIC_URL."""


@dataclass(frozen=True, slots=True)
class Place:
    """An address that Twilio may request: a webhook's `path` under `prefix` at a host."""

    scheme: str
    host: str
    prefix: str
    path: str
    slash: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}{self.prefix}{self.path}{self.slash}"

    def remedy(self, expected: str) -> str:
        """Return what is wrong, and what to do, if Twilio requests this address instead of the `expected` one."""
        public_url = f"{self.scheme}://{self.host}{self.prefix}"
        fits = self.scheme == "https" and not self.slash and ":" not in self.host
        remedy = f"set PUBLIC_URL={public_url}, or have" if fits else "PUBLIC_URL has no such address, so have"
        return f"wrong signature for {expected}: Twilio signed {self.url}; {remedy} it request {expected}"


def hosts_of(request: HTTPConnection) -> list[str]:
    """Return the hosts that a request's headers name, as they are spelled there."""
    named = (request.headers.get(header, "").partition(",")[0].strip() for header in _HOST_HEADERS)
    return [host for host in dict.fromkeys(named) if _HOST.fullmatch(host)]


def places(request: HTTPConnection, path: str, public: SplitResult) -> Iterator[Place]:
    """Return the addresses at which Twilio may know the webhook `path` of the app at the URL `public`."""
    hosts = dict.fromkeys([public.netloc.lower(), *hosts_of(request)])
    found = product(("", "/"), ("https", "http"), hosts, _prefixes(request, path, public))
    return (Place(scheme, host, prefix, path, slash) for slash, scheme, host, prefix in islice(found, MAX_PLACES))


def _prefixes(request: HTTPConnection, path: str, public: SplitResult) -> list[str]:
    """Return what may stand before `path`: what a proxy notes, what it did not strip, where the app is mounted."""
    headers = request.headers
    noted = (_ORIGIN.sub("", headers.get(header, ""), count=1).partition("?")[0] for header in _PATH_HEADERS)
    whole = [*noted, request.scope["path"]]
    found = ["", public.path, *(headers.get(header, "") for header in _PREFIX_HEADERS)]
    found += [each.rstrip("/").removesuffix(path) for each in whole if each.rstrip("/").endswith(path)]
    plain = dict.fromkeys(f"/{prefix.strip('/')}" if prefix.strip("/") else "" for prefix in found)
    return [prefix for prefix in plain if len(prefix) <= MAX_PREFIX_CHARS and _PREFIX.fullmatch(prefix)]
