"""The media socket of a call at Twilio: reading its `start`, and the frames that a session reads and writes."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from phoneagent.errors import ProtocolError
from phoneagent.protocol import mediastream

log = logging.getLogger("phoneagent.twilio.socket")

START_SECONDS = 10.0
"""How long Twilio may take to send `start`."""

MAX_BEFORE_START = 20
"""How many messages may come before `start`."""


class TwilioSocket:
    """The media socket as a session uses it."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> str | bytes | None:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | bytes | None = message.get("text")
        return message.get("bytes", b"") if text is None else text

    async def send(self, text: str) -> None:
        try:
            await self._websocket.send({"type": "websocket.send", "text": text})
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionError("the media socket is closed") from error

    async def close(self) -> None:
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with suppress(WebSocketDisconnect, RuntimeError, OSError):  # Twilio has already closed it
                await self._websocket.close(1000)


async def read_start(socket: TwilioSocket, call_sid: str, account_sid: str | None) -> mediastream.Start:
    """Return the `start` of the call with that sid and account (None for any account).

    Raises:
        ProtocolError: Twilio sent something else, or nothing.
    """
    try:
        async with asyncio.timeout(START_SECONDS):
            for _ in range(MAX_BEFORE_START):
                text = await socket.receive()
                if text is None:
                    raise ProtocolError("it closed before `start`")
                if isinstance(text, bytes):
                    continue
                try:
                    message = mediastream.decode(text)
                except ProtocolError as error:
                    log.warning("%s", error, extra={"call_sid": call_sid})
                    continue
                if isinstance(message, mediastream.Start):
                    return _checked(message, call_sid, account_sid)
    except TimeoutError:
        raise ProtocolError(f"no `start` within {START_SECONDS:g} s") from None
    raise ProtocolError(f"no `start` among its first {MAX_BEFORE_START} messages")


def _checked(message: mediastream.Start, call_sid: str, account_sid: str | None) -> mediastream.Start:
    details = message.start
    if details.call_sid != call_sid or account_sid not in (None, details.account_sid):
        raise ProtocolError("its `start` names another call than its token")
    if details.media_format != mediastream.MediaFormat():
        raise ProtocolError(f"its audio is {details.media_format}, not µ-law at 8 kHz: remove audioFormat")
    return message
