"""Sessions opened ahead: claimed, given up, or expired; never left open."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Agent, Call, Endpoint
from phoneagent.calls import opening, pending
from phoneagent.calls.opening import EndpointRouter, Opening
from phoneagent.calls.pending import PendingCall
from phoneagent.model.connection import ModelSession
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
CALL = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


class Session(ModelSession):
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def close(self) -> None:
        self.closed.set()


class Server:
    """A model's server that gives one session, unless it never answers."""

    def __init__(self) -> None:
        self.session = Session()
        self.asked = asyncio.Event()
        self.answers = True
        self.given_up = False

    async def open_session(self, *_: Any, **__: Any) -> ModelSession:
        self.asked.set()
        try:
            if not self.answers:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        return self.session


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(opening, "open_session", made.open_session)
    return made


def begun() -> Opening:
    return Opening(CALL, Agent(instructions=""), EndpointRouter([Endpoint("ws://server/?model=m")]))


async def test_a_claimed_session_belongs_to_its_call(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "CLAIM_SECONDS", 0.01)
    registry: dict[str, Any] = {}
    opened = begun()
    registry["CA1"] = PendingCall(CALL, opened, registry)
    assert await opened.latest() is server.session
    registry["CA1"].claim()
    assert registry == {}
    await asyncio.sleep(0.05)
    assert not server.session.closed.is_set()


async def test_an_unclaimed_session_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "CLAIM_SECONDS", 0.01)
    registry: dict[str, Any] = {}
    registry["CA1"] = PendingCall(CALL, begun(), registry)
    async with asyncio.timeout(HANG_SECONDS):
        await server.session.closed.wait()
    assert registry == {}


async def test_one_that_is_still_being_opened_is_given_up(server: Server) -> None:
    server.answers = False
    registry: dict[str, Any] = {}
    registry["CA1"] = PendingCall(CALL, begun(), registry)
    async with asyncio.timeout(HANG_SECONDS):
        await server.asked.wait()
        await registry["CA1"].close()
    assert server.given_up
    assert registry == {}


async def test_a_call_whose_socket_came_to_another_process_is_waited_for_no_longer(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(pending, "LOOK_SECONDS", 0)
    answers = [False, True]

    async def elsewhere() -> bool:
        return answers.pop(0)

    registry: dict[str, Any] = {}
    registry["CA1"] = PendingCall(CALL, begun(), registry, elsewhere)
    async with asyncio.timeout(HANG_SECONDS):
        await server.session.closed.wait()
    assert (registry, answers) == ({}, [])
    assert caplog.messages == ["the media socket came to another process"]


async def test_a_call_whose_socket_is_in_its_handshake_here_is_not_looked_for_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pending, "LOOK_SECONDS", 0)

    async def elsewhere() -> bool:
        raise AssertionError

    registry: dict[str, Any] = {}
    registry["CA1"] = waiting = PendingCall(CALL, None, registry, elsewhere)
    waiting.arrived = True
    for _ in range(5):
        await asyncio.sleep(0)
    assert registry == {"CA1": waiting}
    await waiting.close()
    assert registry == {}


async def test_a_call_that_was_given_up_can_be_given_up_again() -> None:
    registry: dict[str, Any] = {}
    registry["CA1"] = waiting = PendingCall(CALL, None, registry)
    await waiting.close()
    await waiting.close()
    assert registry == {}


WAITS = {
    "the webhook again": (lambda call: call.expect_again(None), "no media socket opened within 10 s of the webhook"),
    "the media socket": (PendingCall.arrive, "the media socket opened, but its stream did not begin within 10 s"),
}


@pytest.mark.parametrize("what", WAITS)
async def test_a_call_of_which_something_comes_has_the_whole_time_anew(
    server: Server, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    caplog.set_level("INFO")
    come, why = WAITS[what]
    registry: dict[str, Any] = {}
    registry["CA1"] = waiting = PendingCall(CALL, begun(), registry)
    await asyncio.sleep(8)
    come(waiting)
    await asyncio.sleep(8)
    assert registry == {"CA1": waiting}
    assert not server.session.closed.is_set()
    await asyncio.sleep(4)
    assert registry == {}
    assert server.session.closed.is_set()
    assert caplog.messages == [why]
