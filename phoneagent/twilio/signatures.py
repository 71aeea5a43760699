"""Twilio's request signatures, and the short-lived tokens that open a media socket."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import ImmutableMultiDict
from twilio.request_validator import HMAC_SHA1, HMAC_SHA256, RequestValidator, get_signature_algorithm

from phoneagent.errors import RequestRefused, shown
from phoneagent.twilio.spellings import spellings

TOKEN_SECONDS = 120
"""How long after the webhook the media socket can be opened."""

SIGNATURE_HEADER = "x-twilio-signature"
SETTINGS_HEADER = "x-twilio-webhooks-signature-settings"
"""Names the algorithm of a signature, on a request that is signed with one of the account's shared keys."""

MAX_SIGNED_CHARS = 1_000_000
"""The maximum length of what is hashed for one request: a large form is not tried with every URL spelling."""

_NONCE_BYTES = 12
_MAC_BYTES = 32
_TIME = struct.Struct(">Q")
_HEAD_BYTES = _TIME.size + _NONCE_BYTES + 1
_BEGINS, _RESUMES = b"b", b"r"
_WORKER = b"@"
"""Separates the CallSid from the worker's number, if there is one."""

MAX_TOKEN_CHARS = 200
"""The maximum length of a token that is read without its signature. Ours have at most 130."""


class Signatures:
    """Verifies that Twilio signed a request with one of our auth tokens. During a rotation there are two.

    The secret of a shared key may be among them. A signature's `settings` are the value of `SETTINGS_HEADER`.
    """

    def __init__(self, auth_tokens: Sequence[str]) -> None:
        self._validators = [RequestValidator(token) for token in auth_tokens]

    def verify(
        self,
        url: str,
        params: Mapping[str, Any],
        signature: str | None,
        *,
        hosts: Sequence[str] = (),
        settings: str | None = None,
    ) -> None:
        """Return if `signature` is Twilio's signature of that public URL, in any spelling, and those form parameters.

        `hosts` are further spellings of the URL's host.

        Raises:
            RequestRefused: the signature is missing or wrong. The message names the URL, but never the signature.
        """
        address, query, _ = url.partition("?")  # the query of a GET contains phone numbers
        where = f"{address}?…" if query else address
        if not signature:
            raise RequestRefused(f"no {SIGNATURE_HEADER} on a request for {where}")
        if _algorithm(settings) is None:
            raise RequestRefused(f"a request for {where} is signed in an unknown way: {shown(settings, 100)}")
        if self.find(spellings(url, hosts), params, signature, settings) is None:
            shared = "" if settings is None else " (which must include the shared key's secret)"
            raise RequestRefused(
                f"wrong signature for {where}: check TWILIO_AUTH_TOKEN{shared}, and that PUBLIC_URL is the address "
                "that Twilio requests, with the path that a proxy may strip from it"
            )

    def find(
        self, urls: Iterable[str], params: Mapping[str, Any], signature: str, settings: str | None = None
    ) -> str | None:
        """Return the URL among these that was signed together with those form parameters, or None."""
        algorithm = _algorithm(settings)
        if algorithm is None:
            return None
        tail = _tail(params)
        chars = 0
        for url in urls:
            if (chars := chars + len(url) + len(tail)) > MAX_SIGNED_CHARS:
                return None
            for validator in self._validators:
                expected: str = validator.compute_signature(url + tail, {}, algorithm)
                if hmac.compare_digest(expected.encode(), signature.encode()):
                    return url
        return None


def _algorithm(settings: str | None) -> str | None:
    """Return the algorithm of a signature with these settings; None if it is not one that we know."""
    algorithm = str(get_signature_algorithm(settings))
    return algorithm if algorithm in (HMAC_SHA1, HMAC_SHA256) else None


@dataclass(frozen=True, slots=True)
class Ticket:
    """The content of a media token: the call whose media socket it opens, and whether that call begins or resumes."""

    call_sid: str
    resumes: bool
    nonce: str
    """A random value that makes the token unique."""
    worker: int | None = None
    """The number of the process that expects the call, or None if processes have no numbers."""


