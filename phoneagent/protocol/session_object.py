"""The `session` object of `session.created` and `session.updated`, read in either spelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phoneagent.errors import shown
from phoneagent.protocol.beta import GA_FORMATS
from phoneagent.protocol.realtime import Dialect

MAX_NAME_CHARS = 200
"""How many characters of a name are kept."""

_ULAW = (
    "pcmu",
    "ulaw",
    "mulaw",
    "g711u",
    "audio/ulaw",
    "audio/mulaw",
    "audio/x-mulaw",
    "audio/basic",
    "audio/g711-ulaw",
)
_FORMATS = {**GA_FORMATS, "pcm": "audio/pcm", "pcma": "audio/pcma", **dict.fromkeys(_ULAW, "audio/pcmu")}
"""Spellings of the formats; some servers have the beta's names in GA's place, or others' names."""


def dialect_of(session: Mapping[str, Any]) -> Dialect | None:
    """Return the dialect that a server's session object shows; None if it shows none."""
    if "audio" in session or session.get("type") == "realtime":
        return Dialect.GA
    if "modalities" in session or "input_audio_format" in session or "output_audio_format" in session:
        return Dialect.BETA
    return None


def formats_of(session: Mapping[str, Any]) -> tuple[str, str]:
    """Return the audio formats that a session hears and speaks, in GA's spelling, e.g. "audio/pcmu"; else "unknown"."""
    return _format(session, "input"), _format(session, "output")


def _format(session: Mapping[str, Any], way: str) -> str:
    audio = session.get("audio")
    side = audio.get(way) if isinstance(audio, Mapping) else None
    format_ = side.get("format") if isinstance(side, Mapping) else None
    if format_ is None:
        format_ = session.get(f"{way}_audio_format")
    kind, rate = (format_.get("type"), format_.get("rate")) if isinstance(format_, Mapping) else (format_, None)
    if not isinstance(kind, str) or not kind:
        return "unknown"
    kind = _FORMATS.get(kind.lower(), kind.lower())[:MAX_NAME_CHARS]
    return f"{kind} at {rate} Hz" if kind == "audio/pcm" and rate not in (None, 24_000, "24000") else kind


def expires_at_of(session: Mapping[str, Any]) -> float | None:
    """Return when the session ends by itself, in Unix seconds; None if the server does not say."""
    at = session.get("expires_at")
    return float(at) if isinstance(at, int | float) and not isinstance(at, bool) and 0 < at < 1e12 else None


def model_of(session: Mapping[str, Any]) -> str:
    """Return the model's name as the server spells it; "unknown" if the server does not say."""
    return _name(session)


def transcription_model_of(session: Mapping[str, Any]) -> str:
    """Return the name of the recognizer for the caller's turns; "unknown" if the server does not say."""
    audio = session.get("audio")
    modern = audio.get("input") if isinstance(audio, Mapping) else None
    if isinstance(modern, Mapping):
        return _name(modern.get("transcription"))
    return _name(session.get("input_audio_transcription"))


def _name(holder: Any) -> str:
    model = holder.get("model") if isinstance(holder, Mapping) else None
    return (shown(model, MAX_NAME_CHARS) if isinstance(model, str) else "") or "unknown"
