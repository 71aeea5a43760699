"""A response that is sent while it is produced, to a reader that may be slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

SEND_SECONDS = 30.0
"""How long a reader may leave sent data unread. `phoneagent serve` is stricter."""


async def while_allowed(chunks: AsyncGenerator[bytes], allowed: Callable[[], bool]) -> AsyncGenerator[bytes]:
    """Yield the chunks as long as their reader may have them."""
    async with aclosing(chunks):
        async for chunk in chunks:
            if not allowed():
                return
            yield chunk


class OpenStream(StreamingResponse):
    """A stream of `chunks`, one of `open_streams`. A reader that takes nothing for too long is dropped."""

    def __init__(
        self,
        chunks: AsyncGenerator[bytes],
        open_streams: set[OpenStream],
        *,
        headers: Mapping[str, str],
        media_type: str,
        status: int = 200,
    ) -> None:
        super().__init__(chunks, status, headers, media_type)
        self._chunks = chunks
        self._open_streams = open_streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Any) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        self._open_streams.add(self)
        try:
            async with aclosing(self._chunks):
                await super().__call__(scope, receive, send_in_time)
        except (TimeoutError, ClientDisconnect):
            pass
        finally:
            self._open_streams.discard(self)
