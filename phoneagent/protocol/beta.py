"""The retired beta format of what a client sends, made from GA's.

Gateways and emulators still speak it. Sessions are flat there, and formats and content types have other names.

Source: OpenAI's Realtime API reference as of its beta, and its migration guide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BETA_FORMATS = {"audio/pcmu": "g711_ulaw", "audio/pcma": "g711_alaw", "audio/pcm": "pcm16"}
GA_FORMATS = {beta: modern for modern, beta in _BETA_FORMATS.items()}
_BETA_INPUT = {
    "transcription": ("input_audio_transcription", frozenset({"model", "language", "prompt"})),
    "noise_reduction": ("input_audio_noise_reduction", frozenset({"type"})),
    "turn_detection": (
        "turn_detection",
        frozenset(
            {"type", "threshold", "prefix_padding_ms", "silence_duration_ms", "eagerness"}
            | {"create_response", "interrupt_response"}
        ),
    ),
}
"""The beta's names, and what it knows of each. A newer field would cause the whole update to be refused."""

_BETA_CONTENT = {"output_text": "text", "output_audio": "audio"}
_GA_ONLY = frozenset(
    {"type", "audio", "output_modalities", "max_output_tokens", "truncation", "include", "reasoning"}
    | {"parallel_tool_calls"}
)


def beta_session(session: Mapping[str, Any]) -> dict[str, Any]:
    flat = _beta_shared(session)
    for key, value in session.get("audio", {}).get("input", {}).items():
        if key == "format":
            flat["input_audio_format"] = _BETA_FORMATS.get(value["type"], value["type"])
        elif key in _BETA_INPUT:
            name, known = _BETA_INPUT[key]
            flat[name] = value and {field: each for field, each in value.items() if field in known}
    return flat


def beta_response(response: Mapping[str, Any]) -> dict[str, Any]:
    flat = _beta_shared(response)
    if response.get("conversation") != "none":  # only metadata tells its events apart
        flat.pop("metadata", None)  # a late addition to the beta; emulators may refuse an unknown field
    if "input" in response:
        flat["input"] = [beta_item(item) for item in response["input"]]
    return flat


def _beta_shared(modern: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in modern.items() if key not in _GA_ONLY}
    if "tools" in flat:  # the beta has no MCP servers
        flat["tools"] = [each for each in flat["tools"] if each.get("type") != "mcp"]
    if "output_modalities" in modern:
        flat["modalities"] = ["text"] if modern["output_modalities"] == ["text"] else ["audio", "text"]
    if "max_output_tokens" in modern:
        flat["max_response_output_tokens"] = modern["max_output_tokens"]
    for key, value in modern.get("audio", {}).get("output", {}).items():
        if key == "format":
            flat["output_audio_format"] = _BETA_FORMATS.get(value["type"], value["type"])
        else:
            flat[key] = value
    return flat


def beta_item(item: Mapping[str, Any]) -> dict[str, Any]:
    if "content" not in item:
        return dict(item)
    known = [part for part in item["content"] if part["type"] != "input_image"]  # the beta has no images
    parts = known or [{"type": "input_text", "text": "[image]"}]
    content = [{**part, "type": _BETA_CONTENT.get(part["type"], part["type"])} for part in parts]
    return {**item, "content": content}