class MediaTokens:
    """Short-lived tokens that carry a call from its webhook to its media socket, across processes.

    A token is URL-safe. It contains expiry, nonce, kind and CallSid, the number of the process that expects the call if
    it has one, and an HMAC over them. The HMAC's key is derived from the first auth token; keys of the other auth
    tokens are accepted too. `now` is in seconds since the epoch.
    """

    def __init__(self, auth_tokens: Sequence[str]) -> None:
        self._keys = [hmac.digest(each.encode(), b"phoneagent media token v2", hashlib.sha256) for each in auth_tokens]
        self._spent: dict[bytes, int] = {}

    def issue(self, call_sid: str, now: float, *, resumes: bool = False, worker: int | None = None) -> str:
        """Return a token for the media socket of that call, which the process numbered `worker` expects."""
        kind = _RESUMES if resumes else _BEGINS
        body = _TIME.pack(int(now) + TOKEN_SECONDS) + secrets.token_bytes(_NONCE_BYTES) + kind + call_sid.encode()
        if worker is not None:
            body += _WORKER + str(worker).encode()
        return base64.urlsafe_b64encode(_mac(self._keys[0], body) + body).decode().rstrip("=")

    def redeem(self, token: str, now: float) -> Ticket:
        """Return the content of a token, and spend it.

        Raises:
            RequestRefused: the token is not ours, was altered, has expired, or was already used in this process.
        """
        try:
            mac, body = _split(token)
        except (binascii.Error, ValueError):
            raise RequestRefused("a media token is not one of ours") from None
        genuine = any(hmac.compare_digest(mac, _mac(key, body)) for key in self._keys)
        if len(body) <= _HEAD_BYTES or not genuine:
            raise RequestRefused("a media token is not one of ours")
        (expires,) = _TIME.unpack_from(body)
        if now > expires:
            raise RequestRefused(f"a media token is too old: it was valid for {TOKEN_SECONDS} s")
        nonce = body[_TIME.size : _TIME.size + _NONCE_BYTES]
        if nonce in self._spent:
            raise RequestRefused("a media token was used twice")
        self._spent = {old: until for old, until in self._spent.items() if until >= now}
        self._spent[nonce] = expires
        kind = body[_HEAD_BYTES - 1 : _HEAD_BYTES]
        call_sid, worker = _tell_apart(body)
        return Ticket(call_sid.decode("utf-8", "replace"), kind == _RESUMES, nonce.hex(), worker)


def worker_of(token: str) -> int | None:
    """Return the number of the process that expects a token's call, or None if the token names none.

    The signature is not checked, so use this only to choose the process that checks it.
    """
    if len(token) > MAX_TOKEN_CHARS:
        return None
    try:
        return _tell_apart(_split(token)[1])[1]
    except (binascii.Error, ValueError):
        return None


def _split(token: str) -> tuple[bytes, bytes]:
    """Return the HMAC and the body of a token.

    Raises:
        ValueError: it is not base64.
    """
    raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    return raw[:_MAC_BYTES], raw[_MAC_BYTES:]


def _tell_apart(body: bytes) -> tuple[bytes, int | None]:
    """Return the CallSid in a token's body, and the number of the process that expects the call."""
    call_sid, _, number = body[_HEAD_BYTES:].partition(_WORKER)
    return call_sid, int(number) if number.isdigit() and len(number) < 5 else None


def _tail(params: Mapping[str, Any]) -> str:
    """Return what a signature covers besides the URL: the form's names in order, each with its distinct values.

    Twilio's library rebuilds it for each URL, which takes long with many fields.
    """
    values: dict[str, set[str]] = {}
    for name, value in params.multi_items() if isinstance(params, ImmutableMultiDict) else params.items():
        values.setdefault(name, set()).add(value)
    return "".join(name + value for name in sorted(values) for value in sorted(values[name]))


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, hashlib.sha256)
