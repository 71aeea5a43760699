"""Understanding the caller: by the script or by an ear, with or without transcripts."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.protocol.audio import tone
from tests.sim.model.scripts import SCRIPT

pytestmark = pytest.mark.anyio


async def test_transcripts_come_when_the_session_wants_them(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        turn = {"format": {"type": "audio/pcmu"}, "transcription": {"model": "gpt-transcribe"}}
        await client.send("session.update", session={"type": "realtime", "audio": {"input": turn}})
        await client.speak()
        event = await client.until("conversation.item.input_audio_transcription.completed")
    user = next(item for item in model.sessions[0].items if item["role"] == "user")

    assert event["transcript"] == "A table, please."
    assert event["item_id"] == user["id"] == model.sessions[0].caller_turns[0].item_id
    assert user["content"][0]["transcript"] == "A table, please."


async def test_an_ear_is_matched_with_the_script(make_model: Any, dial: Any) -> None:
    heard: list[int] = []

    class Ear:
        async def hear(self, ulaw: bytes) -> str:
            heard.append(len(ulaw))
            return "Half past seven would be fine"

    async with make_model(SCRIPT, ear=Ear()) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        done = await client.until("response.done")

    assert done["response"]["output"][0]["content"][0]["transcript"] == "Let me see."
    assert model.sessions[0].caller_turns[0].text == "Half past seven would be fine"
    assert heard == [940 * 8]  # speech, hang of the gate and closing silence


async def test_a_broken_ear_or_voice_does_not_end_the_session(make_model: Any, dial: Any, caplog: Any) -> None:
    class Broken:
        async def hear(self, ulaw: bytes) -> str:
            raise RuntimeError("deaf")

        def render(self, text: str) -> bytes:
            if "again" in text:
                raise RuntimeError("hoarse")
            return tone(200, 100)

    async with make_model(SCRIPT, ear=Broken(), voice=Broken()) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        unheard = await client.until("response.done")
        await client.add("a table")
        answered = await client.answer()

    assert unheard["response"]["status"] == "failed"
    assert unheard["response"]["status_details"]["error"]["type"] == "server_error"
    assert answered["status"] == "completed"
    assert "could not finish a response" in caplog.text
