"""Calls that are acted on through a process that does not have them, while processes die, hang and are replaced."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from typing import Any

import aiohttp
import pytest

from phoneagent.store import schema
from tests.patience import HANG_SECONDS
from tests.resilience.callers import Caller, Callers
from tests.resilience.cluster import Process
from tests.resilience.conftest import World, Worlds
from tests.store.conftest import rows_left

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]
TOKEN = "let-me-in"
MANAGER = "The manager is on his way to you."
FACT = "They are a member of the club."


async def post(process: Process, sid: str, name: str, key: str | None = None, **body: Any) -> tuple[int, Any]:
    """Act on a call, on a connection of its own; return the status and the answer."""
    headers = {"Authorization": f"Bearer {TOKEN}", **({} if key is None else {"Idempotency-Key": key})}
    url = f"http://127.0.0.1:{process.port}/calls/{sid}/{name}"
    async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


def notes(caller: Caller, text: str = FACT) -> int:
    """How often the model was told."""
    return sum(str(session.items).count(text) for session in caller.sessions)


async def recorded(w: World, caller: Caller) -> None:
    """Wait until the other process may know of the call."""
    async with asyncio.timeout(HANG_SECONDS):
        while await w.store.call(caller.sid) is None:
            await asyncio.sleep(0.05)


async def test_a_call_is_led_through_another_process(both: Worlds) -> None:
    async with both(PHONEAGENT_API_TOKEN=TOKEN) as w:
        owner, other = w.cluster.processes
        other.in_rotation = False
        async with Callers(w.cluster, w.model, 1) as callers:
            (caller,) = callers.all
            await caller.enter("silent")
            await recorded(w, caller)
            assert caller.pids[-1] == owner.pid
            at_ms = caller.line.duration_ms
            accepted = {"call_sid": caller.sid, "operation": "say", "muted": False}
            assert await post(other, caller.sid, "say", text=MANAGER) == (202, accepted)
            await caller.until(lambda: caller._times_said(MANAGER) == 1, "the words were said")
            await caller.until(lambda: caller.heard_ms(at_ms) > 500, "the words were heard")

            for process in (other, owner, other):
                assert (await post(process, caller.sid, "note", "one", text=FACT))[0] == 202
            assert (await post(other, caller.sid, "note", "one", text="Another."))[0] == 409
            await caller.until(lambda: notes(caller), "the model was told")

            await caller.enter("telling")
            before = len(caller.line.clears)
            assert (await post(other, caller.sid, "interrupt"))[0] == 202
            await caller.until(lambda: len(caller.line.clears) > before, "the story was cut off")

            assert (await post(other, caller.sid, "mute", muted=True))[1]["muted"] is True
            assert (await post(owner, caller.sid, "mute", muted=False))[1]["muted"] is False
            assert notes(caller) == 1
            assert (await post(other, caller.sid, "hang-up", goodbye=False))[0] == 202
            await caller.line.wait_ended(20)
        async with asyncio.timeout(HANG_SECONDS):
            while (answer := await post(other, caller.sid, "note", text=FACT))[0] != 409 or "over" not in str(answer):
                await asyncio.sleep(0.05)
        kept = await rows_left(w.store, schema.commands)
        assert [(row.action, row.body) for row in kept] == [("note", None)], "only the key stays"


@pytest.mark.parametrize("both", ["postgresql"], indirect=True)  # a stopped process could hold the lock of a file
async def test_what_a_hung_process_has_not_taken_in_time_is_never_done(both: Worlds) -> None:
    async with both(PHONEAGENT_API_TOKEN=TOKEN) as w:
        owner, other = w.cluster.processes
        other.in_rotation = False
        async with Callers(w.cluster, w.model, 1) as callers:
            (caller,) = callers.all
            await caller.enter("silent")
            await recorded(w, caller)
            owner.send(signal.SIGSTOP)
            status, problem = await post(other, caller.sid, "note", text=FACT)
            assert (status, problem["status"]) == (504, 504)
            assert "nothing is done, now or later" in problem["detail"]
            owner.send(signal.SIGCONT)
            assert (await post(other, caller.sid, "note", text="It is back."))[0] == 202
            await caller.until(lambda: notes(caller, "It is back."), "the process was back")
            assert notes(caller) == 0
            await callers.leave()


async def test_a_request_to_a_process_that_is_killed_is_done_once_by_its_successor_or_never(both: Worlds) -> None:
    async with both(PHONEAGENT_API_TOKEN=TOKEN) as w:
        owner, other = w.cluster.processes
        other.in_rotation = False
        async with Callers(w.cluster, w.model, 1) as callers:
            (caller,) = callers.all
            await caller.enter("silent")
            await recorded(w, caller)
            other.in_rotation = True
            asking = [asyncio.create_task(post(other, caller.sid, "note", text=f"{FACT} {n}.")) for n in range(4)]
            owner.kill()
            asking += [asyncio.create_task(post(other, caller.sid, "note", text=f"{FACT} {n}.")) for n in range(4, 8)]
            await caller.come_back(expect_voice=False)
            await caller.until(lambda: caller.pids[-1] == other.pid, "the call was in the other process")
            answers = await asyncio.gather(*asking)
            assert (await post(other, caller.sid, "note", text="The last."))[0] == 202
            await caller.until(lambda: notes(caller, "The last."), "the model was told")
            for number, (status, answer) in enumerate(answers):
                done = [str(session.items).count(f"{FACT} {number}.") for session in caller.sessions]
                if status == 202:  # a fact that the first session had is told to the second
                    assert max(done) == 1, (done, answer)
                else:
                    assert status == 504, answer
                    assert "may be done or not" in answer["detail"] or not any(done), (done, answer)
            await callers.leave()


async def test_workers_of_one_server_act_on_each_other_s_calls(both: Worlds) -> None:
    async with both(count=1, WEB_CONCURRENCY="2", PHONEAGENT_API_TOKEN=TOKEN) as w:
        (server,) = w.cluster.processes
        async with Callers(w.cluster, w.model, 2) as callers:
            await callers.enter(["silent", "silent"])
            for caller in callers.all:
                await recorded(w, caller)
                facts = [f"{FACT} {number}." for number in range(6)]
                for fact in facts:  # any worker may accept such a connection
                    assert (await post(server, caller.sid, "note", text=fact))[0] == 202
                for fact in facts:
                    await caller.until(partial(notes, caller, fact), "the model was told")
                    assert notes(caller, fact) == 1
            await callers.leave()
