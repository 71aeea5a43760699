"""The shell of a call: what it passes on, what it does, and what a fault in it does to the call."""

from __future__ import annotations

import asyncio
import base64
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from phoneagent import Agent, Call, CallEnded
from phoneagent.agent.tools import Tool
from phoneagent.bridge.requests import OpenNext, Renew, RunTool
from phoneagent.bridge.steps import HangUp, Resume
from phoneagent.calls import session
from phoneagent.calls.session import ModelSocket
from phoneagent.errors import ProtocolError, ToolError
from phoneagent.events import (
    AgentAnswered,
    CallerSpoke,
    CallHandedOver,
    KeyPressed,
    ModelEvent,
    ToolCalled,
    ToolReturned,
    Trouble,
)
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import (
    Audio,
    AudioIn,
    Clear,
    Key,
    Played,
    SendMark,
)
from tests.calls.shell import START, Caller, Journal, Running, Shell
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
FRAME = AudioIn("////", 20)


async def test_a_task_that_is_cancelled_from_inside_ends_the_call() -> None:
    async def open_model(elsewhere: bool) -> ModelSocket:
        raise asyncio.CancelledError  # as awaiting a task does that somebody cancelled

    shell = Shell(open_model=open_model)
    async with asyncio.timeout(HANG_SECONDS):
        await shell.session.run(START)
    assert (shell.ended().ended_by, shell.ended().reason) == ("error", "internal fault: CancelledError")


BOTH_LOOPS = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": value}) for value in (False, True)], ids=["asyncio", "uvloop"]
)


@BOTH_LOOPS
async def test_a_timer_that_is_due_already_ends_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell()
    bridge, fired = shell.session.bridge, []

    def handle(now: float) -> None:
        fired.append(now)
        if len(fired) == 3:
            raise LookupError

    monkeypatch.setattr(bridge, "handle_timer", handle)
    monkeypatch.setattr(bridge, "get_timer", lambda: asyncio.get_running_loop().time())
    async with asyncio.timeout(HANG_SECONDS):
        await shell.session.run(START)
    assert shell.ended().reason == "internal fault: LookupError"
    assert len(fired) == 3


async def test_a_timer_that_fails_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell()
    bridge = shell.session.bridge

    def broken(now: float) -> None:
        raise LookupError

    monkeypatch.setattr(bridge, "handle_timer", broken)
    monkeypatch.setattr(bridge, "get_timer", lambda: 0.0)
    async with asyncio.timeout(HANG_SECONDS):
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
    async with asyncio.timeout(HANG_SECONDS):
        await finishing


