"""Tools in a live call: whatever they do, the model gets one answer and the call goes on."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from phoneagent import (
    Agent,
    Call,
    CallEnded,
    LocalMcpServer,
    McpServer,
    Tool,
    ToolCalled,
    ToolError,
    ToolReturned,
    Trouble,
    tool,
)
from phoneagent.sim.model.server import SimulatedSession
from phoneagent.sim.speech import Murmur
from phoneagent.store import Store
from tests.end_to_end.conftest import Worlds
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
VOICE = Murmur()


def script(*names: str, then: str = "All done.") -> str:
    calls = ", ".join(f'{{ name = "{name}", arguments = {{}} }}' for name in names)
    return f'[[turn]]\ncaller = "Do it."\ncalls = [{calls}]\nthen = "{then}"\n'


async def test_tools_of_every_kind_get_one_continuation(world: Worlds) -> None:
    runs: list[str] = []

    @tool
    async def fine(call: Call) -> dict[str, str]:
        """Fine."""
        runs.append(call.sid)
        return {"ok": "yes"}

    @tool
    def plain() -> int:
        """Plain."""
        time.sleep(0.05)
        return 7

    @tool
    async def broken() -> None:
        """Broken."""
        raise RuntimeError("no")

    @tool(timeout=0.2)
    async def slow() -> None:
        """Slow."""
        await asyncio.Event().wait()

    by_hand = Tool(name="by_hand", description="", parameters={"type": "object"}, handler=lambda arguments: arguments)
    agent = Agent(instructions="x", tools=[fine, plain, broken, slow, by_hand])
    async with world(agent, script("fine", "plain", "broken", "slow", "by_hand")) as w, w.phone().dial() as line:
        await line.say(VOICE.render("Do it."))
        await line.wait_for_silence(ms=400)
        session = w.model.sessions[0]
        outputs = {call.name: json.loads(call.output or "") for call in session.tool_calls}
        assert outputs["fine"] == {"ok": "yes"}
        assert outputs["plain"] == 7
        assert outputs["broken"] == {"error": "broken failed"}
        assert "outcome is unknown" in outputs["slow"]["error"]
        assert outputs["by_hand"] == {}
        assert [item.text for item in session.audio_items] == ["All done."]
        assert [response.by for response in session.responses] == ["vad", "client"]
        assert runs == [line.call_sid]
        await w.until(lambda: len(w.of(ToolReturned)) >= 5)
        assert len(w.of(ToolCalled)) == len(w.of(ToolReturned)) == 5
        assert w.model.violations == []


async def test_an_interrupted_tool_goes_on_and_its_output_reaches_the_model(world: Worlds) -> None:
    release = asyncio.Event()

    @tool
    async def slow() -> str:
        """Slow."""
        await release.wait()
        return "finally"

    async with world(Agent(instructions="x", tools=[slow]), script("slow")) as w, w.phone().dial() as line:
        await line.say(VOICE.render("Do it."))
        await w.until(lambda: w.of(ToolCalled))
        await line.say(VOICE.render("Hello? Are you there?"))
        await line.wait_for_agent(ms=200)
        release.set()
        await w.until(lambda: w.of(ToolReturned))
        await w.until(lambda: w.model.sessions[0].tool_calls[0].output == "finally")
        await w.until(lambda: any(item.text == "All done." for item in w.model.sessions[0].audio_items))
        assert w.model.violations == []


async def test_a_tool_that_was_begun_is_finished_when_the_caller_hangs_up(world: Worlds) -> None:
    finished = asyncio.Event()

    @tool
    async def book() -> str:
        """Book."""
        await asyncio.sleep(0.3)
        finished.set()
        return "booked"

    async with world(Agent(instructions="x", tools=[book]), script("book")) as w:
        async with w.phone().dial() as line:
            await line.say(VOICE.render("Do it."))
            await w.until(lambda: w.of(ToolCalled))
            await line.hang_up()
        await asyncio.wait_for(finished.wait(), HANG_SECONDS)


async def test_a_tool_that_does_not_exist(world: Worlds) -> None:
    async with world(Agent(instructions="x", greeting="Hi.")) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=100)
        item = {"type": "function_call", "status": "completed", "call_id": "call_1", "name": "ghost", "arguments": "{}"}
        await w.model.sessions[0].send_event({"type": "response.output_item.done", "response_id": "r", "item": item})
        await w.until(lambda: w.of(ToolReturned))
        assert "no tool named ghost" in w.of(ToolReturned)[0].output
    w.model.violations.clear()  # the model was made to call what it had not called


async def test_the_agent_says_a_word_while_a_tool_takes_long(world: Worlds) -> None:
    release = asyncio.Event()

    @tool(filler="One moment please.", filler_after=0.2)
    async def slow() -> str:
        """Slow."""
        await release.wait()
        return "finally"

    async with world(Agent(instructions="x", tools=[slow]), script("slow")) as w, w.phone().dial() as line:
        await line.say(VOICE.render("Do it."))
        await w.until(lambda: [item.text for item in w.model.sessions[0].audio_items] == ["One moment please."])
        release.set()
        await w.until(lambda: w.of(ToolReturned))
        await line.wait_for_silence(ms=400)
        assert [item.text for item in w.model.sessions[0].audio_items] == ["One moment please.", "All done."]
        assert [response.by for response in w.model.sessions[0].responses] == ["vad", "client", "client"]
        assert w.model.violations == []


async def test_a_hosted_mcp_server_is_configured_and_its_failures_are_told(world: Worlds) -> None:
    agent = Agent(instructions="x", greeting="Hi.", tools=[McpServer("shop", "https://shop.example")])
    async with world(agent) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=100)
        (session,) = w.model.sessions
        assert [each["server_label"] for each in session.session["tools"]] == ["shop"]
        await session.send_event({"type": "mcp_list_tools.in_progress", "item_id": "i"})
        await session.send_event({"type": "mcp_list_tools.failed", "item_id": "i"})
        await w.until(lambda: w.of(Trouble))
        assert "MCP server" in w.of(Trouble)[0].what
        assert w.model.violations == []


async def test_a_local_mcp_server_is_called_by_us(world: Worlds) -> None:
    shop = LocalMcpServer("shop", command=[sys.executable, str(Path(__file__).parents[1] / "agent" / "mcp_server.py")])
    turn = '[[turn]]\ncaller = "Add."\ncall = "add"\narguments = { a = 1, b = 2 }\nthen = "It is {output}."\n'
    agent = Agent(instructions="x", tools=[shop])
    await agent.open()
    try:
        async with world(agent, turn) as w, w.phone().dial() as line:
            await line.say(VOICE.render("Do it."))
            await line.wait_for_silence(ms=400)
            assert [item.text for item in w.model.sessions[0].audio_items] == ["It is 3."]
            assert w.model.violations == []
    finally:
        await agent.close()


# --- that misbehave, beside another call ---


class Rude(BaseException):
    """Nothing that `except Exception` catches."""


@tool
def leaves() -> None:
    """Leaves."""
    sys.exit(3)


@tool
async def leaves_at_once() -> None:
    """Leaves at once."""
    sys.exit(3)


@tool
async def is_rude() -> None:
    """Is rude."""
    raise Rude


@tool
async def interrupts() -> None:
    """Interrupts."""
    raise KeyboardInterrupt


@tool
async def cancels() -> None:
    """Cancels."""
    raise asyncio.CancelledError


@tool
async def cancels_itself() -> None:
    """Cancels itself."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@tool(timeout=0.2)
