"""The `session` object of `session.created` and `session.updated`, read in either spelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phoneagent.errors import shown
from phoneagent.protocol.beta import GA_FORMATS
from phoneagent.protocol.realtime import Dialect

MAX_NAME_CHARS = 200
"""Characters that are kept of a model's name."""


def dialect_of(session: Mapping[str, Any]) -> Dialect:
    """Tell from the session of `session.created` which spelling the server speaks."""
    if "audio" in session or session.get("type") == "realtime":
        return Dialect.GA
    if "modalities" in session or "input_audio_format" in session:
        return Dialect.BETA
    return Dialect.GA


def formats_of(session: Mapping[str, Any]) -> tuple[str, str]:
    """Return the audio formats that a session hears and speaks, in GA's spelling, e.g. "audio/pcmu"."""
    if "output_audio_format" in session or "input_audio_format" in session:
        beta = (str(session.get(f"{way}_audio_format", "unknown")) for way in ("input", "output"))
        hears, speaks = (GA_FORMATS.get(each, each) for each in beta)
        return hears, speaks
    audio = session.get("audio")
    hears, speaks = (_format(audio, way) for way in ("input", "output"))
    return hears, speaks


def _format(audio: Any, way: str) -> str:
    side = audio.get(way) if isinstance(audio, Mapping) else None
    format_ = side.get("format") if isinstance(side, Mapping) else None
    if not isinstance(format_, Mapping):
        return "unknown"
    kind, rate = str(format_.get("type")), format_.get("rate")
    return f"{kind} at {rate} Hz" if kind == "audio/pcm" and rate not in (None, 24_000) else kind


def expires_at_of(session: Mapping[str, Any]) -> float | None:
    """Return when the session ends by itself, in Unix seconds; None if the server does not say."""
    at = session.get("expires_at")
    return float(at) if isinstance(at, int | float) and not isinstance(at, bool) and 0 < at < 1e12 else None


def model_of(session: Mapping[str, Any]) -> str:
    """Return the model's name as the server spells it; "unknown" if it does not."""
    return _name(session)


def transcription_model_of(session: Mapping[str, Any]) -> str:
    """Return the name of the recogniser for the caller's turns; "unknown" if the server does not tell."""
    audio = session.get("audio")
    modern = audio.get("input") if isinstance(audio, Mapping) else None
    if isinstance(modern, Mapping):
        return _name(modern.get("transcription"))
    return _name(session.get("input_audio_transcription"))


def _name(holder: Any) -> str:
    model = holder.get("model") if isinstance(holder, Mapping) else None
    return (shown(model, MAX_NAME_CHARS) if isinstance(model, str) else "") or "unknown"
