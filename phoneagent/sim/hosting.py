"""Running an app for a test, under a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn

START_SECONDS = 10.0
"""How long the app may take to start, and again to stop."""


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[str]:
    """Run an ASGI app under uvicorn on a free loopback port, in this event loop; yields its URL.

    `options` are passed to `uvicorn.Config`.

        async with serving(app) as url, Phone(f"{url}/twilio/voice").dial() as line:
            ...

    Raises:
        RuntimeError: the app did not start; its log says why.
    """
    given = {
        "host": "127.0.0.1",
        "port": 0,
        "ws": "websockets-sansio",
        "ws_per_message_deflate": False,
        "ws_max_size": 64 * 1024,
        "proxy_headers": False,
        "log_config": None,
        "access_log": False,
    }
    config = uvicorn.Config(app, **{**given, **options})
    server = uvicorn.Server(config)
    task = asyncio.create_task(_run(server))
    try:
        async with asyncio.timeout(START_SECONDS):
            while not server.started:
                if task.done():
                    raise RuntimeError("the app did not start: see its log")
                await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        async with asyncio.timeout(START_SECONDS):
            await asyncio.wait({task})


async def _run(server: uvicorn.Server) -> None:
    # uvicorn exits the process if the app does not start; here that would end the test run.
    with suppress(SystemExit):
        await server._serve()  # not serve(), which takes the process's signals
