"""Limits of the server: on the size and duration of a request, and on how many connections and files are open.

uvicorn has none of these, so one stranger could hold up every live call, and a thousand silent ones could keep new
calls out. The classes here extend uvicorn's, h11 for HTTP and websockets for media sockets, and `phoneagent serve`
configures them by name. A user who runs `uvicorn main:app` by hand gets uvicorn's limits instead.

A connection is *silent* while it has not sent a whole request, or does not read its answer. A silent connection ends
after `request_seconds`. It ends earlier if the server is full: the oldest silent one makes room for a new one; a live
call never does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from asyncio import TimerHandle
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode
from websockets.protocol import OPEN

from phoneagent.cli import passing
from phoneagent.console import campaigns

if sys.platform != "win32":  # Windows has no such limit
    import resource

log = logging.getLogger("phoneagent.serve")

MAX_HEAD_BYTES = 16 * 1024
"""The maximum size of a request's head. Twilio's are smaller than 2 KiB."""

MAX_REQUEST_BYTES = campaigns.MAX_BODY_BYTES + 64 * 1024
"""The maximum size of a whole request. The app bounds each body itself: a webhook's is smaller than 64 KiB."""

REQUEST_SECONDS = 10.0
"""How long a whole request may take to arrive, a WebSocket to open, and an answer to be read."""

MAX_FILES = 65536
"""The limit on open files to request from the system; sockets count as files."""

ENOUGH_FILES = 4096
"""Below this limit, the log says how many connections it allows."""

OWN_FILES = 64
"""Files that are not connections: the database, the log, the event loop."""

FILES_PER_CONNECTION = 3
"""A call has its media socket and its model session, and for a moment the session that replaces it."""

MAX_LINE_BYTES = 2048
"""How far the first line of a request is read to see which worker it belongs to."""

TELL_SECONDS = 60.0
"""How often the log may say that the server is full."""

MAX_UNSENT_BYTES = 1024 * 1024
"""How much the peer of a media socket may leave unread. A call stops writing long before, so only the answers to a
flood of pings reach this size."""

_UNREADABLE = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class SilentConnections:
    """The silent connections of one server, oldest first.

    Args:
        max_connections: how many connections the server may have in all.
        seconds: how long a connection may be silent.
    """

    def __init__(self, max_connections: int, seconds: float) -> None:
        self.max_connections = max_connections
        self._seconds = seconds
        self._silent: dict[asyncio.Transport, tuple[Callable[[], bool], TimerHandle]] = {}
        self._told_at = float("-inf")

    def add(self, transport: asyncio.Transport, still: Callable[[], bool]) -> None:
        """Watch a connection from now on. It is cut when its time is up, if `still()` says that it is silent."""
        self.discard(transport)
        timer = asyncio.get_running_loop().call_later(self._seconds, self._cut, transport)
        self._silent[transport] = (still, timer)

    def discard(self, transport: asyncio.Transport) -> None:
        """Stop watching a connection."""
        if (entry := self._silent.pop(transport, None)) is not None:
            entry[1].cancel()

    def make_room(self) -> bool:
        """Cut the oldest silent connection; return whether there was one."""
        if (now := time.monotonic()) >= self._told_at + TELL_SECONDS:
            self._told_at = now
            log.warning(
                "all %d connections are taken: the oldest silent one goes for each new one", self.max_connections
            )
        while self._silent:
            if self._cut(next(iter(self._silent))):
                return True
        return False

    def _cut(self, transport: asyncio.Transport) -> bool:
        still, timer = self._silent.pop(transport)
        timer.cancel()
        if silent := still():
            transport.abort()
        return silent


_silent_connections: WeakKeyDictionary[ServerState, SilentConnections] = WeakKeyDictionary()


