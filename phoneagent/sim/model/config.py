"""The configuration of sessions and responses: which parameters there are, and how an update is merged in.

A table of checks defines the allowed values of every parameter. A refused update changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from phoneagent.sim.model.checks import (
    Check,
    EventRefused,
    any_object,
    boolean,
    by_key,
    either,
    function_name,
    integer,
    invalid_value,
    list_of,
    metadata,
    missing_parameter,
    modalities,
    number,
    one_of,
    string,
    struct,
    unknown_parameter,
)

Json = dict[str, Any]

VOICES = ("alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar")
TRANSCRIPTION_MODELS = (
    "whisper-1",
    "gpt-transcribe",
    "gpt-live-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
    "gpt-4o-transcribe",
    "gpt-4o-transcribe-diarize",
    "gpt-realtime-whisper",
)
SERVER_VAD: Json = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    # Documented as 500 but seen as 200 in session.created, so a client that depends on the value must set it.
    "silence_duration_ms": 200,
    "idle_timeout_ms": None,
    "create_response": True,
    "interrupt_response": True,
}
SEMANTIC_VAD: Json = {
    "type": "semantic_vad",
    "eagerness": "auto",
    "create_response": True,
    "interrupt_response": True,
}
INSTRUCTIONS = "You are a helpful assistant. You speak with a warm voice and keep your answers short."

TYPE = {"type": string}
FORMAT = by_key(
    "type",
    {
        "audio/pcm": struct({**TYPE, "rate": one_of(24000)}),
        "audio/pcmu": struct(TYPE),  # always 8 kHz: `rate` is an unknown parameter
        "audio/pcma": struct(TYPE),
    },
)
VOICE = either(one_of(*VOICES), str, struct({"id": string}, "id"))
_TURN = {**TYPE, "create_response": boolean, "interrupt_response": boolean}
_SERVER_TURN = {
    **_TURN,
    "threshold": number(0, 1),
    "prefix_padding_ms": integer(0, 10_000),
    "silence_duration_ms": integer(0, 10_000),
}
_SEMANTIC_TURN = struct({**_TURN, "eagerness": one_of("low", "medium", "high", "auto")})
TURN_DETECTION = by_key(
    "type",
    {
        "server_vad": struct({**_SERVER_TURN, "idle_timeout_ms": integer(5000, 30_000)}),
        "semantic_vad": _SEMANTIC_TURN,
    },
)
BETA_TURN_DETECTION = by_key("type", {"server_vad": struct(_SERVER_TURN), "semantic_vad": _SEMANTIC_TURN})
TRANSCRIPTION = struct(
    {
        "model": one_of(*TRANSCRIPTION_MODELS),
        "language": string,
        "prompt": string,
        "delay": one_of("minimal", "low", "medium", "high", "xhigh"),
        "keywords": list_of(string),
        "languages": list_of(string),
    }
)
NOISE_REDUCTION = struct({"type": one_of("near_field", "far_field"), "strength": number(0, 1)})
_FUNCTION = struct({**TYPE, "name": function_name, "description": string, "parameters": any_object}, "name")
FUNCTIONS = list_of(by_key("type", {"function": _FUNCTION}), limit=128)
_TOOL_FILTER = struct({"tool_names": list_of(string), "read_only": boolean})
_MCP_SERVER = struct(
    {
        **TYPE,
        "server_label": function_name,
        "server_url": string,
        "connector_id": string,
        "tunnel_id": string,
        "server_description": string,
        "authorization": string,
        "headers": any_object,
        "allowed_tools": either(list_of(string), list, _TOOL_FILTER),
        "require_approval": either(
            one_of("always", "never"), str, struct({"always": _TOOL_FILTER, "never": _TOOL_FILTER})
        ),
        "defer_loading": boolean,
        "allowed_callers": list_of(one_of("direct", "programmatic")),
    },
    "server_label",
)
TOOLS = list_of(by_key("type", {"function": _FUNCTION, "mcp": _MCP_SERVER}), limit=128)
_MCP_CHOICE = struct({**TYPE, "server_label": string, "name": string}, "server_label")
TOOL_CHOICE = either(
    one_of("auto", "none", "required"),
    str,
    by_key("type", {"function": struct({**TYPE, "name": function_name}, "name"), "mcp": _MCP_CHOICE}),
)
MAX_TOKENS = either(one_of("inf"), str, integer(1, 4096))
REASONING = struct({"effort": one_of("minimal", "low", "medium", "high", "xhigh")})
TRACING = either(one_of("auto"), str, struct({"workflow_name": string, "group_id": string, "metadata": any_object}))
_RETENTION = struct(
    {
        "type": one_of("retention_ratio"),
        "retention_ratio": number(0, 1),
        "token_limits": struct({"post_instructions": integer(0, 2**31)}),
    },
    "type",
    "retention_ratio",
)


def ended_prompt(_value: Any, at: str) -> None:
    """Refuse a stored prompt. The real server's words and code are not documented."""
    raise invalid_value(f"Invalid '{at}': reusable prompts are no longer supported.", at)


