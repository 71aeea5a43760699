"""Delivery of a webhook to the user's own server: signed as Standard Webhooks specifies, and only to allowed addresses.

    webhook-id: call_ended_CA…
    webhook-timestamp: 1764460800
    webhook-signature: v1,<base64 of HMAC-SHA256 over id.timestamp.body>

A name may resolve to another address each time. So the address is checked when the socket is made, and the socket
connects to exactly that address. No proxy is used: it would resolve the name itself.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
from standardwebhooks import Webhook

from phoneagent.errors import PhoneAgentError, network

if TYPE_CHECKING:
    from phoneagent.settings import Settings

ATTEMPT_SECONDS = 15.0
"""How long one attempt may take, with DNS, connecting and the head of the answer."""

CONNECT_SECONDS = 5.0
BUFFER_BYTES = 4096
"""The receive buffer for an answer. Its body is not read: the status says everything."""

MAX_RETRY_AFTER_SECONDS = 24 * 3600.0

_METADATA = frozenset(map(ip_address, ("100.100.100.200", "fd00:ec2::254", "fd20:ce::254")))
"""Addresses that serve a cloud machine's credentials, besides link-local ones: Alibaba, AWS, Google."""

_GLOBAL_UNICAST = ip_network("2000::/3")
"""The IPv6 addresses of the internet. Python calls others global too, like `::7f00:1`."""

_NAT64 = ip_network("64:ff9b::/96")
_GONE = 410
_BUSY = (429, 503)


class NotDelivered(PhoneAgentError):
    """The receiver did not take the webhook. `retry` tells whether another attempt may help.

    `after_seconds` is the delay that the receiver asks for; None if it asks for none.
    """

    def __init__(self, message: str, *, retry: bool = True, after_seconds: float | None = None) -> None:
        self.retry = retry
        self.after_seconds = after_seconds
        super().__init__(message)


class _Refused(OSError):
    """An address that must not be connected to. aiohttp passes an OSError on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A webhook: its id is the same at each attempt."""

    id: str
    body: bytes


class Receiver:
    """The server at WEBHOOK_URL. Each of the `secrets` signs, so the receiver may know the old or the new one."""

    def __init__(self, url: str, secrets: Sequence[str], *, allow_private: bool = False) -> None:
        self._url = url
        self._signers = [Webhook(secret) for secret in secrets]
        self._allow_private = allow_private
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self.host = parts.netloc.rpartition("@")[2]
        """The part of the URL that a message may show: its path and query may contain secrets."""

    def __repr__(self) -> str:
        return f"<Receiver {self.host}>"

    @classmethod
    def from_settings(cls, settings: Settings) -> Receiver | None:
        """Return the receiver at WEBHOOK_URL; None if there is none."""
        if settings.webhook_url is None:
            return None
        url = settings.webhook_url.get_secret_value()
        return cls(url, settings.webhook_secrets, allow_private=settings.webhook_allow_private)

    async def deliver(self, message: Message) -> int:
        """Deliver a webhook; return the status with which the receiver accepted it.

        Raises:
            NotDelivered: it was not accepted, or the answer was lost.
        """
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_SECONDS, sock_connect=CONNECT_SECONDS)
        try:
            connector = aiohttp.TCPConnector(socket_factory=self._socket, force_close=True)
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=timeout,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    read_bufsize=BUFFER_BYTES,
                ) as http,
                http.post(
                    self._url, data=message.body, headers=self._headers(message), allow_redirects=False
                ) as answer,
            ):
                status, headers = answer.status, answer.headers
        except (OSError, aiohttp.ClientError, ssl.SSLError, ValueError) as error:  # a TimeoutError is an OSError
            raise NotDelivered(self._explain(error)) from None
        if 200 <= status < 300:
            return status
        raise self._refusal(status, headers.get("Retry-After"))

    def _headers(self, message: Message) -> dict[str, str]:
        moment = datetime.now(UTC)
        body = message.body.decode()
        signed = (signer.sign(message.id, moment, body) for signer in self._signers)
        return {
            "Content-Type": "application/json",
            "User-Agent": "phoneagent",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": " ".join(signed),
        }

    def _refusal(self, status: int, retry_after: str | None) -> NotDelivered:
        said = f"{self.host} answers with HTTP {status}"
        if status == _GONE:
            return NotDelivered(f"{said}: it wants no more of this; correct WEBHOOK_URL, or unset it", retry=False)
        if 300 <= status < 400:
            return NotDelivered(f"{said}, a redirect, which is not followed: set WEBHOOK_URL to where it leads")
        if status in _BUSY:
            seconds = seconds_of(retry_after, datetime.now(UTC))
            return NotDelivered(f"{said}: it is busy, so try again later", after_seconds=seconds)
        if status in (401, 403):
            return NotDelivered(f"{said}: compare WEBHOOK_SECRET with the one that it verifies with, and both clocks")
        if status in (404, 405):
            return NotDelivered(f"{said}: correct WEBHOOK_URL, and have it take POST")
        return NotDelivered(f"{said}: look into its log")

    def _explain(self, error: Exception) -> str:
        if isinstance(error, aiohttp.InvalidURL):
            return f"{self.host} is not the name of a host: correct WEBHOOK_URL"
        cause = getattr(error, "os_error", error)
        if isinstance(cause, _Refused):
            return str(cause)
        if isinstance(error, TimeoutError):
            words = "have it answer first, and work afterwards"
            return f"{self.host} does not answer within {ATTEMPT_SECONDS:g} s: {words}"
        return str(network.explain(error, f"{urlsplit(self._url).scheme}://{self.host}", network.DIRECT))

    def _socket(self, info: tuple[Any, ...]) -> socket:
        """Return a socket for an address, unless that must not be connected to."""
        family, kind, protocol, _, place = info
        match reach(place[0]):
            case "public":
                if not self._secure:
                    raise _Refused(f"{self.host} is a public address: WEBHOOK_URL must begin with https:// there")
            case "private":
                if not self._allow_private:
                    remedy = "if it is yours, set WEBHOOK_ALLOW_PRIVATE=1"
                    raise _Refused(f"{self.host} is an address of a private network: {remedy}")
            case _:
                raise _Refused(f"{self.host} is an address that no receiver has: correct WEBHOOK_URL")
        return socket(family, kind, protocol)


def reach(address: str) -> str:
    """Return the kind of an address: "public", "private" (also this machine's own), or "never"."""
    found = _innermost(ip_address(address))
    if found in _METADATA or found.is_link_local or found.is_multicast or found.is_unspecified:
        return "never"
    if isinstance(found, IPv6Address) and found.is_site_local:
        return "private"
    if isinstance(found, IPv6Address) and found not in _GLOBAL_UNICAST and not found.is_private:
        return "never"
    if found.is_global:
        return "public"
    return "never" if found.is_reserved and not found.is_loopback else "private"


def _innermost(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address leads to, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address


def seconds_of(retry_after: str | None, moment: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for, a day at most; None if it cannot be read."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    try:
        seconds = float(text) if text.isascii() and text.isdigit() else _until(text, moment)
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 1.0), MAX_RETRY_AFTER_SECONDS)


def _until(text: str, moment: datetime) -> float:
    date = parsedate_to_datetime(text)
    return ((date if date.tzinfo is not None else date.replace(tzinfo=UTC)) - moment).total_seconds()
