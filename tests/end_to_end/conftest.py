"""A whole world for call tests: the real app under uvicorn, the simulated model and a phone, on loopback."""

from __future__ import annotations

import asyncio
import functools
import gc
import operator
import sys
import time
import typing
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from phoneagent import Agent, Endpoint, Event, ModelEvent, PhoneApp, Settings
from phoneagent.calls.session import Session
from phoneagent.cli.serve import MEDIA_SOCKETS, UVICORN
from phoneagent.sim import Model, Phone, Script, serving
from tests.patience import HANG_SECONDS

ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
AUTH_TOKEN = "an-auth-token-of-a-test"
PUBLIC_URL = "https://agent.example"
EVENTS = functools.reduce(operator.or_, (kind for kind in typing.get_args(Event) if kind is not ModelEvent))


class Search:
    """The search for sessions that the process still holds, for all worlds together.

    The collector stops everything else, calls and stores included. So it runs seldom, however many worlds wait for it,
    and in between only what it found is watched.
    """

    SECONDS_BETWEEN = 0.5

    def __init__(self) -> None:
        self._began = self._ended = -self.SECONDS_BETWEEN
        self._found: list[weakref.ref[Session]] = []

    def kept(self, since: float) -> list[Session] | None:
        """Return the sessions that were there at the latest look and still are; None if that was before `since`."""
        if time.monotonic() >= self._ended + self.SECONDS_BETWEEN:
            self._began = time.monotonic()
            gc.collect()
            self._found = [weakref.ref(thing) for thing in gc.get_objects() if type(thing) is Session]
            self._ended = time.monotonic()
        if self._began < since:
            return None
        return [session for each in self._found if (session := each()) is not None]


SEARCH = Search()


@dataclass
class World:
    """The app and everything around it."""

    app: PhoneApp
    model: Model
    url: str
    log: pytest.LogCaptureFixture
    events: list[Event] = field(default_factory=list)

    def phone(self, **options: Any) -> Phone:
        options = {"auth_token": AUTH_TOKEN, "public_url": PUBLIC_URL, "account_sid": ACCOUNT_SID, **options}
        return Phone(f"{self.url}/twilio/voice", **options)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for a condition that no event announces."""
        async with asyncio.timeout(HANG_SECONDS):
            while not (result := condition()):
                await asyncio.sleep(0.02)
        return result

    async def nothing_left(self) -> None:
        """However a call ends, nothing is left of it in the process."""
        for call in list(self.app._parts.calls.pending.values()):
            if call.opening is None:  # it was answered, and the test has opened no media socket
                await call.close()
        calls = self.app._parts.calls
        # a pending call without a media socket ends by itself
        await self.until(lambda: not self.app.calls and not calls.pending and not calls._followers)
        await self.until(lambda: all(session.closed for session in self.model.sessions))
        ours = (
            "Session.",
            "Follower.",
            "PhoneApp.",
            "MediaSockets.",
            "Calls.",
            "PendingCall.",
            "Opening.",
            "ModelSessions.",
            "AsgiSocket.",
            "DirectSocket.",
            "TwilioSocket.",
            "ModelSession.",
            "open_model",
        )

        def alive() -> list[str]:
            names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
            return [name for name in names if name.startswith(ours)]

        since = time.monotonic()

        def gone() -> bool:
            for record in self.log.records:
                record.exc_info = None  # a traceback that pytest keeps would keep the call alive
            return not alive() and SEARCH.kept(since) == []

        try:
            await self.until(gone)
        except TimeoutError:
            kept = SEARCH.kept(since) or []
            who = [type(holder).__name__ for session in kept for holder in gc.get_referrers(session)]
            raise AssertionError(f"left of a call: {alive()}, and a session that is kept by {who}") from None


def settings(**changes: Any) -> Settings:
    given = {
        "twilio_account_sid": ACCOUNT_SID,
        "twilio_auth_token": AUTH_TOKEN,
        "public_url": PUBLIC_URL,
        "realtime_url": "ws://unused",
        **changes,
    }
    return Settings(**given)


Worlds = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def media_socket() -> str:
    """How the frames of a call reach the app; BOTH_SOCKETS runs a test with each."""
    return "direct"


BOTH_SOCKETS = pytest.mark.parametrize("media_socket", sorted(MEDIA_SOCKETS))


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, media_socket: str) -> Worlds:
    """Make a world: `async with world(agent, script) as w`; at its end nothing may be left of any call."""
    # With more than 100 timers, half of them cancelled, the event loop copies their list, and its frame keeps the copy.
    # An exception that is kept keeps that frame, as websockets' connections do, and so timers that ran long ago, with
    # their sessions. That is nothing of ours, so here the list is not copied.
    monkeypatch.setattr(asyncio.base_events, "_MIN_SCHEDULED_TIMER_HANDLES", sys.maxsize)

    @asynccontextmanager
    async def make(
        agent: Agent | Callable[[Any], Any], script: str | None = None, *, model: Model | None = None, **changes: Any
    ) -> AsyncIterator[World]:
        model = model or Model(Script.parse(script) if script else None)
        async with model:
            url = f"{model.url}?model=gpt-realtime-2.1"
            endpoints = changes.pop("endpoints", None)
            endpoint = changes.pop("endpoint", Endpoint(url, transcription_models=("gpt-transcribe",)))
            store = changes.pop("store", None)
            app = PhoneApp(
                agent,
                settings=settings(**changes),
                store=store,
                **({"endpoints": endpoints} if endpoints else {"endpoint": endpoint}),
            )
            seen: list[Event] = []

            async def note(event: Event) -> None:
                seen.append(event)

            app.on(EVENTS)(note)
            async with serving(app, **UVICORN | {"ws": MEDIA_SOCKETS[media_socket]}) as url:
                made = World(app, model, url, caplog, seen)
                yield made
                await made.nothing_left()

    return make


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time
