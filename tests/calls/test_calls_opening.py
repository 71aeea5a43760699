"""The model sessions of a process's calls: at which endpoint they are opened, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from phoneagent.calls import calls as calls_module
from phoneagent.calls import opening
from phoneagent.calls.opening import FAILOVER_SECONDS
from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable
from tests.calls.office import SID, Rig, new_call, until

pytestmark = pytest.mark.anyio
AWAY = EndpointUnreachable("no connection")

# --- endpoints ---


async def test_the_endpoints_are_asked_in_order_and_only_the_last_one_may_take_its_time(
    rig: Callable[..., Rig],
) -> None:
    office = rig(endpoints=3, fail={0: AWAY, 1: EndpointRefused("the key is wrong")})
    async with office.running():
        await until(lambda: bool(office.models))
    assert office.asked == [("0", FAILOVER_SECONDS), ("1", FAILOVER_SECONDS), ("2", None)]


async def test_an_endpoint_that_has_just_failed_is_asked_last(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    office = rig(endpoints=2, fail={0: AWAY})
    async with office.running():
        await until(lambda: bool(office.models))
    office.asked.clear()
    office.fail.clear()
    async with office.running("MZ2"):
        await until(lambda: len(office.models) == 2)
    assert office.asked == [("1", FAILOVER_SECONDS)]
    monkeypatch.setattr(opening, "FAILED_SECONDS", 0.0)
    office.asked.clear()
    async with office.running("MZ3"):
        await until(lambda: len(office.models) == 3)
    assert office.asked == [("0", FAILOVER_SECONDS)]


@pytest.mark.parametrize(
    ("fail", "why"),
    [
        ({0: EndpointRefused("wrong key"), 1: EndpointRefused("no such model")}, "no such model"),
        ({0: EndpointUnreachable("busy"), 1: EndpointRefused("wrong key")}, None),  # the first one may be back soon
    ],
)
async def test_where_no_endpoint_gives_a_session(
    rig: Callable[..., Rig], fail: dict[int, EndpointError], why: str | None
) -> None:
    office = rig(endpoints=2, fail=fail)
    async with office.running():
        if why is None:
            await until(lambda: len(office.asked) == 4)  # they are asked once more
        else:
            await until(lambda: bool(office.calls._sessions[SID].bridge.closing.active))
            assert why in str(office.told)
            assert len(office.asked) == 2


async def test_the_next_session_elsewhere_is_at_the_next_endpoint(rig: Callable[..., Rig]) -> None:
    office = rig(endpoints=2)
    async with office.running():
        await until(lambda: bool(office.models and office.calls._sessions[SID].bridge.conversation.connected))
        office.calls._sessions[SID]._models.renew(elsewhere=True)
        await until(lambda: len(office.models) == 2)
        assert [model.endpoint.host for model in office.models] == ["0", "1"]
        await until(lambda: office.calls._sessions[SID].bridge.conversation.connected)
    assert office.models[1].closed


# --- sessions that are opened ahead ---


async def test_a_session_that_was_opened_ahead_is_the_calls(rig: Callable[..., Rig]) -> None:
    office = rig()
    call = new_call()
    office.calls.expect(call, prepare=True)
    assert office.calls.coming == 1
    assert office.calls.answered == {SID: call}
    await until(lambda: bool(office.models))
    async with office.running() as _:
        assert office.live == {SID: call}  # and not the one that was made for the socket
        assert office.calls.coming == 0
        await until(lambda: office.calls._sessions[SID].bridge.conversation.connected)
    assert len(office.asked) == 1


async def test_without_opening_ahead_the_call_is_expected_all_the_same(rig: Callable[..., Rig]) -> None:
    office = rig()
    office.calls.expect(new_call(), prepare=False)
    assert office.calls.coming == 1
    for _ in range(5):
        await asyncio.sleep(0)
    assert office.asked == []
    await office.calls.forget(SID)
    assert office.calls.coming == 0


async def test_where_twilio_asks_twice_one_session_is_opened(rig: Callable[..., Rig]) -> None:
    office = rig()
    office.calls.expect(new_call(), prepare=True)
    office.calls.arrived(SID)
    assert office.calls.coming == 0
    office.calls.expect(new_call(), prepare=True)
    assert office.calls.coming == 1
    await until(lambda: bool(office.models))
    await office.calls.close()
    assert [model.closed for model in office.models] == [True]
    assert office.calls.answered == {}


async def test_of_too_many_calls_the_sessions_are_opened_at_their_sockets(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "MAX_PREPARED", 2)
    office = rig()
    for number in range(4):
        office.calls.expect(new_call(f"CA{number}"), prepare=True)
    assert office.calls.coming == 4
    await until(lambda: len(office.models) == 2)
    await office.calls.close()
    assert len(office.asked) == 2


async def test_for_a_call_that_is_live_nothing_is_opened_ahead(rig: Callable[..., Rig]) -> None:
    office = rig()
    async with office.running():
        await until(lambda: bool(office.models))
        office.calls.expect(new_call(), prepare=True)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(office.asked) == 1
        await office.calls.forget(SID)


async def test_a_call_that_nobody_expects_can_be_forgotten(rig: Callable[..., Rig]) -> None:
    await rig().calls.forget(SID)
