"""The caller's audio: turns by detection and by hand, and the idle timer."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.protocol.audio import silence, tone
from tests.sim.model.scripts import SCRIPT, SLOW, speaking

pytestmark = pytest.mark.anyio


async def test_turn_detection_off_means_by_hand(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        await client.until("session.updated")
        await client.speak()
        await client.send("input_audio_buffer.commit")
        await client.until("conversation.item.done")
        assert "input_audio_buffer.speech_started" not in client.types
        assert "response.created" not in client.types
        done = await client.answer()
        await client.speak()
        await client.send("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")
        error = await client.refused("input_audio_buffer.commit")

    assert done["output"][0]["content"][0]["transcript"].startswith("Of course")
    assert error["code"] == "input_audio_buffer_commit_empty"
    assert model.violations == [f"input_audio_buffer.commit: {error['message']}"]


async def test_an_idle_caller_is_asked(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(turn={"idle_timeout_ms": 5000})
        await client.add("a table")
        await client.answer()
        start = len(client.events)
        await client.say(silence(12_000))
        done = (await client.until("response.done"))["response"]
        await client.speak()
        answer = (await client.until("response.done"))["response"]

    assert client.types[start : start + 5] == [
        "input_audio_buffer.timeout_triggered",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    assert done["output"][0]["content"][0]["transcript"] == "Are you still there?"
    assert answer["output"][0]["content"][0]["transcript"].startswith("Of course")  # no line was used up


async def test_nobody_is_asked_while_an_answer_is_on_its_way(make_model: Any, dial: Any) -> None:
    async with make_model(speaking(), **SLOW) as model, dial(model) as client:
        await client.configure(turn={"idle_timeout_ms": 5000})
        await client.add("hello")
        await client.answer(output_modalities=["text"])
        await client.send("response.create")
        await client.until("response.output_audio.delta")
        await client.say(silence(7000))
        await client.send("response.cancel")
        await client.until("response.done")
        assert "input_audio_buffer.timeout_triggered" not in client.types
        await client.say(silence(12_000))
        await client.until("input_audio_buffer.timeout_triggered")


async def test_a_human_voice_is_one_turn(make_model: Any, dial: Any, speech: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(turn={"silence_duration_ms": 500})
        await client.say(silence(300) + speech("librivox-0880") + silence(1000))
        await client.until("response.done")

    turn = model.sessions[0].caller_turns[0]
    assert len(model.sessions[0].caller_turns) == 1
    assert turn.speech_end_ms - turn.speech_start_ms > 2000


async def test_a_commit_in_mid_speech_splits_the_turn(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure(turn={"create_response": False})
        await client.say(tone(300, 500))
        await client.send("input_audio_buffer.commit")
        await client.until("input_audio_buffer.committed")
        await client.speak()
        await client.until("input_audio_buffer.committed")

    first, second = model.sessions[0].caller_turns
    assert (first.speech_start_ms, first.speech_end_ms) == (0, 500)
    assert second.speech_start_ms == 500
    assert first.item_id != second.item_id
