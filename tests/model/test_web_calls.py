"""Keys for pages, and the socket to a page's session, at the simulated server and at servers that go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from phoneagent import Agent, Call, Endpoint, EndpointRefused, EndpointUnreachable, Hearing, Limits
from phoneagent.model.web_calls import create_client_secret, hang_up_call, join_call
from phoneagent.protocol.negotiation import MAX_ATTEMPTS
from phoneagent.protocol.providers import has
from phoneagent.protocol.realtime import Dialect
from phoneagent.sim import Faults, Model, serving

pytestmark = pytest.mark.anyio
AGENT = Agent(instructions="Be brief.", hearing=Hearing(language="fr"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def call() -> Call:
    return Call(sid="WC1", caller=None, called=None, direction="web", started_at=datetime.now(UTC))


def openai(model: Model, key: str = "key", **options: Any) -> Endpoint:
    return Endpoint.openai(key, "gpt-realtime-2.1", base_url=model.base_url, **options)


async def test_a_key_has_the_agent_s_configuration() -> None:
    async with Model(api_key="key") as model:
        made = await create_client_secret(openai(model), AGENT.session("Be brief."), call(), seconds=60)
        assert made.value.startswith("ek_")
        assert made.value not in repr(made)
        assert made.calls_url == f"{model.base_url}/realtime/calls"
        secret = model._secrets.find([made.value])
        assert secret is not None
        assert secret.model == "gpt-realtime-2.1"
        hearing = secret.session["audio"]["input"]
        assert hearing["transcription"] == {"model": "gpt-transcribe", "language": "fr"}
        assert "format" not in hearing  # WebRTC has its own


async def test_a_recognizer_that_is_refused_is_replaced() -> None:
    session = AGENT.session("Be brief.")
    async with Model() as model:
        endpoint = openai(model, transcription_models=("no-such-one", "whisper-1"))
        made = await create_client_secret(endpoint, session, call(), seconds=60)
        secret = model._secrets.find([made.value])
        assert secret is not None
        assert secret.session["audio"]["input"]["transcription"]["model"] == made.recognizer == "whisper-1"


async def made_without(
    caplog: pytest.LogCaptureFixture, agent: Agent, model_name: str = "gpt-realtime-2.1", *recognizers: str
) -> tuple[dict[str, Any], str | None, str]:
    """Make a key; return its session, the recognizer that it is said to have, and the one line of the log."""
    async with Model(api_key="key") as model:
        endpoint = Endpoint.openai("key", model_name, base_url=model.base_url)
        if recognizers:
            endpoint = replace(endpoint, transcription_models=recognizers)
        made = await create_client_secret(endpoint, agent.session("Be brief."), call(), seconds=60)
        secret = model._secrets.find([made.value])
        assert secret is not None
    (line,) = [each.getMessage() for each in caplog.records if each.name == "phoneagent.model.web_calls"]
    return secret.session, made.recognizer, line


OPTIONS = Limits(reasoning_effort="low", parallel_tool_calls=False)


@pytest.mark.parametrize(
    ("agent", "dropped"),
    [
        (Agent(instructions="", limits=OPTIONS), [("reasoning",), ("parallel_tool_calls",)]),
        (Agent(instructions="", extra={"temperature": 0.8}), [("temperature",)]),
        (Agent(instructions="", voice="nova"), [("audio", "output", "voice")]),
    ],
)
async def test_a_field_that_is_refused_is_dropped(
    caplog: pytest.LogCaptureFixture, agent: Agent, dropped: list[tuple[str, ...]]
) -> None:
    session, recognizer, line = await made_without(caplog, agent, "gpt-realtime-1.5")
    asked = agent.session("Be brief.")
    for path in dropped:
        assert has(asked, path)
        assert not has(session, path)
        assert ".".join(path) in line
    assert session["instructions"] == "Be brief."
    assert recognizer == session["audio"]["input"]["transcription"]["model"] == "gpt-transcribe"


@pytest.mark.parametrize(
    ("hearing", "left"),
    [
        (Hearing(keywords=["Ada"], prompt="Names."), {"prompt": "Names."}),
        (Hearing(language=["en", "es"]), {}),
        (Hearing(language=["en", "es"], keywords=["Ada"]), {}),
    ],
)
async def test_a_hint_that_is_refused_leaves_the_recognizer(
    caplog: pytest.LogCaptureFixture, hearing: Hearing, left: dict[str, str]
) -> None:
    agent = Agent(instructions="", hearing=hearing)
    session, recognizer, line = await made_without(
        caplog, agent, "gpt-realtime-2.1", "gpt-4o-mini-transcribe", "whisper-1"
    )
    assert session["audio"]["input"]["transcription"] == {"model": "gpt-4o-mini-transcribe", **left}
    assert recognizer == "gpt-4o-mini-transcribe"
    assert "audio.input.transcription." in line


@pytest.mark.parametrize("param", ["session.audio.input.transcription.keywords", "session.instructions", "model", None])
async def test_a_server_that_refuses_everything_is_not_asked_for_ever(param: str | None) -> None:
    asked = 0

    async def refused(request: Request) -> Response:
        nonlocal asked
        asked += 1
        return JSONResponse({"error": {"code": "invalid_value", "message": "No.", "param": param}}, 400)

    async with serving(Starlette(routes=[Route("/{path:path}", refused, methods=["POST"])])) as url:
        with pytest.raises(EndpointRefused, match="HTTP 400 invalid_value"):
            await create_client_secret(
                Endpoint.openai("key", "m", base_url=f"{url}/v1"), AGENT.session(""), call(), seconds=60
            )
    assert asked <= MAX_ATTEMPTS + 1


async def test_refusals_name_the_remedy_and_no_key() -> None:
    async with Model(api_key="another") as model:
        with pytest.raises(EndpointRefused, match=r"HTTP 401 invalid_api_key: check OPENAI_API_KEY") as refused:
            await create_client_secret(openai(model, "sk-secret-key"), AGENT.session(""), call(), seconds=60)
        assert "secret" not in str(refused.value).replace("client secret", "")
    async with Model(faults=Faults(refuse_status=503)) as model:
        with pytest.raises(EndpointUnreachable, match="HTTP 503"):
            await create_client_secret(openai(model), AGENT.session(""), call(), seconds=60)
    with pytest.raises(EndpointUnreachable, match="no connection"):
        await create_client_secret(openai(model_gone(model)), AGENT.session(""), call(), seconds=60)
    beta = Endpoint.gateway("ws://127.0.0.1:1", dialect=Dialect.BETA)
    with pytest.raises(EndpointRefused, match="use a GA endpoint"):
        await create_client_secret(beta, AGENT.session(""), call(), seconds=60)


def model_gone(model: Model) -> Any:
    """Return what has the address of a server that has gone."""
    return type("Gone", (), {"base_url": "http://127.0.0.1:1/v1"})()


@pytest.mark.parametrize("answer", [Response(b"<html>"), JSONResponse([]), RedirectResponse("http://127.0.0.1:1/")])
async def test_another_server_s_answer_is_no_key(answer: Response) -> None:
    seen: list[str] = []

    async def answered(request: Request) -> Response:
        seen.append(request.url.path)
        return answer

    async with serving(Starlette(routes=[Route("/{path:path}", answered, methods=["POST"])])) as url:
        endpoint = Endpoint.openai("key", "m", base_url=f"{url}/v1")
        with pytest.raises((EndpointRefused, EndpointUnreachable), match="made no client secret"):
            await create_client_secret(endpoint, AGENT.session(""), call(), seconds=60)
    assert seen == ["/v1/realtime/client_secrets"]


async def test_an_answer_that_comes_in_pieces_is_read_to_its_end() -> None:
    async def answered(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b'{"value": "ek_'
            await asyncio.sleep(0.05)  # the first one comes alone
            yield b'whole", "session": {}}'

        return StreamingResponse(pieces())

    async with serving(Starlette(routes=[Route("/{path:path}", answered, methods=["POST"])])) as url:
        endpoint = Endpoint.openai("key", "m", base_url=f"{url}/v1")
        assert (await create_client_secret(endpoint, AGENT.session(""), call(), seconds=60)).value == "ek_whole"


async def test_there_is_no_call_to_join_and_none_to_hang_up() -> None:
    async with Model(api_key="key") as model:
        with pytest.raises(EndpointRefused, match="HTTP 404"):
            await join_call(openai(model), "rtc_none", call())
        await hang_up_call(openai(model), "rtc_none", call())
