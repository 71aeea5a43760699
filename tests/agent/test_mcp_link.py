"""The connection to an MCP server: who may use it, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from phoneagent.agent.mcp_link import START_SECONDS, Link, watched

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


class Server:
    """A server that counts its connections."""

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self.open = 0
        self.ended: asyncio.Event | None = None
        self._error = error
        self._hangs = hangs

    @asynccontextmanager
    async def connect(self, ended: asyncio.Event) -> AsyncIterator[Any]:
        self.ended = ended
        if self._hangs:
            await asyncio.Event().wait()
        if self._error is not None:
            raise self._error
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1

    def link(self) -> Link:
        return Link("shop", self.connect, str)


async def test_a_retired_connection_closes_after_the_last_request_that_uses_it() -> None:
    server = Server()
    link = server.link()
    with link.in_use():
        assert await link.client() is cast("Any", server)
        with link.in_use():
            assert link.usable
            link.retire()
            assert not link.usable
        assert not link.over
        assert server.open == 1
    assert link.over
    await link.close()
    assert server.open == 0


async def test_a_request_that_is_canceled_no_longer_uses_it() -> None:
    link = Server().link()
    await link.client()

    async def request() -> None:
        with link.in_use():
            await asyncio.Event().wait()

    running = asyncio.create_task(request())
    await asyncio.sleep(0)
    link.retire()
    assert not link.over
    running.cancel()
    await asyncio.wait([running])
    assert link.over
    await link.close()


async def test_a_retired_connection_that_nothing_uses_closes_at_once() -> None:
    server = Server()
    link = server.link()
    await link.client()
    link.retire()
    assert link.over
    await link.close()
    assert server.open == 0


async def test_closing_waits_for_no_request() -> None:
    server = Server()
    link = server.link()
    with link.in_use():
        await link.client()
        await link.close()
        assert server.open == 0


async def test_one_that_its_server_ends_takes_no_new_requests() -> None:
    server = Server()
    link = server.link()
    await link.client()
    assert server.ended is not None
    server.ended.set()
    assert link.over
    assert not link.usable
    await link.close()


async def test_it_takes_no_requests_of_another_event_loop() -> None:
    link = Server().link()

    async def usable() -> bool:
        return link.usable

    assert link.usable
    assert not await asyncio.to_thread(lambda: asyncio.run(usable()))
    await link.close()


async def test_why_it_did_not_open_is_told_to_whoever_wants_to_use_it() -> None:
    link = Server(OSError("away")).link()
    with pytest.raises(OSError, match="away"):
        await link.client()
    assert link.over
    await link.close()


async def test_a_server_that_does_not_open_it_is_given_up() -> None:
    begun = asyncio.get_running_loop().time()
    link = Server(hangs=True).link()
    with pytest.raises(TimeoutError):
        await link.client()
    assert asyncio.get_running_loop().time() - begun >= START_SECONDS


async def test_the_end_of_the_messages_is_the_end_of_the_connection() -> None:
    class Stream:
        async def __aenter__(self) -> Stream:
            return self

        async def __aexit__(self, *error: object) -> None: ...

        def __aiter__(self) -> Stream:
            return self

        async def __anext__(self) -> str:
            raise StopAsyncIteration

    @asynccontextmanager
    async def transport() -> AsyncIterator[Any]:
        yield Stream(), None

    ended = asyncio.Event()
    async with watched(transport(), ended) as (messages, _):
        async with messages:
            assert [message async for message in messages] == []
            assert not ended.is_set()
        assert ended.is_set()
