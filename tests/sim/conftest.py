"""A small Media Streams server, written by hand, for the simulated phone to call. Each test scripts what it does."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.patience import HANG_SECONDS

SILENT = base64.b64encode(b"\xff" * 160).decode()


@dataclass
class Seen:
    """A request that the server got."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    form: dict[str, str]


@dataclass
class Leg:
    """The server's end of one media socket. `messages` is everything Twilio sent but media, `media` the frames."""

    socket: WebSocket
    stream_sid: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    media: list[dict[str, Any]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        """Read until the socket is closed."""
        while True:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                self.messages.append({"event": "closed", "code": message.get("code")})
                self.changed.set()
                return
            data = json.loads(message["text"])
            (self.media if data["event"] == "media" else self.messages).append(data)
            self.changed.set()

    async def until(self, happened: Callable[[], object]) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            while not happened():
                if self.events("closed"):
                    raise WebSocketDisconnect
                self.changed.clear()
                await self.changed.wait()

    def loud(self) -> list[bool]:
        """For each frame, whether the caller spoke."""
        return [frame["media"]["payload"] != SILENT for frame in self.media]

    async def event(self, name: str) -> dict[str, Any]:
        """Wait for the first message of a kind."""
        await self.until(lambda: self.events(name))
        return self.events(name)[0]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["event"] == name]

    async def send(self, event: str, **body: Any) -> None:
        await self.socket.send_text(json.dumps({"event": event, "streamSid": self.stream_sid, **body}))

    async def play(self, audio: bytes) -> None:
        await self.send("media", media={"payload": base64.b64encode(audio).decode()})

    async def mark(self, name: str) -> None:
        await self.send("mark", mark={"name": name})


Agent = Callable[[Leg], Awaitable[None]]


async def _until_closed(leg: Leg) -> None:
    await leg.event("closed")


class Server:
    """`pages` are TwiML, or a function of the request, by path; `agent` handles the media socket, and closes it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/voice"
        self.stream_url = f"ws://127.0.0.1:{port}/media/token"
        self.pages: dict[str, str | Callable[[Request], Response]] = {}
        self.requests: list[Seen] = []
        self.sockets: list[Seen] = []
        self.legs: list[Leg] = []
        self.refuse_socket = False
        self.agent: Agent = _until_closed
        self.uvicorn: uvicorn.Server | None = None
        self.connect()

    def at(self, path: str) -> str:
        """The absolute URL of a path."""
        return self.url.replace("/voice", path)

    def connect(self, inside: str = "", after: str = "", connect: str = "", url: str = "", stream: str = "") -> None:
        """Let the webhook answer with a Connect/Stream."""
        self.pages["/voice"] = (
            f'<Response><Connect {connect}><Stream url="{url or self.stream_url}" {stream}>{inside}</Stream></Connect>'
            f"{after}</Response>"
        )

    def seen(self, path: str) -> list[Seen]:
        return [request for request in self.requests if request.path == path]

    def cut(self) -> None:
        """Cut the TCP connections of all media sockets, without a closing frame."""
        assert self.uvicorn is not None
        for connection in list(self.uvicorn.server_state.connections):
            if "WebSocket" in type(connection).__name__:
                connection.transport.abort()

    async def page(self, request: Request) -> Response:
        form = {key: str(value) for key, value in (await request.form()).items()}
        headers = dict(request.headers)
        self.requests.append(Seen(request.method, request.url.path, request.url.query, headers, form))
        page = self.pages.get(request.url.path, "")
        if not isinstance(page, str):
            return page(request)
        return Response(page, media_type="text/xml", status_code=200 if page else 404)

    async def media(self, socket: WebSocket) -> None:
        self.sockets.append(Seen("GET", socket.url.path, socket.url.query, dict(socket.headers), {}))
        if self.refuse_socket:
            await socket.close()
            return
        await socket.accept()
        leg = Leg(socket)
        self.legs.append(leg)
        reading = asyncio.create_task(leg.read())
        try:
            leg.stream_sid = (await leg.event("start"))["streamSid"]
            await self.agent(leg)
            if not leg.events("closed"):
                await socket.close()
            await asyncio.wait_for(reading, HANG_SECONDS)
        except (WebSocketDisconnect, RuntimeError):
            pass  # the phone was faster
        finally:
            reading.cancel()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    # With the protocol named: without it asyncio leaves Nagle's algorithm on, and answers take 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    scripted = Server(listener.getsockname()[1])
    routes = [
        WebSocketRoute("/{path:path}", scripted.media),
        Route("/{path:path}", scripted.page, methods=["GET", "POST"]),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes),
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="critical",
        lifespan="off",
    )
    running = scripted.uvicorn = uvicorn.Server(config)
    # What `serve` does, without its signal handlers and its ticks.
    config.load()
    running.lifespan = config.lifespan_class(config)
    await running.startup(sockets=[listener])
    try:
        yield scripted
    finally:
        for listening in running.servers:
            listening.close()
        for connection in list(running.server_state.connections):
            connection.transport.abort()
        if running.server_state.tasks:
            await asyncio.wait(running.server_state.tasks, timeout=15)
