"""The beta dialect of the Realtime events, translated to and from the modern one that the simulated server uses.

A connection opened with the header `OpenAI-Beta: realtime=v1` has a flat session object, fewer item events and other
names for output text and audio. OpenAI switched it off in May 2026; gateways and emulators still speak it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phoneagent.sim.model.checks import (
    Check,
    any_object,
    boolean,
    by_key,
    either,
    function_name,
    list_of,
    metadata,
    modalities,
    number,
    one_of,
    string,
    struct,
    unsupported_values,
)
from phoneagent.sim.model.config import (
    BETA_TURN_DETECTION,
    FUNCTIONS,
    MAX_TOKENS,
    NOISE_REDUCTION,
    TRACING,
    TRANSCRIPTION_MODELS,
    VOICE,
    Json,
    ended_prompt,
    given,
)

FORMATS: dict[str, Json] = {
    "pcm16": {"type": "audio/pcm", "rate": 24000},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}
_EVENT_NAMES = {
    "conversation.item.added": "conversation.item.created",
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
}
_CONTENT_TO_BETA = {"output_text": "text", "output_audio": "audio"}
_CONTENT_FROM_BETA = {beta: modern for modern, beta in _CONTENT_TO_BETA.items()}
_BETA_CONTENT = ("input_text", "input_audio", "text")

_FUNCTION = {"type": string, "name": function_name, "function": struct({"name": function_name}, "name")}
_SHARED: dict[str, Check] = {
    "modalities": modalities(("text",), ("text", "audio")),
    "instructions": string,
    "voice": VOICE,
    "output_audio_format": one_of(*FORMATS),
    "tools": FUNCTIONS,  # MCP servers came later
    "tool_choice": either(one_of("auto", "none", "required"), str, by_key("type", {"function": struct(_FUNCTION)})),
    "temperature": number(0.6, 1.2),
    "max_response_output_tokens": MAX_TOKENS,
}
_SESSION = struct(
    {
        **_SHARED,
        "model": string,
        "input_audio_format": one_of(*FORMATS),
        "input_audio_transcription": struct(
            {"model": one_of(*TRANSCRIPTION_MODELS), "language": string, "prompt": string}
        ),
        "input_audio_noise_reduction": NOISE_REDUCTION,
        "turn_detection": BETA_TURN_DETECTION,
        "speed": number(0.25, 1.5),
        "tracing": TRACING,
        "prompt": ended_prompt,
    }
)
_RESPONSE = struct(
    {
        **_SHARED,
        "max_output_tokens": MAX_TOKENS,
        "conversation": one_of("auto", "none"),
        "input": list_of(any_object),
        "metadata": metadata,
        "parallel_tool_calls": boolean,
    }
)


def session_from_beta(update: Json) -> Json:
    """Check a flat session update and return it in the modern shape. Raises `EventRefused`."""
    _SESSION(update, "session")
    update = given(update)
    audio_in: Json = {}
    for beta, modern in (
        ("input_audio_transcription", "transcription"),
        ("input_audio_noise_reduction", "noise_reduction"),
        ("turn_detection", "turn_detection"),
    ):
        if beta in update:
            audio_in[modern] = update[beta]
    if "input_audio_format" in update:
        audio_in["format"] = dict(FORMATS[update["input_audio_format"]])
    session = _shared_from_beta(update)
    if "speed" in update:
        session.setdefault("audio", {}).setdefault("output", {})["speed"] = update["speed"]
    if audio_in:
        session.setdefault("audio", {})["input"] = audio_in
    return session | {name: update[name] for name in ("model", "tracing", "prompt") if name in update}


def response_from_beta(params: Json) -> Json:
    """Check the flat `response` of a `response.create` and return it in the modern shape. Raises `EventRefused`."""
    _RESPONSE(params, "response")
    params = given(params)
    kept = ("max_output_tokens", "conversation", "metadata")
    response = _shared_from_beta(params) | {name: params[name] for name in kept if name in params}
    if "input" in params:
        response["input"] = [item_from_beta(item) for item in params["input"]]
    return response


def _shared_from_beta(flat: Json) -> Json:
    modern: Json = {name: flat[name] for name in ("instructions", "tools") if name in flat}
    if "modalities" in flat:
        modern["output_modalities"] = ["audio"] if "audio" in flat["modalities"] else ["text"]
    if "max_response_output_tokens" in flat:
        modern["max_output_tokens"] = flat["max_response_output_tokens"]
    if "tool_choice" in flat:
        choice = flat["tool_choice"]
        nested = isinstance(choice, dict) and "function" in choice
        modern["tool_choice"] = {"type": "function", "name": choice["function"]["name"]} if nested else choice
    output: Json = {"voice": flat["voice"]} if "voice" in flat else {}
    if "output_audio_format" in flat:
        output["format"] = dict(FORMATS[flat["output_audio_format"]])
    return modern | ({"audio": {"output": output}} if output else {})


def item_from_beta(item: Json) -> Json:
    """Return an item with the modern names of its content parts.

    Raises `EventRefused` for a part that already has a modern name.
    """
    content = item.get("content")
    for index, part in enumerate(content if isinstance(content, list) else []):
        if isinstance(part, dict) and part.get("type") in _CONTENT_TO_BETA:
            raise unsupported_values(part["type"], _BETA_CONTENT, f"item.content[{index}].type")
    return _with_content(item, _CONTENT_FROM_BETA)


def event_to_beta(event: Json) -> Json | None:
    """Return a server event in the beta dialect, or None for an event that the beta does not have."""
    kind = event["type"]
    if kind in ("conversation.item.done", "input_audio_buffer.timeout_triggered"):
        return None
    beta = {**event, "type": _EVENT_NAMES.get(kind, kind)}
    if "session" in beta:
        beta["session"] = _session_to_beta(beta["session"])
    if "response" in beta:
        beta["response"] = _response_to_beta(beta["response"])
    if "item" in beta:
        beta["item"] = _with_content(beta["item"], _CONTENT_TO_BETA)
    if kind == "response.function_call_arguments.done":
        del beta["name"]
    return beta


def _session_to_beta(session: Json) -> Json:
    audio_in, audio_out = session["audio"]["input"], session["audio"]["output"]
    detection = audio_in["turn_detection"]
    if detection is not None:
        detection = {name: value for name, value in detection.items() if name != "idle_timeout_ms"}
    kept = ("id", "object", "model", "instructions", "tools", "tool_choice", "tracing", "expires_at")
    return {name: session[name] for name in kept} | {
        "modalities": _modalities(session),
        "voice": audio_out["voice"],
        "speed": audio_out["speed"],
        "input_audio_format": _format_to_beta(audio_in["format"]),
        "output_audio_format": _format_to_beta(audio_out["format"]),
        "input_audio_transcription": audio_in["transcription"],
        "input_audio_noise_reduction": audio_in["noise_reduction"],
        "turn_detection": detection,
        "temperature": 0.8,
        "max_response_output_tokens": session["max_output_tokens"],
    }


def _response_to_beta(response: Json) -> Json:
    flat = {name: value for name, value in response.items() if name not in ("audio", "output_modalities")}
    audio = response["audio"]["output"]
    flat["output"] = [_with_content(item, _CONTENT_TO_BETA) for item in response["output"]]
    flat |= {"modalities": _modalities(response), "temperature": 0.8}
    return flat | {"voice": audio["voice"], "output_audio_format": _format_to_beta(audio["format"])}


def _modalities(holder: Json) -> list[str]:
    return ["text", "audio"] if holder["output_modalities"] == ["audio"] else ["text"]


def _format_to_beta(audio_format: Json) -> str:
    return next(name for name, modern in FORMATS.items() if modern["type"] == audio_format["type"])


def _with_content(item: Json, names: Mapping[str, str]) -> Json:
    content = item.get("content")
    if not isinstance(content, list):
        return item
    parts: list[Any] = [
        {**part, "type": names.get(part.get("type", ""), part.get("type"))} if isinstance(part, dict) else part
        for part in content
    ]
    return {**item, "content": parts}
