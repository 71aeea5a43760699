"""A call survives a deploy and a crash: two processes on one database, and callers in every situation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

import pytest

from phoneagent.store import CallDetails
from tests.patience import HANG_SECONDS
from tests.resilience.callers import (
    ANSWERS,
    ASKED,
    BROKEN,
    CALLBACK_LOST,
    HANDSHAKE_FAILED,
    OVER,
    Caller,
    Callers,
    Situation,
    distribution,
)
from tests.resilience.cluster import Cluster, Process
from tests.resilience.conftest import World, Worlds

pytestmark = pytest.mark.anyio

SPREAD_SECONDS, EXIT_SECONDS = 2.0, 2.0
"""Over how long the last calls are handed over, and how long the process may take to be gone after that."""

DURABLE_SECONDS = 2.0
"""What was said so long before a crash is not forgotten: a second, and what recognising the words takes."""

HEARD_SECONDS = 3.0
"""How long the agent may be gone, on a machine that has nothing else to do; the run's summary tells what it was."""

LASTING: list[Situation] = ["telling", "speaking", "asking", "booking", "silent"]


async def crash(callers: Callers, process: Process) -> list[Caller]:
    """Kill a process; return those whose calls it carried."""
    struck = callers.in_process(process.pid)
    process.kill()
    for caller in struck:
        caller.killed_at.append(process.struck_at)
    await process.wait()
    return struck


async def deploy(callers: Callers, process: Process, cluster: Cluster) -> list[Caller]:
    """End a process as a platform does, and check how it ends; return those whose calls it carried."""
    drain_seconds, stalled_seconds = cluster.drain_seconds, cluster.stalled_seconds
    struck = callers.in_process(process.pid)
    await process.terminate()
    code, seconds = await process.wait()
    assert code == 0, process.phases()
    (_, first), *_, (drained, last) = process.phases()
    assert (first.split()[0], last) == ("no", "done"), process.phases()
    busy_seconds = process.start_seconds + cluster.stalled_seconds - stalled_seconds
    most = drain_seconds + SPREAD_SECONDS + EXIT_SECONDS + busy_seconds
    assert drained <= seconds <= most, (busy_seconds, process.phases())
    process.late_seconds = seconds - drain_seconds
    return struck


async def go_on(struck: Sequence[Caller], *, speak: Collection[Situation] | None = None) -> None:
    """Everybody gets the agent back, hears it at once in the situations `speak` (None: in all), and talks with it."""
    back = [caller.come_back(expect_voice=speak is None or caller.situation in speak) for caller in struck]
    await asyncio.gather(*back)
    for caller in struck:
        back_after = caller.returns[-1]
        cluster = caller.cluster
        most = HEARD_SECONDS + 2 * max(each.start_seconds for each in cluster.processes) + cluster.stalled_seconds
        assert max(back_after.stream_seconds, back_after.voice_seconds or 0) < most, (caller, back_after, most)
    await asyncio.gather(*(caller.finish_speaking() for caller in struck))
    await asyncio.gather(*(caller.ask_again() for caller in struck))


async def handed_over(struck: Sequence[Caller]) -> None:
    """No call was cut off: what either side was saying was said to its end, unless it was too long."""
    for caller in struck:
        gone = caller.line.streams[caller.before - 1]
        await caller.until(lambda: gone.ended_by is not None, "its stream has ended")  # noqa: B023
        assert (gone.ended_by, gone.close_code) == ("agent", 1000), caller
        if caller.situation != "telling":
            assert caller.unheard_ms() < 1, caller
            said = [item.text for session in caller.sessions for item in session.audio_items]
            assert ANSWERS[caller.situation] in said, (caller, said)
        if caller.situation == "speaking":
            assert caller.said[-1][1] == ASKED["long hours"], caller  # all of it, on one side of the hand-over


