"""The writer of one side of a call: it writes at once, as long as its socket accepts everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from phoneagent.protocol import carrier

T = TypeVar("T")
_Message = TypeVar("_Message", contravariant=True)

MAX_AT_ONCE = 16
"""How many messages are written together before the socket is asked whether it accepts more."""


class Sink(Protocol[_Message]):
    """A socket to write to."""

    @property
    def writable(self) -> bool:
        """Whether the other side accepts writes."""

    def write(self, messages: Sequence[_Message]) -> None:
        """Write messages at once, or raise if the socket is closed."""


class CallerSocket(Protocol):
    """The media socket of a call, in the carrier's neutral messages."""

    async def read(self, take: Callable[[str | bytes], None], resumed: Callable[[], None]) -> None:
        """Pass each message, undecoded, to `take`, until the socket is closed; `resumed` tells when it is writable."""

    def decode(self, raw: str | bytes) -> carrier.FromCarrier | None:
        """Return a message, or None for one that no call needs; raise ProtocolError for one that makes no sense."""

    @property
    def writable(self) -> bool:
        """Whether the carrier accepts writes."""

    def write(self, messages: Iterable[carrier.ToCarrier]) -> None:
        """Write messages at once; raise OSError if the socket is closed."""

    async def close(self) -> None:
        """Close the socket."""


class TappedSocket:
    """A caller's socket through which all messages of another one pass. Subclasses examine them."""

    def __init__(self, socket: CallerSocket) -> None:
        self.socket = socket

    @property
    def writable(self) -> bool:
        """Whether the carrier accepts writes."""
        return self.socket.writable

    async def read(self, take: Callable[[str | bytes], None], resumed: Callable[[], None]) -> None:
        """Pass each message to `take`, until the socket is closed."""
        await self.socket.read(take, resumed)

    def decode(self, raw: str | bytes) -> carrier.FromCarrier | None:
        """Return a message."""
        return self.socket.decode(raw)

    def write(self, messages: Iterable[carrier.ToCarrier]) -> None:
        """Write messages at once."""
        self.socket.write(messages)

    async def close(self) -> None:
        """Close the socket."""
        await self.socket.close()


def untapped(socket: CallerSocket, kind: type[TappedSocket]) -> CallerSocket:
    """Return a caller's socket without the tap of this kind, wherever it is among the others."""
    if isinstance(socket, kind):
        return socket.socket
    if isinstance(socket, TappedSocket):
        socket.socket = untapped(socket.socket, kind)
    return socket


class SocketWriter(Generic[T]):
    """One side's writer. `take` returns the next messages at a moment of the loop's clock, up to a number.

    Messages that are not taken yet stay where they are, so that a barge-in can drop them. A socket that raises `closed`
    ends the writing quietly: the task that reads that side reports why.
    """

    def __init__(self, take: Callable[[float, int], list[T]], closed: type[Exception]) -> None:
        self._take = take
        self._closed = closed

    def write(self, sink: Sink[T] | None, now: float) -> int:
        """Write as many messages as the socket accepts, and return how many. Never waits."""
        if sink is None:
            return 0
        written, number = 0, MAX_AT_ONCE
        try:
            while number == MAX_AT_ONCE and sink.writable and (messages := self._take(now, MAX_AT_ONCE)):
                sink.write(messages)
                number = len(messages)
                written += number
        except self._closed:
            pass
        return written
