"""A session's connection whose messages reach their reader at once: no queue, no task and no wait on a frame's path.

The WebSocket library opens the connection (proxies, TLS, the handshake), answers pings, watches limits and closes.
Plain messages bypass its parser; see `protocol/frames`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import Any, Never

from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import CONNECTING, OPEN, Event

from phoneagent.model.liveness import LivingConnection
from phoneagent.protocol.frames import FrameReader, masks, text_frame

MAX_WAITING = 64
"""How many messages may wait for a reader before the connection is no longer read."""

LEAVE_SECONDS = 0.5
"""How long a connection that the server has closed may take to end."""

MAX_UNSENT_BYTES = 4 * 1024 * 1024
"""How much a server may leave unread. Writers stop long before that, so only answers to a flood of pings reach it."""

_END_OF_HEAD = b"\r\n\r\n"
_masks = masks(os.urandom)


class DirectConnection(LivingConnection):
    """A connection that passes each message to its reader as soon as it has arrived."""

    # Slots, because the library's many attributes are all looked up in a dictionary.
    __slots__ = (
        "_arrival",
        "_frames",
        "_full",
        "_head",
        "_opening",
        "_parts",
        "_resumed",
        "_take",
        "_waiting",
        "writable",
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._frames = FrameReader(masked=False)
        self._opening = True
        self._head = b""
        self._parts: list[bytes] = []
        self._waiting: list[bytes] = []
        self._full = False
        self._arrival: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], None] = self._keep
        self._resumed: Callable[[], None] | None = None
        self.writable = True
        """Whether the server accepts more data."""

    # --- reading --------------------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Return the next message. Only for use before `read`.

        Raises:
            ConnectionClosed: the connection is closed, and everything that came before is read.
        """
        while not self._waiting:
            if self.connection_lost_waiter.done():
                raise self.protocol.close_exc
            self._arrival = self.loop.create_future()
            await asyncio.wait((self._arrival, self.connection_lost_waiter), return_when=asyncio.FIRST_COMPLETED)
        message = self._waiting.pop(0)
        self._read_on()
        return message

    async def read(self, take: Callable[[bytes], None], resumed: Callable[[], None]) -> Never:
        """Pass each message to `take`, which must not raise, until the connection is lost.

        `resumed` runs when the connection is `writable` again.

        Raises:
            ConnectionClosed: the connection is closed, and everything that came before is read.
        """
        while self._waiting:
            take(self._waiting.pop(0))
        self._read_on()
        self._take, self._resumed, self._frames.direct = take, resumed, True
        try:
            await asyncio.shield(self.connection_lost_waiter)
            raise self.protocol.close_exc
        finally:
            self._take, self._resumed, self._frames.direct = self._keep, None, False

    def data_received(self, data: bytes) -> None:
        if self._opening:
            end = self._end_of_head(data)
            super().data_received(data[:end])
            data = data[end:]
            if self.protocol.state is CONNECTING:  # the response goes on, or it is a refusal with a body
                if data:
                    super().data_received(data)
                return
            self._opening = False
        self._heard_at = self.loop.time()
        whole = self._frames.whole(data)
        for plain, piece in self._frames.feed(data) if whole is None else ((True, whole),):
            if not plain:
                super().data_received(piece)
            elif self.protocol.state is OPEN:  # after a close or an error, nothing else counts
                self._take(piece)
        if self._frames.more:
            self.transport.pause_reading()
            self.loop.call_soon(self._go_on)

    def process_event(self, event: Event) -> None:
        if self.response is None or not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)
            if isinstance(event, Frame) and event.opcode is Opcode.CLOSE:
                self._leave()  # the close is answered; a server that does not hang up must not hold a call up
            return
        self._parts.append(bytes(event.data))
        if event.fin:
            message, self._parts = b"".join(self._parts), []
            self._take(message)

    def _go_on(self) -> None:
        """Continue reading after other connections have had their turn."""
        if self.transport.is_closing():
            return
        if not self._full:
            self.transport.resume_reading()
        self.data_received(b"")

    def eof_received(self) -> None:
        while self._frames.more:  # TLS reports the end although reading is paused
            self.data_received(b"")
        super().eof_received()
        self._leave()

    def _leave(self) -> None:
        """Drop a connection that the server has ended, without waiting for it to read the rest."""
        if self.paused:
            self.transport.abort()
        else:
            self.transport.close()
            self.loop.call_later(LEAVE_SECONDS, self.transport.abort)  # TLS waits for the server's own close

    def _keep(self, message: bytes) -> None:
        self._waiting.append(message)
        if len(self._waiting) >= MAX_WAITING and not self._full:
            self._full = True
            self.transport.pause_reading()
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def _read_on(self) -> None:
        if self._full and len(self._waiting) < MAX_WAITING and not self.transport.is_closing():
            self._full = False
            self.transport.resume_reading()

    def _end_of_head(self, data: bytes) -> int:
        """Return where in `data` the head of the handshake's response ends; its length if that is still to come."""
        known = len(self._head)
        end = (self._head + data).find(_END_OF_HEAD)
        self._head = (self._head + data)[-len(_END_OF_HEAD) + 1 :]
        return len(data) if end < 0 else end + len(_END_OF_HEAD) - known

    def forget_handshake(self) -> None:
        """Drop the headers of the handshake, including the key: they take 5 KB per call."""
        for message in (self.request, self.response):
            if message is not None:
                message.headers.clear()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection. Messages that have no reader are dropped: behind them, no close would be read."""
        if self._take == self._keep:
            self._take = _drop
            self._waiting.clear()
            self._read_on()
        await super().close(code, reason)

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, messages: Iterable[bytes]) -> None:
        """Write text messages at once.

        Raises:
            ConnectionError: the connection is closed, or closing.
        """
        if self.protocol.state is not OPEN or self.transport.is_closing():
            raise ConnectionError("the connection is closing")
        self.transport.write(b"".join([text_frame(message, next(_masks)) for message in messages]))

    def send_data(self) -> None:
        super().send_data()
        if self.paused and self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.writable = False

    def resume_writing(self) -> None:
        super().resume_writing()
        self.writable = True
        if self._resumed is not None:
            self._resumed()


def _drop(message: bytes) -> None:
    """Drop a message that nothing reads any more."""
