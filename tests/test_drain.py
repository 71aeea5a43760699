"""Draining: the phases before a process ends, on a clock that only the drain moves, and the signals that begin it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from phoneagent import drain
from phoneagent.calls import transcription
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

SECONDS = 30.0
HAND_OVER_AT = SECONDS - drain.QUIET_SECONDS
GOODBYE_AT = SECONDS - drain.PARTING_SECONDS
POLL = 0.05
"""More than the drain waits between two looks: what it does comes so much later than the phase begins."""


class Clock:
    """Time that passes only while the drain sleeps, and what happens in the world meanwhile."""

    def __init__(self) -> None:
        self.begun = 1_000.0
        self.now = self.begun
        self._due: list[tuple[float, Callable[[], Any]]] = []

    @property
    def passed(self) -> float:
        return self.now - self.begun

    def at(self, seconds: float, action: Callable[[], Any]) -> None:
        self._due.append((self.begun + seconds, action))

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        for moment, action in [each for each in self._due if each[0] <= self.now]:
            self._due.remove((moment, action))
            action()


class App:
    """An app as the drain sees it. Its calls are quiet at once, if ever, and end when they are asked to, if ever."""

    def __init__(self, *live: str, hands_over: bool = True, quiet: bool = True, ends: bool = True) -> None:
        self.calls: dict[str, Any] = dict.fromkeys(live, self)
        self.coming = 0
        self.unfinished = 0
        self.draining = False
        self.hands_over = hands_over
        self.streams_ended = False
        self.quiet, self.ends = quiet, ends
        self.clock = Clock()
        self.did: list[tuple[str, float]] = []

    def _note(self, what: str) -> None:
        self.did.append((what, self.clock.passed))

    def hang_up(self) -> None:
        self._note("hang up")
        if self.ends:
            self.calls.popitem()

    def end_streams(self) -> None:
        self.streams_ended = True

    def hand_over(self, reason: str) -> None:
        self._note("hand over")
        if self.quiet:
            self.calls.clear()

    def hand_over_now(self, call_sid: str, reason: str) -> None:
        self._note(f"hand over {call_sid}")
        if self.ends:
            self.calls.pop(call_sid, None)


Drained = Callable[[App], Any]


@pytest.fixture
def drained(monkeypatch: pytest.MonkeyPatch) -> Drained:
    """Drain an app within SECONDS of its clock; return what was done to it, and how many seconds all of it took."""

    async def run(app: App, seconds: float = SECONDS) -> tuple[list[tuple[str, float]], float]:
        monkeypatch.setattr(drain, "time", SimpleNamespace(monotonic=app.clock.monotonic))
        monkeypatch.setattr(drain, "asyncio", SimpleNamespace(sleep=app.clock.sleep))
        await drain.drain(app, seconds)  # type: ignore[arg-type]
        assert app.draining
        return app.did, app.clock.passed

    return run


def about(seconds: float) -> Any:
    return pytest.approx(seconds, abs=POLL)


# --- the phases ---


async def test_without_calls_there_is_nothing_to_wait_for(drained: Drained) -> None:
    assert await drained(App()) == ([], 0)


async def test_a_call_that_ends_in_time_is_let_alone(drained: Drained) -> None:
    app = App("CA1")
    app.clock.at(5, app.calls.clear)
    assert await drained(app) == ([], about(5))


@pytest.mark.parametrize("what", ["coming", "unfinished"])
async def test_calls_on_their_way_and_what_is_left_of_ended_ones_are_waited_for(drained: Drained, what: str) -> None:
    app = App()
    setattr(app, what, 1)
    app.clock.at(7, lambda: setattr(app, what, 0))
    assert await drained(app) == ([], about(7))


async def test_new_calls_are_refused_from_the_first_moment_on(drained: Drained) -> None:
    app, seen = App("CA1"), []
    app.clock.at(0, lambda: seen.append(app.draining))
    app.clock.at(1, app.calls.clear)
    await drained(app)
    assert seen == [True]


async def test_in_the_end_calls_are_handed_over_when_they_are_quiet(drained: Drained) -> None:
    did, seconds = await drained(App("CA1", "CA2"))
    assert did == [("hand over", about(HAND_OVER_AT))]
    assert seconds == about(HAND_OVER_AT)


async def test_those_that_never_are_quiet_are_handed_over_one_after_another(drained: Drained) -> None:
    did, seconds = await drained(App("CA1", "CA2", "CA3", "CA4", quiet=False))
    step = drain.SPREAD_SECONDS / 4
    assert did == [
        ("hand over", about(HAND_OVER_AT)),
        *((f"hand over CA{number + 1}", about(SECONDS + step * number)) for number in range(4)),
    ]
    assert seconds == about(SECONDS + step * 3)


async def test_a_short_drain_hands_over_at_once(drained: Drained) -> None:
    did, seconds = await drained(App("CA1"), seconds=1)
    assert (did, seconds) == ([("hand over", 0)], 0)


async def test_tools_of_calls_that_were_handed_over_get_a_moment_more(drained: Drained) -> None:
    app = App("CA1", quiet=False)
    app.unfinished = 1
    did, seconds = await drained(app)
    assert did[-1] == ("hand over CA1", about(SECONDS))
    assert seconds == about(SECONDS + drain.EXIT_SECONDS)


async def test_calls_that_cannot_be_handed_over_are_asked_to_say_goodbye(drained: Drained) -> None:
    did, seconds = await drained(App("CA1", "CA2", hands_over=False))
    assert did == [("hang up", about(GOODBYE_AT))] * 2
    assert seconds == about(GOODBYE_AT)


async def test_a_call_that_comes_after_the_others_were_asked_says_goodbye_too(drained: Drained) -> None:
    app = App("CA1", hands_over=False, ends=False)
    app.clock.at(GOODBYE_AT + 2, lambda: app.calls.update(CA2=app))
    app.clock.at(GOODBYE_AT + 4, app.calls.clear)
    did, seconds = await drained(app)
    assert did == [("hang up", about(GOODBYE_AT)), ("hang up", about(GOODBYE_AT + 2))]
    assert seconds == about(GOODBYE_AT + 4)


def test_a_transcribed_call_has_the_time_to_settle() -> None:
    assert drain.EXIT_SECONDS > transcription.SETTLE_SECONDS


@pytest.mark.parametrize("hands_over", [True, False])
async def test_a_call_that_does_not_go_is_cut_off_and_that_is_said(
    drained: Drained, hands_over: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("CA1", hands_over=hands_over, quiet=False, ends=False)
    _, seconds = await drained(app)
    assert list(app.calls) == ["CA1"]
    assert "1 call cut off" in caplog.text
    assert seconds == about(SECONDS)


# --- the signals ---


@pytest.fixture
def app() -> App:
    return App("CA1")


def server_of(app: App) -> drain.Server:
    async def nothing(*message: Any) -> None: ...

    return drain.Server(uvicorn.Config(nothing), app, drain_seconds=3600)  # type: ignore[arg-type]


async def ended(server: drain.Server) -> None:
    assert server._draining is not None
    async with asyncio.timeout(HANG_SECONDS):
        await server._draining


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_then_stops(app: App, number: int) -> None:
    server = server_of(app)
    server.handle_signal(number, now=0)
    await asyncio.sleep(0)
    assert app.draining
    assert not server.should_exit
    app.calls.clear()
    await ended(server)
    assert server.should_exit
    assert not server.force_exit


async def test_streams_of_events_end_only_when_the_server_stops(app: App) -> None:
    server = server_of(app)
    server.handle_signal(signal.SIGTERM, now=0)
    app.calls.clear()
    await ended(server)
    assert not app.streams_ended

    async def nothing() -> None: ...

    server.servers, server.force_exit = [], True  # it was never started
    server.lifespan = SimpleNamespace(shutdown=nothing)  # type: ignore[assignment]
    await server.shutdown()
    assert app.streams_ended


async def test_further_sigterms_change_nothing(app: App) -> None:
    server = server_of(app)
    server.handle_signal(signal.SIGTERM, now=0)
    first = server._draining
    for now in (0.1, 5, 60):
        server.handle_signal(signal.SIGTERM, now=now)
    assert server._draining is first
    assert not server.should_exit
    app.calls.clear()
    await ended(server)


async def test_a_second_interrupt_stops_at_once_if_it_is_meant(app: App, caplog: pytest.LogCaptureFixture) -> None:
    server = server_of(app)
    server.handle_signal(signal.SIGTERM, now=0)  # and an interrupt after that counts as the first
    server.handle_signal(signal.SIGINT, now=2)
    server.handle_signal(signal.SIGINT, now=2 + drain.INSIST_SECONDS - 0.01)
    assert not server.should_exit
    server.handle_signal(signal.SIGINT, now=2 + drain.INSIST_SECONDS)
    assert (server.should_exit, server.force_exit) == (True, True)
    assert "1 call cut off" in caplog.text
    app.calls.clear()
    await ended(server)


async def test_a_drain_that_fails_stops_the_server_all_the_same(app: App) -> None:
    app.calls = None  # type: ignore[assignment]
    server = server_of(app)
    server.handle_signal(signal.SIGTERM, now=0)
    with pytest.raises(TypeError):
        await ended(server)
    assert server.should_exit


async def test_requests_get_little_time_after_the_drain(app: App) -> None:
    assert server_of(app).config.timeout_graceful_shutdown == drain.GRACE_SECONDS


@pytest.mark.parametrize("ends_process", [False, True])
async def test_signals_are_captured_while_the_server_runs(app: App, ends_process: bool) -> None:
    server, before = server_of(app), signal.getsignal(signal.SIGTERM)
    interrupt = signal.getsignal(signal.SIGINT)
    server.ends_process = ends_process
    with server.capture_signals():
        signal.raise_signal(signal.SIGTERM)
        for _ in range(3):  # the signal comes to the loop, and the drain begins
            await asyncio.sleep(0)
        assert app.draining
    # A late SIGTERM must not spoil the end of a process that has come to its end.
    assert signal.getsignal(signal.SIGTERM) == (signal.SIG_IGN if ends_process else before)
    assert signal.getsignal(signal.SIGINT) == interrupt
    app.calls.clear()
    await ended(server)