async def test_a_blocked_loop_makes_no_dead_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came meanwhile is read before the timers have their say."""
    monkeypatch.setattr("phoneagent.bridge.caller.LINE_LOST_SECONDS", 1.0)
    monkeypatch.setattr(session, "LATE_SECONDS", 0.1)
    monkeypatch.setattr(session, "CATCH_UP_SECONDS", 2.0)
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    waits, read = asyncio.Event(), asyncio.Event()

    class Line(Caller):
        async def read(self, take: Callable[[Any], None], resumed: Callable[[], None]) -> None:
            waits.set()
            while payload := (await reader.readline()).decode().strip():
                take(AudioIn(payload, 20))
                read.set()

    def hold_up() -> None:
        theirs.send(b"/w==\n")
        time.sleep(1.3)

    shell = Shell(caller=Line())
    running = asyncio.create_task(shell.session.run(START))
    await waits.wait()
    asyncio.get_running_loop().call_soon(hold_up)
    async with asyncio.timeout(HANG_SECONDS):
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


# --- between two sockets ---


async def test_frames_go_to_the_model_and_audio_to_the_caller() -> None:
    async with Running() as shell:
        (model,) = shell.models
        shell.line.incoming.put_nowait(FRAME)
        model.says("response.created", response={"id": "r1"})
        model.speaks()
        await shell.until(lambda: model.sent and shell.line.sent)
        assert model.sent == [realtime.AudioAppend("////")]
        assert shell.line.sent[0] == Audio("////")
        assert len(shell.events(AgentAnswered)) == 0  # the caller had not asked
    assert shell.ended().ended_by == "caller"


async def test_a_frame_is_measured_now_and_then_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MEASURED_FRAMES", 5)
    measured: list[str] = []

    def measure(direction: str, seconds: float) -> None:
        assert 0 <= seconds < 5
        measured.append(direction)

    async with Running(measure=measure) as shell:
        for number in range(11):  # the first one also sets the timer
            shell.line.incoming.put_nowait(AudioIn(base64.b64encode(bytes(160)).decode(), 20 * number))
        await shell.until(lambda: len(shell.models[0].sent) == 11)
        assert measured == ["to_model"] * 2
        shell.models[0].says("response.created", response={"id": "r1"})
        shell.models[0].speaks(6)  # the first delta is not on the fast path
        await shell.until(lambda: len(measured) == 3)
    assert measured[2] == "to_caller"


async def test_bad_messages_of_either_side_are_reported_and_the_next_one_is_read() -> None:
    async with Running() as shell:
        shell.line.incoming.put_nowait(ProtocolError("Media Streams message ignored: a binary frame"))
        shell.line.incoming.put_nowait(Key("5"))
        shell.models[0].incoming.put_nowait(b"garbage")
        shell.models[0].says("input_audio_buffer.speech_started")
        await shell.until(lambda: shell.events(KeyPressed) and shell.events(CallerSpoke))
        first, second = (event.what for event in shell.events(Trouble))
    assert first == "Media Streams message ignored: a binary frame"
    assert second.startswith("Realtime event ignored: ")


async def test_a_line_that_closes_without_a_stop_is_broken() -> None:
    async with Running() as shell:
        shell.line.incoming.put_nowait(None)
        await shell.task
    assert (shell.ended().ended_by, shell.ended().reason) == ("line", "the media socket closed without a stop")


@pytest.mark.parametrize("wanted", [True, False])
async def test_the_models_events_are_emitted_as_they_came_if_wanted(wanted: bool) -> None:
    async with Running(model_events=wanted) as shell:
        shell.models[0].says("of.the.future", more=[1])
        shell.models[0].says("input_audio_buffer.speech_started")
        await shell.until(lambda: shell.events(CallerSpoke))
        events = [event.data for event in shell.events(ModelEvent)]
    assert events[:1] == ([{"type": "of.the.future", "more": [1]}] if wanted else [])


async def test_audio_that_is_not_taken_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Running() as shell:
        monkeypatch.setattr("phoneagent.bridge.playback.MAX_WAITING_BYTES", 0)
        shell.models[0].says("response.created", response={"id": "r1"})
        shell.models[0].speaks()
        await shell.until(lambda: shell.events(Trouble))


async def test_a_session_of_no_use_is_renewed_and_a_call_that_ends_soon_opens_the_next_one() -> None:
    async with Running() as shell:
        shell.session.bridge.requests.append(OpenNext())
        shell.session.flush()
        await shell.until(lambda: len(shell.models) == 2)
        shell.session.bridge.requests.append(Renew(elsewhere=True))
        shell.session.flush()
        await shell.until(lambda: len(shell.models) == 3)
    assert shell.elsewhere == [False, False, True]


async def test_a_call_is_handed_from_agent_to_agent_over_the_models_answer() -> None:
    billing = Agent(name="billing", instructions="You do bills.")
    async with Running(Agent(name="front", instructions="x", handoffs=[billing])) as shell:
        (model,) = shell.models
        model.says("response.created", response={"id": "r1"})
        call = {"type": "function_call", "call_id": "c1", "name": "hand_off_to_billing", "arguments": "{}"}
        model.says("response.output_item.done", item=call, response_id="r1")
        await shell.until(lambda: any(isinstance(each, ToolCalled) for each in shell.told))
        while not any(isinstance(each, realtime.SessionUpdate) for each in model.sent):
            shell.line.incoming.put_nowait(FRAME)  # with which the change is written
            await asyncio.sleep(0)
        assert shell.events(ToolReturned) == []
        model.says("session.updated", session={})
        await shell.until(lambda: shell.events(ToolReturned))
        (returned,) = shell.events(ToolReturned)
    assert 'you are "billing" now' in returned.output


async def test_what_the_agent_says_is_judged_and_replaced() -> None:
    seen: list[str] = []

    async def guardrail(call: Call, text: str) -> str | None:
        seen.append(text)
        return "Let me check that." if "secret" in text else None

    async with Running(Agent(instructions="x", guardrail=guardrail)) as shell:
        (model,) = shell.models
        model.says("response.created", response={"id": "r1"})
        model.speaks()
        model.says("response.output_audio_transcript.delta", response_id="r1", item_id="i1", delta="Our ")
        await shell.until(lambda: seen)
        model.says("response.output_audio_transcript.done", response_id="r1", item_id="i1", transcript="Our secret.")
        await shell.until(lambda: "Let me check that." in str(shell.session.bridge.responses._wanted))
        assert Clear() in shell.line.sent
        model.says("response.done", response={"id": "r1", "status": "cancelled"})
        await shell.until(lambda: "Let me check that." in str(model.sent))
    assert seen == ["Our ", "Our secret."]


# --- a call that goes on elsewhere ---


async def test_a_call_is_handed_over_once_the_caller_does_not_notice() -> None:
    journal = Journal()
    async with Running(journal=journal) as shell:
        shell.models[0].says("response.created", response={"id": "r1"})
        shell.models[0].speaks()
        await shell.until(lambda: shell.line.sent)
        shell.session.hand_over("the process ends")
        item = {"id": "i1", "type": "message"}
        shell.models[0].says("response.done", response={"id": "r1", "status": "completed", "output": [item]})
        await shell.until(lambda: isinstance(shell.line.sent[-1], SendMark))
        assert not shell.task.done()
        shell.line.incoming.put_nowait(Played(shell.line.sent[-1].name))  # type: ignore[union-attr]
        await shell.until(shell.task.done)
    assert journal.steps == [(Resume(stream_sid="MZ1", pending="nothing", broke=False), False)]


async def test_handing_over_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(now: float, reason: str) -> None:
        raise LookupError

    journal = Journal()
    async with Running(journal=journal) as shell:
        with monkeypatch.context() as patch:
            patch.setattr(shell.session.bridge, "quiet", broken)
            shell.session.hand_over("the process ends")
        await shell.task
    assert [(type(step), early) for step, early in journal.steps] == [(Resume, False)]


async def test_after_a_fault_of_ours_the_call_goes_on_where_there_is_a_journal() -> None:
    journal = Journal()
    async with Running(journal=journal) as shell:
        shell.line.incoming.put_nowait(Key)  # type: ignore[arg-type]  # no message at all
        await shell.task
    assert journal.steps == [(Resume(stream_sid="MZ1", pending="nothing", broke=True), False)]
    assert [event.reason for event in shell.events(CallHandedOver)] == ["internal fault: AssertionError"]


async def test_what_follows_the_last_words_is_written_while_they_are_said() -> None:
    journal = Journal()
    async with Running(journal=journal) as shell:
        shell.call.hang_up()
        await shell.until(lambda: journal.steps)
        assert journal.steps == [(HangUp(stream_sid="MZ1"), True)]
    assert journal.steps == [(HangUp(stream_sid="MZ1"), True)]  # the caller has hung up first


async def test_a_call_that_goes_on_elsewhere_leaves_its_tools_that_have_not_begun() -> None:
    began = False

    async def late(arguments: dict[str, Any]) -> str:
        nonlocal began
        began = True
        return "done"

    tool = Tool(name="late", description="", parameters={}, handler=late)
    async with Running(Agent(instructions="x", tools=[tool]), journal=Journal()) as shell:
        shell.session.bridge.requests.append(RunTool("c1", "late", "{}"))
        shell.session.flush()
        step = shell.session.hand_over_now("a newer media stream took over")
        assert isinstance(step, Resume)
        await shell.task
        await shell.session.finish_tools()
    assert not began


async def test_digits_that_are_gathered_stay_behind_when_the_call_goes_on_elsewhere() -> None:
    errors: list[str] = []

    async def gather(call: Call) -> None:
        with pytest.raises(ToolError) as error:
            await call.gather(4)
        errors.append(str(error.value))

    async with Running(journal=Journal()) as shell:
        gathering = asyncio.create_task(gather(shell.call))
        keys = shell.session.bridge.keys
        await shell.until(lambda: keys.gathering)
        for digit in "197":
            shell.line.incoming.put_nowait(Key(digit))
        await shell.until(lambda: len(shell.events(KeyPressed)) == 3)
        step = shell.session.hand_over_now("a newer media stream took over")
        await shell.task
        await gathering
    assert errors == ["the call ended, or moved to another media stream, before the digits were typed"]
    assert "197" not in repr(shell.told) + repr(step) + repr(shell.models[0].sent)
    with pytest.raises(ToolError, match="the call is over"):
        await shell.call.gather(4)


async def test_a_call_that_was_muted_in_the_stream_before_begins_muted() -> None:
    running = Running(Agent(instructions="x"))
    running.call.mute()
    async with running:
        running.call.say("Hello!")
        assert not any(isinstance(each, realtime.ResponseCreate) for each in running.models[0].sent)
        running.call.mute(False)
        assert any(isinstance(each, realtime.ResponseCreate) for each in running.models[0].sent)
