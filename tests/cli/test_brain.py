"""The options `--brain` and `--brain-model`: which key goes where."""

from __future__ import annotations

import pytest

from phoneagent.cli.brain import brain_of, wake
from phoneagent.errors import ConfigurationError
from tests.sim.model.chat_server import ChatServer, chat_server, said

pytestmark = pytest.mark.anyio

OPENAI = "https://api.openai.com/v1"


def key_for(url: str) -> str | None:
    brain = brain_of(url, None)
    assert brain is not None
    return brain._key


def test_without_the_option_there_is_none() -> None:
    assert brain_of(None, None) is None
    with pytest.raises(ConfigurationError, match="add --brain URL"):
        brain_of(None, "qwen3")


def test_openais_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "")
    monkeypatch.delenv("BRAIN_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert key_for(OPENAI) == "sk-openai"
    assert key_for("http://127.0.0.1:11434") is None
    assert key_for("auto") is None
    monkeypatch.setenv("BRAIN_API_KEY", "own")
    assert key_for(OPENAI) == "own"
    assert key_for("http://127.0.0.1:11434") == "own"
    assert key_for("auto") is None


async def test_one_line_says_what_thinks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "")
    async with chat_server(ChatServer(said("Hi"), models=["qwen3:4b"])) as server:
        brain = brain_of(server.url, None)
        assert brain is not None
        assert await wake(brain) == f"The simulated model thinks with qwen3:4b at {server.url.split('/')[2]}."
