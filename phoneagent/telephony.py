"""Twilio's HTTP side: who may talk to us, and what we answer."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
from collections.abc import Mapping
from typing import Any

from twilio.request_validator import RequestValidator
from twilio.twiml.voice_response import Connect, VoiceResponse

from .errors import RequestRefused

TOKEN_SECONDS = 120
"""How long after the webhook the media socket may be opened."""

SIGNATURE_HEADER = "x-twilio-signature"
_NONCE_BYTES = 12
_MAC_BYTES = 32
_TIME = struct.Struct(">Q")


class Signatures:
    """Checks that a request was signed by Twilio with our auth token."""

    def __init__(self, auth_token: str) -> None:
        self._validator = RequestValidator(auth_token)

    def verify(self, url: str, params: Mapping[str, Any], signature: str | None) -> None:
        """Return if `signature` is Twilio's for that public URL and those form parameters.

        Raises:
            RequestRefused: it is missing or wrong. The URL that was checked is named, the signature never.
        """
        address, query, _ = url.partition("?")  # the query of a GET holds phone numbers
        shown = f"{address}?…" if query else address
        if not signature:
            raise RequestRefused(f"no {SIGNATURE_HEADER} on a request for {shown}")
        if not self._validator.validate(url, params, signature):
            raise RequestRefused(f"wrong signature for {shown}: check PUBLIC_URL and TWILIO_AUTH_TOKEN")


class MediaTokens:
    """Short-lived tokens that carry a call from its webhook to its media socket, across processes.

    A token is URL-safe: expiry, nonce and CallSid, and an HMAC over them with a key derived from the auth token. `now`
    is in seconds since the epoch.
    """

    def __init__(self, auth_token: str) -> None:
        self._key = hmac.digest(auth_token.encode(), b"phoneagent media token v1", hashlib.sha256)
        self._spent: dict[bytes, int] = {}

    def issue(self, call_sid: str, now: float) -> str:
        """Return a token for the media socket of that call."""
        body = _TIME.pack(int(now) + TOKEN_SECONDS) + secrets.token_bytes(_NONCE_BYTES) + call_sid.encode()
        return base64.urlsafe_b64encode(self._mac(body) + body).decode().rstrip("=")

    def redeem(self, token: str, now: float) -> str:
        """Return the CallSid of a token and spend it.

        Raises:
            RequestRefused: it is not ours, was altered, is too old, or was spent in this process.
        """
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise RequestRefused("a media token is not one of ours") from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if len(body) <= _TIME.size + _NONCE_BYTES or not hmac.compare_digest(mac, self._mac(body)):
            raise RequestRefused("a media token is not one of ours")
        (expires,) = _TIME.unpack_from(body)
        if now > expires:
            raise RequestRefused(f"a media token is too old: it was good for {TOKEN_SECONDS} s")
        nonce = body[_TIME.size : _TIME.size + _NONCE_BYTES]
        if nonce in self._spent:
            raise RequestRefused("a media token was used twice")
        self._spent = {old: until for old, until in self._spent.items() if until >= now}
        self._spent[nonce] = expires
        return body[_TIME.size + _NONCE_BYTES :].decode("utf-8", "replace")

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, hashlib.sha256)


def turn_away(fallback_number: str | None) -> str:
    """Return TwiML for a call that cannot be taken: on to somebody else, or busy, which costs nothing."""
    response = VoiceResponse()
    if fallback_number is None:
        response.reject(reason="busy")
    else:
        response.dial(fallback_number)
    return str(response)


def ask_again(url: str) -> str:
    """Return TwiML that asks `url` again in a second, when another process may answer."""
    response = VoiceResponse()
    response.pause(length=1)
    response.redirect(url, method="POST")
    return str(response)


def connect_stream(url: str, parameters: Mapping[str, str]) -> str:
    """Return TwiML that connects the call to a media stream at `url` (wss), with parameters for its `start`."""
    response = VoiceResponse()
    stream = Connect().stream(url=url)
    for name, value in parameters.items():
        if value and len(name) + len(value) < 500:  # Twilio's limit for one parameter
            stream.parameter(name=name, value=value)
    connect = Connect()
    connect.append(stream)
    response.append(connect)
    return str(response)
