"""The chat-supervisor: a chat endpoint thinks, or the call's own model does; and what happens if neither answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from phoneagent import SilenceFilled, ToolReturned
from tests.examples.conftest import Players, load
from tests.examples.test_weather import new_call
from tests.sim.model.chat_server import ChatServer, chat_server, said

pytestmark = pytest.mark.anyio

SCRIPT = """
[[turn]]
heard = "bring it back"
call = "ask_supervisor"
arguments = { request = "May they bring it back?", said = "They bought it last week." }
then = "{output}"
"""


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(url: str = "") -> Any:
        monkeypatch.setenv("SUPERVISOR_URL", url)
        monkeypatch.setenv("SUPERVISOR_MODEL", "tiny")
        monkeypatch.setenv("SUPERVISOR_API_KEY", "a-key")
        return load("supervisor")

    return make


async def test_a_text_model_thinks_and_the_voice_says_it(shop: Any, played: Players) -> None:
    async with chat_server(ChatServer(said("Yes, within 30 days."))) as server:
        async with played(shop(server.url), SCRIPT) as number, number.call() as caller:
            await caller.says("May I bring it back?", hears="Yes, within 30 days.")
            (call,) = caller.world.app.calls.values()
            assert call.state == {"asked": ["May they bring it back?"]}
        (asked,) = server.requests
        assert server.keys == ["Bearer a-key"]
    assert asked["model"] == "tiny"
    assert "30 days" in asked["messages"][0]["content"]
    assert asked["messages"][1]["content"].endswith("The caller now: May they bring it back?")


async def test_without_an_endpoint_the_calls_own_model_thinks(shop: Any, played: Players) -> None:
    async with played(shop(), SCRIPT) as number, number.call() as caller:
        await caller.says("May I bring it back?", hears="Sorry")  # what the script says to the supervisor's question
        assert len([each for each in caller.session.responses if each.out_of_band]) == 1
        assert [each.name for each in caller.world.of(ToolReturned)] == ["ask_supervisor"]
        assert caller.world.of(SilenceFilled) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [((500, "down"), "does not answer (InternalServerError)"), (said(""), "said nothing"), ((401, "no"), "Authentic")],
)
async def test_a_supervisor_that_fails_is_told_to_the_model(shop: Any, answer: Any, words: str) -> None:
    async with chat_server(ChatServer(answer)) as server:
        output = await shop(server.url).ask_supervisor.run(new_call(), '{"request": "x"}')
    assert words in json.loads(output)["error"]


async def test_what_is_asked_and_answered_is_bounded(shop: Any) -> None:
    async with chat_server(ChatServer(said("word " * 1000))) as server:
        example, call = shop(server.url), new_call()
        assert len(await example.ask_supervisor.run(call, '{"request": "x"}')) <= example.MAX_CHARS
        call.state["asked"] = ["x"] * example.MAX_ASKED
        assert "too often" in await example.ask_supervisor.run(call, '{"request": "x"}')
        assert len(server.requests) == 1
