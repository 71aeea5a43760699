"""Sessions opened ahead: claimed, given up, or expired; never left open."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Agent, Call
from phoneagent.calls import pending
from phoneagent.calls.pending import Opening, PendingCall
from phoneagent.model.connection import ModelSession

pytestmark = pytest.mark.anyio
CALL = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))


class Session(ModelSession):
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def close(self) -> None:
        self.closed.set()


async def opened(session: Session) -> ModelSession:
    return session


async def never() -> ModelSession:
    await asyncio.Event().wait()
    raise AssertionError


async def nobody() -> Agent:
    return Agent(instructions="")


def opening(model: Coroutine[Any, Any, ModelSession], agent: Coroutine[Any, Any, Agent] | None = None) -> Opening:
    begun = Opening(asyncio.create_task(agent or nobody()), deque())
    begun.model = asyncio.create_task(model)
    return begun


async def test_a_claimed_session_belongs_to_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "CLAIM_SECONDS", 0.01)
    registry: dict[str, Any] = {}
    session = Session()
    registry["CA1"] = PendingCall(CALL, opening(opened(session)), registry)
    registry["CA1"].claim()
    assert registry == {}
    await asyncio.sleep(0.05)
    assert not session.closed.is_set()


async def test_an_unclaimed_session_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "CLAIM_SECONDS", 0.01)
    registry: dict[str, Any] = {}
    session = Session()
    registry["CA1"] = PendingCall(CALL, opening(opened(session)), registry)
    async with asyncio.timeout(5):
        await session.closed.wait()
    assert registry == {}


async def test_one_that_is_still_being_opened_is_given_up() -> None:
    registry: dict[str, Any] = {}
    begun = opening(never())
    registry["CA1"] = PendingCall(CALL, begun, registry)
    async with asyncio.timeout(5):
        await registry["CA1"].close()
    assert begun.model is not None
    assert begun.model.cancelled()
    assert registry == {}


async def test_an_agent_that_is_still_being_chosen_is_given_up() -> None:
    async def undecided() -> Agent:
        await asyncio.Event().wait()
        raise AssertionError

    begun = opening(never(), undecided())
    async with asyncio.timeout(5):
        await begun.discard()
    assert begun.agent.cancelled()
    assert begun.model is not None
    assert begun.model.cancelled()


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
    registry["CA1"] = PendingCall(CALL, opening(opened(session)), registry, elsewhere)
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
