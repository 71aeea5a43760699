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
    """One side's writer. `take` returns the next messages at a moment of the loop's clock, up to a number.

    What is not taken yet stays where it is, so that a barge-in can drop it. A socket that raises `closed` ends the
    writing quietly: the side's reader knows better how it ended.
    """

    def __init__(self, take: Callable[[float, int], list[T]], closed: type[Exception]) -> None:
        self._take = take
        self._closed = closed

    def write(self, sink: Sink[T] | None, now: float) -> int:
        """Write what there is, as far as the socket takes it, and return how many messages that was. Never waits."""
        written = 0
        try:
            while sink is not None and sink.writable and (messages := self._take(now, MAX_AT_ONCE)):
                sink.write(messages)
                written += len(messages)
                if len(messages) < MAX_AT_ONCE:
                    break
        except self._closed:
            pass
        return written
