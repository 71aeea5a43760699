"""Connection passing between workers: each request is answered by the process that it belongs to.

The workers share one listening socket, and the system gives a connection to any of them. A media socket belongs to the
worker that has the call's model session; its token names that worker. A new call belongs to the worker with the fewest
calls. So a worker passes on a connection whose next request belongs to another one: it sends the descriptor over a Unix
socket, together with the bytes that it has already read. The TCP connection is not affected.

A request is passed at most once, before any of it is parsed. If it cannot be passed, the worker that received it
answers it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing.context import SpawnContext
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from uvicorn.server import ServerState

from phoneagent.server import VOICE_PATH
from phoneagent.twilio import BROWSER_MEDIA_PATH, MEDIA_PATH
from phoneagent.twilio.signatures import worker_of

log = logging.getLogger("phoneagent.passing")

MAX_PASSED_BYTES = 32 * 1024
"""How much of a connection may already have been read. Twilio's request heads are smaller than 2 KiB."""

MAX_UNDER_WAY = 64
"""How many connections a worker may have sent to another one that has not taken them yet."""

MAX_TAKEN = 16
"""How many connections a worker takes in one turn of its loop, so that live calls do not wait for all of them."""

MAX_DESCRIPTORS = 16
"""The space for descriptors in a datagram. It carries one; macOS would leak those that do not fit."""

MAX_SILENT_SECONDS = 1.0
"""A worker that has not published its number of calls for this long is held up, for example by a tool that blocks."""

BUFFER_BYTES = 512 * 1024
"""The size of the sockets' buffers. macOS's default takes no datagram over 2 KiB."""

DRAINING, ABSENT = -1, -2
"""Values in place of a number of calls: the worker takes no new calls, or no connections at all."""

KEEPS = sys.platform == "darwin"
"""Whether a descriptor must stay open here until the other process has it: macOS may otherwise close it there too."""

_HEAD = struct.Struct("!HQ")  # the sender, and the number of this connection among those it sent to this worker
_VOICE, _MEDIA = VOICE_PATH.encode(), (MEDIA_PATH.encode(), BROWSER_MEDIA_PATH.encode())
_STREAMS = (socket.AF_INET, socket.AF_INET6)


class Shared:
    """What the workers share: the Unix sockets for connections, and numbers in shared memory.

    The parent makes it and pickles it for each worker. It outlives a worker, so a replacement finds what was sent
    in the meantime. Each number has one writer, so none needs a lock, which a killed process might hold.
    """

    def __init__(self, count: int, context: SpawnContext) -> None:
        self.count = count
        self.inboxes: list[socket.socket] = []
        """For each worker, the socket that it receives from."""
        self.outboxes: list[socket.socket] = []
        """For each worker, the socket that the others send to."""
        for _ in range(count):
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            for each in pair:
                each.setblocking(False)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            self.inboxes.append(pair[0])
            self.outboxes.append(pair[1])
        self.loads = context.RawArray("i", [ABSENT] * count)
        """The number of calls of each worker, or DRAINING or ABSENT."""
        self.seen = context.RawArray("d", count)
        """When each worker last published its number of calls, on the system's monotonic clock."""
        self.sent = context.RawArray("Q", count * count)
        """How many connections each worker has sent to each other one; see `cell`."""
        self.taken = context.RawArray("Q", count * count)
        """How many of these have been taken."""

    def close(self) -> None:
        """Close this process's descriptors of the sockets."""
        for each in (*self.inboxes, *self.outboxes):
            each.close()

    def cell(self, sender: int, receiver: int) -> int:
        """Return the index in `sent` and `taken` for a pair of workers."""
        return sender * self.count + receiver

    def under_way(self, sender: int, receiver: int) -> int:
        """Return how many connections one worker has sent that the other has not taken."""
        cell = self.cell(sender, receiver)
        difference: int = self.sent[cell] - self.taken[cell]
        return max(0, difference)

    def load(self, worker: int) -> int:
        """Return how many calls a worker has or is about to get, or DRAINING or ABSENT."""
        own: int = self.loads[worker]
        return own if own < 0 else own + sum(self.under_way(sender, worker) for sender in range(self.count))

    def least_loaded(self) -> int | None:
        """Return the worker with the fewest calls, None if all are draining or absent, or held up."""
        since = time.monotonic() - MAX_SILENT_SECONDS
        live = [worker for worker in range(self.count) if self.seen[worker] >= since]
        loads = [(load, worker) for worker in live if (load := self.load(worker)) >= 0]
        return min(loads)[1] if loads else None

    def abandon(self, worker: int) -> None:
        """Mark a worker as absent, and send the connections that wait for it to another one, if there is one."""
        self.loads[worker] = ABSENT
        while True:
            draining = (each for each in range(self.count) if self.loads[each] == DRAINING)
            if (other := self.least_loaded()) is None and (other := next(draining, None)) is None:
                return  # its replacement takes them
            try:
                data, descriptors, _, _ = socket.recv_fds(self.inboxes[worker], BUFFER_BYTES, MAX_DESCRIPTORS)
            except OSError:  # the socket is empty
                return
            try:
                socket.send_fds(self.outboxes[other], [_HEAD.pack(self.count, 0), data[_HEAD.size :]], descriptors)
            except OSError as error:
                log.warning("a connection of a worker that ended is lost: %s", error)
            for each in descriptors:
                os.close(each)


