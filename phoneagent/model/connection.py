"""The connection to a model: opening, configuring, reading and writing a session."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Never
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException

from phoneagent.agent.call import Call
from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable, ProtocolError, network, shown
from phoneagent.model.direct import DirectConnection
from phoneagent.model.endpoint import Endpoint, TokenProvider
from phoneagent.protocol import realtime
from phoneagent.protocol.negotiation import Negotiation, words_of
from phoneagent.protocol.pcm_check import PcmCheck
from phoneagent.protocol.realtime import FATAL_CODES
from phoneagent.protocol.transcoding import ToPcm, ToUlaw
from phoneagent.usercode import call_user

CONNECT_SECONDS = 5.0
"""The time from the first packet, or from the call of the token provider, to a configured session."""

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The maximum size of an event: a `session.updated` repeats all instructions and tools."""

PING_SECONDS = 5.0
"""The interval of pings. Their pongs show that a session is alive even if nobody speaks."""

CLOSE_SECONDS = 2.0
_wire_log = logging.getLogger("phoneagent.model.connection.wire")
_wire_log.setLevel(logging.INFO)  # at DEBUG, websockets logs the handshake's headers, including the key
_REFUSED_STATUS = frozenset({400, 401, 403, 404})
_KEY = re.compile(r"\bsk-[^\s,;\"']+")
_PLAIN = frozenset({"model", "deployment", "api-version"})
_SECRET_CHARS = 8
"""Shorter words of a header are not secret."""

NOISE = (
    "the model says that it speaks audio/pcmu, but sends PCM, and the caller hears noise: "
    "correct the server's output format, or set REALTIME_AUDIO=pcm16 if it is PCM at 24 kHz"
)

CONVERTED = (
    "the model was asked for audio/pcmu, never said what it speaks, and sends PCM: audio is converted from here on "
    "(REALTIME_AUDIO=pcm16 converts it from the start)"
)

MAX_ANSWERS = 8
"""How many of a server's answers during an opening are kept."""

log = logging.getLogger("phoneagent.model.connection")


class ModelSession:
    """A configured session, which a call reads and writes."""

    def __init__(self, connection: DirectConnection, configuring: Negotiation, secrets: Collection[str] = ()) -> None:
        self._connection = connection
        self._secrets = secrets
        self.dialect = configuring.dialect or realtime.Dialect.GA
        self.dropped: Sequence[str] = tuple(masked(each, secrets) for each in configuring.dropped)
        """The parts of the configuration that the server did not accept, one line each."""
        self.effective: Mapping[str, Any] = configuring.effective
        """The session as the server reports it."""
        self._configuring = configuring
        self._unacknowledged = not configuring.acknowledged
        self._take_formats()
        self._to_ulaw: ToUlaw | None = None
        self._pcm_check = PcmCheck()
        self._spoken = ""

    def _take_formats(self) -> None:
        self._to_pcm = ToPcm() if self._configuring.hears_pcm else None
        self._speaks_pcm = self._configuring.speaks_pcm

    @property
    def writable(self) -> bool:
        """Whether the server accepts more data."""
        return self._connection.writable

    def write(self, messages: Iterable[realtime.ToModel]) -> None:
        """Write events at once.

        Raises:
            EndpointUnreachable: the socket is closed, or closing.
        """
        try:
            self._connection.write([self._encoded(message) for message in messages])
        except ConnectionError:
            raise EndpointUnreachable("the model's socket is closing") from None

    def _encoded(self, message: realtime.ToModel) -> bytes:
        if isinstance(message, realtime.AudioAppend):
            if self._to_pcm is None:
                return realtime.encode_audio(message.audio.encode())
            pcm = self._to_pcm.feed(base64.b64decode(message.audio))
            return realtime.encode_audio(base64.b64encode(pcm))
        if isinstance(message, realtime.SessionUpdate | realtime.ResponseCreate):
            message = self._configuring.adapt(message)
        return realtime.encode(message, self.dialect)

    async def read(self, take: Callable[[bytes], None], resumed: Callable[[], None]) -> Never:
        """Pass each event, undecoded, to `take`, which must not raise, until the socket is closed.

        `resumed` runs when the socket is `writable` again.

        Raises:
            EndpointError: the socket is closed; every event that came before was passed on.
        """

        self.effective = self._configuring.effective = {}  # already read, and it takes 2 KB per call
        refusal: EndpointError | None = None

        def take_late_answer(raw: bytes) -> None:
            nonlocal refusal
            if refusal is None and self._unacknowledged:
                try:
                    self._take_late_answer(raw)
                except EndpointError as error:
                    refusal = error
                    self.abort()
            if refusal is None:
                take(raw)

        try:
            await self._connection.read(take_late_answer if self._unacknowledged else take, resumed)
        except ConnectionClosed as error:  # also raised for 1001, which counts as a clean close
            raise refusal or _closed(error, self._secrets) from None

    def _take_late_answer(self, raw: bytes) -> None:
        """Look for the server's answer to the configuration, which did not come in time: it may refuse something.

        Raises:
            EndpointRefused: it refuses the session.
        """
        try:
            event = realtime.decode(raw)
        except ProtocolError:
            return  # `decode` reports it to the call
        told = len(self._configuring.dropped)
        update = self._configuring.receive(event, asyncio.get_running_loop().time())
        for line in self._configuring.dropped[told:]:
            log.warning("the session runs without %s", masked(line, self._secrets))
        if update is not None:
            with suppress(ConnectionError):  # the reader learns why it closes
                self._connection.write([realtime.encode(update, self.dialect)])
        # A server answers in order: a response means that it accepted the configuration, whether it says so or not.
        self._unacknowledged = not self._configuring.acknowledged and not isinstance(event, realtime.ResponseCreated)
        self._take_formats()

    def decode(self, raw: bytes) -> realtime.FromModel:
        """Decode a received event. Its audio is µ-law at 8 kHz.

        Raises:
            ProtocolError: see `realtime.decode`; also once if the audio is noise, and that piece is left out.
        """
        event = realtime.decode(raw)
        if not isinstance(event, realtime.AudioDelta):
            return event
        if not self._speaks_pcm:
            if not self._pcm_check.over and self._pcm_check.hear(event.delta):
                if self._configuring.acknowledged:
                    raise ProtocolError(NOISE)
                self._configuring.hears_pcm = self._configuring.speaks_pcm = True
                self._take_formats()
                raise ProtocolError(CONVERTED)
            return event
        if self._to_ulaw is None or event.item_id != self._spoken:
            # Half a sample at the end of one item must not shift the next one.
            self._to_ulaw, self._spoken = ToUlaw(), event.item_id
        pcm = base64.b64decode(event.delta)
        event.delta = base64.b64encode(self._to_ulaw.feed(pcm)).decode()
        return event

    def abort(self) -> None:
        """Drop the connection at once. A running `read` then raises EndpointUnreachable."""
        self._connection.transport.abort()

    async def close(self) -> None:
        """Close the session, within `CLOSE_SECONDS`."""
        try:
            with suppress(TimeoutError):  # the library waits without a limit until the server has read the rest
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._connection.close()
        finally:  # also if canceled: a server that does not answer the close keeps no socket open
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
        if remedy is None:
            raise
        raise type(error)(f"{error}: {remedy}", code=error.code, answered=error.answered) from None


