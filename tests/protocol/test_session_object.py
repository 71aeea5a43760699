"""The `session` object, in whatever spelling and shape a server sends it."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.protocol.realtime import Dialect
from phoneagent.protocol.session_object import (
    MAX_NAME_CHARS,
    dialect_of,
    expires_at_of,
    formats_of,
    model_of,
    transcription_model_of,
)

# --- the dialect ---


@pytest.mark.parametrize(
    ("session", "dialect"),
    [
        ({"type": "realtime", "model": "m"}, Dialect.GA),
        ({"audio": {"output": {}}}, Dialect.GA),
        ({"modalities": ["audio", "text"]}, Dialect.BETA),
        ({"input_audio_format": "pcm16"}, Dialect.BETA),
        ({"output_audio_format": "pcm16"}, Dialect.BETA),
        ({"id": "s"}, None),
    ],
)
def test_the_dialect_shows_in_a_session(session: dict[str, Any], dialect: Dialect | None) -> None:
    assert dialect_of(session) is dialect


# --- the audio formats ---


@pytest.mark.parametrize(
    ("session", "format_"),
    [
        ({"audio": {"output": {"format": {"type": "audio/pcmu"}}}}, "audio/pcmu"),
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 24000}}}}, "audio/pcm"),
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 16000}}}}, "audio/pcm at 16000 Hz"),
        ({"audio": {"output": {"format": {"type": "audio/pcmu", "rate": 8000}}}}, "audio/pcmu"),
        ({"output_audio_format": "g711_ulaw"}, "audio/pcmu"),
        ({"output_audio_format": "g711_alaw"}, "audio/pcma"),
        ({"output_audio_format": "pcm16"}, "audio/pcm"),
        ({"output_audio_format": "opus"}, "opus"),
        ({"output_audio_format": "audio/pcmu"}, "audio/pcmu"),
        ({"output_audio_format": {"type": "pcmu"}}, "audio/pcmu"),
        ({"output_audio_format": 16}, "unknown"),
        ({"audio": {"output": {"format": "pcm16"}}}, "audio/pcm"),
        ({"audio": {"output": {"format": "PCM"}}}, "audio/pcm"),
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": "24000"}}}}, "audio/pcm"),
        ({"audio": {"output": {"format": {"type": None}}}}, "unknown"),
        ({"audio": {"output": {}}, "output_audio_format": "g711_ulaw"}, "audio/pcmu"),
        ({"audio": {"output": {"format": None}}}, "unknown"),
        ({"audio": {"output": "loud"}}, "unknown"),
        ({"audio": None}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_what_the_model_will_speak_in(session: dict[str, Any], format_: str) -> None:
    assert formats_of(session)[1] == format_


def test_what_the_model_hears_is_told_apart_from_what_it_speaks() -> None:
    assert formats_of({"input_audio_format": "pcm16", "output_audio_format": "g711_ulaw"}) == (
        "audio/pcm",
        "audio/pcmu",
    )
    modern = {"input": {"format": {"type": "audio/pcmu"}}, "output": {"format": {"type": "audio/pcm"}}}
    assert formats_of({"audio": modern}) == ("audio/pcmu", "audio/pcm")


# --- the end of the session ---


@pytest.mark.parametrize(
    ("expires_at", "seconds"),
    [
        (1_700_000_000, 1.7e9),
        (1_700_000_000.5, 1_700_000_000.5),
        (0, None),
        (-1, None),
        (1e12, None),  # milliseconds, or nonsense
        (float("nan"), None),
        (True, None),
        ("1700000000", None),
        (None, None),
        ({"at": 1}, None),
    ],
)
def test_when_a_session_ends_by_itself(expires_at: Any, seconds: float | None) -> None:
    assert expires_at_of({"expires_at": expires_at}) == seconds
    assert expires_at_of({}) is None


# --- the models ---


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-realtime", "gpt-realtime"),
        ("m" * 300, "m" * MAX_NAME_CHARS + "…"),
        ("gpt\nrealtime\x1b", "gpt realtime"),
        ("\x00", "unknown"),
        ("", "unknown"),
        (7, "unknown"),
        (None, "unknown"),
        (["gpt-realtime"], "unknown"),
    ],
)
def test_the_models_name(model: Any, name: str) -> None:
    assert model_of({"model": model}) == name
    assert transcription_model_of({"audio": {"input": {"transcription": {"model": model}}}}) == name
    assert transcription_model_of({"input_audio_transcription": {"model": model}}) == name


@pytest.mark.parametrize(
    "session",
    [
        {},
        {"audio": None},
        {"audio": "loud"},
        {"audio": {"input": None}},
        {"audio": {"input": {}}},
        {"audio": {"input": {"transcription": None}}},
        {"audio": {"input": {"transcription": "whisper-1"}}},
        {"input_audio_transcription": None},
        {"input_audio_transcription": "whisper-1"},
    ],
)
def test_a_server_that_does_not_name_its_recognizer(session: dict[str, Any]) -> None:
    assert transcription_model_of(session) == "unknown"


def test_a_server_that_does_not_name_its_model() -> None:
    assert model_of({}) == "unknown"


def test_the_ga_spelling_of_the_recognizer_counts_before_the_beta_one() -> None:
    session = {
        "audio": {"input": {"transcription": {"model": "gpt-transcribe"}}},
        "input_audio_transcription": {"model": "whisper-1"},
    }
    assert transcription_model_of(session) == "gpt-transcribe"
