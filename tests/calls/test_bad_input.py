"""Nonsense on a live call, from both sides: refused or ignored, said once, and no call ends of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from phoneagent import Agent, CallEnded, ModelEvent, Trouble
from phoneagent.sim.speech import Murmur
from tests.calls.conftest import World, Worlds

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
        for message in GARBAGE * 2:
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
        complaints = [trouble.what for trouble in w.of(Trouble)]
        assert len(complaints) == len(set(complaints)), "each is told once"
        for word in ("binary", "not base64", "timestamp", "start", "`mark`"):
            assert any(word in complaint for complaint in complaints), word
    assert line.violations == []


async def test_a_message_beyond_the_limit_ends_this_socket_only(world: Worlds) -> None:
    async with world(AGENT, SCRIPT) as w:
        async with w.phone().dial() as other, w.phone().dial() as line:
            await line.send_raw("x" * 1_000_000)
            await line.wait_ended(5)
            await other.wait_for_agent(ms=200)
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


async def test_a_model_that_sends_binary_nonsense(world: Worlds) -> None:
    async with world(AGENT, SCRIPT) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=200)
        for nonsense in (b"\xff\xfe\x00", b"{", b"[1]", b'"text"'):
            w.model.sessions[0]._wire.put(nonsense)  # below what a Realtime server sends
        await still_talks(w, line)
        assert len(w.of(Trouble)) >= 2