class Taker(Protocol):
    """An asyncio protocol that can take a connection from another worker."""

    def connection_made(self, transport: asyncio.Transport) -> None: ...

    def take(self, received: bytes) -> None:
        """Serve a connection from these bytes on; its first request is not passed again."""


class Passer:
    """One worker's side: passes connections to the others, takes theirs, and tells them how many calls it has.

    Args:
        number: the number of this worker.
        carried: returns how many calls it has.
        draining: returns whether it takes no new ones.
        keeps: see KEEPS.
    """

    def __init__(
        self,
        shared: Shared,
        number: int,
        *,
        carried: Callable[[], int],
        draining: Callable[[], bool],
        keeps: bool = KEEPS,
    ) -> None:
        self.answering = 0
        """Requests for new calls that are being answered here."""
        self._shared = shared
        self._number = number
        self._carried = carried
        self._draining = draining
        self._keeps = keeps
        self._kept: list[tuple[int, int, int]] = []
        self._make: Callable[[], Taker] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        for sender in range(shared.count):  # whatever the previous worker did not count
            cell = shared.cell(sender, number)
            shared.taken[cell] = shared.sent[cell]

    def open(self, make: Callable[[], Taker]) -> None:
        """Take connections from now on; `make` creates the protocol of each."""
        self._make = make
        asyncio.get_running_loop().add_reader(self._inbox.fileno(), self._receive)
        self.publish()

    def close(self) -> None:
        """Take no more connections. Those that still arrive go to another worker (`Shared.abandon`)."""
        if self._make is not None:
            self._make = None
            self._shared.loads[self._number] = ABSENT
            asyncio.get_running_loop().remove_reader(self._inbox.fileno())
        for _, _, descriptor in self._kept:
            os.close(descriptor)
        self._kept.clear()

    def publish(self) -> None:
        """Tell the other workers how many calls this one has."""
        if self._make is None:
            return
        self._shared.loads[self._number] = DRAINING if self._draining() else self._carried() + self.answering
        self._shared.seen[self._number] = time.monotonic()
        waiting = []
        for worker, number, descriptor in self._kept:
            if self._shared.taken[self._shared.cell(self._number, worker)] >= number:
                os.close(descriptor)
            else:
                waiting.append((worker, number, descriptor))
        self._kept = waiting

    @property
    def _inbox(self) -> socket.socket:
        return self._shared.inboxes[self._number]

    # --- from here to another worker ---

    def choose(self, line: bytes) -> int | None:
        """Return the other worker that a request belongs to, given its first line; None if it is answered here."""
        method, _, rest = line.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if is_new_call(line):
            self.publish()
            other = self._shared.least_loaded()
            own = self._shared.load(self._number)
            return other if other is not None and (own < 0 or self._shared.load(other) < own) else None
        if method != b"GET" or not path.startswith(_MEDIA):
            return None
        other = worker_of(path.rpartition(b"/")[2].decode("latin-1"))
        if other is None or other == self._number or other >= self._shared.count:
            return None
        return None if self._shared.loads[other] == ABSENT else other

    def pass_connection(self, worker: int, transport: asyncio.Transport, received: bytes) -> bool:
        """Pass a connection to another worker, with the bytes that were read; return whether that was possible.

        If so, this process drops the connection without closing it. If not, nothing has changed.
        """
        if len(received) > MAX_PASSED_BYTES or self._shared.under_way(self._number, worker) >= MAX_UNDER_WAY:
            return False
        if transport.is_closing() or transport.get_write_buffer_size() or transport.get_extra_info("sslcontext"):
            return False
        cell = self._shared.cell(self._number, worker)
        number = self._shared.sent[cell] + 1
        transport.pause_reading()  # no byte may be read here that the other process then misses
        kept = -1
        try:
            descriptor = transport.get_extra_info("socket").fileno()
            if self._keeps:
                kept = os.dup(descriptor)
            socket.send_fds(self._shared.outboxes[worker], [_HEAD.pack(self._number, number), received], [descriptor])
        except OSError as error:
            if kept >= 0:
                os.close(kept)
            transport.resume_reading()
            log.debug("a connection is served here, because it cannot be passed to worker %d: %s", worker, error)
            return False
        self._shared.sent[cell] = number
        if kept >= 0:
            self._kept.append((worker, number, kept))
        transport.abort()  # it closes this process's descriptor; the connection lives on in the other process
        log.debug("passed a connection to worker %d", worker)
        return True

    # --- from another worker to here ---

    def _receive(self) -> None:
        for _ in range(MAX_TAKEN):
            try:
                size = _HEAD.size + MAX_PASSED_BYTES
                data, descriptors, flags, _ = socket.recv_fds(self._inbox, size, MAX_DESCRIPTORS)
            except OSError:  # the socket is empty
                return
            self._take(data, descriptors, flags)

    def _take(self, data: bytes, descriptors: list[int], flags: int) -> None:
        for each in descriptors:
            os.set_inheritable(each, False)
        sender, number = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (self._shared.count, 0)
        if sender < self._shared.count:
            self._shared.taken[self._shared.cell(sender, self._number)] = number
        whole = len(data) > _HEAD.size and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        if not whole or len(descriptors) != 1 or (connection := _stream(descriptors[0])) is None:
            for each in descriptors:
                os.close(each)
            log.warning("worker %d got a connection that it cannot take: it is closed", self._number)
            return
        log.debug("took a connection from worker %d", sender)
        task = asyncio.get_running_loop().create_task(self._serve(connection, data[_HEAD.size :]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket, received: bytes) -> None:
        if self._make is None:  # the worker has just stopped
            connection.close()
            return
        first = _First(self._make(), received)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: first, connection)
        except OSError as error:  # its client is gone
            connection.close()
            log.debug("a connection from another worker is gone: %s", error)


