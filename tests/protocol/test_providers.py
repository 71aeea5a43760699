"""What is known of servers, and the session as each of them takes it."""

from __future__ import annotations

import copy
from typing import Any
from urllib.parse import urlsplit

import pytest

from phoneagent.protocol.providers import ANY, OPENAI_VOICES, PROVIDERS, Provider, at, has, take

SESSION: dict[str, Any] = {
    "type": "realtime",
    "audio": {
        "input": {
            "format": {"type": "audio/pcmu"},
            "noise_reduction": {"type": "near_field"},
            "turn_detection": {"type": "server_vad", "prefix_padding_ms": 300},
        },
        "output": {"format": {"type": "audio/pcmu"}, "voice": "marin", "speed": 1.1},
    },
    "tools": [],
    "truncation": "auto",
}


def test_a_server_of_which_nothing_is_known_gets_everything() -> None:
    assert ANY.session(SESSION) == SESSION


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_session_is_not_changed_in_place_and_keeps_what_a_call_needs(name: str) -> None:
    before = copy.deepcopy(SESSION)
    shaped = PROVIDERS[name].session(SESSION)
    assert before == SESSION
    assert (shaped["type"], shaped["tools"]) == ("realtime", [])
    assert at(shaped, ("audio", "input", "turn_detection", "type")) or shaped["turn_detection"]["type"] == "server_vad"
    assert at(shaped, ("audio", "output", "speed")) == 1.1


def test_what_xai_has_at_the_top_level_is_there() -> None:
    session = copy.deepcopy(SESSION)
    session["audio"]["output"]["voice"] = "eve"
    shaped = PROVIDERS["xai"].session(session)
    assert (shaped["voice"], shaped["turn_detection"]["type"]) == ("eve", "server_vad")
    assert "turn_detection" not in shaped["audio"]["input"]
    assert "voice" not in shaped["audio"]["output"]


def test_a_null_is_moved_too() -> None:
    session = {"audio": {"input": {"turn_detection": None}}}
    assert PROVIDERS["xai"].session(session) == {"audio": {"input": {}}, "turn_detection": None}


def test_what_speaches_does_not_take_is_left_out() -> None:
    shaped = PROVIDERS["speaches"].session(SESSION)
    assert shaped["audio"] == {"input": {"turn_detection": {"type": "server_vad"}}, "output": {"speed": 1.1}}
    assert "truncation" not in shaped


@pytest.mark.parametrize(
    ("voice", "kept"), [("marin", False), ("af_heart", True), ({"id": "voice_1"}, True), ("voice_1", True)]
)
def test_a_server_with_other_voices_is_not_asked_for_openai_s(voice: Any, kept: bool) -> None:
    session = {"audio": {"output": {"voice": voice}}}
    assert (PROVIDERS["localai"].session(session) == session) is kept
    assert PROVIDERS["openai"].session(session) == session
    assert PROVIDERS["localai"].session({"type": "realtime"}) == {"type": "realtime"}


@pytest.mark.parametrize("name", PROVIDERS)
def test_an_entry_can_be_used(name: str) -> None:
    provider = PROVIDERS[name]
    assert isinstance(provider, Provider)
    assert provider.url is None or (urlsplit(provider.url).scheme in ("ws", "wss", "https") and provider.url[-1] != "/")
    local = urlsplit(provider.url or "").hostname == "127.0.0.1"
    assert provider.needs_key is not local
    assert provider.has_openai_voices or provider.transcription_models is not None, "its recognisers are not OpenAI's"
    assert not OPENAI_VOICES & {provider.model}


def test_paths() -> None:
    session: dict[str, Any] = {"a": {"b": None, "c": 1}}
    assert has(session, ("a", "b"))
    assert not has(session, ("a", "x"))
    assert not has(session, ("a", "c", "d"))
    assert (at(session, ("a", "c")), at(session, ("a", "c", "d")), at(session, ("x", "y"))) == (1, None, None)
    assert (take(session, ("a", "c")), take(session, ("a", "c")), take(session, ("a", "b"))) == (1, None, None)
    assert session == {"a": {}}
