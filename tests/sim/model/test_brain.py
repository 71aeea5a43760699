"""The brain: how a chat endpoint is found, asked and stopped, and what its failures become."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from phoneagent.errors import DefinitionError
from phoneagent.sim.model import brain as module
from phoneagent.sim.model.brain import Brain, BrainFailed, CutShort, Prompt, is_openai
from phoneagent.sim.model.chat_stream import ToolCall
from tests.patience import HANG_SECONDS
from tests.sim.model.chat_server import CUT, ChatServer, called, chat_server, event, said, words

pytestmark = pytest.mark.anyio

HELLO = Prompt([{"role": "user", "content": "Hello?"}])


async def answer(brain: Brain, prompt: Prompt = HELLO) -> list[Any]:
    return [piece async for piece in brain.think(prompt)]


async def test_it_takes_the_servers_first_model_that_chats_and_sends_the_key() -> None:
    async with chat_server(ChatServer(said("Good day"), models=["nomic-embed-text", "qwen", "llama"])) as server:
        brain = Brain(server.url, key="secret")
        await brain.ready()
        assert await answer(brain, Prompt(HELLO.messages, max_tokens=9)) == ["Good ", "day "]

    (request,) = server.requests
    assert request == {"model": "qwen", "messages": HELLO.messages, "stream": True, "max_tokens": 9}
    assert set(server.keys) == {"Bearer secret"}
    assert "secret" not in repr(brain)


async def test_words_come_before_the_answer_is_over_and_calls_at_its_end() -> None:
    more = asyncio.Event()
    steps = [words("Let me "), more, words("see."), *called("book", '{"guests": 4}')]
    async with chat_server(ChatServer(steps)) as server, aclosing(Brain(server.url).think(HELLO)) as thought:
        assert await anext(thought) == "Let me "
        more.set()
        assert [piece async for piece in thought] == ["see.", ToolCall("book", '{"guests": 4}', "k-book")]


async def test_closing_the_answer_ends_the_stream_at_the_server() -> None:
    async with chat_server(ChatServer([words("Once upon "), asyncio.Event()])) as server:
        async with aclosing(Brain(server.url).think(HELLO)) as thought:
            assert await anext(thought) == "Once upon "
        async with asyncio.timeout(HANG_SECONDS):
            await server.left.wait()


async def test_an_answer_at_its_limit_says_so() -> None:
    async with chat_server(ChatServer([words("And "), event({}, finish="length")])) as server:
        assert await answer(Brain(server.url)) == ["And ", CutShort()]


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([words("I am "), CUT], "broke off in the middle"),
        ([words("I am ")], "broke off in the middle"),
        ([b"data: {oops\n\n"], "no chat event"),
        ([b'data: {"error": {"message": "out of memory"}}\n\n'], "out of memory"),
        ([b"data: " + b"x" * (1 << 20)], "a line that is too long"),
        ((500, "model runner stopped"), "tiny at 127.0.0.1:.*HTTP 500 \\(model runner stopped\\): see the server's"),
        ((404, "model 'tiny' not found"), "HTTP 404 .*--brain-model"),
        ((400, "tiny does not support tools"), "does not support tools.*try another model"),
        ((401, "no key"), "BRAIN_API_KEY"),
    ],
)
async def test_each_failure_is_one_line_with_what_to_do(steps: Any, told: str) -> None:
    async with chat_server(ChatServer(steps)) as server:
        with pytest.raises(BrainFailed, match=told) as failed:
            await answer(Brain(server.url))
    assert "\n" not in str(failed.value)


async def test_a_server_that_is_not_there_or_has_no_model() -> None:
    async with chat_server(ChatServer(said("Hi"), models=[])) as server:
        with pytest.raises(BrainFailed, match="has no model: load one"):
            await Brain(server.url).ready()
    with pytest.raises(BrainFailed, match="nothing listens there"):
        await Brain(server.url).ready()


async def test_silence_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.05)
    async with chat_server(ChatServer([words("I "), asyncio.Event()])) as server:
        with pytest.raises(BrainFailed, match=r"sends nothing for 0\.05 s: use a smaller model"):
            await answer(Brain(server.url, model="tiny"))


async def test_auto_takes_what_runs_here_and_says_where_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with chat_server(ChatServer(said("Hi"))) as server:
        monkeypatch.setattr(module, "AUTO", {"Ollama": "http://127.0.0.1:9/v1", "llama": server.url})
        brain = Brain("auto")
        await brain.ready()
        assert brain.base == server.url
    with pytest.raises(BrainFailed, match=r"it tried Ollama at 127\.0\.0\.1:9 and llama at"):
        await Brain("auto").ready()


async def test_the_server_loads_the_model_at_the_warm_up() -> None:
    async with chat_server(ChatServer(said("Hi"))) as server:
        await Brain(server.url).warm_up()
    assert server.requests == []  # the warm-up alone


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://localhost:11434", "http://localhost:11434/v1"),
        ("http://localhost:11434/", "http://localhost:11434/v1"),
        ("https://h/openai/v1/", "https://h/openai/v1"),
        ("https://h/v1/chat/completions", "https://h/v1"),
    ],
)
def test_an_address_is_taken_as_users_write_it(url: str, base: str) -> None:
    assert Brain(url).base == base


@pytest.mark.parametrize("url", ["localhost:11434", "ws://h", "http://", "http://u:p@h/v1", "http://h:x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(DefinitionError, match="without a password"):
        Brain(url)


async def test_openai_needs_a_models_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def listed(self: Brain, base: str, silent_seconds: float) -> list[str]:
        return ["gpt-5", "whisper-1"]

    monkeypatch.setattr(Brain, "_models", listed)
    with pytest.raises(BrainFailed, match=r"api\.openai\.com has many models"):
        await Brain("https://api.openai.com/v1").ready()


def test_which_hosts_are_openais() -> None:
    assert is_openai("https://api.openai.com/v1")
    assert is_openai("https://eu.api.openai.com/v1")
    assert not is_openai("http://api.openai.com/v1")
    assert not is_openai("https://api.openai.com.example/v1")
