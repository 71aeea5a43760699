"""A browser with the console open, and its cost for the app.

The browser itself uses the machine, so the app would be slower beside any page. The app is therefore measured with the
page open in both cases: once with the app's own events, once with a recording of them that another server plays.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import ClientSession, web

from benchmarks.subject import API_TOKEN
from benchmarks.watchers import OPEN_SECONDS, Address, Counts, Watchers

RECORD_SECONDS = 6.0
"""How much of the events is recorded, and played again and again."""

RESTS = (0.0, 8.0)
"""How long the caller listens, in seconds, in rotation: every other turn interrupts the agent."""

ANSWER_SECONDS = 3.5
"""How long an answer is. With RESTS, the agent is silent half of the time, as a real one is."""

KEPT_HEADERS = ("Content-Type", "Content-Security-Policy")
HEADERS = {"Authorization": f"Bearer {API_TOKEN}"}


def console_page() -> Watchers:
    """Return a headless Chromium with the console's list of live calls. It shares the generator's cores."""
    return Watchers("the console in a browser", _page, _page_of_recording, RESTS, ANSWER_SECONDS)


@asynccontextmanager
async def _page(address: Address, calls: int) -> AsyncIterator[Counts]:
    from playwright.async_api import Error, async_playwright

    path = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if path is None:
        raise ConnectionError("there is no chromium: install it, or set CHROMIUM to its path")
    host, port = address
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            page = await browser.new_page(extra_http_headers=HEADERS)
            await page.goto(f"http://{host}:{port}/console")
            shown = page.locator("#count", has_text=re.compile(f"^{calls}$"))
            await shown.wait_for(timeout=OPEN_SECONDS * 1000)
            yield list
        except Error as error:
            raise ConnectionError(f"the console does not show {calls} calls: {error.message}") from None
        finally:
            await browser.close()


@asynccontextmanager
async def _page_of_recording(address: Address, calls: int) -> AsyncIterator[Counts]:
    async with ClientSession(f"http://{address[0]}:{address[1]}", headers=HEADERS) as app:
        player = _Player(app)
        await player.record()
        async with player.serving() as at, _page(at, calls) as counts:
            yield counts


class _Player:
    """A server with the pages of the app and a recording of its events."""

    def __init__(self, app: ClientSession) -> None:
        self._app = app
        self._pieces: list[tuple[float, bytes]] = []
        """Each piece of the stream, and how many seconds after the one before it came."""

    async def record(self) -> None:
        """Record the app's events."""
        loop = asyncio.get_running_loop()
        async with self._app.get("/events") as stream:
            began = before = loop.time()
            async for piece in stream.content.iter_any():
                now = loop.time()
                self._pieces.append((now - before, piece))
                before = now
                if now > began + RECORD_SECONDS:
                    return

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Address]:
        """Serve while the context lasts; the context is the address."""
        server = web.Application()
        server.router.add_get("/events", self._play)
        server.router.add_get("/{path:.*}", self._pass_on)
        runner = web.AppRunner(server, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield runner.addresses[0][0], runner.addresses[0][1]
        finally:
            await runner.cleanup()

    async def _play(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await answer.prepare(request)
        with suppress(ConnectionResetError):  # the page is closed
            while True:
                for pause, piece in self._pieces:
                    await asyncio.sleep(pause)
                    await answer.write(piece)
        return answer

    async def _pass_on(self, request: web.Request) -> web.Response:
        async with self._app.get(request.path_qs) as answer:
            kept = {name: value for name, value in answer.headers.items() if name in KEPT_HEADERS}
            return web.Response(body=await answer.read(), status=answer.status, headers=kept)