async def never_ends() -> None:
    """Never ends."""
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.Event().wait()


@tool
async def returns_itself() -> object:
    """Returns itself."""
    return returns_itself.handler


@tool
async def says_too_much() -> None:
    """Says too much."""
    raise ToolError("no " * 1_000_000)


@tool
async def prints() -> str:
    """Prints."""
    print("this is not for the model")
    return "printed"


@tool
async def blocks() -> str:
    """Blocks."""
    time.sleep(0.7)  # noqa: ASYNC251 - that is the point
    return "blocked"


@tool
def adds(a: int, b: int = 0) -> int:
    """Adds."""
    return a + b


BAD = [leaves, leaves_at_once, is_rude, interrupts, cancels, cancels_itself, never_ends, returns_itself, says_too_much]
ODD = [prints, blocks]


@pytest.mark.real_time  # a tool blocks the loop, which is measured
async def test_tools_that_misbehave_touch_neither_their_call_nor_another_one(
    world: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    agent = Agent(instructions="x", greeting="Hello!", tools=[*BAD, *ODD])
    lines = script(*(each.name for each in (*BAD, *ODD)))
    async with world(agent, lines, store=store) as w, w.phone().dial() as other:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=200)
            await line.say(VOICE.render("Do it."))
            await w.until(lambda: len(w.of(ToolReturned)) == len(BAD) + len(ODD))
            await w.until(lambda: any("All done." in session.said for session in w.model.sessions))
            await line.wait_for_silence(ms=200)
        await other.say(VOICE.render("And I?"))  # a script that hears nothing calls the tools once more
        await w.until(lambda: len(w.of(ToolReturned)) == 2 * (len(BAD) + len(ODD)))
        await w.until(lambda: w.of(CallEnded))
        assert [each.call_sid for each in w.of(CallEnded)] == [line.call_sid]
        await store.flush()
        record = await store.call(line.call_sid)
        assert record is not None
        assert record.ended_by == "caller"
        outputs = {each.name: each.output or "" for each in record.tools}
        assert outputs["prints"] == "printed"
        assert outputs["blocks"] == "blocked"
        for each in BAD:
            assert json.loads(outputs[each.name]).keys() == {"error"}, each.name
            assert len(outputs[each.name]) < 2_500, each.name
        assert w.model.violations == []
        late = "a tool runs although it could not be recorded beforehand"  # as on a busy machine, which costs no call
        assert {each.what for each in w.of(Trouble)} <= {late}
    assert capsys.readouterr().out == "this is not for the model\n" * 2
    assert "tool blocks blocked every call" in caplog.text


