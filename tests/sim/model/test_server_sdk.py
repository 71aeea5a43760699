"""The official SDK talks with the simulated server as it would with the real one."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from openai import AsyncOpenAI, AuthenticationError, NotFoundError

from phoneagent.protocol.audio import silence, tone
from phoneagent.sim import Faults

pytestmark = pytest.mark.anyio

SCRIPT = """
[[turn]]
caller = "A table for four at half past seven, please."
say = "Let me see."
call = "book_table"
arguments = { guests = 4, time = "19:30" }
then = "Done. {output}"

[[turn]]
caller = "Wait!"
say = "Yes?"
"""
TOOL: Any = {
    "type": "function",
    "name": "book_table",
    "description": "Book a table.",
    "parameters": {"type": "object", "properties": {"guests": {"type": "integer"}, "time": {"type": "string"}}},
}


async def test_a_whole_conversation(make_model: Any) -> None:
    lines: list[str] = []
    audio = bytearray()
    async with make_model(SCRIPT, api_key="sk-test") as model:
        client = AsyncOpenAI(api_key="sk-test", websocket_base_url=model.url.removesuffix("/realtime"))
        async with client, client.realtime.connect(model="gpt-realtime-2.1") as connection:
            turn: Any = {"type": "server_vad", "silence_duration_ms": 300, "interrupt_response": True}
            listen: Any = {"format": {"type": "audio/pcmu"}, "turn_detection": turn}
            listen["transcription"] = {"model": "gpt-transcribe"}
            speak: Any = {"format": {"type": "audio/pcmu"}, "voice": "marin"}
            await connection.session.update(
                session={"type": "realtime", "tools": [TOOL], "audio": {"input": listen, "output": speak}}
            )
            answers = 0
            async for event in connection:
                match event.type:
                    case "session.updated":
                        said = base64.b64encode(tone(300, 600) + silence(500)).decode()
                        await connection.input_audio_buffer.append(audio=said)
                    case "response.output_audio.delta":
                        audio += base64.b64decode(event.delta)
                    case "response.output_audio_transcript.done":
                        lines.append(event.transcript)
                    case "conversation.item.input_audio_transcription.completed":
                        lines.append(event.transcript)
                    case "response.output_item.done" if event.item.type == "function_call":
                        assert event.item.arguments == '{"guests": 4, "time": "19:30"}'
                        output: Any = {
                            "type": "function_call_output",
                            "call_id": event.item.call_id,
                            "output": "Nr 41.",
                        }
                        await connection.conversation.item.create(item=output)
                    case "response.done":
                        answers += 1
                        if answers == 2:
                            break
                        await connection.response.create()
                    case "error":
                        pytest.fail(event.error.message)

    assert sorted(lines) == sorted(["A table for four at half past seven, please.", "Let me see.", "Done. Nr 41."])
    assert bytes(audio) == b"".join(bytes(item.audio) for item in model.sessions[0].audio_items)
    assert model.sessions[0].tool_calls[0].output == "Nr 41."
    assert model.violations == model.races == []
    assert model.sessions[0].dialect == "ga"
    assert "sk-test" not in repr(model.sessions[0])


async def test_a_model_s_entry_tells_when_it_ends(make_model: Any) -> None:
    faults = Faults(shutdown_date="2027-01-31", refuse_models={"gpt-none"})
    async with make_model(SCRIPT, api_key="sk-test", faults=faults) as model:
        base = model.url.replace("ws:", "http:").removesuffix("/realtime")
        async with AsyncOpenAI(api_key="sk-test", base_url=base) as client:
            entry = await client.models.retrieve("gpt-realtime-2.1")
            assert (entry.id, entry.to_dict()["shutdown_date"]) == ("gpt-realtime-2.1", "2027-01-31")
            with pytest.raises(NotFoundError, match="'gpt-none' does not exist"):
                await client.models.retrieve("gpt-none")
        async with AsyncOpenAI(api_key="sk-other", base_url=base) as client:
            with pytest.raises(AuthenticationError):
                await client.models.retrieve("gpt-realtime-2.1")


async def test_models_are_listed(make_model: Any) -> None:
    faults = Faults(refuse_models={"gpt-realtime-2"})
    async with make_model(faults=faults) as model, AsyncOpenAI(api_key="k", base_url=model.base_url) as client:
        names = [entry.id async for entry in client.models.list()]
    assert "gpt-realtime-2.1" in names
    assert "gpt-realtime-2" not in names


async def test_a_session_that_only_transcribes(make_model: Any, dial: Any) -> None:
    """The whole of it with the SDK's types: it hears turns, writes them down and answers none."""
    async with make_model(SCRIPT) as model, dial(model, query="?intent=transcription") as client:
        session = (await client.until("session.created"))["session"]
        assert (session["type"], session["object"]) == ("transcription", "realtime.transcription_session")
        detection = {"type": "server_vad", "silence_duration_ms": 300}
        heard = {"format": {"type": "audio/pcmu"}, "turn_detection": detection, "transcription": {"model": "whisper-1"}}
        await client.send("session.update", session={"type": "transcription", "audio": {"input": heard}})
        assert (await client.until("session.updated"))["session"]["audio"]["input"]["format"] == {"type": "audio/pcmu"}
        await client.speak()
        completed = await client.until("conversation.item.input_audio_transcription.completed")
        assert completed["transcript"] == "A table for four at half past seven, please."
        error = await client.refused("response.create")
        assert error["message"] == "This session only transcribes: it makes no responses."
        error = await client.refused("session.update", session={"type": "realtime"})
        assert (error["code"], error["param"]) == ("invalid_value", "session.type")
        error = await client.refused("session.update", session={"type": "transcription", "instructions": "x"})
        assert error["param"] == "session.instructions"
        live = {"transcription": {"model": "gpt-realtime-whisper"}}
        error = await client.refused("session.update", session={"type": "transcription", "audio": {"input": live}})
        assert error["param"] == "session.audio.input.turn_detection"
        live["turn_detection"] = None
        await client.send("session.update", session={"type": "transcription", "audio": {"input": live}})
        await client.until("session.updated")
    assert "response.created" not in client.types
    assert len(model.violations) == 4