def unexcused(caller: Caller, more: Collection[str]) -> list[str]:
    """What the caller's side complained of, but for what is in the nature of things.

    A status callback to a process that ends may be lost, and the streams of one that is killed break or do not begin.
    Twilio asks `action` then, and the call goes on.
    """
    excuses = [*more, CALLBACK_LOST, *([BROKEN, HANDSHAKE_FAILED] if caller.killed_at else [])]
    return [each for each in caller.line.violations if not any(words in each for words in excuses)]


def killed_in_greeting(caller: Caller) -> bool:
    """Tell whether a process was killed so early that it may be unknown that anything of the greeting was heard."""
    began = caller.line.streams[0].started_at
    return any(killed_at - began < DURABLE_SECONDS for killed_at in caller.killed_at)


async def ended_record(w: World, caller: Caller) -> CallDetails:
    """Return the record of a call that is over; it may be written a moment later."""
    async with asyncio.timeout(HANG_SECONDS):
        while (record := await w.store.call(caller.sid)) is None or record.ended_at is None:
            await asyncio.sleep(0.05)
    return record


async def nothing_lost(w: World, callers: Callers, *, excused: Collection[str] = ()) -> None:
    """Look at what everybody heard, what the model was asked for, and the records; `excused`: see `unexcused`."""
    assert w.model.violations == []
    for caller in callers.all:
        assert 1 <= caller.greetings <= (2 if killed_in_greeting(caller) else 1), caller
        assert unexcused(caller, excused) == [], caller
        assert w.cluster.tool_runs(caller.sid) == caller.bookings
        record = await ended_record(w, caller)
        assert record.ended_by == ("caller" if caller.situation == "gone" else "agent"), (caller, record)
        assert record.stream_sid == caller.line.stream_sid
        assert len({turn.item_id for turn in record.turns}) == len(record.turns), (caller, record.turns)
        recorded = [turn.text for turn in record.turns if turn.role == "caller"]
        brought = str(caller.sessions[-1].brought)
        for said_at, text in caller.said:
            if any(0 < killed_at - said_at < DURABLE_SECONDS for killed_at in caller.killed_at):
                continue
            assert text in recorded, (caller, text, record.turns)
            if said_at < caller.line.streams[-1].started_at:
                assert text in brought, (caller, text, brought)


async def test_calls_survive_a_crash_and_a_deploy(both: Worlds, measured: Callable[[str], None]) -> None:
    async with both() as w:
        first, second = w.cluster.processes
        second.in_rotation = False  # so that the first has all calls
        async with Callers(w.cluster, w.model, len(LASTING) + 2) as callers:
            await callers.enter([*LASTING, "greeting", "goodbye", "gone"])
            second.in_rotation = True
            struck = await crash(callers, first)
            assert len(struck) == len(LASTING) + 1
            await go_on(struck)
            measured(f"after SIGKILL\n{distribution(struck)}")
            assert {caller.pids[-1] for caller in struck} == {second.pid}

            first.in_rotation = False
            await asyncio.gather(first.start(), callers.enter([*LASTING, "silent", "greeting"]))
            first.in_rotation = True
            struck = await deploy(callers, second, w.cluster)
            await handed_over(struck)
            await go_on(struck, speak=["telling"])
            measured(f"after SIGTERM, exit at {second.late_seconds:+.1f} s\n{distribution(struck)}")
            assert {caller.pids[-1] for caller in struck} == {first.pid}
            assert all(len(caller.line.streams) > 1 for caller in callers.live)
            await asyncio.gather(*(caller.part() for caller in callers.live))
        assert [len(caller.line.streams) for caller in callers.all if caller.situation in OVER] == [1, 1]
        await nothing_lost(w, callers)


