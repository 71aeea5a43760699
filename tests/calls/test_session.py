"""The shell of a call between a caller's socket and a model's, both made of lists of messages."""

from __future__ import annotations

import asyncio
import socket
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Agent, Call, CallEnded, Event
from phoneagent.agent.tools import Tool
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.policy import Policy
from phoneagent.bridge.requests import RunTool
from phoneagent.calls import session
from phoneagent.calls.session import ModelSocket, Session
from phoneagent.protocol.carrier import AudioIn, FromCarrier, Started, ToCarrier

pytestmark = pytest.mark.anyio
START = Started(stream_sid="MZ1", call_sid="CA1", account_sid="AC1")


class Caller:
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def receive(self) -> FromCarrier | None:
        await self.closed.wait()
        return None

    async def send(self, message: ToCarrier) -> None: ...

    async def close(self) -> None:
        self.closed.set()


async def never(elsewhere: bool) -> ModelSocket:
    await asyncio.Event().wait()
    raise AssertionError


class Shell:
    """A session without a network."""

    def __init__(self, agent: Agent | None = None, open_model: Any = never, caller: Caller | None = None) -> None:
        self.told: list[Event] = []
        self.call = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
        self.session = Session(
            call=self.call,
            agent=agent or Agent(instructions="x"),
            bridge=Bridge(Policy(), call_sid="CA1"),
            caller=caller or Caller(),
            open_model=open_model,
            emit=self.told.append,
        )

    def ended(self) -> CallEnded:
        (ended,) = (each for each in self.told if isinstance(each, CallEnded))
        return ended


async def test_a_task_that_is_cancelled_from_inside_ends_the_call() -> None:
    async def open_model(elsewhere: bool) -> ModelSocket:
        raise asyncio.CancelledError  # as awaiting a task does that somebody cancelled

    shell = Shell(open_model=open_model)
    async with asyncio.timeout(5):
        await shell.session.run(START)
    assert (shell.ended().ended_by, shell.ended().reason) == ("error", "internal fault: CancelledError")


async def test_a_timer_that_fails_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell()
    bridge = shell.session.bridge

    def broken(now: float) -> None:
        raise LookupError

    monkeypatch.setattr(bridge, "handle_timer", broken)
    monkeypatch.setattr(bridge, "get_timer", lambda: 0.0)
    async with asyncio.timeout(5):
        await shell.session.run(START)
    assert shell.ended().reason == "internal fault: LookupError"


async def test_the_end_is_told_before_the_last_tool_is_done() -> None:
    done, begun = asyncio.Event(), asyncio.Event()

    async def slow(arguments: dict[str, Any]) -> str:
        begun.set()
        await done.wait()
        return "done"

    tool = Tool(name="slow", description="", parameters={}, handler=slow)
    shell = Shell(Agent(instructions="x", tools=[tool]))
    running = asyncio.create_task(shell.session.run(START))
    await asyncio.sleep(0)
    shell.session.bridge.requests.append(RunTool("c1", "slow", "{}"))
    shell.session.flush()
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert isinstance(shell.told[-1], CallEnded)
    shell.call.say("does nothing any more")
    finishing = asyncio.create_task(shell.session.finish_tools())
    await asyncio.sleep(0)
    assert not finishing.done()
    done.set()
    async with asyncio.timeout(5):
        await finishing


async def test_who_holds_up_the_loop_makes_no_dead_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came meanwhile is read before the timers have their say."""
    monkeypatch.setattr("phoneagent.bridge.caller.LINE_LOST_SECONDS", 0.1)
    monkeypatch.setattr(session, "LATE_SECONDS", 0.1)
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    waits, read = asyncio.Event(), asyncio.Event()

    class Line(Caller):
        async def receive(self) -> FromCarrier | None:
            (read if waits.is_set() else waits).set()
            payload = (await reader.readline()).decode().strip()
            return AudioIn(payload, 20) if payload else None

    def hold_up() -> None:
        theirs.send(b"/w==\n")
        time.sleep(0.3)

    shell = Shell(caller=Line())
    running = asyncio.create_task(shell.session.run(START))
    await waits.wait()
    asyncio.get_running_loop().call_soon(hold_up)
    async with asyncio.timeout(5):
        await read.wait()
        assert shell.told == []
        await running  # nothing more comes: now the line is dead
    assert shell.ended().ended_by == "line"
    theirs.close()
    writer.close()
    await writer.wait_closed()


async def test_a_session_that_is_stopped_leaves_nothing() -> None:
    shell = Shell()
    before = asyncio.all_tasks()
    running = asyncio.create_task(shell.session.run(START))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == before
    assert shell.ended().reason == "the server stopped the call"
