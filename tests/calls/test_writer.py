"""Writing to a socket at once while it takes everything, and in one task where it does not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from phoneagent.calls.writer import SocketWriter

pytestmark = pytest.mark.anyio


class Closed(Exception):
    """The socket is closed."""


class Socket:
    """A socket that takes everything while it is `open`, waits while it is not, and may be closed or broken."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.got: list[str] = []
        self.waits = 0
        self.breaks: Exception | None = None
        self.over: list[str] = []
        """The messages whose sending has ended, in whatever way."""

    async def send(self, message: str) -> None:
        try:
            if self.breaks is not None:
                raise self.breaks
            if not self.open.is_set():
                self.waits += 1
                await self.open.wait()
                if self.breaks is not None:
                    raise self.breaks
            self.got.append(message)
        finally:
            self.over.append(message)


class Rig:
    """A writer between a queue and a socket."""

    def __init__(self, *messages: str) -> None:
        self.queue = deque(messages)
        self.socket = Socket()
        self.times: list[float] = []
        self.faults: list[BaseException] = []
        self.watched: list[asyncio.Task[None]] = []
        self.writer: SocketWriter[str] = SocketWriter(self.take, self.socket.send, closed=Closed, watch=self.watch)

    def take(self, now: float) -> str | None:
        self.times.append(now)
        return self.queue.popleft() if self.queue else None

    def watch(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        def look(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.faults.append(error)

        self.watched.append(task)
        task.add_done_callback(look)
        return task

    def write(self, *messages: str) -> int:
        self.queue.extend(messages)
        return self.writer.write(1.0)

    async def settle(self) -> None:
        assert self.writer.task is not None
        async with asyncio.timeout(5):
            await asyncio.wait([self.writer.task])
        await asyncio.sleep(0)  # for those who watch it


# --- a socket that takes everything ---


async def test_everything_is_written_at_once_in_order_and_without_a_task() -> None:
    rig = Rig()
    before = asyncio.all_tasks()
    assert rig.write("a", "b", "c") == 3
    assert rig.socket.got == ["a", "b", "c"]
    assert rig.writer.task is None
    assert asyncio.all_tasks() == before
    assert rig.times == [1.0] * 4  # all of it is written at that moment


async def test_where_there_is_nothing_nothing_is_written() -> None:
    assert Rig().write() == 0


def _in_a_callback(loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> asyncio.Future[Any]:
    """Run something in the loop, but in no task, as a timer does."""
    done = loop.create_future()

    def run() -> None:
        assert asyncio.current_task() is None
        done.set_result(work())

    loop.call_soon(run)
    return done


async def test_it_writes_from_a_callback_which_is_no_task() -> None:
    rig = Rig()
    assert await _in_a_callback(asyncio.get_running_loop(), lambda: rig.write("a", "b")) == 2
    assert rig.socket.got == ["a", "b"]


# --- a socket that does not ---


async def test_one_task_writes_what_the_socket_does_not_take_and_what_comes_meanwhile_in_order() -> None:
    rig = Rig("a")
    rig.write()
    rig.socket.open.clear()
    assert rig.write("b", "c") == 0
    task = rig.writer.task
    assert task is not None
    assert rig.socket.got == ["a"]
    for message in ("d", "e"):
        await asyncio.sleep(0)
        assert rig.write(message) == 0
    assert list(rig.queue) == ["c", "d", "e"]  # what is unsent is not taken: it may be dropped yet
    assert rig.writer.task is task
    assert rig.watched == [task]
    rig.socket.open.set()
    await rig.settle()
    assert rig.socket.got == ["a", "b", "c", "d", "e"]
    assert rig.socket.waits == 1


async def test_what_is_written_before_it_waits_counts() -> None:
    rig = Rig()

    async def send(message: str) -> None:
        if message == "c":
            rig.socket.open.clear()
        await rig.socket.send(message)

    rig.writer = SocketWriter(rig.take, send, closed=Closed, watch=rig.watch)
    assert rig.write("a", "b", "c") == 2
    rig.socket.open.set()
    await rig.settle()
    assert rig.socket.got == ["a", "b", "c"]


async def test_it_waits_from_a_callback_which_is_no_task() -> None:
    rig = Rig()
    rig.socket.open.clear()
    assert await _in_a_callback(asyncio.get_running_loop(), lambda: rig.write("a", "b")) == 0
    rig.socket.open.set()
    await rig.settle()
    assert rig.socket.got == ["a", "b"]


async def test_a_send_may_wait_several_times_and_for_nothing_at_all() -> None:
    rig = Rig()

    async def send(message: str) -> None:
        await asyncio.sleep(0)
        await rig.socket.send(message)
        await asyncio.sleep(0)

    rig.writer = SocketWriter(rig.take, send, closed=Closed, watch=rig.watch)
    rig.write("a", "b")
    await rig.settle()
    assert rig.socket.got == ["a", "b"]
    assert rig.faults == []


async def test_it_waits_for_a_future_that_is_done_before_its_task_has_begun() -> None:
    rig = Rig()
    rig.socket.open.clear()
    rig.write("a")
    rig.socket.open.set()
    await rig.settle()
    assert rig.socket.got == ["a"]


async def test_after_it_has_waited_it_writes_at_once_again() -> None:
    rig = Rig()
    rig.socket.open.clear()
    rig.write("a")
    rig.socket.open.set()
    await rig.settle()
    assert rig.write("b") == 1
    assert rig.writer.task is None
    assert rig.socket.got == ["a", "b"]


async def test_what_is_written_later_counts_as_written_later() -> None:
    rig = Rig()
    rig.socket.open.clear()
    rig.write("a", "b")
    rig.socket.open.set()
    before = asyncio.get_running_loop().time()
    await rig.settle()
    first, *later = rig.times
    assert first == 1.0
    assert len(later) == 2
    assert all(time >= before for time in later)


async def test_a_timeout_within_a_send_that_waits_is_its_own_and_does_not_touch_the_task_that_wrote() -> None:
    """A send runs up to its first wait in whatever task flushes, and a timeout belongs to the task it is begun in."""
    rig = Rig()
    wrote = asyncio.Event()

    async def send(message: str) -> None:
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        wrote.set()

    rig.writer = SocketWriter(rig.take, send, closed=Closed, watch=rig.watch)
    rig.write("a")
    async with asyncio.timeout(5):
        await wrote.wait()
    await rig.settle()
    assert rig.faults == []


# --- a socket that is closed, or broken ---


async def test_a_socket_that_is_closed_is_quiet() -> None:
    rig = Rig()
    rig.socket.breaks = Closed()
    assert rig.write("a", "b") == 0
    assert rig.writer.task is None
    assert list(rig.queue) == ["b"]


async def test_a_socket_that_closes_while_it_is_waited_for_is_quiet() -> None:
    rig = Rig()
    rig.socket.open.clear()
    rig.write("a", "b")
    rig.socket.breaks = Closed()
    rig.socket.open.set()
    await rig.settle()
    assert rig.faults == []
    assert rig.socket.got == []
    assert list(rig.queue) == ["b"]


@pytest.mark.parametrize("waits", [False, True])
async def test_an_unforeseen_fault_is_that_of_its_task_and_not_of_the_code_that_wrote(waits: bool) -> None:
    rig = Rig()
    if waits:
        rig.socket.open.clear()
        rig.write("a")
    rig.socket.breaks = LookupError()
    rig.socket.open.set()
    assert rig.write("b") == 0
    await rig.settle()
    assert [type(fault) for fault in rig.faults] == [LookupError]


async def test_a_message_that_cannot_be_taken_is_a_fault_too() -> None:
    rig = Rig()

    def take(now: float) -> str | None:
        raise LookupError

    rig.writer = SocketWriter(take, rig.socket.send, closed=Closed, watch=rig.watch)
    assert rig.write() == 0
    await rig.settle()
    assert [type(fault) for fault in rig.faults] == [LookupError]


# --- the end of the call ---


@pytest.mark.parametrize("begun", [True, False])
async def test_a_task_that_is_cancelled_ends_its_send(begun: bool) -> None:
    rig = Rig()
    rig.socket.open.clear()
    rig.write("a", "b")
    assert rig.writer.task is not None
    if begun:
        await asyncio.sleep(0)
    rig.writer.task.cancel()
    await rig.settle()
    assert rig.writer.task.cancelled()
    assert rig.socket.over == ["a"]
    rig.socket.open.set()
    await asyncio.sleep(0)
    assert rig.socket.got == []
    assert list(rig.queue) == ["b"]


async def test_a_send_that_ends_well_although_it_is_cancelled_ends_the_task_well() -> None:
    rig = Rig()
    rig.socket.open.clear()

    async def send(message: str) -> None:
        try:
            await rig.socket.send(message)
        except asyncio.CancelledError:
            raise Closed from None

    rig.writer = SocketWriter(rig.take, send, closed=Closed, watch=rig.watch)
    rig.write("a")
    await asyncio.sleep(0)
    assert rig.writer.task is not None
    rig.writer.task.cancel()
    await rig.settle()
    assert not rig.writer.task.cancelled()
    assert rig.faults == []