_SHARED: dict[str, Check] = {
    "instructions": string,
    "tools": TOOLS,
    "tool_choice": TOOL_CHOICE,
    "prompt": ended_prompt,
}
_MODERN: dict[str, Check] = {
    "output_modalities": modalities(("text",), ("audio",)),
    "max_output_tokens": MAX_TOKENS,
    "parallel_tool_calls": boolean,
    "reasoning": REASONING,
}
_AUDIO_IN = struct(
    {
        "format": FORMAT,
        "transcription": TRANSCRIPTION,
        "noise_reduction": NOISE_REDUCTION,
        "turn_detection": TURN_DETECTION,
    }
)
_INCLUDE = list_of(one_of("item.input_audio_transcription.logprobs"))
SESSION: dict[str, Check] = {
    **_SHARED,
    **_MODERN,
    "type": one_of("realtime"),
    "model": string,
    "audio": struct(
        {"input": _AUDIO_IN, "output": struct({"format": FORMAT, "voice": VOICE, "speed": number(0.25, 1.5)})}
    ),
    "include": _INCLUDE,
    "tracing": TRACING,
    "truncation": either(one_of("auto", "disabled"), str, _RETENTION),
}
TRANSCRIPTION_SESSION: dict[str, Check] = {
    "type": one_of("transcription"),
    "audio": struct({"input": _AUDIO_IN}),
    "include": _INCLUDE,
}
RESPONSE: dict[str, Check] = {
    **_SHARED,
    **_MODERN,
    "audio": struct({"output": struct({"format": FORMAT, "voice": VOICE})}),
    "conversation": one_of("auto", "none"),
    "input": list_of(any_object),
    "metadata": metadata,
}


_CLEARED_BY_NULL = frozenset(
    {
        *("turn_detection", "transcription", "noise_reduction", "idle_timeout_ms", "tracing", "prompt", "include"),
        *("input_audio_transcription", "input_audio_noise_reduction"),  # the beta's names
    }
)
_FREE_FORM = frozenset({"parameters", "metadata", "headers"})


def given(value: Any) -> Any:
    """Return checked parameters without those that are null, which means the same as leaving them out.

    Only parameters that can be switched off keep their null. Free-form values, like a tool's schema, are not changed.
    """
    if isinstance(value, list):
        return [given(element) for element in value]
    if not isinstance(value, dict):
        return value
    return {
        name: item if name in _FREE_FORM else given(item)
        for name, item in value.items()
        if item is not None or name in _CLEARED_BY_NULL
    }


def check_session(update: Any) -> None:
    """Check the `session` of a `session.update`, of either type. Raises `EventRefused`."""
    by_key("type", {"realtime": struct(SESSION), "transcription": struct(TRANSCRIPTION_SESSION)})(update, "session")


def check_response(params: Any) -> None:
    """Check the `response` of a `response.create`. Raises `EventRefused`."""
    struct(RESPONSE)(params, "response")


def default_session(model: str, session_id: str, expires_at: int) -> Json:
    """Return the configuration of a new session. `expires_at` is in Unix seconds."""
    pcm = {"type": "audio/pcm", "rate": 24000}
    session: Json = {
        "type": "realtime",
        "object": "realtime.session",
        "id": session_id,
        "model": model,
        "output_modalities": ["audio"],
        "instructions": INSTRUCTIONS,
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "tracing": None,
        "truncation": "auto",
        "prompt": None,
        "expires_at": expires_at,
        "audio": {
            "input": {
                "format": dict(pcm),
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": dict(SERVER_VAD),
            },
            "output": {"format": dict(pcm), "voice": "alloy", "speed": 1.0},
        },
        "include": None,
    }
    if reasons(model):
        session["reasoning"] = {"effort": "low"}
    return session


def default_transcription_session(session_id: str, expires_at: int) -> Json:
    """Return the configuration of a new session that only transcribes."""
    session = default_session("", session_id, expires_at)
    return {
        "type": "transcription",
        "object": "realtime.transcription_session",
        "id": session_id,
        "expires_at": expires_at,
        "audio": {"input": session["audio"]["input"]},
        "include": None,
    }


def reasons(model: str) -> bool:
    """Return whether `model` takes `reasoning` and `parallel_tool_calls`: the gpt-realtime-2 family does."""
    return re.match(r"gpt-realtime-2(?!\d)", model) is not None


