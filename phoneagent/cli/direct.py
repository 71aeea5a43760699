"""The direct path of a media socket: `phoneagent serve` gives the accepted socket to the app, in the ASGI extension
`phoneagent.direct`.

Until the extension's `read` is called, uvicorn has the socket, and messages are ASGI's. From then on, each message
reaches its reader in the callback that read it. The handshake, pings, limits, fragments and closes stay with uvicorn
and the WebSocket library; see `protocol/frames`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from uvicorn.server import ServerState
from websockets.protocol import OPEN

from phoneagent.cli.limits import MediaProtocol
from phoneagent.protocol.frames import FrameReader, text_frame
from phoneagent.twilio.socket import DIRECT


class DirectSocket:
    """An accepted media socket, read and written at once."""

    __slots__ = ("_over", "_protocol", "_resumed", "take", "writable")

    def __init__(self, protocol: DirectProtocol) -> None:
        self._protocol = protocol
        self._over = asyncio.get_running_loop().create_future()
        self.take: Callable[[str | bytes], None] | None = None
        """The reader of each message, from `read` on until the socket is closed."""
        self._resumed: Callable[[], None] | None = None
        self.writable = True
        """Whether the other side accepts more data."""

    def pause(self) -> None:
        """Note that the other side accepts no more for now."""
        self.writable = False

    def resume(self) -> None:
        """Note that the other side accepts more again."""
        self.writable = True
        if self._resumed is not None:
            self._resumed()

    def write(self, texts: Iterable[bytes]) -> None:
        """Write text messages.

        Raises:
            ConnectionError: the socket is closed, or closing.
        """
        protocol = self._protocol
        if protocol.conn.state is not OPEN or protocol.transport.is_closing():
            raise ConnectionError("the media socket is closed")
        protocol.transport.write(b"".join([text_frame(text) for text in texts]))

    async def read(self, take: Callable[[str | bytes], None], resumed: Callable[[], None]) -> None:
        """Pass each message to `take`, which must not raise, until the socket is closed.

        Binary messages are passed as bytes. `resumed` runs when the socket is `writable` again.
        """
        self.take, self._resumed = take, resumed
        self._protocol.pass_events_to(self)
        try:
            await self._over
        finally:
            self.take = self._resumed = None

    def put_nowait(self, event: Any) -> None:
        """Take an ASGI event. The method is named like that of the queue that this object replaces."""
        if event["type"] == "websocket.disconnect":
            self.take = None
            if not self._over.done():
                self._over.set_result(None)
        elif self.take is not None:
            text = event.get("text")
            self.take(event["bytes"] if text is None else text)


class DirectProtocol(MediaProtocol):
    """uvicorn's protocol for a media socket, which offers the socket to the app."""

    __slots__ = ("_direct", "_frames")  # uvicorn's many attributes are each looked up in a dictionary

    def __init__(self, config: Any, server_state: ServerState, *args: Any, **options: Any) -> None:
        super().__init__(config, server_state, *args, **options)
        self._frames = FrameReader(masked=True)
        self._direct = DirectSocket(self)

    async def run_asgi(self) -> None:
        self.scope["extensions"][DIRECT] = {"socket": self._direct}
        await super().run_asgi()

    def pass_events_to(self, direct: DirectSocket) -> None:
        """Pass the waiting events, and from now on each event as it comes, to `direct` instead of the queue."""
        waiting, self.queue = self.queue, direct  # type: ignore[assignment]  # uvicorn only puts into it
        while not waiting.empty():
            direct.put_nowait(waiting.get_nowait())
        paused, self.read_paused = self.read_paused, True  # uvicorn pauses after each message, unless it is paused
        if paused and not self.transport.is_closing():
            self.transport.resume_reading()
        self._frames.direct = True
        for message in (self.request, self.response):  # nothing reads them again, and they take 3 KB per call
            message.headers.clear()

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            super().data_received(data)
            return
        direct, whole = self._direct, self._frames.whole(data)
        for plain, piece in self._frames.feed(data) if whole is None else ((True, whole),):
            if self.conn.parser_exc is not None:  # the socket is closing because of an error: ignore the rest
                return
            if not plain:
                super().data_received(piece)
            elif direct.take is not None:  # otherwise the socket is closing
                try:
                    text = piece.decode()
                except UnicodeDecodeError:
                    self.refuse_text()
                else:
                    direct.take(text)
        if self._frames.more:
            self.transport.pause_reading()
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Continue reading after other connections had their turn."""
        if self.transport.is_closing():
            return
        if self._direct.take is not None or not self.read_paused:  # uvicorn may wait for the app
            self.transport.resume_reading()
        self.data_received(b"")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._direct.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._direct.resume()