async def test_thirty_calls_survive_a_deploy(world: Worlds, measured: Callable[[str], None]) -> None:
    async with world() as w:
        first, second = w.cluster.processes
        second.in_rotation = False
        async with Callers(w.cluster, w.model, 30) as callers:
            await callers.enter(LASTING * 6)
            second.in_rotation = True
            struck = await deploy(callers, first, w.cluster)
            assert len(struck) == 30
            await handed_over(struck)
            await go_on(struck, speak=["telling"])
            measured(f"SIGTERM with 30 live calls, exit at {first.late_seconds:+.1f} s\n{distribution(struck)}")
            assert {caller.pids[-1] for caller in struck} == {second.pid}
            await asyncio.gather(*(caller.part() for caller in callers.live))
        await nothing_lost(w, callers)


async def test_thirty_calls_survive_a_crash(world: Worlds, measured: Callable[[str], None]) -> None:
    async with world() as w:
        first, second = w.cluster.processes
        second.in_rotation = False
        async with Callers(w.cluster, w.model, 30) as callers:
            await callers.enter(LASTING * 6)
            second.in_rotation = True
            struck = await crash(callers, first)
            assert len(struck) == 30
            await go_on(struck)
            measured(f"SIGKILL with 30 live calls\n{distribution(struck)}")
            await asyncio.gather(*(caller.part() for caller in callers.live))
        await nothing_lost(w, callers)


@pytest.mark.parametrize("how", ["crash", "deploy"])
async def test_a_call_that_is_ended_during_its_goodbye_is_not_taken_up_again(world: Worlds, how: str) -> None:
    async with world(drain_seconds=1) as w:
        first, second = w.cluster.processes
        second.in_rotation = False
        async with Callers(w.cluster, w.model, 2) as callers:
            await callers.enter(["silent", "silent"])
            lasting, parting = callers.all
            second.in_rotation = True
            await parting.enter("parting")
            await (crash(callers, first) if how == "crash" else deploy(callers, first, w.cluster))
            await parting.line.wait_ended(20)
            assert (len(parting.line.streams), parting.line.verbs) == (1, ["Connect", "Hangup"])
            record = await ended_record(w, parting)
            assert (record.ended_by, record.stream_sid) == ("agent", parting.line.stream_sid)
            await lasting.until(lambda: lasting.pids[-1] == second.pid, "the other one goes on")
            await callers.leave()
        assert [unexcused(caller, ()) for caller in callers.all] == [[], []]


async def test_a_router_that_does_not_ask_for_readiness(world: Worlds) -> None:
    """It sends calls to the process that ends as well as to the other, and every one of them gets through."""
    async with world(asks_readiness=False, drain_seconds=3) as w:
        first, second = w.cluster.processes
        async with Callers(w.cluster, w.model, 6) as callers:
            await callers.enter(["silent", "telling"] * 3)
            struck = await deploy(callers, first, w.cluster)
            await go_on(struck, speak=["telling"])
            assert {caller.pids[-1] for caller in callers.live} == {second.pid}
            await callers.leave()
        await nothing_lost(w, callers, excused=[HANDSHAKE_FAILED])


async def test_a_process_that_is_started_again_resumes_its_own_calls(world: Worlds) -> None:
    async with world(count=1) as w:
        (only,) = w.cluster.processes
        async with Callers(w.cluster, w.model, 2) as callers:
            await callers.enter(["telling", "silent"])
            struck = await crash(callers, only)
            await only.start()  # Twilio asks again meanwhile
            await go_on(struck)
            await callers.leave()
        await nothing_lost(w, callers)


async def test_a_tool_that_outlives_its_process_runs_once(world: Worlds, measured: Callable[[str], None]) -> None:
    async with world(tool_seconds=7, drain_seconds=1) as w:
        first, _ = w.cluster.processes
        async with Callers(w.cluster, w.model, 2) as callers:
            await callers.enter(["booking", "booking"])
            struck = await deploy(callers, first, w.cluster)
            assert struck
            await go_on(struck, speak=["booking"])
            measured(f"SIGTERM with a tool that goes on, exit at {first.late_seconds:+.1f} s\n{distribution(struck)}")
            for caller in struck:
                assert "outcome unknown" in str(caller.sessions[-1].brought)
            await callers.leave()
        await nothing_lost(w, callers)
