"""Nonsense on a live call, from both sides: refused or ignored, said once, and no call ends of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Agent, Call, CallEnded, DefinitionError, ModelEvent, PhoneApp, Trouble, hang_up, tool
from phoneagent.sim.speech import Murmur
from phoneagent.store import Store
from tests.end_to_end.conftest import World, Worlds

pytestmark = pytest.mark.anyio
VOICE = Murmur()
AGENT = Agent(instructions="Answer.", greeting="Hello!")
SCRIPT = """
default = "I am still here."
"""


def media(**changes: Any) -> str:
    message = {"event": "media", "streamSid": "MZ1", "media": {"payload": "////", "timestamp": "1"}, **changes}
    return json.dumps(message)


GARBAGE = [
    "not json",
    "[]",
    "{}",
    '{"event": 5}',
    '{"event": "start"}',
    '{"event": "media"}',
    b"\x00\x01binary",
    media(),  # a foreign stream
    media(media={"payload": "not base64!", "timestamp": "1"}),
    media(media={"payload": "////", "timestamp": "soon"}),
    '{"event": "mark", "streamSid": "MZ1", "mark": {}}',
    '{"event": "brand-new", "streamSid": "MZ1"}',
    '{"event": "stop", "streamSid": 7}',
    "x" * 65_000,
]


async def still_talks(w: World, line: Any) -> None:
    await line.say(VOICE.render("Still there?"))
    await line.wait_for_agent(ms=300)


async def test_garbage_of_the_caller_s_side(world: Worlds) -> None:
    async with world(AGENT, SCRIPT) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=200)
        ours = [text.replace("MZ1", line.stream_sid) if isinstance(text, str) else text for text in GARBAGE]
        for message in [*GARBAGE, *ours] * 2:
            await line.send_raw(message)
        await line.send_raw(
            json.dumps(
                {
                    "event": "start",
                    "streamSid": "MZother",
                    "start": {"accountSid": "AC", "callSid": "CA", "tracks": [], "customParameters": {}},
                }
            )
        )
        await still_talks(w, line)
        await w.until(lambda: len(w.of(Trouble)) >= 5)
        complaints = [trouble.what for trouble in w.of(Trouble)]
        assert len(complaints) == len(set(complaints)), "each is told once"
        for word in ("binary", "not JSON", "not text", "`start`", "another stream"):
            assert any(word in complaint for complaint in complaints), word
    assert line.violations == []


async def test_a_message_beyond_the_limit_ends_this_socket_only(world: Worlds) -> None:
    async with world(AGENT, SCRIPT) as w:
        async with w.phone().dial() as other, w.phone().dial() as line:
            await line.send_raw("x" * 1_000_000)
            await line.wait_ended(5)
            await other.wait_for_agent(ms=200)
            await w.until(lambda: w.of(CallEnded))
            assert [each.call_sid for each in w.of(CallEnded)] == [line.call_sid]
        assert other.ended_by == "caller"


HALVES: list[dict[str, Any]] = [
    {"type": "brand.new.event", "a": 1},
    {"type": "response.output_audio.delta"},
    {"type": "response.output_audio.delta", "response_id": "r", "item_id": "i", "delta": "not base64!"},
    {"type": "response.created"},
    {"type": "response.done", "response": {"id": "resp_unknown", "status": "completed", "output": []}},
    {"type": "response.output_item.done", "item": {"type": "function_call"}},
    {"type": "conversation.item.input_audio_transcription.completed", "item_id": "nobody", "transcript": "x"},
    {"type": "error", "error": {}},
    {"type": "error", "error": {"code": None, "message": None}},
    {"type": "error", "error": {"code": "item_truncate_invalid_item_id", "message": "no such item"}},
    {"type": "input_audio_buffer.committed"},
    {"type": "rate_limits.updated", "rate_limits": None},
]


async def test_unknown_and_half_events_of_the_model(world: Worlds) -> None:
    async with world(AGENT, SCRIPT) as w:
        seen: list[str] = []

        @w.app.on(ModelEvent)
        async def raw(event: ModelEvent) -> None:
            seen.append(event.type)

        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=200)
            for event in HALVES * 2:
                await w.model.sessions[0].send_event(event)
            await still_talks(w, line)
        assert "brand.new.event" in seen
        assert "session.updated" not in seen, "what configures a session is not of the call"
    assert line.violations == []


def handing_off_to_nobody() -> Agent:
    return Agent(instructions="x", handoffs=["ghost"])


def two_of_one_name() -> Agent:
    one, other = (Agent(name="billing", instructions=words) for words in ("one", "other"))
    return Agent(
        name="front", instructions="x", handoffs=[one, Agent(name="middle", instructions="", handoffs=[other])]
    )


def one_tool_twice() -> Agent:
    return Agent(instructions="x", tools=[hang_up, hang_up])


def a_name_that_the_api_refuses() -> Agent:
    return Agent(instructions="x", tools=[tool(name="hang up!")(lambda: None)])


MISTAKES = {
    handing_off_to_nobody: "agent 'agent' hands off to 'ghost', and no agent has that name: use one of 'agent'",
    two_of_one_name: "two agents are named 'billing': give one of them another name",
    one_tool_twice: "agent 'agent' has two tools named 'hang_up': rename one of them",
    a_name_that_the_api_refuses: "tool name 'hang up!' cannot be used: 1 to 64 letters, digits, _ and -",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_told_where_the_app_is_made(mistake: Callable[[], Agent]) -> None:
    with pytest.raises(DefinitionError) as raised:
        PhoneApp(mistake())
    assert MISTAKES[mistake] in str(raised.value)
    assert "\n" not in str(raised.value)


def leaves() -> Agent:
    raise SystemExit(3)


def is_cancelled() -> Agent:
    raise asyncio.CancelledError


async def test_a_failed_choice_of_the_agent_costs_its_own_call_only(world: Worlds, tmp_path: Path) -> None:
    mistakes = dict(enumerate((*MISTAKES, leaves, is_cancelled)))

    async def choose(call: Call) -> Agent:
        number = int((call.called or "")[-1])
        return AGENT if number == 9 else mistakes[number]()

    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    async with world(choose, SCRIPT, store=store) as w, w.phone(called="+15550100009").dial() as good:
        await good.wait_for_silence(ms=200)

        async def bad(number: int) -> None:
            async with w.phone(called=f"+1555010000{number}").dial() as line:
                await line.wait_ended(20)
                assert len(line.received) > 8 * 500, "an apology"
            await store.flush()
            record = await store.call(line.call_sid)
            assert record is not None
            kind = "DefinitionError" if mistakes[number] in MISTAKES else "RuntimeError"
            assert (record.ended_by, record.reason) == ("error", f"the choice of the agent failed: {kind}")

        await asyncio.gather(*map(bad, mistakes))
        await still_talks(w, good)
        await w.until(lambda: len(w.of(CallEnded)) >= len(mistakes))
        assert len(w.of(CallEnded)) == len(mistakes)
        assert w.model.violations == []


async def test_a_model_that_sends_binary_nonsense(world: Worlds) -> None:
    async with world(AGENT, SCRIPT) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=200)
        for nonsense in (b"\xff\xfe\x00", b"{", b"[1]", b'"text"'):
            w.model.sessions[0]._wire.put(nonsense)  # below what a Realtime server sends
        await still_talks(w, line)
        assert len(w.of(Trouble)) >= 2
