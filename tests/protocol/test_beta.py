"""The beta spelling of what a client sends, made from GA's."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.protocol.beta import GA_FORMATS, beta_item, beta_response, beta_session

GA_SESSION: dict[str, Any] = {
    "type": "realtime",
    "output_modalities": ["audio"],
    "instructions": "Be brief.",
    "tools": [],
    "tool_choice": "auto",
    "max_output_tokens": 400,
    "parallel_tool_calls": True,
    "truncation": "auto",
    "audio": {
        "input": {
            "format": {"type": "audio/pcmu"},
            "transcription": {"model": "whisper-1"},
            "noise_reduction": {"type": "near_field"},
            "turn_detection": {"type": "server_vad"},
        },
        "output": {"format": {"type": "audio/pcmu"}, "voice": "alloy", "speed": 1.1},
    },
}

# --- sessions ---


def test_a_session_is_flat() -> None:
    assert beta_session(GA_SESSION) == {
        "modalities": ["audio", "text"],
        "instructions": "Be brief.",
        "tools": [],
        "tool_choice": "auto",
        "max_response_output_tokens": 400,
        "input_audio_format": "g711_ulaw",
        "input_audio_transcription": {"model": "whisper-1"},
        "input_audio_noise_reduction": {"type": "near_field"},
        "turn_detection": {"type": "server_vad"},
        "output_audio_format": "g711_ulaw",
        "voice": "alloy",
        "speed": 1.1,
    }


@pytest.mark.parametrize(
    ("session", "beta"),
    [
        ({"type": "realtime"}, {}),
        ({"type": "realtime", "audio": {}}, {}),
        ({"type": "realtime", "output_modalities": ["text"]}, {"modalities": ["text"]}),
        ({"audio": {"input": {"turn_detection": None}}}, {"turn_detection": None}),  # push-to-talk
    ],
)
def test_a_small_session_stays_small(session: dict[str, Any], beta: dict[str, Any]) -> None:
    assert beta_session(session) == beta


def test_what_is_newer_than_the_beta_is_left_out() -> None:
    hears = {
        "format": {"type": "audio/opus"},
        "transcription": {"model": "gpt-transcribe", "language": "fr", "keywords": ["x"]},
        "turn_detection": {"type": "server_vad", "idle_timeout_ms": 6000},
        "noise_reduction": None,
        "echo_cancellation": {"type": "new"},
    }
    assert beta_session({"type": "realtime", "audio": {"input": hears}}) == {
        "input_audio_format": "audio/opus",
        "input_audio_transcription": {"model": "gpt-transcribe", "language": "fr"},
        "turn_detection": {"type": "server_vad"},
        "input_audio_noise_reduction": None,
    }


def test_mcp_servers_are_left_out_and_functions_stay() -> None:
    function = {"type": "function", "name": "f"}
    assert beta_session({"tools": [{"type": "mcp", "server_label": "x"}, function]}) == {"tools": [function]}


@pytest.mark.parametrize(("modern", "beta"), [("audio/pcmu", "g711_ulaw"), ("audio/pcma", "g711_alaw")])
def test_formats_there_and_back(modern: str, beta: str) -> None:
    audio = {"input": {"format": {"type": modern}}, "output": {"format": {"type": modern}}}
    assert beta_session({"audio": audio}) == {"input_audio_format": beta, "output_audio_format": beta}
    assert GA_FORMATS[beta] == modern


# --- responses ---


def test_a_response_keeps_its_choice_of_tools_and_loses_its_metadata() -> None:
    options = {"tool_choice": "none", "output_modalities": ["audio"], "metadata": {"a": "1"}}
    assert beta_response(options) == {"tool_choice": "none", "modalities": ["audio", "text"]}
    assert beta_response({"tool_choice": "none"}) == {"tool_choice": "none"}


def test_a_response_with_its_own_context() -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
    options = {
        "conversation": "none",
        "input": [said],
        "max_output_tokens": 100,
        "audio": {"output": {"voice": "coral", "format": {"type": "audio/pcmu"}}},
    }
    assert beta_response(options) == {
        "conversation": "none",
        "input": [{**said, "content": [{"type": "text", "text": "Hi"}]}],
        "max_response_output_tokens": 100,
        "voice": "coral",
        "output_audio_format": "g711_ulaw",
    }


# --- items ---


def test_the_agents_words_have_another_name() -> None:
    said = [{"type": "output_text", "text": "Hi"}, {"type": "output_audio", "transcript": "there"}]
    assert beta_item({"type": "message", "role": "assistant", "content": said})["content"] == [
        {"type": "text", "text": "Hi"},
        {"type": "audio", "transcript": "there"},
    ]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
    ],
)
def test_other_items_are_spelled_alike(item: dict[str, Any]) -> None:
    assert beta_item(item) == item


def test_converting_a_response_leaves_the_original_unchanged() -> None:
    content = [{"type": "output_text", "text": "Hi"}]
    item = {"type": "message", "role": "assistant", "content": content}
    response = {"metadata": {"a": "1"}, "input": [item]}
    beta_response(response)
    assert response == {"metadata": {"a": "1"}, "input": [item]}
    assert content == [{"type": "output_text", "text": "Hi"}]


def test_an_image_is_left_out() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    words = {"type": "input_text", "text": "Look."}
    message = {"type": "message", "role": "user"}
    assert beta_item({**message, "content": [words, image]}) == {**message, "content": [words]}
    placeholder = {"type": "input_text", "text": "[image]"}
    assert beta_item({**message, "content": [image]}) == {**message, "content": [placeholder]}


def test_only_a_response_beside_the_conversation_keeps_its_metadata() -> None:
    assert "metadata" not in beta_response({"metadata": {"a": "1"}})
    assert beta_response({"metadata": {"a": "1"}, "conversation": "none"})["metadata"] == {"a": "1"}