async def join_session(endpoint: Endpoint, call: Call) -> ModelSession:
    """Open a socket to a session that another client has opened and configured.

    Raises:
        EndpointError: no connection within `CONNECT_SECONDS`, or the server refuses it.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            headers = await request_headers(endpoint, call)
            return ModelSession(await _connect(endpoint, headers), Negotiation.joined(), secrets_of(endpoint, headers))
    except TimeoutError:
        words = f"no socket to the session at {endpoint.host} within {CONNECT_SECONDS:g} s"
        raise EndpointUnreachable(words, code="timeout") from None


async def _open(endpoint: Endpoint, session: Mapping[str, Any], call: Call | None, within: float) -> ModelSession:
    secrets = secrets_of(endpoint, endpoint.headers)
    waiting_for = "its token provider"
    answers = _Answers()
    try:
        async with asyncio.timeout(within):
            headers = await request_headers(endpoint, call)
            secrets = secrets_of(endpoint, headers)
            waiting_for = "its answer"
            connection = await _connect(endpoint, headers)
            answers.connected = True
            try:
                return ModelSession(connection, await _configure(connection, endpoint, session, answers), secrets)
            except BaseException:
                connection.transport.abort()
                await connection.wait_closed()
                raise
    except TimeoutError:
        waiting_for = answers.unreadable or waiting_for
        words = f"no model session at {endpoint.host} within {within:g} s, still waiting for {waiting_for}"
        raise EndpointUnreachable(masked(words, secrets), code="timeout", answered=answers.shown(secrets)) from None
    except EndpointError as error:  # it may contain the server's own words
        raise type(error)(masked(str(error), secrets), code=error.code, answered=answers.shown(secrets)) from None


class _Answers:
    """What a server answered while a session was opened, in order, to explain a failure."""

    def __init__(self) -> None:
        self.connected = False
        self.unreadable = ""
        self._events: list[str] = []
        self._more = 0

    def note(self, event: realtime.FromModel) -> None:
        said = event.type if isinstance(event, realtime.Unknown) else str(event.__struct_config__.tag)
        if isinstance(event, realtime.Error):
            failure = event.error
            named = (failure.code or failure.type, failure.param and f"about {failure.param}", failure.message)
            said = f"error ({', '.join(filter(None, named))})"
        self._add(said)

    def note_unreadable(self, why: ProtocolError) -> None:
        self.unreadable = f"an answer that can be read ({why})"
        self._add("something that is not an event")

    def note_close(self, code: int | None) -> None:
        self._add("a break of the connection" if code is None else f"a close with {code}")

    def _add(self, said: str) -> None:
        if len(self._events) < MAX_ANSWERS:
            self._events.append(said)
        else:
            self._more += 1

    def shown(self, secrets: Collection[str]) -> tuple[str, ...]:
        """Return the answers, each on one line; none if there was no connection."""
        if not self.connected:
            return ()
        more = (f"{self._more} more",) if self._more else ()
        return ("the WebSocket's handshake", *(masked(each, secrets) for each in self._events), *more)


def secrets_of(endpoint: Endpoint, headers: Mapping[str, str]) -> Collection[str]:
    """Return the secrets of an endpoint: the words of its headers, and the values in its URL's query."""
    query = (value for name, value in parse_qsl(urlsplit(endpoint.url).query) if name not in _PLAIN)
    return {word for value in (*headers.values(), *query) for word in value.split()}


