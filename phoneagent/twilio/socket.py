"""Twilio's media socket: text frames in, the carrier's neutral messages out, and back."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from phoneagent.errors import ProtocolError, shown
from phoneagent.protocol.carrier import FromCarrier, Started, ToCarrier
from phoneagent.protocol.mediastream import MediaStream

log = logging.getLogger("phoneagent.twilio.socket")

START_SECONDS = 10.0
"""How long Twilio may take to send `start`."""

MAX_BEFORE_START = 20
"""How many messages may come before `start`."""

PHONE_AUDIO = ("audio/x-mulaw", 8000, 1)
"""Encoding, samples a second, channels."""


class TwilioSocket:
    """One media socket, as a session reads and writes it."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._stream = MediaStream()

    async def receive(self) -> FromCarrier | None:
        """Return the next message that a call needs, None when the socket is closed.

        Raises:
            ProtocolError: a message that Twilio would not send; the next one can be read.
        """
        for _ in range(MAX_BEFORE_START):
            frame = await self._websocket.receive()
            if frame["type"] == "websocket.disconnect":
                return None
            text = frame.get("text")
            if text is None:
                raise ProtocolError("Media Streams message ignored: a binary frame")
            if (message := self._stream.decode(text)) is not None:
                return message
        raise ProtocolError(f"Media Streams: {MAX_BEFORE_START} messages in a row that no call needs")

    async def send(self, message: ToCarrier) -> None:
        """Write a message.

        Raises:
            ConnectionError: the socket is closed.
        """
        try:
            await self._websocket.send({"type": "websocket.send", "text": self._stream.encode(message)})
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionError("the media socket is closed") from error

    async def close(self) -> None:
        """Close the socket."""
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with suppress(WebSocketDisconnect, RuntimeError, OSError):  # Twilio has already closed it
                await self._websocket.close(1000)


async def read_start(socket: TwilioSocket, call_sid: str, account_sid: str | None) -> Started:
    """Return the `start` of the call with that sid, of that account (None for any).

    Raises:
        ProtocolError: another message came in its place, or none.
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
    # One that names no call at all is of the call that the token names.
    if started.call_sid not in ("", call_sid) or account_sid not in (None, started.account_sid or account_sid):
        raise ProtocolError("its `start` names another call than its token")
    if started.audio != PHONE_AUDIO:
        raise ProtocolError(f"its audio is {shown(started.audio, 100)}, not µ-law at 8 kHz: remove audioFormat")
    return started
