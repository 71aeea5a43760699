"""A browser and what it visits: the app with its console, the simulated model and a phone, on loopback in a thread.

Playwright's synchronous API drives Chromium from the test's own thread. The app runs in the event loop of another one;
`served.run(coroutine)` runs the caller's side there. These tests take real time, so they are marked `real_time`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from phoneagent import Agent, Endpoint, PhoneApp, Settings
from phoneagent.cli.serve import UVICORN
from phoneagent.demo.run import Senses
from phoneagent.sim import Line, Model, Phone, Script, serving
from phoneagent.store import Store

ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
AUTH_TOKEN = "an-auth-token-of-a-test"
PUBLIC_URL = "https://agent.example"
TOKEN = "let-me-in"

expect.set_options(timeout=60_000)

RUN_SECONDS = 90.0
"""How long the app's thread may take for what a test asks of it."""

ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb")
"""Chromium's sandbox does not work as root, and a container's /dev/shm is small."""

MICROPHONE = (
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
"""Chromium's own microphone; `--use-file-for-fake-audio-capture=FILE` plays a WAV file into it."""

T = TypeVar("T")


@dataclass
class Served:
    """The app and everything around it, in the thread of its own event loop."""

    app: PhoneApp
    model: Model
    url: str
    loop: asyncio.AbstractEventLoop
    store: Store | None = None
    lines: dict[str, Line] = field(default_factory=dict)
    """The callers' sides of calls, by CallSid."""
    done: threading.Event = field(default_factory=threading.Event)
    """Set when callers who only wait may hang up."""

    def run(self, work: Coroutine[Any, Any, T], seconds: float = RUN_SECONDS) -> T:
        """Run a coroutine in the app's event loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine in the app's event loop, such as a caller who talks while the page is looked at."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def phone(self, **options: Any) -> Phone:
        given = {"auth_token": AUTH_TOKEN, "public_url": PUBLIC_URL, "account_sid": ACCOUNT_SID}
        return Phone(f"{self.url}/twilio/voice", **given | options)

    def emit(self, *events: Any, stream_sid: str = "MZ1") -> None:
        """Have the app's observers see events, as if a call had them."""

        async def emit() -> None:
            for event in events:
                self.app._parts.emit(event, stream_sid)

        self.run(emit())


Serves = Callable[..., Any]


@pytest.fixture
def serves(tmp_path: Path) -> Serves:
    """Make an app that is served: `with serves(agent, script) as served`. Its console is open on this machine.

    With `api_token=` and `local_api=False` it asks for the token. `port` serves on that port. With `store=False`
    nothing is recorded.
    """
    return serving_in(tmp_path)


def serving_in(folder: Path) -> Serves:
    """Return what the fixture `serves` is, with its database in a folder."""

    @contextmanager
    def make(
        agent: Any, script: Script | str | None = None, *, port: int = 0, store: bool = True, **changes: Any
    ) -> Iterator[Served]:
        ready: concurrent.futures.Future[Served] = concurrent.futures.Future()
        stopping: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = (
            concurrent.futures.Future()
        )
        settings = Settings(
            **{
                "twilio_account_sid": ACCOUNT_SID,
                "twilio_auth_token": AUTH_TOKEN,
                "public_url": PUBLIC_URL,
                "realtime_url": "ws://unused",
                "local_api": True,
                **changes,
            }
        )

        async def serve() -> None:
            stop = asyncio.Event()
            stopping.set_result((asyncio.get_running_loop(), stop))
            async with AsyncExitStack() as stack:
                senses = Senses.scripted()
                parsed = Script.parse(script) if isinstance(script, str) else script
                model = await stack.enter_async_context(Model(parsed, voice=senses.agent, vad=senses.vad))
                database = Store.from_url(f"sqlite:///{folder / 'calls.db'}") if store else None
                endpoint = Endpoint(f"{model.url}?model=gpt-realtime-2.1", transcription_models=("gpt-transcribe",))
                app = PhoneApp(agent, settings=settings, store=database, endpoint=endpoint)
                url = await stack.enter_async_context(serving(app, **UVICORN, port=port))
                ready.set_result(Served(app, model, url, asyncio.get_running_loop(), database))
                await stop.wait()
                app.end_streams()  # as `phoneagent serve` does: uvicorn waits for open responses

        def run() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:  # noqa: BLE001 - it is the test that must see it
                if not ready.done():
                    ready.set_exception(error)
                else:
                    failed.append(error)

        failed: list[BaseException] = []
        thread = threading.Thread(target=run, name="served")
        thread.start()
        try:
            yield ready.result(RUN_SECONDS)
        finally:
            loop, stop = stopping.result(RUN_SECONDS)
            if thread.is_alive():
                loop.call_soon_threadsafe(stop.set)
            thread.join(RUN_SECONDS)
        assert not failed, failed

    return make


@dataclass
class Visitor:
    """A person at a browser. `faults` is what went wrong in the pages: exceptions, and what the policy refused."""

    browser: Browser
    faults: list[str] = field(default_factory=list)
    _contexts: list[BrowserContext] = field(default_factory=list)

    def context(self, *, width: int = 1440, height: int = 900, theme: Any = "light", **options: Any) -> BrowserContext:
        """Open a window of its own, with its own cookies."""
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, locale="en-US", **options
        )
        context.set_default_timeout(15_000)
        self._contexts.append(context)
        return context

    def visit(self, url: str, **options: Any) -> Page:
        """Open a page in a window of its own."""
        page = self.watch(self.context(**options).new_page())
        page.goto(url)
        return page

    def watch(self, page: Page) -> Page:
        """Note what goes wrong in a page. That a request failed is no fault: some tests stop the server."""
        page.on("pageerror", lambda error: self.faults.append(str(error)))

        def note(message: ConsoleMessage) -> None:
            if (
                message.type == "error"
                and "Failed to load resource" not in message.text
                and "net::" not in message.text
            ):
                self.faults.append(message.text)

        page.on("console", note)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


def chromium() -> str | None:
    """Return the path of a Chromium; None if there is none. CHROMIUM may name one."""
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


@pytest.fixture
def microphone() -> tuple[str, ...]:
    """The options of the browser's microphone: none, unless a test says otherwise (see MICROPHONE)."""
    return ()


Launch = Callable[[tuple[str, ...]], Browser]


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    """Return a function that gives a browser with the options of a microphone, the latest one if it has the same."""
    found = chromium()
    if found is None:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        kept: dict[tuple[str, ...], Browser] = {}

        def give(microphone: tuple[str, ...]) -> Browser:
            if microphone not in kept or not kept[microphone].is_connected():
                while kept:
                    kept.popitem()[1].close()
                arguments = [*ARGUMENTS, *microphone]
                kept[microphone] = playwright.chromium.launch(executable_path=found, args=arguments)
            return kept[microphone]

        yield give
        for browser in kept.values():
            browser.close()


@pytest.fixture
def visitor(launch: Launch, microphone: tuple[str, ...]) -> Iterator[Visitor]:
    """A visitor with a browser. At the end of a test, nothing may have gone wrong in the pages."""
    visitor = Visitor(launch(microphone))
    try:
        yield visitor
    finally:
        visitor.close()
    assert visitor.faults == []


def an_agent(**options: Any) -> Agent:
    """Return an agent that answers."""
    return Agent(**{"name": "host", "instructions": "x", "greeting": "Chez Nous, good evening!", **options})
