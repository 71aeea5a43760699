"""A chat endpoint for tests: it streams what a test lays out, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

CUT = "cut"
"""A step that breaks the connection off in the middle of the stream."""


def words(text: str, *, finish: str | None = None) -> bytes:
    """Return the event of some words."""
    return event({"content": text}, finish=finish)


def event(delta: dict[str, Any], *, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def call_piece(arguments: str, *, name: str | None = None, key: str | None = None, index: int = 0) -> bytes:
    """Return the event of a piece of a tool call. The first piece names the function."""
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return event({"tool_calls": [{"index": index, "function": function, **({} if key is None else {"id": key})}]})


def said(text: str) -> list[bytes]:
    """Return the events of a whole answer, a word at a time."""
    pieces = [words(f"{word} ") for word in text.split(" ")]
    return [*pieces, event({}, finish="stop"), b"data: [DONE]\n\n"]


def called(name: str, arguments: str) -> list[bytes]:
    """Return the events of a tool call, its arguments cut in two."""
    half = len(arguments) // 2
    pieces = [call_piece(arguments[:half], name=name, key=f"k-{name}"), call_piece(arguments[half:])]
    return [*pieces, event({}, finish="tool_calls"), b"data: [DONE]\n\n"]


Step = bytes | str | asyncio.Event
"""Bytes to send, `CUT`, or an event to wait for."""


class ChatServer:
    """The endpoint. `answers` holds the steps of each answer, or the status of a refusal with its words.

    The last answer is given again and again. `asked` is set by
    the first request for an answer, `left` when a client goes away in the middle of a stream.
    """

    def __init__(self, *answers: Sequence[Step] | tuple[int, str], models: Iterable[str] = ("tiny",)) -> None:
        self.answers: list[Sequence[Step] | tuple[int, str]] = list(answers)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self.url = ""
        self._models = list(models)

    async def models(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization"))
        return web.json_response({"object": "list", "data": [{"id": name} for name in self._models]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization"))
        body = await request.json()
        if body.get("max_tokens") == 1:  # a warm-up
            steps: Any = said("Hi.")
        else:
            self.requests.append(body)
            self.asked.set()
            steps = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(steps, tuple):
            return web.json_response({"error": {"message": steps[1]}}, status=steps[0])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for step in steps:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, str):
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                else:
                    await response.write(step)
        except (ConnectionError, asyncio.CancelledError):
            self.left.set()
            raise
        return response


@asynccontextmanager
async def chat_server(server: ChatServer) -> AsyncIterator[ChatServer]:
    """Run the endpoint on loopback while the context lasts."""
    app = web.Application()
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/v1/chat/completions", server.complete)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
