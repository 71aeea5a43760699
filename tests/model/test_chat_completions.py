"""A form that is filled in at a chat endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from phoneagent import EndpointError, EndpointRefused, EndpointUnreachable, Settings
from phoneagent.events import Usage
from phoneagent.model import chat_completions
from phoneagent.model.chat_completions import MAX_ANSWER_TOKENS, MAX_BODY_BYTES, ChatEndpoint, ChatFiller
from phoneagent.model.forms import Form
from tests.ports import free_port

pytestmark = pytest.mark.anyio
KEY = "sk-a-very-secret-key"
FORM = Form("Booking", {"type": "object", "properties": {}}, "Fill in the form.", '{"caller": "A table."}')


def completion(content: str | None = "{}", finish: str = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "refusal": more.pop("refusal", None)}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


class Server:
    """A chat endpoint that gives one answer again and again."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = completion()
        self.hangs = False
        self.released = asyncio.Event()
        self.asked: list[web.Request] = []
        self.bodies: list[Any] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        self.bodies.append(await request.json())
        if self.hangs:
            await self.released.wait()
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"Location": self.url} if self.status == 307 else {}
        return web.Response(status=self.status, body=body, headers=headers, content_type="application/json")

    def filler(self, key: str | None = KEY) -> ChatFiller:
        return ChatFiller(ChatEndpoint(self.url, "small", key), FORM)


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    server.url = f"http://127.0.0.1:{port}/v1"
    yield server
    server.released.set()
    await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(Server()) as made:
        yield made


async def test_it_asks_for_structured_output_and_again_with_what_was_wrong(server: Server) -> None:
    used = {"prompt_tokens": 100, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 30}}
    server.body = completion('{"guests": 0}', usage=used)
    filler = server.filler()
    filling = await filler.fill()
    assert (filling.text, filling.problem, filling.model) == ('{"guests": 0}', None, "small")
    assert filling.read is not None
    assert filling.read.usage == Usage(text_in=70, text_cached=30, text_out=9)
    await filler.fill("guests must be more than 0")
    first, second = server.bodies
    assert first["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "outcome", "schema": FORM.schema, "strict": False},
    }
    assert first["messages"] == [
        {"role": "system", "content": "Fill in the form."},
        {"role": "user", "content": FORM.text},
    ]
    assert (first["model"], first["max_tokens"]) == ("small", MAX_ANSWER_TOKENS)
    assert [each["role"] for each in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][-1]["content"] == "guests must be more than 0"
    assert {each.headers["Authorization"] for each in server.asked} == {f"Bearer {KEY}"}
    await filler.close()


async def test_without_a_key_none_is_sent(server: Server) -> None:
    assert (await server.filler(None).fill()).read is None
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (completion(None), "the model answered with nothing"),
        ({"choices": []}, "the model answered with nothing"),
        (completion('{"gue', "length"), "the answer was cut off (length)"),
        (completion(None, refusal="I\nwill not."), "the model refused: I will not."),
        (completion("", "content_filter"), "the model refused: content filter"),
    ],
)
async def test_an_answer_without_a_form_is_a_problem(server: Server, body: Any, problem: str) -> None:
    server.body = body
    assert (await server.filler().fill()).problem == problem


@pytest.mark.parametrize("usage", [None, 5, {}, {"prompt_tokens": "many"}, {"prompt_tokens": 10**30}, []])
async def test_an_odd_report_of_usage_spoils_no_answer(server: Server, usage: Any) -> None:
    server.body = completion("{}", usage=usage)
    filling = await server.filler().fill()
    assert (filling.text, filling.read) == ("{}", None)


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (
            401,
            {"error": {"message": f"bad key {KEY[:8]}", "code": "invalid_api_key"}},
            EndpointRefused,
            "check OUTCOME_API_KEY",
        ),
        (
            400,
            {"error": {"message": f"no {KEY}", "type": "invalid_request_error"}},
            EndpointRefused,
            "invalid_request_error: no …",
        ),
        (404, b"<html>", EndpointRefused, "OUTCOME_URL answers HTTP 404: check OUTCOME_URL and OUTCOME_MODEL"),
        (307, b"", EndpointRefused, "HTTP 307"),
        (429, {"error": {"message": "slow down", "code": 429}}, EndpointUnreachable, "429: slow down"),
        (500, b"", EndpointUnreachable, "HTTP 500"),
        (200, b"<html>", EndpointUnreachable, "no chat completion"),
        (200, {"choices": [{}]}, EndpointUnreachable, "no chat completion"),
        (200, b"[" * (MAX_BODY_BYTES + 1), EndpointUnreachable, "more than"),
    ],
)
async def test_a_refusal_is_one_line_without_the_key(
    server: Server, status: int, body: Any, kind: type[EndpointError], words: str
) -> None:
    server.status, server.body = status, body
    with pytest.raises(EndpointError) as refused:
        await server.filler().fill()
    assert type(refused.value) is kind
    assert words in str(refused.value)
    assert "sk-" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(server.asked) == 1


async def test_a_server_that_hangs_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_completions, "ANSWER_SECONDS", 0.3)
    server.hangs = True
    with pytest.raises(EndpointUnreachable, match=r"no answer from OUTCOME_URL within 0\.3 s"):
        await server.filler().fill()


async def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(EndpointUnreachable, match="OUTCOME_URL does not answer"):
        await ChatFiller(ChatEndpoint(f"http://127.0.0.1:{free_port()}", "small"), FORM).fill()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434/v1/chat/completions"),
        ("http://h/v1/chat/completions/", "http://h/v1/chat/completions"),
        ("https://r.openai.azure.com/openai/v1/?x=1", "https://r.openai.azure.com/openai/v1/chat/completions?x=1"),
    ],
)
def test_the_address_may_be_written_in_several_ways(url: str, address: str) -> None:
    assert ChatEndpoint(url, "m").address == address


def test_openai_has_another_name_for_the_limit() -> None:
    assert set(ChatEndpoint("https://eu.api.openai.com/v1", "m").limit) == {"max_completion_tokens"}
    assert set(ChatEndpoint("https://notapi.openai.com.example/v1", "m").limit) == {"max_tokens"}


def test_the_settings_name_it() -> None:
    given: dict[str, Any] = {"insecure": True, "realtime_url": "ws://unused"}
    assert ChatEndpoint.from_settings(Settings(**given)) is None
    given |= {"outcome_url": "http://h/v1", "outcome_model": "small"}
    found = ChatEndpoint.from_settings(Settings(**given))
    assert found == ChatEndpoint("http://h/v1", "small")
    found = ChatEndpoint.from_settings(Settings(**given, outcome_api_key=KEY))
    assert found is not None
    assert found.api_key == KEY
    assert KEY not in repr(found)
