"""Listening in over a WebSocket: `/calls/{sid}/audio` sends both sides of a live call as the caller hears them.

Each message is binary: one byte for the track (0: the caller, 1: the agent), then 20 ms of µ-law at 8 kHz. The caller's
track is continuous. The agent's has frames only while the agent is heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Protocol, TypeAlias

from starlette.websockets import WebSocket, WebSocketDisconnect

MAX_LISTENERS = 8
"""How many listeners one call may have."""

MAX_ALL_LISTENERS = 64
"""How many listeners all calls of a process may have."""

TICK_SECONDS = 0.02
"""How often frames are sent."""

SEND_SECONDS = 2.0
"""How long a listener may leave sent audio unread."""

NO_CALL, FULL, SLOW, SIGNED_OUT = 4404, 4429, 4408, 4401
"""The close codes of a socket: no such call is live here, too many listeners, it was too slow, its session is over."""


class Listener(Protocol):
    """One listener of a call."""

    @property
    def over(self) -> bool: ...
    def frames(self) -> list[bytes] | None: ...


Listen: TypeAlias = Callable[[str], "AbstractContextManager[Listener] | None"]
"""A function that lets one more listener hear a live call; None if it is not live."""


class ListenIn:
    """The listeners of the calls of one process. `allowed` tells whether a listener still may listen."""

    def __init__(self, listen: Listen, allowed: Callable[[WebSocket], bool] = lambda websocket: True) -> None:
        self._listen = listen
        self._allowed = allowed
        self._listeners: dict[str, int] = {}

    async def run(self, websocket: WebSocket) -> None:
        """Send the audio of a call until the call is over, or the listener has gone."""
        call_sid = websocket.path_params["sid"]
        await websocket.accept()
        listening = self._listen(call_sid)
        if listening is None:
            await websocket.close(NO_CALL, "no such call is live here")
            return
        number = self._listeners.get(call_sid, 0)
        if number >= MAX_LISTENERS or sum(self._listeners.values()) >= MAX_ALL_LISTENERS:
            await websocket.close(FULL, "too many are listening")
            return
        self._listeners[call_sid] = number + 1
        try:
            with listening as listener:
                await _serve(websocket, listener, self._allowed)
        finally:
            self._listeners[call_sid] -= 1
            if not self._listeners[call_sid]:
                del self._listeners[call_sid]


async def _serve(websocket: WebSocket, listener: Listener, allowed: Callable[[WebSocket], bool]) -> None:
    gone = asyncio.create_task(_until_gone(websocket), name="phoneagent listener")
    try:
        code, reason = await _send(websocket, listener, gone, allowed)
        with suppress(TimeoutError, WebSocketDisconnect, RuntimeError, OSError):
            async with asyncio.timeout(SEND_SECONDS):
                await websocket.close(code, reason)
    finally:
        gone.cancel()


async def _send(
    websocket: WebSocket, listener: Listener, gone: asyncio.Task[None], allowed: Callable[[WebSocket], bool]
) -> tuple[int, str]:
    """Send the audio. Return the code and the reason with which to close the socket."""
    try:
        while not (gone.done() or listener.over):
            frames = listener.frames()
            if frames is None:
                return SLOW, "too slow: audio was lost"
            if not allowed(websocket):
                return SIGNED_OUT, "the session is over: sign in again"
            async with asyncio.timeout(SEND_SECONDS):
                for frame in frames:
                    await websocket.send_bytes(frame)
            await asyncio.sleep(TICK_SECONDS)
    except TimeoutError:
        return SLOW, "too slow"
    except (WebSocketDisconnect, RuntimeError, OSError):
        pass  # the listener has gone
    return 1000, "the call's media stream is over"


async def _until_gone(websocket: WebSocket) -> None:
    """Read until the listener has gone. Its messages are ignored."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
