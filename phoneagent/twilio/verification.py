"""Verification of webhooks and media sockets: only requests that Twilio signed get through."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.websockets import WebSocket

from phoneagent.errors import RequestRefused, StoreError
from phoneagent.settings import Settings
from phoneagent.twilio.misdirection import Misdirected, hosts_of, places
from phoneagent.twilio.signatures import (
    SETTINGS_HEADER,
    SIGNATURE_HEADER,
    TOKEN_SECONDS,
    MediaTokens,
    Signatures,
    Ticket,
)
from phoneagent.twilio.spellings import plain_host

log = logging.getLogger("phoneagent.twilio.verification")

MAX_BODY_BYTES = 64 * 1024
MAX_FIELDS = 500
BODY_SECONDS = 10.0
"""How long the body of a webhook may take to arrive. Twilio waits 15 s for the answer."""

PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
"""Headers that a tunnel or a proxy adds. Such a request comes from elsewhere, although its connection begins here."""

CLAIM_SECONDS = 0.5
"""How long a media socket waits for the database to confirm that no other process has used its token."""


class Verifier:
    """Verifies requests against PUBLIC_URL and the auth tokens, and issues the tokens of media sockets.

    `claim` claims a name that only one process can have (see `Store.claim`).
    """

    def __init__(self, settings: Settings, claim: Callable[[str, float], Awaitable[bool]] | None) -> None:
        self._settings = settings
        self._claim = claim
        self._public = urlsplit(settings.public_url)
        self._host = plain_host(self._public.netloc)
        self._signatures = Signatures(settings.auth_tokens)
        self._tokens = MediaTokens(settings.auth_tokens)

    def url(self, path: str, *, scheme: str = "https", query: Mapping[str, object] | None = None) -> str:
        """Return the public URL of a path in this app.

        The headers Host and X-Forwarded-* come from the client, so they are never used. Without TLS, as in a local
        `serve --insecure`, https and wss become http and ws. Twilio may sort the query before it requests the URL, so
        the query is sorted already.
        """
        if self._public.scheme == "http":
            scheme = scheme.removesuffix("s")
        public = f"{scheme}://{self._host}{self._public.path}{path}"
        return f"{public}?{urlencode(sorted(query.items()), quote_via=quote)}" if query else public

    def media_url(self, path: str, call_sid: str, *, resumes: bool = False, worker: int | None = None) -> str:
        """Return the URL of a media socket for that call, which the process numbered `worker` expects.

        It can be used once.
        """
        return self.url(path + self._tokens.issue(call_sid, time.time(), resumes=resumes, worker=worker), scheme="wss")

    async def webhook(self, request: Request, path: str) -> ImmutableMultiDict[str, str]:
        """Return the parameters of a webhook that Twilio signed for our account, including those of the query.

        Raises:
            RequestRefused: the webhook did not come from Twilio, or cannot be read.
        """
        body = b""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        raise RequestRefused(f"a webhook has more than {MAX_BODY_BYTES} bytes")
        except TimeoutError:
            raise RequestRefused(f"a webhook took longer than {BODY_SECONDS:g} s to arrive") from None
        except ClientDisconnect:
            pass  # a partial body fails the signature check below
        try:
            form = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
            query = parse_qsl(_query(request), keep_blank_values=True, max_num_fields=MAX_FIELDS)
            # Twilio signs names and values without separators, so a name could hide others.
            if any(mark in name for name, _ in form for mark in "&="):
                raise ValueError
        except ValueError:
            raise RequestRefused("a webhook has parameters that cannot be read") from None
        if request.method != "POST":
            form = []
        fields = ImmutableMultiDict(form)
        try:
            self._verify("https", path, request, fields)
        except RequestRefused as refused:
            raise self._explained(request, path, fields) or refused from None
        params = ImmutableMultiDict([*query, *form])
        if params.get("AccountSid") != self._settings.twilio_account_sid and not self._settings.insecure:
            raise RequestRefused("a webhook is for another account than TWILIO_ACCOUNT_SID: check that setting")
        return params

    async def socket(self, websocket: WebSocket, path: str) -> Ticket:
        """Return the ticket of a media socket, and spend its token.

        Raises:
            RequestRefused: Twilio did not sign the request, or the token is not valid.
        """
        token = websocket.path_params["token"]
        self._verify("wss", path + token, websocket, {})
        return await self.redeem(token)

    async def redeem(self, token: str) -> Ticket:
        """Return the ticket of a media token, and spend it.

        Raises:
            RequestRefused: the token is not ours, has expired, or was used.
        """
        ticket = self._tokens.redeem(token, time.time())
        if self._claim is not None:
            try:
                async with asyncio.timeout(CLAIM_SECONDS):
                    free = await self._claim(f"media token {ticket.nonce}", TOKEN_SECONDS)
            except (StoreError, TimeoutError):
                # An unreachable database must not stop a call: the signature is valid, and the token is new here.
                words = (
                    "the database is not answering: accepting a media token that another process may already have used"
                )
                log.warning(words, extra={"call_sid": ticket.call_sid})
                free = True
            if not free:
                raise RequestRefused("a media token was used twice")
        return ticket

    async def misdirected(self, request: Request, path: str) -> str | None:
        """Return why a webhook for `path` came to another path, with the remedy; None if Twilio did not send it."""
        if self._settings.insecure:
            return None
        try:
            await self.webhook(request, path)
        except Misdirected as error:
            return str(error)
        except RequestRefused:
            return None
        where = f"a proxy requests {request.scope['path']} where the app has {path}"
        return f"{where}: have it strip the path of PUBLIC_URL, or mount the app there"

    def _verify(self, scheme: str, path: str, request: HTTPConnection, params: Any) -> None:
        if self._settings.insecure:
            _check_local(request)
            return
        query = _query(request)
        url = self.url(path, scheme=scheme) + (f"?{query}" if query else "")
        # Twilio signs the host as it was written. The headers' spelling counts only for our own host.
        hosts = [host for host in (self._public.netloc, *hosts_of(request)) if plain_host(host) == self._host]
        signature, how = request.headers.get(SIGNATURE_HEADER), request.headers.get(SETTINGS_HEADER)
        self._signatures.verify(url, params, signature, hosts=hosts, settings=how)

    def _explained(self, request: Request, path: str, form: Mapping[str, str]) -> Misdirected | None:
        """Return an explanation for a request that Twilio signed for another address than the one under PUBLIC_URL."""
        signature = request.headers.get(SIGNATURE_HEADER)
        if self._settings.insecure or not signature:
            return None
        query, how = _query(request), request.headers.get(SETTINGS_HEADER)
        for place in places(request, path, self._public):
            if self._signatures.find([f"{place.url}?{query}" if query else place.url], form, signature, how):
                return Misdirected(place.remedy(self.url(path)))
        return None


def _query(request: HTTPConnection) -> str:
    """Return the query as it was sent."""
    return str(request.scope["query_string"].decode("utf-8", "replace"))


def _check_local(request: HTTPConnection) -> None:
    """Return if an unsigned request comes from a program on this machine.

    A web page in a browser on this machine is refused.

    Raises:
        RequestRefused: the request comes from another machine, through a proxy, or from a browser.
    """
    if "origin" in request.headers or not is_from_here(request):
        raise RequestRefused("an unsigned request came from a browser, from another machine or through a proxy")


def is_from_here(request: HTTPConnection) -> bool:
    """Return whether a request comes from this machine, and not through a tunnel or a proxy on it.

    The host name is checked because a stranger's name may resolve to loopback (DNS rebinding).
    """
    client = request.client.host if request.client else None
    passed_on = any(name in request.headers for name in PROXY_HEADERS)
    return not passed_on and is_loopback(client) and is_loopback(host_of(request))


def host_of(request: HTTPConnection) -> str:
    """Return the host that a request names in `Host`, without the port; "" if it names none.

    Starlette's `request.url` has the server's address in place of a host that it cannot read. A browser sends a name
    like `a{b.example` as it is, so a stranger's name would look like this machine.
    """
    host = request.headers.get("host", "")
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).removeprefix("[").removesuffix("]")


def is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine: a loopback address, or the name localhost."""
    try:
        return (host or "").lower() == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