class _First(asyncio.Protocol):
    """The beginning of a connection from another worker: the bytes that were read there come before all others."""

    def __init__(self, protocol: Taker, received: bytes) -> None:
        self._protocol = protocol
        self._received = received

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        protocol: Any = self._protocol
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if not transport.is_closing():
            protocol.take(self._received)


def is_new_call(line: bytes) -> bool:
    """Return whether the first line of a request is that of a new call's webhook."""
    method, _, rest = line.partition(b" ")
    return method in (b"GET", b"POST") and rest.partition(b" ")[0].partition(b"?")[0] == _VOICE


def _stream(descriptor: int) -> socket.socket | None:
    """Return the socket of a descriptor, None if it is not a TCP connection."""
    try:
        made = socket.socket(fileno=descriptor)
    except OSError:
        return None
    if made.family in _STREAMS and made.type == socket.SOCK_STREAM:
        made.setblocking(False)
        return made
    made.detach()
    return None


_passers: WeakKeyDictionary[ServerState, Passer] = WeakKeyDictionary()


def attach(state: ServerState, passer: Passer) -> None:
    """Let a server's connections be passed."""
    _passers[state] = passer


def find(state: ServerState) -> Passer | None:
    """Return the passer of a server's connections, None if it has none."""
    return _passers.get(state)