def masked(words: str, secrets: Collection[str]) -> str:
    """Return a server's words on one line, without secrets: some servers repeat the key that they refuse."""
    for word in sorted(secrets, key=len, reverse=True):
        if len(word) >= _SECRET_CHARS:
            words = words.replace(word, "…")
    return shown(_KEY.sub("…", words))


async def request_headers(endpoint: Endpoint, call: Call | None) -> dict[str, str]:
    """Return the headers of a request to an endpoint: its key, and what describes the call."""
    headers = dict(endpoint.headers) | (endpoint.headers_for(call) if call is not None else {})
    if endpoint.token is not None:
        headers["Authorization"] = f"Bearer {await _fetch(endpoint.token)}"
    return headers


async def _fetch(provider: TokenProvider) -> str:
    try:
        token = await call_user(provider)
    except Exception as error:  # raised by a user's function
        raise EndpointUnreachable(f"the endpoint's token provider failed: {type(error).__name__}") from error
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        raise EndpointRefused("the endpoint's token provider returned no token: it must be text without spaces")
    return token


class _ConnectWithoutRedirects(connect):
    """A connection that does not follow redirects: the other server would receive the keys."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


async def _connect(endpoint: Endpoint, headers: Mapping[str, str]) -> DirectConnection:
    try:
        connection = await _ConnectWithoutRedirects(
            endpoint.address(),
            create_connection=DirectConnection,
            additional_headers=headers,
            compression=None,
            max_size=MAX_EVENT_BYTES,
            close_timeout=CLOSE_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=None,  # see `liveness`
            logger=_wire_log,
            open_timeout=None,  # the timeout around this call also covers the configuration
            proxy=network.proxy_of(endpoint.url, network.WEBSOCKETS),
        )
        assert isinstance(connection, DirectConnection)
        connection.forget_handshake()
        return connection
    except InvalidStatus as error:
        raise _refused(error, endpoint) from None
    except InvalidURI:
        raise EndpointRefused("the model endpoint's URL is not a WebSocket URL: check REALTIME_URL") from None
    # The environment's proxy may be malformed (ValueError) or need a missing package (ImportError).
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
    """Return the `error.code` of a response, but not its message, which may repeat part of the key."""
    try:
        code = str(json.loads(body or b"")["error"]["code"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return code if re.fullmatch(r"[A-Za-z_]{1,64}", code) else ""


async def _configure(
    connection: DirectConnection, endpoint: Endpoint, session: Mapping[str, Any], answers: _Answers
) -> Negotiation:
    configuring = Negotiation(
        {**session, **endpoint.session},
        transcription_models=endpoint.transcription_models,
        dialect=endpoint.dialect,
        provider=endpoint.provider,
        audio=endpoint.audio,
    )
    loop = asyncio.get_running_loop()
    configuring.start(loop.time())
    while not configuring.done:
        try:
            update = await _next_update(connection, configuring, answers)
            if update is not None:
                encoded = realtime.encode(update, configuring.dialect or realtime.Dialect.GA)
                with suppress(ConnectionError):  # what came before the close is read first: it may contain the reason
                    connection.write([encoded])
        except ProtocolError as error:
            answers.note_unreadable(error)  # ignore a malformed event: the timers decide
        except ConnectionClosed as error:
            answers.note_close(None if error.rcvd is None else error.rcvd.code)
            closed = _closed(error, ())  # the caller hides secrets
            if configuring.last_error is None:
                raise closed from None
            reason = words_of(configuring.last_error)
            raise type(closed)(f"{closed}, after the error {reason}", code=closed.code) from None
    return configuring


async def _next_update(
    connection: DirectConnection, configuring: Negotiation, answers: _Answers
) -> realtime.SessionUpdate | None:
    """Wait for an event, or until it is time to go on without one; return the update that is due then."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(configuring.get_timer()):
            raw = await connection.receive()
    except TimeoutError:
        return configuring.handle_timer(loop.time())
    event = realtime.decode(raw)
    answers.note(event)
    return configuring.receive(event, loop.time())


def _closed(error: ConnectionClosed, secrets: Collection[str]) -> EndpointError:
    if error.rcvd is None:
        return EndpointUnreachable("the model's socket broke without a close", code="1006")
    code, reason = error.rcvd.code, masked(error.rcvd.reason, secrets)
    kind = EndpointRefused if code in (1008, 4000) else EndpointUnreachable
    return kind(f"the model closed the session with {code} {reason}".rstrip(), code=str(code))
