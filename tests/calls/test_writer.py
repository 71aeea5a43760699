"""Writing to a socket at once, as far as it takes what it is sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import pytest

from phoneagent.bridge.caller import CallerAudio
from phoneagent.calls.listening import Tap
from phoneagent.calls.writer import MAX_AT_ONCE, SocketWriter, untapped
from tests.calls.shell import Caller


class Closed(Exception):
    """The socket is closed."""


class Socket:
    """A socket that takes `room` messages, and may be closed."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.got: list[list[str]] = []
        self.breaks: Exception | None = None

    @property
    def writable(self) -> bool:
        return self.room > 0

    def write(self, messages: Sequence[str]) -> None:
        if self.breaks is not None:
            raise self.breaks
        self.got.append(list(messages))
        self.room -= len(messages)


class Rig:
    """A writer between a queue and a socket."""

    def __init__(self, socket: Socket | None) -> None:
        self.queue: deque[str] = deque()
        self.times: list[float] = []
        self.socket = socket
        self.writer: SocketWriter[str] = SocketWriter(self.take, Closed)

    def take(self, now: float, limit: int) -> list[str]:
        self.times.append(now)
        return [self.queue.popleft() for _ in range(min(limit, len(self.queue)))]

    def write(self, *messages: str) -> int:
        self.queue.extend(messages)
        return self.writer.write(self.socket, 1.0)


def test_everything_is_written_together_in_order() -> None:
    rig = Rig(socket := Socket())
    assert rig.write("a", "b", "c") == 3
    assert socket.got == [["a", "b", "c"]]
    assert set(rig.times) == {1.0}  # all of it is written at that moment


def test_where_there_is_nothing_nothing_is_written() -> None:
    rig = Rig(socket := Socket())
    assert rig.write() == 0
    assert socket.got == []


def test_without_a_socket_nothing_is_taken() -> None:
    rig = Rig(None)
    assert rig.write("a") == 0
    assert list(rig.queue) == ["a"]


def test_a_socket_is_asked_again_after_so_many_messages() -> None:
    rig = Rig(socket := Socket(room=1))
    assert rig.write(*"x" * (MAX_AT_ONCE + 3)) == MAX_AT_ONCE
    assert list(rig.queue) == ["x"] * 3  # what is unsent is not taken: it may be dropped yet
    socket.room = 100
    assert rig.write() == 3


def test_a_socket_that_takes_nothing_is_left_alone() -> None:
    rig = Rig(socket := Socket(room=0))
    assert rig.write("a", "b") == 0
    assert list(rig.queue) == ["a", "b"]
    assert socket.got == []


def test_a_socket_that_is_closed_is_quiet() -> None:
    rig = Rig(socket := Socket())
    socket.breaks = Closed()
    assert rig.write("a") == 0


def test_an_unforeseen_fault_is_raised() -> None:
    rig = Rig(socket := Socket())
    socket.breaks = LookupError()
    with pytest.raises(LookupError):
        rig.write("a")


class Other(Tap):
    """Another tap, as a recording's."""


def test_a_tap_is_taken_out_wherever_it_is() -> None:
    line, audio = Caller(), CallerAudio()
    assert untapped(line, Other) is line
    assert untapped(Other(line, audio), Other) is line
    outer = Tap(Other(line, audio), audio)
    assert untapped(outer, Other) is outer
    assert outer.socket is line