class RequestProtocol(H11Protocol):
    """HTTP with limits. h11 copies no byte twice, however slowly a header arrives, and bounds incomplete events."""

    max_connections: int | None = None
    """None means as many as the limit on open files allows."""
    request_seconds = REQUEST_SECONDS

    def __init__(self, config: Any, server_state: ServerState, *args: Any, **options: Any) -> None:
        super().__init__(config, server_state, *args, **options)
        if server_state not in _silent_connections:
            number = max_connections() if self.max_connections is None else self.max_connections
            _silent_connections[server_state] = SilentConnections(number, self.request_seconds)
        self._silent = _silent_connections[server_state]
        self._passer = passing.find(server_state)
        self._came_from_worker = self._is_new_call = False
        self._received_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        full = len(self.connections) >= self._silent.max_connections
        super().connection_made(transport)
        if full and not self._silent.make_room():
            transport.abort()
        else:
            self._silent.add(transport, self._is_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._silent.discard(self.transport)
        self._answered()
        super().connection_lost(exc)

    def take(self, received: bytes) -> None:
        """Serve a connection that another worker passed, from these bytes on."""
        self._came_from_worker = True
        self.data_received(received)

    def data_received(self, data: bytes) -> None:
        if self._passer is not None and self._pass(self._passer, data):
            return
        self._received_bytes += len(data)
        if self._received_bytes > MAX_REQUEST_BYTES:
            self.transport.abort()
            return
        if self.conn.their_state is h11.IDLE:  # h11 bounds only incomplete events, so it first gets no more than a head
            room = MAX_HEAD_BYTES - len(self.conn.trailing_data[0])
            super().data_received(data[:room])
            data = data[room:]
        if data and not self.transport.is_closing():
            protocol = self.transport.get_protocol()
            if protocol is self:
                super().data_received(data)
            else:
                protocol.data_received(data)  # type: ignore[attr-defined]  # frames that came with the head

    def _pass(self, passer: passing.Passer, data: bytes) -> bool:
        """Pass the connection to the worker that its next request belongs to; return whether that was done."""
        if self.conn.their_state is not h11.IDLE or self.conn.our_state is not h11.IDLE:
            return False
        begun, _ = self.conn.trailing_data
        if b"\n" in begun:  # the first line came before
            return False
        received = begun + data
        line, end, _ = received[:MAX_LINE_BYTES].partition(b"\n")
        if not end:
            return False
        came_from_worker, self._came_from_worker = self._came_from_worker, False
        if not came_from_worker and (worker := passer.choose(line)) is not None:
            self._unset_keepalive_if_required()
            if passer.pass_connection(worker, self.transport, received):
                return True
        if passing.is_new_call(line):
            self._is_new_call = True
            passer.answering += 1
            passer.publish()
        return False

    def _answered(self) -> None:
        """Note that a request for a new call is answered."""
        if self._is_new_call and self._passer is not None:
            self._is_new_call = False
            self._passer.answering -= 1
            self._passer.publish()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._answered()
        self._silent.discard(self.transport)
        super().handle_websocket_upgrade(event)
        media = self.transport.get_protocol()
        assert isinstance(media, WebSocketsSansIOProtocol)
        if not media.handshake_initiated:  # websockets cannot read it, and uvicorn would never answer
            self.transport.write(_UNREADABLE)
            self.transport.close()
        elif early := self.conn.trailing_data[0]:
            media.data_received(early)
        self._silent.add(self.transport, lambda: not media.handshake_complete)

    def send_400_response(self, msg: str) -> None:
        if self.cycle is None or self.conn.our_state is h11.IDLE:
            super().send_400_response(msg)
        else:  # the app is answering this request, or has done so
            self.cycle.disconnected = True
            self.transport.abort()

    def on_response_complete(self) -> None:
        self._received_bytes = 0
        self._answered()
        self._silent.add(self.transport, self._is_silent)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._silent.add(self.transport, self._is_silent)

    def _is_silent(self) -> bool:
        answering = self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete
        return not answering or self.flow.write_paused


class MediaProtocol(WebSocketsSansIOProtocol):
    """A media socket that a `RequestProtocol` watches until it is open, and again when the app is done with it."""

    def __init__(self, config: Any, server_state: ServerState, *args: Any, **options: Any) -> None:
        super().__init__(config, server_state, *args, **options)
        self._silent = _silent_connections[server_state]

    def connection_lost(self, exc: Exception | None) -> None:
        self._silent.discard(self.transport)
        super().connection_lost(exc)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:  # uvicorn would log a traceback
                self.refuse_text()
                return
        super().send_receive_event_to_app()

    def refuse_text(self) -> None:
        """Close the socket because a text message is not UTF-8."""
        self.frames = []
        self.conn.send_close(CloseCode.INVALID_DATA)
        self.handle_parser_exception()

    def schedule_ping(self) -> None:
        # uvicorn shortens the pause by the latest round trip. After one of 20 s, it would ping without any pause.
        self.last_ping_rtt = 0.0
        super().schedule_ping()

    def shutdown(self) -> None:
        if self.handshake_complete and not self.close_sent and self.conn.state is not OPEN:
            self.stop_keepalive()  # the peer has closed it, and cannot be sent another close
            self.transport.close()
        else:
            super().shutdown()

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.transport.abort()

    async def run_asgi(self) -> None:
        await super().run_asgi()
        if not self.disconnected:  # a peer that reads nothing would keep the socket forever
            self._silent.add(self.transport, lambda: True)


def raise_max_files() -> None:
    """Raise this process's limit on open files as far as the system allows, and log a warning if it stays low."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a second, lower limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if (found := _max_files()) < ENOUGH_FILES:
        words = "this process may open only %d files, so it takes %d connections at once: raise the limit to %d (%s)"
        log.warning(words, found, max_connections(), ENOUGH_FILES, "ulimit -n, or LimitNOFILE of systemd")


def max_connections() -> int:
    """Return how many connections this process takes, so that each live call also gets its model session."""
    return max(1, (_max_files() - OWN_FILES) // FILES_PER_CONNECTION)


def _max_files() -> int:
    if sys.platform == "win32":
        return MAX_FILES
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_FILES if soft == resource.RLIM_INFINITY else min(soft, MAX_FILES)
