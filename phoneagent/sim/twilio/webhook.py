"""The HTTP side of Twilio: signed requests to a server, with retries, redirects and public addresses.

A server behind a tunnel expects its public address in signatures and in `Host`. `Web` uses that address there, and
sends the requests to the server on this machine.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit, urlunsplit

import aiohttp
from yarl import URL

from phoneagent.sim.twilio.alerts import CallFailed
from phoneagent.sim.twilio.faults import no_connection, tls_failure
from phoneagent.sim.twilio.overrides import Overrides, read_overrides
from phoneagent.sim.twilio.quirks import Quirks
from phoneagent.sim.twilio.twiml import MAX_DOCUMENT_BYTES

MAX_REDIRECTS = 10

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_USER_AGENT = "TwilioProxy/1.1"

_TWILIO_ADDRESS = "203.0.113.1"
"""Twilio's address as a proxy sees it, from a range reserved for examples."""


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """A server's answer. `url` is its public URL, after all redirects, without the parameters of a GET."""

    url: str
    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Request:
    """A request. Its repetitions have the same token."""

    url: str
    params: Mapping[str, str] = field(repr=False)
    method: str
    token: str


class Web:
    """Requests as Twilio makes them, for one call.

    `webhook_url` is the server's URL; with `public_url`, requests are signed and named as if the server were there.
    Without `auth_token` nothing is signed. `report` gets the violations in a URL's fragment.
    """

    def __init__(
        self,
        webhook_url: str,
        public_url: str | None,
        auth_token: str | None,
        *,
        quirks: Quirks | None = None,
        report: Callable[[str], object] = lambda violation: None,
    ) -> None:
        self._server = urlsplit(webhook_url)._replace(netloc=urlsplit(webhook_url).netloc.rpartition("@")[2])
        self._public = urlsplit(public_url.rstrip("/")) if public_url else None
        self._auth_token = auth_token
        self._retry_waits_seconds = (quirks or Quirks()).retry_waits_seconds
        self._report = report
        self._http: aiohttp.ClientSession | None = None
        if self._server.scheme not in {"http", "https"} or not self._server.hostname:
            raise ValueError(
                "webhook_url must be an http or https address with a host, like http://127.0.0.1:8000/voice"
            )
        if self._public and (self._public.scheme not in {"http", "https"} or not self._public.hostname):
            raise ValueError("public_url must be an http or https address with a host, like https://agent.example")

    async def __aenter__(self) -> Web:
        # Twilio keeps cookies during a call. Here they come from an IP address, and secure ones over plain http.
        jar = aiohttp.CookieJar(unsafe=True, treat_as_secure_origin=urldefragged(urlunsplit(self._server)))
        # Each request opens a connection: one that died while idle would fail through our own fault.
        self._http = aiohttp.ClientSession(cookie_jar=jar, connector=aiohttp.TCPConnector(force_close=True))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    @property
    def entry(self) -> str:
        """The public address of the webhook, with its fragment."""
        if self._public is None:
            return urlunsplit(self._server)
        path = self._public.path + self._server.path
        return urlunsplit(self._server._replace(scheme=self._public.scheme, netloc=self._public.netloc, path=path))

    @property
    def allows_ws(self) -> bool:
        """Whether a plain `ws:` stream is permitted: the server is on this machine and has no public address."""
        return self._public is None and self._server.hostname in _LOOPBACK

    def local(self, url: str) -> str:
        """Return the local address behind the public address `url`; another host's address is returned unchanged."""
        parts = urlsplit(url)
        if self._public is None or _host(parts) != _host(self._public):
            return url
        base = self._public.path
        if not (parts.path + "/").startswith(base + "/"):
            return url
        secure = "s" if self._server.scheme == "https" else ""
        scheme = ("ws" if parts.scheme in {"ws", "wss"} else "http") + secure
        return _at(parts, scheme, self._server.netloc, parts.path[len(base) :])

    def signature(self, url: str, params: Mapping[str, str]) -> dict[str, str]:
        """Return the signature header of a request to the public `url`; empty without an auth token."""
        if self._auth_token is None:
            return {}
        from twilio.request_validator import RequestValidator

        parts = urlsplit(url)
        if parts.scheme == "https":  # Twilio leaves the port out for https and keeps it for http
            url = _at(parts, parts.scheme, parts.hostname or "", parts.path)
        return {"X-Twilio-Signature": RequestValidator(self._auth_token).compute_signature(url, dict(params))}

    def forwarded(self, url: str) -> dict[str, str]:
        """Return the headers that the proxy of the public address adds to a request; empty if `url` is not behind it.

        They are those of ngrok. A secure WebSocket counts as https.
        """
        parts = urlsplit(url)
        if self._public is None or _host(parts) != _host(self._public):
            return {}
        proto = "https" if parts.scheme in {"https", "wss"} else "http"
        return {"X-Forwarded-For": _TWILIO_ADDRESS, "X-Forwarded-Host": parts.netloc, "X-Forwarded-Proto": proto}

    async def request(
        self, url: str, params: Mapping[str, str], method: str = "POST", *, token: str | None = None
    ) -> WebhookAnswer:
        """Request the public `url` as Twilio does, with the retries of its fragment and with redirects.

        `token` is the idempotency token of an earlier request that this one repeats; by default a new one is made.

        Raises:
            CallFailed: no answer in time, no connection, bad redirects, or a status other than 2xx.
        """
        overrides, violations = read_overrides(url)
        for violation in violations:
            self._report(violation)
        seconds = overrides.total_ms / 1000
        try:
            async with asyncio.timeout(seconds):
                request = _Request(urldefragged(url), params, method, token or str(uuid.uuid4()))
                return await self._with_retries(request, overrides)
        except TimeoutError:
            asked = self._asked(url, method)
            raise CallFailed(f"no answer within {seconds:g} s to {asked}; answer sooner", code=11200) from None

    async def _with_retries(self, request: _Request, overrides: Overrides) -> WebhookAnswer:
        """Repeat the request until it is answered or the retries of the overrides are used up."""
        for waits in range(overrides.retries + 1):
            if waits and self._retry_waits_seconds:
                await asyncio.sleep(self._retry_waits_seconds[:waits][-1])
            try:
                answer = await self._follow(request, overrides)
            except (aiohttp.ClientError, OSError) as error:
                kind, failure = _broken(error, overrides, self._asked(request.url, request.method))
                failure.__cause__ = error
            else:
                if 200 <= answer.status < 300:
                    return answer
                kind = f"{answer.status // 100}xx"
                words = f"the server answered HTTP {answer.status} to {self._asked(answer.url, request.method)}"
                failure = CallFailed(words, status=answer.status, code=11200)
            if kind not in overrides.retried:
                break
        raise failure

    async def _follow(self, request: _Request, overrides: Overrides) -> WebhookAnswer:
        """Make one attempt, with its redirects."""
        for _ in range(MAX_REDIRECTS + 1):
            answer, location = await self._once(request, overrides)
            if not 300 <= answer.status < 400:
                return answer
            if answer.status not in (301, 302, 303, 307) or not location:
                raise CallFailed(
                    f"HTTP {answer.status} is no redirect that is followed", status=answer.status, code=11216
                )
            request = replace(request, url=urldefragged(urljoin(request.url, location)))
            if answer.status != 307:  # Twilio does not repeat the parameters
                request = replace(request, params={}, method="GET")
        raise CallFailed(f"more than {MAX_REDIRECTS} redirects", code=11215)

    def _asked(self, url: str, method: str) -> str:
        """Return a request in words: its target, and its public address. Queries may contain secrets."""
        public = urlsplit(urldefragged(url))._replace(query="").geturl()
        local = urlsplit(self.local(urldefragged(url)))._replace(query="").geturl()
        return f"{method} {local}" if local == public else f"{method} {local} as {public}"

    async def _once(self, request: _Request, overrides: Overrides) -> tuple[WebhookAnswer, str | None]:
        assert self._http is not None
        url, params, method = request.url, request.params, request.method
        headers = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Accept-Encoding": "gzip", "x-home-region": "us1"}
        headers["I-Twilio-Idempotency-Token"] = request.token
        body = None
        if method == "GET":
            if params:
                url += ("&" if urlsplit(url).query else "?") + urlencode(params)
            headers |= self.signature(url, {})
        else:
            body = urlencode(params).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"
            headers |= self.signature(url, params)
        if self._public is not None:
            headers |= {"Host": urlsplit(url).netloc, **self.forwarded(url)}
        target = URL(self.local(url), encoded=True)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=overrides.connect_ms / 1000, sock_read=overrides.read_ms / 1000
        )
        async with self._http.request(
            method, target, data=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            content = bytearray()
            async for chunk in response.content.iter_chunked(16384):
                content += chunk
                if len(content) > MAX_DOCUMENT_BYTES:
                    break
            answer = WebhookAnswer(
                request.url, response.status, response.headers.get("Content-Type", ""), bytes(content)
            )
            return answer, response.headers.get("Location")


def urldefragged(url: str) -> str:
    """Return `url` without user and password, and without the fragment with its connection overrides."""
    parts = urlsplit(url)
    return _at(parts, parts.scheme, parts.netloc.rpartition("@")[2], parts.path)


def _broken(error: Exception, overrides: Overrides, asked: str) -> tuple[str, CallFailed]:
    """Return the retry policy's name for `error`, and the failure of a call that ends with it.

    A connection that breaks in the middle of an answer counts as "rt": the documentation does not name that case.
    """
    if why := tls_failure(error):
        return "ct", CallFailed(f"{why}; asked for {asked}", code=11220)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return "ct", CallFailed(f"{no_connection(error)}; asked for {asked}", code=11205)
    if isinstance(error, TimeoutError):
        words = f"no answer within {overrides.read_ms / 1000:g} s to {asked}; answer sooner"
        return "rt", CallFailed(words, code=11200)
    name = type(error).__name__
    return "rt", CallFailed(f"the connection broke ({name}) during {asked}; is the server running?", code=11205)


def _at(parts: SplitResult, scheme: str, netloc: str, path: str) -> str:
    return urlunsplit((scheme, netloc, path, parts.query, ""))


def _host(parts: SplitResult) -> tuple[str, int]:
    default = 443 if parts.scheme in {"https", "wss"} else 80
    return (parts.hostname or "").lower(), parts.port or default