def updated_session(session: Json, update: Json, *, spoke: bool) -> Json:
    """Return `session` with a checked `update` merged in, field by field. `spoke`: assistant audio exists already.

    Raises `EventRefused` if the session's state forbids a change of its type, its model, its voice or its tracing.
    """
    if update.get("type", session["type"]) != session["type"]:
        # The words are the real server's; its code is not documented.
        message = f"Passing a {update['type']} session update event to a {session['type']} session is not allowed."
        raise invalid_value(message, "session.type")
    if session["type"] == "transcription":
        merged = _merge(session, update)
        _check_transcription(merged["audio"]["input"]["transcription"])
        _check_whisper(merged["audio"]["input"])
        return merged
    model = session["model"]
    if update.get("model", model) != model:
        raise invalid_value("Cannot change the model of a session; open a new one.", "session.model")
    check_model_options(model, update, "session")
    if "tracing" in update and session["tracing"] not in (None, update["tracing"]):
        raise invalid_value("Cannot update tracing once it has been set.", "session.tracing")
    check_voice(session, update, spoke=spoke, at="session")
    merged = _merge(session, update)
    _check_transcription(merged["audio"]["input"]["transcription"])
    for tool in merged["tools"]:
        tool.pop("authorization", None)  # an MCP server's secret is never read back
    return merged


def refuse_fields(update: Json, paths: Iterable[str]) -> None:
    """Refuse an update with one of these parameters (dotted), like a server that does not know them."""
    for path in sorted(paths):
        holder: Any = update
        for name in path.split("."):
            holder = holder.get(name, unknown_parameter) if isinstance(holder, dict) else unknown_parameter
        if holder is not unknown_parameter:
            raise unknown_parameter(f"session.{path}", blame="fault")


def check_model_options(model: str, params: Json, at: str) -> None:
    """Refuse parameters that only a reasoning model takes."""
    for name in ("reasoning", "parallel_tool_calls"):
        if name in params and not reasons(model):
            raise invalid_value("Unsupported option for this model.", f"{at}.{name}")


def check_tool_choice(session: Json, params: Json) -> None:
    """Refuse a response's choice of a function that it lacks. The real server's words are not documented."""
    choice = params.get("tool_choice")
    name = choice.get("name") if isinstance(choice, dict) and choice["type"] == "function" else None
    names = [tool["name"] for tool in {**session, **params}["tools"] if tool["type"] == "function"]
    if name is not None and name not in names:
        raise invalid_value(f"Tool choice '{name}' not found in 'tools'.", "response.tool_choice")


def check_voice(session: Json, params: Json, *, spoke: bool, at: str) -> None:
    """Refuse a change of voice once the assistant has spoken. Naming the current voice again is fine."""
    current = session["audio"]["output"]["voice"]
    if spoke and params.get("audio", {}).get("output", {}).get("voice", current) != current:
        message = "Cannot update a conversation's voice if assistant audio is present."
        raise EventRefused(message, code="cannot_update_voice", param=f"{at}.audio.output.voice")


def _check_transcription(transcription: Json | None) -> None:
    if transcription is None:
        return
    at = "session.audio.input.transcription"
    model = transcription.get("model")
    if model is None:
        raise missing_parameter(f"{at}.model")
    if model not in ("gpt-transcribe", "gpt-live-transcribe"):
        for name in ("keywords", "languages"):
            if name in transcription:
                raise invalid_value("Unsupported option for this model.", f"{at}.{name}")
    if "prompt" in transcription and model == "gpt-realtime-whisper":
        raise invalid_value("Unsupported option for this model.", f"{at}.prompt")
    if "language" in transcription and "languages" in transcription:
        raise invalid_value("Give either 'language' or 'languages'.", f"{at}.languages")
    if "delay" in transcription and model != "gpt-realtime-whisper":
        raise invalid_value("Unsupported option for this model.", f"{at}.delay")


def _check_whisper(audio_in: Json) -> None:
    """Refuse turn detection for the one recognizer that finds the turns itself."""
    transcription = audio_in["transcription"] or {}
    if transcription.get("model") == "gpt-realtime-whisper" and audio_in["turn_detection"] is not None:
        message = "Turn detection is not supported for transcription model 'gpt-realtime-whisper'."
        raise invalid_value(message, "session.audio.input.turn_detection")


def _merge(old: Json, new: Json) -> Json:
    merged = deepcopy(old)
    for name, value in new.items():
        before = merged.get(name)
        if name == "turn_detection" and value is not None:
            same = before is not None and before["type"] == value["type"]
            defaults = SERVER_VAD if value["type"] == "server_vad" else SEMANTIC_VAD
            merged[name] = {**(before if same and before else defaults), **value}
        elif (
            name in ("audio", "input", "output", "transcription", "noise_reduction")
            and isinstance(before, dict)
            and value is not None
        ):
            merged[name] = _merge(before, value)
        else:
            merged[name] = deepcopy(value)
    return merged
