"""Twilio's media socket: text frames in, the carrier's neutral messages out, and back.

A server may offer the accepted socket itself, in the ASGI extension DIRECT, as `phoneagent serve` does. Then a frame
passes through no ASGI message, no queue and no task. Under any other server, and in a mounted app, ASGI's own messages
carry the call; see `asgi_socket`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from phoneagent.errors import ProtocolError, shown
from phoneagent.protocol.carrier import FromCarrier, Started, ToCarrier
from phoneagent.protocol.mediastream import MediaStream
from phoneagent.twilio.asgi_socket import AsgiSocket

log = logging.getLogger("phoneagent.twilio.socket")

DIRECT = "phoneagent.direct"
"""The ASGI extension of a WebSocket scope whose `socket` is a `RawSocket`."""

START_SECONDS = 10.0
"""How long Twilio may take to send `start`."""

MAX_BEFORE_START = 20
"""How many messages may come before `start`."""

PHONE_AUDIO = ("audio/x-mulaw", 8000, 1)
"""Encoding, samples a second, channels."""


class RawSocket(Protocol):
    """An accepted WebSocket, read and written at once."""

    @property
    def writable(self) -> bool:
        """Whether the other side accepts more data."""

    def write(self, texts: Iterable[bytes]) -> None:
        """Write text messages. Raises `OSError` if the socket is closed."""

    async def read(self, take: Callable[[str | bytes], None], resumed: Callable[[], None]) -> None:
        """Pass each message to `take`, binary ones as bytes, until the socket is closed."""


class TwilioSocket:
    """One media socket, as a session reads and writes it."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._stream = MediaStream()
        self.decode = self._stream.decode
        direct = (websocket.scope.get("extensions") or {}).get(DIRECT)
        self._raw: RawSocket = AsgiSocket(websocket) if direct is None else direct["socket"]

    def take_both_tracks(self) -> None:
        """Also accept what the caller hears."""
        self._stream.takes_outbound = True

    async def receive(self) -> FromCarrier | None:
        """Return the next message that a call needs, or None when the socket is closed. Use it only before `read`.

        Raises:
            ProtocolError: a message that Twilio would not send; the next one can be read.
        """
        for _ in range(MAX_BEFORE_START):
            frame = await self._websocket.receive()
            if frame["type"] == "websocket.disconnect":
                return None
            text = frame.get("text")
            if (message := self.decode(frame["bytes"] if text is None else text)) is not None:
                return message
        raise ProtocolError(f"Media Streams: {MAX_BEFORE_START} messages in a row that no call needs")

    async def read(self, take: Callable[[str | bytes], None], resumed: Callable[[], None]) -> None:
        """Pass each message, undecoded, to `take`, which must not raise, until the socket is closed.

        `resumed` runs when the socket is `writable` again.
        """
        await self._raw.read(take, resumed)

    @property
    def writable(self) -> bool:
        """Whether Twilio accepts more data."""
        return self._raw.writable

    def write(self, messages: Iterable[ToCarrier]) -> None:
        """Write messages at once.

        Raises:
            OSError: the socket is closed.
        """
        encode = self._stream.encode
        self._raw.write([encode(message) for message in messages])

    async def close(self) -> None:
        """Close the socket."""
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with suppress(WebSocketDisconnect, RuntimeError, OSError):  # Twilio has already closed it
                await self._websocket.close(1000)


async def read_start(socket: TwilioSocket, call_sid: str, account_sid: str | None) -> Started:
    """Return the `start` of the call with that sid, of that account (None for any).

    Raises:
        ProtocolError: another message came instead, or none.
    """
    try:
        async with asyncio.timeout(START_SECONDS):
            for _ in range(MAX_BEFORE_START):
                try:
                    message = await socket.receive()
                except ProtocolError as error:
                    log.warning("%s", error, extra={"call_sid": call_sid})
                    continue
                if message is None:
                    raise ProtocolError("it closed before `start`")
                if isinstance(message, Started):
                    return _checked(message, call_sid, account_sid)
    except TimeoutError:
        raise ProtocolError(f"no `start` within {START_SECONDS:g} s") from None
    raise ProtocolError(f"no `start` among its first {MAX_BEFORE_START} messages")


def _checked(started: Started, call_sid: str, account_sid: str | None) -> Started:
    # A start that names no call belongs to the call that the token names.
    if started.call_sid not in ("", call_sid) or account_sid not in (None, started.account_sid or account_sid):
        raise ProtocolError("its `start` names another call than its token")
    if started.audio != PHONE_AUDIO:
        raise ProtocolError(f"its audio is {shown(started.audio, 100)}, not µ-law at 8 kHz: remove audioFormat")
    return started
