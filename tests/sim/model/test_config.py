from __future__ import annotations

from typing import Any

import pytest

from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.config import check_response, check_session, default_session, given, updated_session

Json = dict[str, Any]


def session(model: str = "gpt-realtime-2.1") -> Json:
    return default_session(model, "sess_1", 0)


def updated(update: Json, *, onto: Json | None = None, spoke: bool = False) -> Json:
    update = {"type": "realtime", **update}
    check_session(update)
    return updated_session(onto or session(), given(update), spoke=spoke)


def refusal(update: Json, **options: Any) -> EventRefused:
    with pytest.raises(EventRefused) as caught:
        updated(update, **options)
    return caught.value


def audio_in(**fields: Any) -> Json:
    return {"audio": {"input": fields}}


def test_a_telephone_session_is_accepted() -> None:
    update: Json = {
        "instructions": "Be brief.",
        "output_modalities": ["audio"],
        "tools": [{"type": "function", "name": "book", "description": "x", "parameters": {"type": "object"}}],
        "tool_choice": {"type": "function", "name": "book"},
        "max_output_tokens": 4096,
        "reasoning": {"effort": "low"},
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.8},
        "audio": {
            "input": {
                "format": {"type": "audio/pcmu"},
                "transcription": {"model": "gpt-4o-mini-transcribe", "language": "en"},
                "noise_reduction": {"type": "near_field"},
                "turn_detection": {"type": "server_vad", "threshold": 0.7, "idle_timeout_ms": None},
            },
            "output": {"format": {"type": "audio/pcmu"}, "voice": "marin", "speed": 1.1},
        },
    }

    effective = updated(update)

    assert effective["audio"]["output"] == update["audio"]["output"]
    assert effective["audio"]["input"]["turn_detection"]["threshold"] == 0.7
    assert effective["audio"]["input"]["turn_detection"]["prefix_padding_ms"] == 300
    assert effective["id"] == "sess_1"


