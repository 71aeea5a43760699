"""Sessions opened ahead: claimed, given up, or expired; never left open."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Agent, Call
from phoneagent.calls import pending
from phoneagent.calls.opening import EndpointRouter, Opening
from phoneagent.calls.pending import PendingCall
from phoneagent.model.connection import ModelSession

pytestmark = pytest.mark.anyio
CALL = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))


class Session(ModelSession):
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def close(self) -> None:
        self.closed.set()


class Router(EndpointRouter):
    """Endpoints that give that session."""

    def __init__(self, session: ModelSession | None) -> None:
        super().__init__([])
        self.session = session

    async def open_first(self, *given: Any) -> ModelSession:
        if self.session is None:
            await asyncio.Event().wait()
        assert self.session is not None
        return self.session


def opening(session: ModelSession | None = None) -> Opening:
    """An opening that gives that session, or (None) is still at it."""
    return Opening(CALL, Agent(instructions=""), Router(session))


async def test_a_claimed_session_belongs_to_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "CLAIM_SECONDS", 0.01)
    registry: dict[str, Any] = {}
    session = Session()
    registry["CA1"] = PendingCall(CALL, opening(session), registry)
    registry["CA1"].claim()
    assert registry == {}
    await asyncio.sleep(0.05)
    assert not session.closed.is_set()


async def test_an_unclaimed_session_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "CLAIM_SECONDS", 0.01)
    registry: dict[str, Any] = {}
    session = Session()
    registry["CA1"] = PendingCall(CALL, opening(session), registry)
    async with asyncio.timeout(5):
        await session.closed.wait()
    assert registry == {}


async def test_one_that_is_still_being_opened_is_given_up() -> None:
    registry: dict[str, Any] = {}
    begun = opening()
    registry["CA1"] = PendingCall(CALL, begun, registry)
    async with asyncio.timeout(5):
        await registry["CA1"].close()
    assert begun._model.cancelled()
    assert registry == {}


async def test_a_call_whose_socket_came_to_another_process_is_waited_for_no_longer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(pending, "LOOK_SECONDS", 0)
    answers = [False, True]

    async def elsewhere() -> bool:
        return answers.pop(0)

    registry: dict[str, Any] = {}
    session = Session()
    registry["CA1"] = PendingCall(CALL, opening(session), registry, elsewhere)
    async with asyncio.timeout(5):
        await session.closed.wait()
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
