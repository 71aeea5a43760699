"""The HTTP side of Twilio: signed requests to a server, redirects followed, and the public face of a local address.

A server behind a tunnel knows itself by its public address: that is what Twilio signs and names in `Host`. `Web`
sends such requests to the server on this machine instead.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit, urlunsplit

import aiohttp
from yarl import URL

from phoneagent.sim.alerts import CallFailed
from phoneagent.sim.twiml import LARGEST_DOCUMENT

REQUEST_SECONDS = 15.0
"""What Twilio waits for a webhook in all, redirects included, in seconds."""

CONNECT_SECONDS = 5.0
MOST_REDIRECTS = 10

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_USER_AGENT = "TwilioProxy/1.1"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; `url` is the public address that gave the answer, after all redirects."""

    url: str
    status: int
    content_type: str
    body: bytes


class Web:
    """Requests as Twilio makes them, for one call.

    `webhook_url` is where the server listens; with `public_url` it is called as if it lived there. Without `auth_token`
    nothing is signed.
    """

    def __init__(self, webhook_url: str, public_url: str | None, auth_token: str | None) -> None:
        self._server = urlsplit(urldefragged(webhook_url))
        self._public = urlsplit(public_url.rstrip("/")) if public_url else None
        self._auth_token = auth_token
        self._http: aiohttp.ClientSession | None = None
        if self._server.scheme not in {"http", "https"} or not self._server.hostname:
            raise ValueError(
                "webhook_url must be an http or https address with a host, like http://127.0.0.1:8000/voice"
            )
        if self._public and (self._public.scheme not in {"http", "https"} or not self._public.hostname):
            raise ValueError("public_url must be an http or https address with a host, like https://agent.example")

    async def __aenter__(self) -> Web:
        # Twilio keeps cookies for a call. Ours come from an IP address, and secure ones arrive over plain http.
        jar = aiohttp.CookieJar(unsafe=True, treat_as_secure_origin=urlunsplit(self._server))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        self._http = aiohttp.ClientSession(cookie_jar=jar, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    @property
    def entry(self) -> str:
        """The public address of the webhook."""
        if self._public is None:
            return urlunsplit(self._server)
        return _at(self._server, self._public.scheme, self._public.netloc, self._public.path + self._server.path)

    @property
    def allows_ws(self) -> bool:
        """Whether a plain `ws:` stream may be dialled: the server is on this machine and claims no public address."""
        return self._public is None and self._server.hostname in _LOOPBACK

    def local(self, url: str) -> str:
        """Return where the public address `url` is really served; another host's address stays as it is."""
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
        """Return the signature header of a request to the public `url`, none without an auth token."""
        if self._auth_token is None:
            return {}
        from twilio.request_validator import RequestValidator

        parts = urlsplit(url)
        if parts.scheme == "https":  # as Twilio does for calls: the port is left out of https, and kept in http
            url = _at(parts, parts.scheme, parts.hostname or "", parts.path)
        return {"X-Twilio-Signature": RequestValidator(self._auth_token).compute_signature(url, dict(params))}

    async def request(self, url: str, params: Mapping[str, str], method: str = "POST") -> Answer:
        """Ask the public `url` as Twilio does, and follow its redirects.

        Raises:
            CallFailed: no answer in time, no connection, bad redirects, or a status that is not 2xx.
        """
        url = urldefragged(url)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                answer = await self._follow(url, params, method)
        except TimeoutError:
            raise CallFailed(f"no answer within {REQUEST_SECONDS:.0f} s; answer sooner", code=11200) from None
        except (aiohttp.ClientError, OSError) as error:
            raise CallFailed(f"no connection ({type(error).__name__}); is the server running?", code=11205) from error
        if not 200 <= answer.status < 300:
            raise CallFailed(f"the server answered HTTP {answer.status}", status=answer.status, code=11200)
        return answer

    async def _follow(self, url: str, params: Mapping[str, str], method: str) -> Answer:
        token = str(uuid.uuid4())
        for _ in range(MOST_REDIRECTS + 1):
            answer, location = await self._once(url, params, method, token)
            if not 300 <= answer.status < 400:
                return answer
            if answer.status not in (301, 302, 303, 307) or not location:
                raise CallFailed(
                    f"HTTP {answer.status} is no redirect that is followed", status=answer.status, code=11216
                )
            url = urldefragged(urljoin(url, location))
            if answer.status != 307:  # the parameters are not repeated
                params, method = {}, "GET"
        raise CallFailed(f"more than {MOST_REDIRECTS} redirects", code=11215)

    async def _once(self, url: str, params: Mapping[str, str], method: str, token: str) -> tuple[Answer, str | None]:
        assert self._http is not None
        headers = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Accept-Encoding": "gzip", "x-home-region": "us1"}
        headers["I-Twilio-Idempotency-Token"] = token
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
            headers |= {"Host": urlsplit(url).netloc, "X-Forwarded-Proto": urlsplit(url).scheme}
        target = URL(self.local(url), encoded=True)
        async with self._http.request(method, target, data=body, headers=headers, allow_redirects=False) as response:
            content = bytearray()
            async for chunk in response.content.iter_chunked(16384):
                content += chunk
                if len(content) > LARGEST_DOCUMENT:
                    break
            answer = Answer(url, response.status, response.headers.get("Content-Type", ""), bytes(content))
            return answer, response.headers.get("Location")


def urldefragged(url: str) -> str:
    """Return `url` without its fragment, where Twilio keeps per-request settings, and without user and password."""
    parts = urlsplit(url)
    return _at(parts, parts.scheme, parts.netloc.rpartition("@")[2], parts.path)


def _at(parts: SplitResult, scheme: str, netloc: str, path: str) -> str:
    return urlunsplit((scheme, netloc, path, parts.query, ""))


def _host(parts: SplitResult) -> tuple[str, int]:
    default = 443 if parts.scheme in {"https", "wss"} else 80
    return (parts.hostname or "").lower(), parts.port or default
