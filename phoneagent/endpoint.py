"""How a model session is opened and configured."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from .call import Call
from .errors import EndpointError, EndpointRefused, EndpointUnreachable, ProtocolError
from .protocol import realtime
from .protocol.configuring import Configuring
from .protocol.policy import FATAL_CODES
from .provider import Endpoint, TokenProvider
from .threads import run_in_thread

__all__ = ["Endpoint", "ModelSession", "TokenProvider", "open_session"]

CONNECT_SECONDS = 5.0
"""From the first packet, or the token provider's call, to a configured session."""

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""A session that is read back carries all instructions and tools."""

CLOSE_SECONDS = 2.0
_wire_log = logging.getLogger("phoneagent.endpoint.wire")
_wire_log.setLevel(logging.INFO)  # at DEBUG, websockets writes the handshake's headers, and the key is among them
_REFUSED_STATUS = frozenset({400, 401, 403, 404})


class ModelSession:
    """A configured session: what a call reads from and writes to."""

    def __init__(self, connection: ClientConnection, configuring: Configuring) -> None:
        self._connection = connection
        self.dialect = configuring.dialect or realtime.Dialect.GA
        self.dropped: Sequence[str] = tuple(configuring.dropped)
        """What the server did not take of the configuration, a line each."""
        self.effective: Mapping[str, Any] = configuring.effective
        """The session in the server's words."""

    async def send(self, message: realtime.ToModel) -> None:
        """Write an event.

        Raises:
            EndpointUnreachable: the socket is closed.
        """
        try:
            await self._connection.send(realtime.encode(message, self.dialect), text=True)
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def receive(self) -> bytes:
        """Read an event, undecoded.

        Raises:
            EndpointUnreachable: the socket is closed.
        """
        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed as error:  # also a close with 1001, which counts as a clean one
            raise _closed(error) from None

    def abort(self) -> None:
        """Drop the session; whoever reads it learns that it is gone."""
        self._connection.transport.abort()

    async def close(self) -> None:
        """Close the session, within `CLOSE_SECONDS`."""
        try:
            await self._connection.close()
        finally:  # also when cut short: a far end that does not answer the close keeps nothing open
            self._connection.transport.abort()


async def open_session(endpoint: Endpoint, session: Mapping[str, Any], call: Call | None = None) -> ModelSession:
    """Open a session for a call and configure it; `session` is in GA's shape.

    Raises:
        EndpointUnreachable: no configured session within `CONNECT_SECONDS`.
        EndpointRefused: the server says no: the key, the model, the configuration.
    """
    try:
        return await _open(endpoint, session, call)
    except EndpointError as error:
        remedy = endpoint.remedies.get(error.code or "")
        raise error if remedy is None else type(error)(f"{error}: {remedy}", code=error.code) from None


async def _open(endpoint: Endpoint, session: Mapping[str, Any], call: Call | None) -> ModelSession:
    waiting_for = "its token provider"
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            headers = await _headers(endpoint, call)
            waiting_for = "its answer"
            connection = await _connect(endpoint, headers)
            try:
                return ModelSession(connection, await _configure(connection, endpoint, session))
            except BaseException:
                connection.transport.abort()
                await connection.wait_closed()
                raise
    except TimeoutError:
        words = f"no model session at {endpoint.host} within {CONNECT_SECONDS:g} s, still waiting for {waiting_for}"
        raise EndpointUnreachable(words, code="timeout") from None


async def _headers(endpoint: Endpoint, call: Call | None) -> dict[str, str]:
    headers = dict(endpoint.headers) | (endpoint.headers_for(call) if call is not None else {})
    if endpoint.token is not None:
        headers["Authorization"] = f"Bearer {await _fetch(endpoint.token)}"
    return headers


async def _fetch(provider: TokenProvider) -> str:
    try:
        if inspect.iscoroutinefunction(provider):
            token = await provider()
        else:
            token = await run_in_thread(provider)
            if inspect.isawaitable(token):
                token = await token
    except Exception as error:  # a user's function
        raise EndpointUnreachable(f"the endpoint's token provider failed: {type(error).__name__}") from error
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        raise EndpointRefused("the endpoint's token provider returned no token: it must be text without spaces")
    return token


async def _connect(endpoint: Endpoint, headers: Mapping[str, str]) -> ClientConnection:
    try:
        return await connect(
            endpoint.url,
            additional_headers=headers,
            compression=None,
            max_size=MAX_EVENT_BYTES,
            close_timeout=CLOSE_SECONDS,
            logger=_wire_log,
            open_timeout=None,  # the time-out around it covers the configuration too
        )
    except InvalidStatus as error:
        raise _refused(error, endpoint) from None
    except InvalidURI:
        raise EndpointRefused("the model endpoint's URL is not a WebSocket URL: check REALTIME_URL") from None
    except (OSError, InvalidHandshake, EOFError) as error:
        raise EndpointUnreachable(f"no connection to the model at {endpoint.host}: {type(error).__name__}") from None


def _refused(error: InvalidStatus, endpoint: Endpoint) -> EndpointError:
    status = str(error.response.status_code)
    reason = _reason(error.response.body)
    words = f"{endpoint.host} refused the model session with HTTP {status}" + (f" {reason}" if reason else "")
    code = reason if reason in endpoint.remedies else status
    refused = error.response.status_code in _REFUSED_STATUS or reason in FATAL_CODES
    return EndpointRefused(words, code=code) if refused else EndpointUnreachable(words, code=code)


def _reason(body: bytes | bytearray | None) -> str:
    """Return the `error.code` of an answer; its message may repeat a part of the key."""
    try:
        code = str(json.loads(body or b"")["error"]["code"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return code if re.fullmatch(r"[A-Za-z_]{1,64}", code) else ""


async def _configure(connection: ClientConnection, endpoint: Endpoint, session: Mapping[str, Any]) -> Configuring:
    configuring = Configuring(
        dict(session), transcription_models=endpoint.transcription_models, dialect=endpoint.dialect
    )
    while not configuring.done:
        try:
            update = configuring.receive(realtime.decode(await connection.recv(decode=False)))
            if update is not None:
                await connection.send(realtime.encode(update, configuring.dialect or realtime.Dialect.GA), text=True)
        except ProtocolError:
            continue  # half an event while configuring; the time-out is the judge
        except ConnectionClosed as error:
            raise _closed(error) from None
    return configuring


def _closed(error: ConnectionClosed) -> EndpointError:
    if error.rcvd is None:
        return EndpointUnreachable("the model's socket broke without a close", code="1006")
    code, reason = error.rcvd.code, error.rcvd.reason
    kind = EndpointRefused if code in (1008, 4000) else EndpointUnreachable
    return kind(f"the model closed the session with {code} {reason}".rstrip(), code=str(code))
