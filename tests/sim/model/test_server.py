"""Whole exchanges with the simulated server, over a real loopback socket."""

from __future__ import annotations

import asyncio
import base64
import gc
import math
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from phoneagent.protocol.audio import silence, tone
from phoneagent.sim.model.audio import bytes_per_ms, from_ulaw
from phoneagent.sim.model.session import SimulatedSession
from tests.sim.model.scripts import SCRIPT, SLOW, speaking

pytestmark = pytest.mark.anyio


async def test_a_turn_is_answered_in_the_documented_order(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        await client.until("response.done")

    assert client.steps() == [
        "session.created",
        "session.updated",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "rate_limits.updated",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    assert model.violations == model.races == []


async def test_what_is_sent_is_what_the_record_says(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        await client.configure()
        await client.speak()
        done = await client.until("response.done")
    session: SimulatedSession = model.sessions[0]
    item, response, turn = session.audio_items[0], session.responses[0], session.caller_turns[0]
    transcript = "Of course, a table by the window would be free."

    assert client.audio() == client.audio(item.item_id) == bytes(item.audio)
    assert len(item.audio) > 8 * 2000
    assert item.delta_log[-1][1] == len(item.audio)
    assert max(b[1] - a[1] for a, b in zip(item.delta_log, item.delta_log[1:], strict=False)) <= 200 * 8
    assert item.text == transcript
    assert not item.interrupted
    words = "".join(e["delta"] for e in client.events if e["type"] == "response.output_audio_transcript.delta")
    assert words == transcript == done["response"]["output"][0]["content"][0]["transcript"]
    assert (response.status, response.by) == ("completed", "vad")
    assert response.created_at <= (response.first_audio_at or math.inf) <= (response.done_at or 0)
    assert (turn.text, turn.speech_start_ms) == ("A table, please.", 0)
    assert 600 <= turn.speech_end_ms <= 700
    assert session.append_log[-1][1] == 1000 * 8
    assert [kind for _, kind in session.events_in] == ["session.update"]


@pytest.mark.parametrize(
    "audio_format", [{"type": "audio/pcma"}, {"type": "audio/pcm", "rate": 24000}], ids=lambda form: form["type"]
)
async def test_other_formats_are_heard_and_spoken(make_model: Any, dial: Any, audio_format: dict[str, Any]) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        turn = {"type": "server_vad", "silence_duration_ms": 300}
        audio = {"input": {"format": audio_format, "turn_detection": turn}, "output": {"format": audio_format}}
        await client.send("session.update", session={"type": "realtime", "audio": audio})
        said = from_ulaw(tone(300, 600) + silence(500), audio_format)
        await client.send("input_audio_buffer.append", audio=base64.b64encode(said).decode())
        await client.until("response.done")

    item = model.sessions[0].audio_items[0]
    assert item.sent_ms == pytest.approx(len(client.audio()) / bytes_per_ms(audio_format), abs=1)
    assert len(model.sessions[0].caller_turns) == 1


async def test_before_the_update_the_defaults_hold(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT) as model, dial(model) as client:
        created = await client.until("session.created")
        # Telephone audio, taken for 24 kHz PCM: a sixth of the time, and noise.
        await client.say(tone(300, 3000) + silence(3000))
        await client.until("response.done")

    defaults = created["session"]["audio"]
    assert defaults["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    assert defaults["input"]["turn_detection"]["type"] == "server_vad"
    assert model.sessions[0].caller_turns[0].speech_end_ms < 1000


async def test_fifty_sessions_at_once(make_model: Any, dial: Any) -> None:
    async def call() -> str:
        async with dial(model) as client:
            await client.configure()
            await client.speak()
            done = await client.until("response.done")
            await client.say(silence(1000))
            return str(done["response"]["status"])

    async with make_model(SCRIPT) as model:
        results = await asyncio.gather(*(call() for _ in range(50)))
        await model.wait_for(lambda: all(session.closed for session in model.sessions))

        assert results == ["completed"] * 50
        assert len(model.sessions) == 50
        assert model.violations == []


def cancellations() -> list[asyncio.CancelledError]:
    """Return those that are kept with what they came through; pytest keeps those of tests that failed."""
    return [each for each in gc.get_objects() if type(each) is asyncio.CancelledError and each.__traceback__]


async def test_nothing_is_left_of_a_session(make_model: Any, dial: Any) -> None:
    before, cancelled_before = asyncio.all_tasks(), cancellations()
    async with make_model(speaking(), **SLOW) as model:
        async with dial(model) as client:
            await client.configure()
            await client.add("hello")
            await client.send("response.create")
            await client.until("response.output_audio.delta")
        await model.wait_for(lambda: model.sessions[0].closed)
    gc.collect()

    assert asyncio.all_tasks() == before
    assert [each for each in cancellations() if each not in cancelled_before] == []
    assert model.sessions[0].responses[0].status == "in_progress"
    with pytest.raises(RuntimeError, match="async with Model"):
        _ = model.url


# -- the handshake --


async def test_the_key_is_asked_for(make_model: Any, dial: Any) -> None:
    async with make_model(api_key="sk-right") as model:
        for headers in ([], [("Authorization", "Bearer sk-wrong")], [("api-key", "sk-wrong")]):
            with pytest.raises(InvalidStatus) as caught:
                async with dial(model, headers=headers):
                    pass
            assert caught.value.response.status_code == 401
            assert b"invalid_api_key" in (caught.value.response.body or b"")
        for headers in ([("Authorization", "Bearer sk-right")], [("api-key", "sk-right")]):
            async with dial(model, headers=headers) as client:
                await client.until("session.created")
        assert len(model.refusals) == 3
        assert "sk-" not in repr(model.sessions) + "".join(model.refusals)


async def test_another_path_is_not_found(make_model: Any) -> None:
    async with make_model() as model:
        with pytest.raises(InvalidStatus) as caught:
            await connect(model.url.replace("/v1/realtime", "/v1/live") + "?model=x")

    assert caught.value.response.status_code == 404


async def test_a_connection_must_name_a_model(make_model: Any, dial: Any) -> None:
    async with make_model() as model:
        async with dial(model, query="") as client:
            await client.until("session.created")
        async with dial(model, query="?deployment=mine") as client:
            created = await client.until("session.created")

        assert created["session"]["model"] == "mine"
        assert len(model.violations) == 1
