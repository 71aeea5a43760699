"""Where a model session is, and how one is opened and configured."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from .errors import EndpointError, EndpointRefused, EndpointUnreachable, ProtocolError
from .protocol import realtime
from .protocol.configuring import Configuring
from .settings import Settings

OPENAI_URL = "wss://api.openai.com/v1/realtime"

CONNECT_SECONDS = 5.0
"""From the first packet to a configured session."""

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""A session that is read back carries all instructions and tools."""

CLOSE_SECONDS = 2.0
_wire_log = logging.getLogger("phoneagent.endpoint.wire")
_wire_log.setLevel(logging.INFO)  # at DEBUG, websockets writes the handshake's headers, and the key is among them
_REFUSED_STATUS = frozenset({400, 401, 403, 404})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A Realtime server: its URL with all of its query, the headers to send, and the spelling it is known to speak."""

    url: str = field(repr=False)  # some servers want their key in its query
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    dialect: realtime.Dialect | None = None
    transcription_models: tuple[str, ...] = ()

    @classmethod
    def from_settings(cls, settings: Settings) -> Endpoint:
        """Return the server that the settings name: OPENAI_*, or REALTIME_URL with REALTIME_API_KEY."""
        key = settings.openai_api_key if settings.realtime_url is None else settings.realtime_api_key
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        url = realtime_url(settings.realtime_url or OPENAI_URL, settings.openai_model)
        return cls(url, headers, transcription_models=settings.transcription_models)


def realtime_url(base: str, model: str) -> str:
    """Complete the address of a Realtime server: the path `/realtime`, and the model if the query names none."""
    parts = urlsplit(base)
    path = parts.path.rstrip("/")
    if not path.endswith("/realtime"):
        path = f"{path or '/v1'}/realtime"
    query = parse_qsl(parts.query, keep_blank_values=True)
    if not any(name in ("model", "deployment") for name, _ in query):
        query.append(("model", model))
    return urlunsplit((parts.scheme, parts.netloc, path, urlencode(query), ""))


class ModelSession:
    """A configured session: what a call reads from and writes to."""

    def __init__(self, connection: ClientConnection, configuring: Configuring) -> None:
        self._connection = connection
        self.dialect = configuring.dialect or realtime.Dialect.GA
        self.dropped: Sequence[str] = tuple(configuring.dropped)
        """What the server did not take of the configuration, a line each."""

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

    async def close(self) -> None:
        """Close the session, within `CLOSE_SECONDS`."""
        try:
            await self._connection.close()
        finally:  # also when cut short: a far end that does not answer the close keeps nothing open
            self._connection.transport.abort()


async def open_session(endpoint: Endpoint, session: Mapping[str, Any]) -> ModelSession:
    """Open a session and configure it; `session` is in GA's shape.

    Raises:
        EndpointUnreachable: no configured session within `CONNECT_SECONDS`.
        EndpointRefused: the server says no: the key, the model, the configuration.
    """
    host = urlsplit(endpoint.url).hostname
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await _connect(endpoint)
            try:
                return ModelSession(connection, await _configure(connection, endpoint, session))
            except BaseException:
                connection.transport.abort()
                await connection.wait_closed()
                raise
    except TimeoutError:
        raise EndpointUnreachable(f"no model session at {host} within {CONNECT_SECONDS:g} s") from None


async def _connect(endpoint: Endpoint) -> ClientConnection:
    host = urlsplit(endpoint.url).hostname
    try:
        return await connect(
            endpoint.url,
            additional_headers=dict(endpoint.headers),
            compression=None,
            max_size=MAX_EVENT_BYTES,
            close_timeout=CLOSE_SECONDS,
            logger=_wire_log,
            open_timeout=None,  # the time-out around it covers the configuration too
        )
    except InvalidStatus as error:
        status = error.response.status_code
        kind = EndpointRefused if status in _REFUSED_STATUS else EndpointUnreachable
        hint = {401: ": check the API key", 404: ": check the URL and the model"}.get(status, "")
        raise kind(f"{host} refused the model session with HTTP {status}{hint}", code=str(status)) from None
    except InvalidURI:
        raise EndpointRefused("the model endpoint's URL is not a WebSocket URL: check REALTIME_URL") from None
    except (OSError, InvalidHandshake, EOFError) as error:
        raise EndpointUnreachable(f"no connection to the model at {host}: {type(error).__name__}") from None


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