def test_updates_merge_field_by_field() -> None:
    first = updated(audio_in(turn_detection={"type": "server_vad", "threshold": 0.9}, format={"type": "audio/pcmu"}))
    second = updated(audio_in(turn_detection={"type": "server_vad", "silence_duration_ms": 700}), onto=first)
    turn = second["audio"]["input"]["turn_detection"]

    assert (turn["threshold"], turn["silence_duration_ms"]) == (0.9, 700)
    assert second["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    assert first["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 200  # the old one is left alone


def test_another_kind_of_detection_starts_from_its_defaults() -> None:
    turn = updated(audio_in(turn_detection={"type": "semantic_vad"}))["audio"]["input"]["turn_detection"]

    assert turn == {"type": "semantic_vad", "eagerness": "auto", "create_response": True, "interrupt_response": True}


def test_null_says_nothing_where_there_is_nothing_to_switch_off() -> None:
    update: Json = {"instructions": None, "tools": None, "audio": {"input": {"format": None}, "output": None}}
    update["audio"]["input"]["turn_detection"] = {"type": "server_vad", "threshold": None, "idle_timeout_ms": None}
    assert updated(update) == session()


def test_what_a_client_writes_freely_keeps_its_nulls() -> None:
    tool = {"type": "function", "name": "book", "description": None, "parameters": {"default": None}}
    assert updated({"tools": [tool]})["tools"] == [
        {"type": "function", "name": "book", "parameters": {"default": None}}
    ]


def test_null_clears() -> None:
    first = updated(audio_in(transcription={"model": "whisper-1"}))
    second = updated(audio_in(transcription=None, turn_detection=None), onto=first)

    assert second["audio"]["input"]["transcription"] is None
    assert second["audio"]["input"]["turn_detection"] is None


TURN = "session.audio.input.turn_detection"


@pytest.mark.parametrize(
    ("update", "code", "param"),
    [
        ({"temperature": 0.8}, "unknown_parameter", "session.temperature"),
        ({"voice": "marin"}, "unknown_parameter", "session.voice"),
        ({"modalities": ["audio"]}, "unknown_parameter", "session.modalities"),
        (audio_in(codec=1), "unknown_parameter", "session.audio.input.codec"),
        (
            audio_in(format={"type": "audio/pcmu", "rate": 8000}),
            "unknown_parameter",
            "session.audio.input.format.rate",
        ),
        (audio_in(format={"type": "audio/pcm", "rate": 8000}), "invalid_value", "session.audio.input.format.rate"),
        (audio_in(format={"type": "g711_ulaw"}), "invalid_value", "session.audio.input.format.type"),
        (audio_in(format="g711_ulaw"), "invalid_type", "session.audio.input.format"),
        (audio_in(turn_detection={"threshold": 0.5}), "missing_required_parameter", f"{TURN}.type"),
        (audio_in(turn_detection={"type": "server_vad", "threshold": 2}), "invalid_value", f"{TURN}.threshold"),
        (audio_in(turn_detection={"type": "server_vad", "eagerness": "low"}), "unknown_parameter", f"{TURN}.eagerness"),
        (
            audio_in(turn_detection={"type": "server_vad", "create_response": "yes"}),
            "invalid_type",
            f"{TURN}.create_response",
        ),
        (
            audio_in(turn_detection={"type": "semantic_vad", "idle_timeout_ms": 9000}),
            "unknown_parameter",
            f"{TURN}.idle_timeout_ms",
        ),
        (
            audio_in(turn_detection={"type": "server_vad", "idle_timeout_ms": 100}),
            "invalid_value",
            f"{TURN}.idle_timeout_ms",
        ),
        (audio_in(transcription={"model": "nova-2"}), "invalid_value", "session.audio.input.transcription.model"),
        (
            audio_in(transcription={"language": "en"}),
            "missing_required_parameter",
            "session.audio.input.transcription.model",
        ),
        (
            audio_in(transcription={"model": "whisper-1", "keywords": ["x"]}),
            "invalid_value",
            "session.audio.input.transcription.keywords",
        ),
        (
            audio_in(transcription={"model": "gpt-realtime-whisper", "prompt": "Names."}),
            "invalid_value",
            "session.audio.input.transcription.prompt",
        ),
        (
            audio_in(transcription={"model": "gpt-transcribe", "language": "en", "languages": ["en", "es"]}),
            "invalid_value",
            "session.audio.input.transcription.languages",
        ),
        ({"output_modalities": ["audio", "text"]}, "invalid_value", "session.output_modalities"),
        ({"max_output_tokens": 5000}, "invalid_value", "session.max_output_tokens"),
        ({"max_output_tokens": True}, "invalid_type", "session.max_output_tokens"),
        ({"instructions": 5}, "invalid_type", "session.instructions"),
        ({"tools": [{"name": "x"}]}, "missing_required_parameter", "session.tools[0].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "invalid_value", "session.tools[0].name"),
        ({"tools": [{"type": "function", "name": "a", "meta": 1}]}, "unknown_parameter", "session.tools[0].meta"),
        ({"tool_choice": "always"}, "invalid_value", "session.tool_choice"),
        ({"audio": {"output": {"voice": "bob"}}}, "invalid_value", "session.audio.output.voice"),
        ({"audio": {"output": {"speed": 2}}}, "invalid_value", "session.audio.output.speed"),
        ({"model": "gpt-realtime"}, "invalid_value", "session.model"),
        ({"type": "transcription"}, "invalid_value", "session.type"),
        ({"prompt": {"id": "pmpt_1"}}, "invalid_value", "session.prompt"),
    ],
)
def test_what_the_server_does_not_take(update: Json, code: str, param: str) -> None:
    refused = refusal(update)

    assert (refused.code, refused.param, refused.blame) == (code, param, "client")
    assert "\n" not in str(refused)


def test_stored_prompts_have_ended_and_null_has_not() -> None:
    for prompt in ({"id": "pmpt_1"}, "pmpt_1"):
        with pytest.raises(EventRefused) as caught:
            check_response({"prompt": prompt})
        assert (caught.value.code, caught.value.param) == ("invalid_value", "response.prompt")
    check_response({"prompt": None})
    check_session({"type": "realtime", "prompt": None})


def test_the_real_words() -> None:
    assert str(refusal({"foo": 1})) == "Unknown parameter: 'session.foo'."
    assert str(refusal({"tool_choice": "x"})) == (
        "Invalid value: 'x'. Supported values are: 'auto', 'none', and 'required'."
    )
    with pytest.raises(EventRefused) as caught:
        check_session({"instructions": "x"})
    assert str(caught.value) == "Missing required parameter: 'session.type'."


def test_reasoning_is_for_models_that_reason() -> None:
    assert updated({"reasoning": {"effort": "high"}})["reasoning"] == {"effort": "high"}
    for model in ("gpt-realtime-1.5", "gpt-realtime-2025-08-28"):
        refused = refusal({"reasoning": {"effort": "high"}}, onto=session(model))
        assert (refused.code, refused.param) == ("invalid_value", "session.reasoning")


def test_the_voice_is_fixed_once_it_was_heard() -> None:
    same, other = ({"audio": {"output": {"voice": voice}}} for voice in ("alloy", "marin"))

    assert updated(other)["audio"]["output"]["voice"] == "marin"
    assert updated(same, spoke=True)["audio"]["output"]["voice"] == "alloy"
    assert refusal(other, spoke=True).code == "cannot_update_voice"


def test_tracing_is_set_once() -> None:
    traced = updated({"tracing": "auto"})

    assert updated({"tracing": "auto"}, onto=traced)["tracing"] == "auto"
    assert refusal({"tracing": None}, onto=traced).param == "session.tracing"


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"voice": "marin"}, "response.voice"),
        ({"conversation": "all"}, "response.conversation"),
        ({"metadata": {"a": 1}}, "response.metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "response.metadata"),
        ({"input": "x"}, "response.input"),
    ],
)
def test_a_response_is_checked_too(params: Json, param: str) -> None:
    with pytest.raises(EventRefused) as caught:
        check_response(params)

    assert caught.value.param == param
