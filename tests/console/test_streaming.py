"""A response that is sent while it comes into being: it ends with its reader, and lets none wait forever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from phoneagent.console import streaming
from phoneagent.console.streaming import OpenStream, while_allowed
from tests.asgi import scope
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio


class Chunks:
    """Chunks without end, and whether they were closed."""

    closed = False

    async def made(self) -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"chunk"
        finally:
            self.closed = True


async def never() -> Any:
    await asyncio.Event().wait()


async def run(send: Any) -> tuple[Chunks, set[OpenStream]]:
    chunks, streams = Chunks(), set[OpenStream]()
    response = OpenStream(chunks.made(), streams, headers={}, media_type="text/plain")
    async with asyncio.timeout(HANG_SECONDS):
        await response(scope("http", "/"), never, send)
    return chunks, streams


async def test_a_reader_that_takes_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.01)
    chunks, streams = await run(lambda message: never())
    assert (chunks.closed, streams) == (False, set())  # nothing was asked of it yet


async def test_a_reader_that_leaves_ends_the_stream() -> None:
    seen = 0

    async def send(message: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise ClientDisconnect

    chunks, streams = await run(send)
    assert (chunks.closed, streams) == (True, set())


async def test_a_reader_gets_nothing_that_it_may_no_longer_have() -> None:
    chunks, answers = Chunks(), iter([True, True, False])
    assert [chunk async for chunk in while_allowed(chunks.made(), lambda: next(answers))] == [b"chunk"] * 2
    assert chunks.closed
