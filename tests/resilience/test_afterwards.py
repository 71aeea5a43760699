"""Webhooks of calls whose process was killed after the hang-up: each is delivered, and once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import pytest

from phoneagent.calls.afterwards import message_id
from phoneagent.store.afterwards import DELIVERED
from tests.patience import HANG_SECONDS
from tests.receiver import HANG, SECRET, TAKEN, Receiver, answer, called, receiving
from tests.resilience.callers import Callers
from tests.resilience.conftest import World, Worlds

pytestmark = pytest.mark.anyio

CALLS = 50
FEWER = 12
SOME = 3
SHORT_LEASE = Path(__file__).parent / "short_lease.py"


def settings_of(there: Receiver) -> dict[str, str]:
    return {"WEBHOOK_URL": there.url, "WEBHOOK_SECRET": SECRET, "WEBHOOK_ALLOW_PRIVATE": "1"}


async def until_said(w: World, sids: set[str]) -> None:
    """Wait until it is written down that each of these callers has said something."""
    async with asyncio.timeout(HANG_SECONDS):
        for sid in sids:
            while (record := await w.store.call(sid)) is None or not any(
                turn.role == "caller" and turn.text for turn in record.turns
            ):
                await asyncio.sleep(0.02)


async def until_ended(w: World, sids: set[str]) -> None:
    """Wait until the ends of these calls are written down."""
    async with asyncio.timeout(HANG_SECONDS):
        while {each.call_sid for each in await w.store.calls(limit=1000, ended=True)} < sids:
            await asyncio.sleep(0.02)


async def until_begun(w: World, sids: set[str]) -> None:
    """Wait until something is being done about one of these calls."""
    async with asyncio.timeout(HANG_SECONDS):
        while not any(
            each is not None and each.attempts for each in [await w.store.afterwards.get(sid) for sid in sids]
        ):
            await asyncio.sleep(0.005)


async def until_delivered(w: World, there: Receiver, sids: set[str]) -> None:
    """Wait until nothing is left to be done about these calls, and check that each outcome was delivered, once."""
    async with asyncio.timeout(HANG_SECONDS):
        for sid in sids:
            while (found := await w.store.afterwards.get(sid)) is None or found.state != DELIVERED:
                await asyncio.sleep(0.02)
    assert len(there.ids) == len(sids)
    assert {id.partition("_MZ")[0]: count for id, count in there.ids.items()} == {message_id(sid): 1 for sid in sids}
    assert there.forged == 0
    taken = {called(body): body["data"] for body in there.verified}
    assert set(taken) == sids
    for sid, data in taken.items():
        assert data["call"]["ended_at"] is not None, sid
        assert (data["outcome"].keys(), data["outcome_error"]) == ({"wish", "pleased"}, None), sid


async def test_calls_whose_process_is_killed_after_the_hang_up_are_delivered_once_each(
    both: Worlds, request: pytest.FixtureRequest, measured: Callable[[str], None]
) -> None:
    count = CALLS if "sqlite" in request.node.name else FEWER
    killed = False
    async with (
        receiving(lambda _: TAKEN if killed else answer(503)) as there,
        both(count=1, target=SHORT_LEASE, MAX_CALLS=str(count), **settings_of(there)) as w,
    ):
        (process,) = w.cluster.processes
        async with Callers(w.cluster, w.model, count) as callers:
            await callers.enter(["silent"] * count)
            sids = {each.sid for each in callers.all}
            await until_said(w, sids)
            await callers.leave()
            await until_ended(w, sids)
            assert there.ids == {}
            process.kill()
            await process.wait()
            killed = True
            refused = len(there.requests)
            await process.start()
            await until_delivered(w, there, sids)
        measured(f"SIGKILL after {count} hang-ups ({refused} refused before): {len(there.ids)} delivered, each once")


Moment: TypeAlias = Literal["in the call", "in the outcome", "in the delivery"]


@pytest.mark.parametrize("moment", get_args(Moment))
async def test_wherever_the_process_is_killed_another_one_delivers(world: Worlds, moment: Moment) -> None:
    killed = False

    def answers(before: int) -> bytes:
        return TAKEN if killed or moment == "in the call" else HANG

    async with (
        receiving(answers) as there,
        world(count=1, target=SHORT_LEASE, **settings_of(there)) as w,
    ):
        (process,) = w.cluster.processes
        async with Callers(w.cluster, w.model, SOME) as callers:
            await callers.enter(["silent"] * SOME)
            sids = {each.sid for each in callers.all}
            await until_said(w, sids)
            if moment != "in the call":
                await callers.leave()
            if moment == "in the outcome":
                await until_begun(w, sids)
            if moment == "in the delivery":
                async with asyncio.timeout(HANG_SECONDS):
                    await there.came.wait()
            process.kill()
            await process.wait()
            killed = True
            await process.start()
            if moment == "in the call":
                await asyncio.gather(*(each.come_back(expect_voice=True) for each in callers.all))
                await callers.leave()
            await until_delivered(w, there, sids)
