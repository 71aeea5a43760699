"""The writer of one side of a call: at once, for as long as its socket takes everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
_Message = TypeVar("_Message", contravariant=True)

MAX_AT_ONCE = 16
"""How many messages are written together, before the socket is asked whether it takes more."""


class Sink(Protocol[_Message]):
    """A socket to write to."""

    @property
    def writable(self) -> bool:
        """Whether the other side takes what it is sent."""

    def write(self, messages: Sequence[_Message]) -> None:
        """Write messages at once, or raise that the socket is closed."""


class SocketWriter(Generic[T]):
    """One side's writer. `take` returns the next message at a moment of the loop's clock, None if there is none.
    `sink` returns the socket of the moment.

    What is not taken yet stays where it is, so that a barge-in can drop it. A socket that raises `closed` ends the
    writing quietly: the side's reader knows better how it ended.
    """

    def __init__(
        self, take: Callable[[float], T | None], sink: Callable[[], Sink[T] | None], closed: type[Exception]
    ) -> None:
        self._take = take
        self._sink = sink
        self._closed = closed

    def write(self, now: float) -> int:
        """Write what there is, as far as the socket takes it, and return how many messages that was. Never waits."""
        take, sink, written = self._take, self._sink(), 0
        if sink is None:
            return 0
        try:
            while sink.writable and (message := take(now)) is not None:
                messages = [message]
                while len(messages) < MAX_AT_ONCE and (message := take(now)) is not None:
                    messages.append(message)
                sink.write(messages)
                written += len(messages)
        except self._closed:
            pass
        return written
