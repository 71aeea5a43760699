"""The connection to a model: a session is opened, configured, read and written."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.protocol import State

from phoneagent.agent.call import Call
from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable, ProtocolError, network
from phoneagent.model.endpoint import Endpoint, TokenProvider
from phoneagent.model.tunnel import Connection
from phoneagent.protocol import realtime
from phoneagent.protocol.negotiation import Negotiation
from phoneagent.protocol.realtime import FATAL_CODES
from phoneagent.protocol.transcoding import ToPcm, ToUlaw
from phoneagent.usercode import call_user

CONNECT_SECONDS = 5.0
"""The time from the first packet, or from the call of the token provider, to a configured session."""

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The maximum size of an event: a `session.updated` repeats all instructions and tools."""

PING_SECONDS = 5.0
"""The interval of pings, and how long a pong may take. Both are short because a caller is waiting."""

CLOSE_SECONDS = 2.0
_wire_log = logging.getLogger("phoneagent.model.connection.wire")
_wire_log.setLevel(logging.INFO)  # at DEBUG, websockets logs the handshake's headers, including the key
_REFUSED_STATUS = frozenset({400, 401, 403, 404})
_KEY = re.compile(r"\bsk-[^\s,;\"']+")
_PLAIN = frozenset({"model", "deployment", "api-version"})
_SECRET_CHARS = 8
"""Shorter words of a header are not secret."""

MAX_REASON_CHARS = 500
"""How much of a server's own words is shown."""


class ModelSession:
    """A configured session, which a call reads and writes."""

    def __init__(self, connection: ClientConnection, configuring: Negotiation, secrets: Collection[str] = ()) -> None:
        self._connection = connection
        self._secrets = secrets
        self.dialect = configuring.dialect or realtime.Dialect.GA
        self.dropped: Sequence[str] = tuple(_shown(each, secrets) for each in configuring.dropped)
        """The parts of the configuration that the server did not accept, one line each."""
        self.effective: Mapping[str, Any] = configuring.effective
        """The session as the server reports it."""
        self._to_pcm = ToPcm() if configuring.hears_pcm else None
        self._speaks_pcm = configuring.speaks_pcm
        self._to_ulaw = ToUlaw()
        self._spoken = ""

    async def send(self, message: realtime.ToModel) -> None:
        """Write an event.

        Raises:
            EndpointUnreachable: the socket is closed.
        """
        if self._to_pcm is not None and isinstance(message, realtime.AudioAppend):
            pcm = self._to_pcm.feed(base64.b64decode(message.audio))
            message = realtime.AudioAppend(base64.b64encode(pcm).decode())
        if self._connection.state is not State.OPEN:  # `send` would wait for the close, and a writer must not
            raise EndpointUnreachable("the model's socket is closing")
        try:
            await self._connection.send(realtime.encode(message, self.dialect), text=True)
        except ConnectionClosed as error:
            raise _closed(error, self._secrets) from None

    async def receive(self) -> bytes:
        """Read an event, undecoded.

        Raises:
            EndpointUnreachable: the socket is closed.
        """
        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed as error:  # also a close with 1001, which counts as a clean one
            raise _closed(error, self._secrets) from None

    def decode(self, raw: bytes) -> realtime.FromModel:
        """Decode a received event. Its audio is µ-law at 8 kHz.

        Raises:
            ProtocolError: see `realtime.decode`.
        """
        event = realtime.decode(raw)
        if not self._speaks_pcm or not isinstance(event, realtime.AudioDelta):
            return event
        if event.item_id != self._spoken:
            self._to_ulaw, self._spoken = (
                ToUlaw(),
                event.item_id,
            )  # so that half a sample at the end of one item does not shift the next
        try:
            pcm = base64.b64decode(event.delta)
        except binascii.Error:
            raise ProtocolError("Realtime `response.output_audio.delta` ignored: its delta is not base64") from None
        event.delta = base64.b64encode(self._to_ulaw.feed(pcm)).decode()
        return event

    def abort(self) -> None:
        """Drop the connection at once. A pending `receive` then raises EndpointUnreachable."""
        self._connection.transport.abort()

    async def close(self) -> None:
        """Close the session, within `CLOSE_SECONDS`."""
        try:
            await self._connection.close()
        finally:  # also if cancelled: a server that does not answer the close keeps no socket open
            self._connection.transport.abort()


async def open_session(
    endpoint: Endpoint, session: Mapping[str, Any], call: Call | None = None, *, within: float | None = None
) -> ModelSession:
    """Open a session for a call and configure it. `session` has the shape of the GA dialect.

    Raises:
        EndpointUnreachable: no configured session `within` that many seconds (by default `CONNECT_SECONDS`).
        EndpointRefused: the server refused the key, the model or the configuration.
    """
    try:
        return await _open(endpoint, session, call, CONNECT_SECONDS if within is None else within)
    except EndpointError as error:
        remedy = endpoint.remedies.get(error.code or "")
        raise error if remedy is None else type(error)(f"{error}: {remedy}", code=error.code) from None