BAD_ARGUMENTS = {
    "a=1": "Invalid JSON: expected value",
    "{": "Invalid JSON: EOF while parsing",
    "[" * 60_000: "Invalid JSON: recursion limit",
    "[1]": "arguments: Input should be an object",
    '{"b": 1}': "a: Field required",
    '{"a": "one", "b": [2]}': "a: Input should be a valid integer",
    '{"a": 1, "c": 2}': "c: Extra inputs are not permitted",
    '{"a": "' + "1" * 1_000_000 + '"}': "the arguments are too long: 1000009 of",
}


def rewrite(session: SimulatedSession, arguments: Iterator[str]) -> None:
    """Give a session's function calls these arguments, one after the other, on their way to us."""
    put, given = session._wire.put, defaultdict[str, str](lambda: next(arguments))

    def change(event: Any) -> None:
        if isinstance(event, dict) and event.get("type") == "function_call" and event["status"] == "completed":
            event["arguments"] = given[event["call_id"]]
        for each in event.values() if isinstance(event, dict) else event if isinstance(event, list) else ():
            change(each)

    def changed(raw: bytes) -> None:
        event = json.loads(raw)
        change(event)
        put(json.dumps(event).encode())

    session._wire.put = changed  # type: ignore[method-assign]


async def test_bad_arguments_are_answered(world: Worlds, tmp_path: Path) -> None:
    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    agent = Agent(instructions="x", tools=[adds])
    lines = script(*["adds"] * len(BAD_ARGUMENTS), then="I could not.")
    async with world(agent, lines, store=store) as w, w.phone().dial() as line:
        session = await w.until(lambda: w.model.sessions and w.model.sessions[0])
        rewrite(session, iter(BAD_ARGUMENTS))
        await line.say(VOICE.render("Do it."))
        await w.until(lambda: session.said == ["I could not."])
        await line.wait_for_silence(ms=100)
        await store.flush()
        record = await store.call(line.call_sid)
        assert record is not None
        outputs = {each.arguments: each.output or "" for each in record.tools}
        assert outputs.keys() == BAD_ARGUMENTS.keys()
        for arguments, complaint in BAD_ARGUMENTS.items():
            assert complaint in json.loads(outputs[arguments])["error"]
            assert len(outputs[arguments]) < 500
        assert w.of(Trouble) == []
        assert w.model.violations == []
