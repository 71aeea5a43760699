"""The beta spelling: translated both ways, and refused where it is spoken wrongly."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.protocol.audio import silence, tone
from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.config import default_session, updated_session
from phoneagent.sim.model.dialect import event_to_beta, response_from_beta, session_from_beta
from phoneagent.sim.model.service import ANY_BETA
from tests.sim.model.conftest import closing, code_of
from tests.sim.model.scripts import SCRIPT

Json = dict[str, Any]
BETA = ("OpenAI-Beta", "realtime=v1")


def session(model: str = "gpt-realtime-2.1") -> Json:
    return default_session(model, "sess_1", 0)


def test_a_flat_session_becomes_a_nested_one_and_back() -> None:
    flat = {
        "modalities": ["audio", "text"],
        "instructions": "Be brief.",
        "voice": "sage",
        "input_audio_format": "g711_ulaw",
        "output_audio_format": "g711_ulaw",
        "input_audio_transcription": {"model": "whisper-1"},
        "input_audio_noise_reduction": {"type": "far_field"},
        "turn_detection": {"type": "server_vad", "threshold": 0.6},
        "tools": [{"type": "function", "name": "book"}],
        "tool_choice": {"type": "function", "function": {"name": "book"}},
        "temperature": 0.8,
        "max_response_output_tokens": 500,
        "speed": 1.2,
    }

    effective = updated_session(session(), session_from_beta(flat), spoke=False)
    back = event_to_beta({"type": "session.updated", "session": effective})

    assert effective["audio"]["input"]["format"] == effective["audio"]["output"]["format"] == {"type": "audio/pcmu"}
    assert effective["output_modalities"] == ["audio"]
    assert effective["max_output_tokens"] == 500
    assert back is not None
    for name, value in flat.items():
        told = back["session"][name]
        if name == "turn_detection":
            assert told["threshold"] == 0.6
        elif name == "tool_choice":
            assert told == {"type": "function", "name": "book"}
        elif name == "modalities":
            assert sorted(told) == value
        else:
            assert told == value


@pytest.mark.parametrize(
    ("flat", "param"),
    [
        ({"type": "realtime"}, "session.type"),
        ({"output_modalities": ["audio"]}, "session.output_modalities"),
        ({"modalities": ["audio"]}, "session.modalities"),
        ({"audio": {}}, "session.audio"),
        ({"input_audio_format": "audio/pcmu"}, "session.input_audio_format"),
        ({"temperature": 2}, "session.temperature"),
        ({"prompt": {"id": "pmpt_1"}}, "session.prompt"),
    ],
)
def test_the_beta_knows_only_its_own_names(flat: Json, param: str) -> None:
    with pytest.raises(EventRefused) as caught:
        session_from_beta(flat)

    assert caught.value.param == param


def test_a_flat_response_becomes_a_nested_one() -> None:
    content = [{"type": "text", "text": "hello"}]
    params = {
        "modalities": ["text"],
        "voice": "sage",
        "conversation": "none",
        "input": [{"type": "message", "role": "assistant", "content": content}],
    }

    response = response_from_beta(params)

    assert response["output_modalities"] == ["text"]
    assert response["audio"] == {"output": {"voice": "sage"}}
    assert response["input"][0]["content"] == [{"type": "output_text", "text": "hello"}]


@pytest.mark.anyio
async def test_a_conversation_in_the_beta_spelling(make_model: Any, dial: Any) -> None:
    async with make_model(SCRIPT, service=ANY_BETA) as model, dial(model, headers=[BETA]) as client:
        created = await client.until("session.created")
        turn = {"type": "server_vad", "silence_duration_ms": 300}
        flat = {"input_audio_format": "g711_ulaw", "output_audio_format": "g711_ulaw", "turn_detection": turn}
        await client.send("session.update", session=flat)
        updated = await client.until("session.updated")
        await client.say(tone(300, 600) + silence(500))
        done = (await client.until("response.done"))["response"]
        content = [{"type": "text", "text": "earlier"}]
        item = {"type": "message", "role": "assistant", "content": content}
        await client.send("conversation.item.create", item=item)
        added = (await client.until("conversation.item.created"))["item"]
        await client.send("response.create", response={"modalities": ["text"]})
        text = (await client.until("response.done"))["response"]

    assert created["session"]["modalities"] == ["text", "audio"]
    assert created["session"]["input_audio_format"] == "pcm16"
    assert updated["session"]["output_audio_format"] == "g711_ulaw"
    assert {"response.audio.delta", "response.audio_transcript.delta", "response.text.done"} <= set(client.types)
    assert not {"conversation.item.added", "conversation.item.done", "response.output_audio.delta"} & set(client.types)
    assert done["output"][0]["content"][0]["type"] == "audio"
    assert added["content"] == content
    assert text["output"][0]["content"][0]["type"] == "text"
    assert model.sessions[0].dialect == "beta"
    assert model.violations == []


@pytest.mark.anyio
async def test_the_modern_shape_is_refused_in_the_beta(make_model: Any, dial: Any) -> None:
    async with make_model(service=ANY_BETA) as model, dial(model, headers=[BETA]) as client:
        error = await client.refused("session.update", session={"type": "realtime"})

    assert error["param"] == "session.type"


@pytest.mark.anyio
async def test_the_beta_is_off(make_model: Any, dial: Any) -> None:
    async with make_model() as model:
        async with dial(model, headers=[BETA]) as client:
            closed = await closing(client)
        async with dial(model) as modern:
            await modern.until("session.created")

    assert [event["error"]["code"] for event in client.events] == ["beta_api_shape_disabled"]
    assert code_of(closed) == 4000