async def _open(endpoint: Endpoint, session: Mapping[str, Any], call: Call | None, within: float) -> ModelSession:
    secrets = _secrets(endpoint, endpoint.headers)
    waiting_for = "its token provider"

    def puzzled(why: ProtocolError) -> None:
        nonlocal waiting_for
        waiting_for = f"an answer that can be read ({why})"

    try:
        async with asyncio.timeout(within):
            headers = await _headers(endpoint, call)
            secrets = _secrets(endpoint, headers)
            waiting_for = "its answer"
            connection = await _connect(endpoint, headers)
            try:
                return ModelSession(connection, await _configure(connection, endpoint, session, puzzled), secrets)
            except BaseException:
                connection.transport.abort()
                await connection.wait_closed()
                raise
    except TimeoutError:
        words = f"no model session at {endpoint.host} within {within:g} s, still waiting for {waiting_for}"
        raise EndpointUnreachable(_shown(words, secrets), code="timeout") from None
    except EndpointError as error:  # it may contain the server's own words
        raise type(error)(_shown(str(error), secrets), code=error.code) from None


def _secrets(endpoint: Endpoint, headers: Mapping[str, str]) -> Collection[str]:
    """Return the secrets of an endpoint: the words of its headers, and the values in its URL's query."""
    query = (value for name, value in parse_qsl(urlsplit(endpoint.url).query) if name not in _PLAIN)
    return {word for value in (*headers.values(), *query) for word in value.split()}


def _shown(words: str, secrets: Collection[str]) -> str:
    """Return a server's words on one line, without secrets: some servers repeat the key that they refuse."""
    for word in sorted(secrets, key=len, reverse=True):
        if len(word) >= _SECRET_CHARS:
            words = words.replace(word, "…")
    words = _KEY.sub("…", " ".join("".join(c if c.isprintable() else " " for c in words).split()))
    return words if len(words) <= MAX_REASON_CHARS else f"{words[:MAX_REASON_CHARS]}…"


async def _headers(endpoint: Endpoint, call: Call | None) -> dict[str, str]:
    headers = dict(endpoint.headers) | (endpoint.headers_for(call) if call is not None else {})
    if endpoint.token is not None:
        headers["Authorization"] = f"Bearer {await _fetch(endpoint.token)}"
    return headers


async def _fetch(provider: TokenProvider) -> str:
    try:
        token = await call_user(provider)
    except Exception as error:  # of a user's function
        raise EndpointUnreachable(f"the endpoint's token provider failed: {type(error).__name__}") from error
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        raise EndpointRefused("the endpoint's token provider returned no token: it must be text without spaces")
    return token


class _ConnectWithoutRedirects(connect):
    """A connection that follows no redirect: the other server would receive the keys."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


async def _connect(endpoint: Endpoint, headers: Mapping[str, str]) -> ClientConnection:
    try:
        return await _ConnectWithoutRedirects(
            endpoint.url,
            additional_headers=headers,
            compression=None,
            max_size=MAX_EVENT_BYTES,
            close_timeout=CLOSE_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            logger=_wire_log,
            open_timeout=None,  # the timeout around this call also covers the configuration
            proxy=None if network.is_loopback(endpoint.url) else True,
            create_connection=Connection,
        )
    except InvalidStatus as error:
        raise _refused(error, endpoint) from None
    except InvalidURI:
        raise EndpointRefused("the model endpoint's URL is not a WebSocket URL: check REALTIME_URL") from None
    # A proxy of the environment may be malformed (ValueError), or need a package that is missing (ImportError).
    except (OSError, WebSocketException, EOFError, ValueError, ImportError) as error:
        fault = network.explain(error, endpoint.url, network.WEBSOCKETS)
        words = f"no connection to the model at {endpoint.host}: {fault}"
        raise EndpointUnreachable(words, code="environment" if fault.own else "network") from None


def _refused(error: InvalidStatus, endpoint: Endpoint) -> EndpointError:
    status = str(error.response.status_code)
    reason = _reason(error.response.body)
    words = f"{endpoint.host} refused the model session with HTTP {status}" + (f" {reason}" if reason else "")
    if status in ("407", "511"):
        words += ": a proxy on the way asks for a login: check HTTPS_PROXY"
    code = reason if reason in endpoint.remedies else "no websocket" if status[0] in "23" else status
    refused = error.response.status_code in _REFUSED_STATUS or reason in FATAL_CODES
    return EndpointRefused(words, code=code) if refused else EndpointUnreachable(words, code=code)


def _reason(body: bytes | bytearray | None) -> str:
    """Return the `error.code` of a response, but not its message, which may repeat a part of the key."""
    try:
        code = str(json.loads(body or b"")["error"]["code"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return code if re.fullmatch(r"[A-Za-z_]{1,64}", code) else ""


async def _configure(
    connection: ClientConnection,
    endpoint: Endpoint,
    session: Mapping[str, Any],
    puzzled: Callable[[ProtocolError], None],
) -> Negotiation:
    configuring = Negotiation(
        dict(session), transcription_models=endpoint.transcription_models, dialect=endpoint.dialect
    )
    while not configuring.done:
        try:
            update = configuring.receive(realtime.decode(await connection.recv(decode=False)))
            if update is not None:
                await connection.send(realtime.encode(update, configuring.dialect or realtime.Dialect.GA), text=True)
        except ProtocolError as error:
            puzzled(error)  # ignore a malformed event: the timeout decides
        except ConnectionClosed as error:
            raise _closed(error, ()) from None  # the caller hides secrets
    return configuring


def _closed(error: ConnectionClosed, secrets: Collection[str]) -> EndpointError:
    if error.rcvd is None:
        return EndpointUnreachable("the model's socket broke without a close", code="1006")
    code, reason = error.rcvd.code, _shown(error.rcvd.reason, secrets)
    kind = EndpointRefused if code in (1008, 4000) else EndpointUnreachable
    return kind(f"the model closed the session with {code} {reason}".rstrip(), code=str(code))
