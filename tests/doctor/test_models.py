"""The doctor at every kind of endpoint: the right place is asked with the right key, and each fault named with its
remedy: the variable that is really used."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from phoneagent import Agent, Endpoint, Hearing, Settings, hang_up
from phoneagent.doctor import Check, Status
from phoneagent.doctor import models as module
from phoneagent.doctor.models import check_models
from phoneagent.protocol.providers import PROVIDERS
from phoneagent.protocol.realtime import Dialect
from phoneagent.sim import Faults, Helicone, Model
from phoneagent.sim.model.service import ANY, ANY_BETA, AZURE, AZURE_PREVIEW, BETA_GATEWAY, OPENAI, Service

pytestmark = pytest.mark.anyio

KEY, HELICONE_KEY, MODEL = "sk-provider-of-a-test", "sk-helicone-of-a-test", "gpt-realtime-2.1"
SOON = datetime.now(UTC).date() + timedelta(days=30)
NAMES = {
    *("OPENAI_API_KEY", "OPENAI_MODEL", "OPENAI_BASE_URL", "REALTIME_URL", "REALTIME_API_KEY"),
    *("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_DEPLOYMENT", "AZURE_OPENAI_API_KEY", "HELICONE_API_KEY", "HELICONE_URL"),
}

Made = Callable[[str], dict[str, Any]]


def openai(origin: str) -> dict[str, Any]:
    return {"openai_base_url": f"{origin}/v1", "openai_api_key": KEY}


def azure(origin: str) -> dict[str, Any]:
    return {"azure_openai_endpoint": origin, "azure_openai_deployment": "talk", "azure_openai_api_key": KEY}


def preview(origin: str) -> dict[str, Any]:
    return {**azure(origin), "azure_openai_preview": "2025-04-01-preview"}


def gateway(origin: str) -> dict[str, Any]:
    return {"realtime_url": origin.replace("http", "ws"), "realtime_api_key": KEY}


KINDS: dict[str, tuple[Service, Made]] = {
    "OpenAI": (OPENAI, openai),
    "Azure": (AZURE, azure),
    "Azure's preview": (AZURE_PREVIEW, preview),
    "a gateway": (ANY, gateway),
    "a beta gateway": (BETA_GATEWAY, gateway),
}
KEYS = {"OpenAI": "OPENAI_API_KEY", "Azure": "AZURE_OPENAI_API_KEY", "Azure's preview": "AZURE_OPENAI_API_KEY"}
NAMED = {
    "OpenAI": "OPENAI_MODEL",
    "Azure": "AZURE_OPENAI_DEPLOYMENT, and AZURE_OPENAI_ENDPOINT",
    "Azure's preview": "AZURE_OPENAI_DEPLOYMENT, and AZURE_OPENAI_ENDPOINT",
}
kinds = pytest.mark.parametrize("kind", KINDS)


def settings(**given: Any) -> Settings:
    return Settings(
        twilio_account_sid="AC" + "1" * 32,
        twilio_auth_token="the-auth-token-of-a-test",
        public_url="https://agent.example",
        **given,
    )


async def look(*endpoints: Endpoint, **given: Any) -> dict[str, Check]:
    """Look at these endpoints, or at what the settings name; the checks by name."""
    given = given or {"endpoint_in_code": True}
    checks = [check async for check in check_models(settings(**given), endpoints)]
    for check in checks:
        assert KEY not in check.text
        assert HELICONE_KEY not in check.text
        assert "\n" not in check.text
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    return dict(zip(names, checks, strict=True))


async def fault(*endpoints: Endpoint, **given: Any) -> str:
    """Look; exactly the model is wrong. Returns the words."""
    checks = await look(*endpoints, **given)
    assert [check.name for check in checks.values() if check.status is Status.FAILED] == ["model"], checks
    return checks["model"].text


def variables(text: str) -> set[str]:
    """Return the variables that a line tells to look at."""
    return {word.strip(",:()") for word in text.split()} & NAMES


@asynccontextmanager
async def running(service: Service, **options: Any) -> AsyncIterator[tuple[Model, str]]:
    async with Model(service=service, api_key=KEY, **options) as model:
        yield model, model.url.replace("ws://", "http://").removesuffix(service.path)
        assert model.violations == []
        assert not any(session.responses for session in model.sessions), "nothing was spoken"


@asynccontextmanager
async def listening(answer: bytes | None) -> AsyncIterator[str]:
    """Something that is no model: it answers whatever it is sent with these bytes, or never (None)."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if answer is None:
            await over.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        over.set()
        server.close()
        await server.wait_closed()


def through(helicone: Helicone) -> dict[str, Any]:
    url = helicone.url.replace("ws://", "http://").removesuffix("/realtime")
    return {"helicone_api_key": HELICONE_KEY, "helicone_url": url}


# --- all is well ---


@kinds
async def test_the_right_place_is_asked_with_the_right_key(kind: str) -> None:
    service, made = KINDS[kind]
    async with running(service, faults=Faults(shutdown_date=SOON.isoformat())) as (model, origin):
        checks = await look(**made(origin))
        named = "talk" if kind.startswith("Azure") else MODEL
        assert checks["model"] == Check("model", Status.OK, f"a session with {named} opens at 127.0.0.1")
        ends = checks["model's end"]
        assert ends.status is Status.FAILED
        assert f"{named} is switched off on {SOON}, in 30 days: choose a newer one, and change" in ends.text
        assert variables(ends.text) == {NAMED.get(kind, "OPENAI_MODEL").split(",")[0]}
        if kind == "OpenAI":  # elsewhere, a recognizer's name says little
            ends = checks.pop("model's recognizer's end")
            assert ends.status is Status.FAILED
            assert ends.text == (
                f"gpt-transcribe is switched off on {SOON}, in 30 days: choose a newer one, and change "
                "PHONEAGENT_TRANSCRIPTION_MODELS"
            )
        assert "model's recognizer's end" not in checks
        assert model.refusals == []
    assert [session.closed for session in model.sessions] == [True]


@pytest.mark.parametrize(
    ("hearing", "ends"),
    [
        (Hearing(), "gpt-transcribe is available until 2099-01-01"),
        (Hearing(models="whisper-1"), "whisper-1 is available until 2099-01-01"),
        (Hearing(models=()), None),
    ],
)
async def test_the_end_of_the_recognizer_that_the_agent_s_session_has(hearing: Hearing, ends: str | None) -> None:
    agent = Agent(instructions="", hearing=hearing)
    async with running(OPENAI, faults=Faults(shutdown_date="2099-01-01")) as (_, origin):
        checks = {check.name: check async for check in check_models(settings(**openai(origin)), [], agent)}
    found = checks.get("model's recognizer's end")
    assert (None if found is None else found.text) == ends


async def test_the_end_of_a_recognizer_at_an_endpoint_in_the_code() -> None:
    async with running(OPENAI, faults=Faults(shutdown_date=SOON.isoformat())) as (_, origin):
        checks = await look(Endpoint.openai(KEY, base_url=f"{origin}/v1"))
        assert checks["model's recognizer's end"].text.endswith("change transcription_models in your code")
        agent = Agent(instructions="", hearing=Hearing(models="whisper-1"))
        endpoint = Endpoint.openai(KEY, base_url=f"{origin}/v1")
        found = [check async for check in check_models(settings(endpoint_in_code=True), [endpoint], agent)]
    assert found[-1].text.endswith("change the agent's Hearing in your code")


async def later() -> str:
    return KEY


@pytest.mark.parametrize("provider", [lambda: KEY, later, lambda: later()], ids=["plain", "async", "returns one"])
async def test_a_token_provider_is_asked(provider: Callable[[], str | Awaitable[str]]) -> None:
    async with running(AZURE, faults=Faults(shutdown_date=SOON.isoformat())) as (model, origin):
        checks = await look(Endpoint.azure(origin, "talk", token=provider))
        assert checks["model"].status is Status.OK
        assert "change its model in your code" in checks["model's end"].text, "with a token, the entry is read too"
        assert model.refusals == []


async def test_a_token_provider_is_asked_once() -> None:
    asked: list[str] = []
    async with running(AZURE) as (_, origin):
        await look(Endpoint.azure(origin, "talk", token=lambda: asked.append(KEY) or KEY))
    assert asked == [KEY]


async def test_helicone_in_front_of_a_provider_that_still_takes_the_beta() -> None:
    async with (
        running(ANY_BETA, faults=Faults(shutdown_date=SOON.isoformat())) as (model, origin),
        Helicone(model, api_key=HELICONE_KEY) as helicone,
    ):
        checks = await look(**openai(origin), **through(helicone))
        assert checks["model"].status is Status.OK
        assert checks["model's gateway"].status is Status.NOTE
        assert "asks its provider for the beta interface" in checks["model's gateway"].text
        assert "remove HELICONE_API_KEY" in checks["model's gateway"].text
        assert f"switched off on {SOON}" in checks["model's end"].text, "the provider itself was asked"
        assert (helicone.violations, model.refusals) == ([], [])


async def test_helicone_in_front_of_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def entry(endpoint: Endpoint, model: str, tokens: Any) -> tuple[int | None, None]:
        asked.append(f"{model} at {endpoint.host}")
        return 404, None

    monkeypatch.setattr(module, "_entry", entry)
    async with running(AZURE_PREVIEW) as (model, _), Helicone(model, api_key=HELICONE_KEY) as helicone:
        checks = await look(**azure("https://phones.openai.azure.com"), **through(helicone))
    assert [check.status for check in checks.values()] == [Status.OK, Status.NOTE, Status.NOTE]
    assert "audio.output.voice" in checks["model's session"].text
    assert asked == ["talk at phones.openai.azure.com"]


async def test_servers_that_know_of_no_dates_are_fine() -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\nConnection: close\r\n\r\n<htm"
    async with listening(page) as origin:
        assert await module._entry(Endpoint.gateway(origin.replace("http", "ws")), "m", []) == (200, None)
    async with listening(page.replace(b"Content-Length: 4", b"Content-Length: 9999999") + b"x" * 200_000) as origin:
        assert await module._entry(Endpoint.gateway(origin.replace("http", "ws")), "m", []) == (200, None)


async def test_a_server_that_never_tells_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRY_SECONDS", 0.1)
    async with listening(None) as origin:
        assert await module._entry(Endpoint.gateway(origin.replace("http", "ws")), "m", []) == (None, None)


# --- faults ---


@kinds
async def test_a_wrong_key(kind: str) -> None:
    service, made = KINDS[kind]
    async with running(service) as (_, origin):
        given = {name: "sk-wrong" if value == KEY else value for name, value in made(origin).items()}
        text = await fault(**given)
    assert "127.0.0.1 refused the model session with HTTP 401" in text
    assert variables(text) == {KEYS.get(kind, "REALTIME_API_KEY")}


@kinds
async def test_a_wrong_model_or_deployment(kind: str) -> None:
    service, made = KINDS[kind]
    async with running(service, faults=Faults(refuse_models={MODEL, "talk"})) as (_, origin):
        text = await fault(**made(origin))
    assert text.endswith(f": check {NAMED.get(kind, 'OPENAI_MODEL')}")
    assert "127.0.0.1" in text


async def test_a_model_that_was_switched_off() -> None:
    faults = Faults(error_events=((0, {"type": "x", "code": "model_not_found"}),), no_created=True)
    day = SOON - timedelta(days=60)
    async with running(OPENAI, faults=replace(faults, shutdown_date=day.isoformat())) as (_, origin):
        checks = await look(**openai(origin))
    assert checks["model"].text.endswith("check OPENAI_MODEL")
    assert f"was switched off on {day}" in checks["model's end"].text


async def test_an_api_version_where_azure_takes_none() -> None:
    async with running(AZURE) as (model, _):
        text = await fault(realtime_url=f"{model.url}?model=talk&api-version=2025-04-01-preview", realtime_api_key=KEY)
    assert "leave api-version out of REALTIME_URL" in text


async def test_a_key_among_the_headers() -> None:
    async with running(ANY) as (_, origin):
        text = await fault(**gateway(origin), realtime_headers={"Authorization": "Bearer sk-wrong"})
    assert text.endswith("check REALTIME_HEADERS")


async def test_a_model_that_the_url_names() -> None:
    async with running(ANY, faults=Faults(refuse_models={"m"})) as (model, _):
        text = await fault(realtime_url=f"{model.url}?model=m", realtime_api_key=KEY)
    assert text.endswith("check the model in REALTIME_URL")


@kinds
async def test_a_place_out_of_reach(kind: str) -> None:
    text = await fault(**KINDS[kind][1]("http://127.0.0.1:1"))
    assert "no connection to the model at 127.0.0.1: 127.0.0.1:1 refuses the connection: nothing listens" in text
    expected = {"OpenAI": "OPENAI_BASE_URL", "Azure": "AZURE_OPENAI_ENDPOINT"}
    assert variables(text) == {expected.get(kind.split("'")[0], "REALTIME_URL")}


async def test_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", "socks5h://me:s3cret-word@127.0.0.1:9")
    text = await fault(realtime_url="wss://realtime.example/v1", realtime_api_key=KEY)
    assert text.startswith("no connection to the model at realtime.example: HTTPS_PROXY names a SOCKS proxy")
    assert text.endswith("or list realtime.example in NO_PROXY")
    assert "s3cret-word" not in text


async def test_a_place_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phoneagent.model.connection.CONNECT_SECONDS", 0.2)
    async with listening(None) as origin:
        text = await fault(**gateway(origin))
    assert "still waiting for its answer" in text
    assert variables(text) == {"REALTIME_URL"}


async def test_a_model_that_takes_the_socket_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phoneagent.model.connection.CONNECT_SECONDS", 0.5)
    async with running(ANY, faults=Faults(no_created=True)) as (_, origin):
        assert variables(await fault(**gateway(origin))) == {"REALTIME_URL"}


@pytest.mark.parametrize("status", ["200 OK", "302 Found"])
async def test_a_web_page(status: str) -> None:
    page = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>".encode()
    async with listening(page) as origin:
        text = await fault(**gateway(origin))
    assert text.endswith("that address has a web page, not a model: check REALTIME_URL")


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (Faults(refuse_status=429), "check the account's credit and limits"),
        (Faults(refuse_status=503), "try again later, or check REALTIME_URL"),
        (Faults(error_events=((0, {"type": "x", "code": "insufficient_quota"}),), no_created=True), "account's credit"),
        (Faults(drop_after_seconds=0.0, drop_code=1008, no_created=True), "check REALTIME_API_KEY and OPENAI_MODEL"),
    ],
)
async def test_a_server_that_says_no(faults: Faults, words: str) -> None:
    async with running(ANY, faults=faults) as (_, origin):
        assert words in await fault(**gateway(origin))


async def test_a_server_that_has_only_the_ga_interface() -> None:
    async with running(OPENAI) as (_, origin):
        text = await fault(**gateway(origin), realtime_dialect="beta")
        assert text.endswith("it takes only the GA interface: set REALTIME_DIALECT=ga")
        text = await fault(Endpoint.gateway(origin.replace("http", "ws"), api_key=KEY, dialect=Dialect.BETA))
        assert text.endswith("set dialect=GA in your code")


async def test_a_server_that_takes_no_calls() -> None:
    async with running(ANY, faults=Faults(refuse_fields={"instructions"})) as (_, origin):
        assert (await fault(**gateway(origin))).endswith("what a phone call needs: check OPENAI_MODEL")


async def test_what_a_server_says_is_a_line() -> None:
    error = {"type": "x", "code": "model_not_found", "message": "a\nb" * 1000}
    async with running(ANY, faults=Faults(error_events=((0, error),), no_created=True)) as (_, origin):
        assert len(await fault(**gateway(origin))) < 500


async def test_what_a_server_answered_is_shown_in_order_if_the_opening_fails() -> None:
    error = {"type": "x", "code": "insufficient_quota", "message": "no " * 200}
    async with running(ANY, faults=Faults(error_events=((0.0, error),), no_created=True)) as (_, origin):
        answers = (await look(**gateway(origin)))["model's answers"]
        assert answers.status is Status.NOTE
        assert answers.text.startswith("the WebSocket's handshake, then error (insufficient_quota, no no no")
        assert len(answers.text) < 200
    async with running(ANY, faults=Faults(drop_after_seconds=0.0, drop_code=1008)) as (_, origin):
        answers = (await look(**gateway(origin)))["model's answers"]
        assert answers.text.endswith("then a close with 1008")


async def test_a_server_that_answered_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phoneagent.model.connection.CONNECT_SECONDS", 3.0)
    async with running(ANY, faults=Faults(stall_after_seconds=0.0)) as (_, origin):
        assert (await look(**gateway(origin)))["model's answers"].text == "the WebSocket's handshake, and then nothing"


async def test_what_a_session_goes_without_is_a_note() -> None:
    async with running(ANY, faults=Faults(refuse_fields={"audio.output.voice"})) as (_, origin):
        checks = await look(**gateway(origin))
    assert checks["model"].status is Status.OK
    assert checks["model's session"].status is Status.NOTE
    assert checks["model's session"].text.startswith("it runs without audio.output.voice (")


async def test_what_a_provider_does_not_know_is_a_note() -> None:
    async with running(ANY) as (_, origin):
        checks = await look(**gateway(origin), realtime_provider="localai")
    assert checks["model"].status is Status.OK
    assert "audio.input.noise_reduction, reasoning" in checks["model's provider"].text


async def test_a_provider_s_own_address_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(ANY) as (_, origin):
        gone = origin.replace("http", "ws")
    provider = dataclasses.replace(PROVIDERS["localai"], url=gone)
    monkeypatch.setattr("phoneagent.model.endpoint.PROVIDERS", {"localai": provider})
    text = await fault(realtime_provider="localai")
    assert "refuses the connection" in text
    assert text.endswith("(it comes from REALTIME_PROVIDER)")


def broken() -> str:
    raise RuntimeError("az login")


@pytest.mark.parametrize("provider", [broken, lambda: ""], ids=["raises", "returns nothing"])
async def test_a_token_provider_that_does_not_provide(provider: Callable[[], str]) -> None:
    async with running(AZURE) as (model, origin):
        text = await fault(Endpoint.azure(origin, "talk", token=provider))
        assert "token provider" in text
        assert text.endswith("fix it first")
        assert model.refusals == []


async def test_a_token_that_is_refused() -> None:
    async with running(AZURE) as (_, origin):
        text = await fault(Endpoint.azure(origin, "talk", token=lambda: "another"))
    assert text.endswith("check its token provider")
    assert variables(text) == set()


async def test_what_code_says_is_not_a_variable() -> None:
    async with running(OPENAI) as (_, origin):
        assert (await fault(Endpoint.openai("sk-wrong", base_url=f"{origin}/v1"))).endswith(
            "check its key in your code"
        )


# --- Helicone ---


async def test_helicone_s_own_key() -> None:
    async with running(ANY) as (model, origin), Helicone(model, api_key=HELICONE_KEY) as helicone:
        text = await fault(**openai(origin), **through(helicone) | {"helicone_api_key": "sk-wrong"})
    assert variables(text) == {"HELICONE_API_KEY"}


async def test_helicone_before_a_provider_without_the_beta() -> None:
    async with running(OPENAI) as (model, origin), Helicone(model, api_key=HELICONE_KEY) as helicone:
        checks = await look(**openai(origin), **through(helicone))
    assert "beta_api_shape_disabled" in checks["model"].text
    assert checks["model"].text.endswith("remove HELICONE_API_KEY")
    assert "OpenAI has switched that off" in checks["model's gateway"].text


async def test_helicone_hides_that_the_provider_refuses_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phoneagent.model.connection.CONNECT_SECONDS", 0.5)
    async with running(ANY) as (model, origin), Helicone(model, api_key=HELICONE_KEY) as helicone:
        text = await fault(**openai(origin) | {"openai_api_key": "sk-wrong"}, **through(helicone))
    assert "still waiting for its answer" in text
    assert text.endswith("its provider 127.0.0.1 refuses the key: check OPENAI_API_KEY")


async def test_helicone_hides_that_there_is_no_such_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phoneagent.model.connection.CONNECT_SECONDS", 0.5)
    async with running(AZURE_PREVIEW) as (model, origin), Helicone(model, api_key=HELICONE_KEY) as helicone:
        text = await fault(**azure(origin), **through(helicone))
        assert variables(text) == {"AZURE_OPENAI_API_KEY", "AZURE_OPENAI_DEPLOYMENT", "HELICONE_API_KEY"}
        text = await fault(
            Endpoint.azure(origin, "talk", api_key=KEY).through_helicone(
                HELICONE_KEY, gateway=helicone.url.removesuffix("/realtime")
            )
        )
        assert variables(text) == set()


async def test_helicone_out_of_reach() -> None:
    given = {"helicone_api_key": HELICONE_KEY, "helicone_url": "http://127.0.0.1:1"}
    assert variables(await fault(openai_api_key=KEY, **given)) == {"HELICONE_URL"}


# --- several ---


async def test_every_endpoint_is_a_line() -> None:
    async with AsyncExitStack() as stack:
        _, origin = await stack.enter_async_context(running(OPENAI))
        _, other = await stack.enter_async_context(running(AZURE, faults=Faults(refuse_models={"gone"})))
        checks = await look(
            Endpoint.openai(KEY, base_url=f"{origin}/v1"),
            Endpoint.azure(other, "gone", api_key=KEY),
            Endpoint.azure(other, "talk", api_key=KEY),
        )
    assert [(name, check.status) for name, check in checks.items()] == [
        ("model", Status.OK),
        ("fallback 1", Status.FAILED),
        ("fallback 2", Status.OK),
    ]
    assert checks["fallback 1"].text.endswith("check its model in your code, and its address in your code")


async def test_settings_that_name_no_model() -> None:
    checks = await look(endpoint_in_code=True)
    assert checks["model"].text.startswith("OPENAI_API_KEY is missing")


async def test_the_agent_s_own_session_is_tried() -> None:
    agent = Agent(instructions=lambda call: "x", voice="cedar", tools=[hang_up], name="Reception")
    async with running(OPENAI) as (model, origin):
        (check, *_) = [each async for each in check_models(settings(**openai(origin)), (), agent)]
        assert check == Check("model", Status.OK, f"Reception's session with {MODEL} opens at 127.0.0.1")
        assert [each["name"] for each in model.sessions[0].session["tools"]] == ["hang_up"]
        assert model.sessions[0].session["audio"]["output"]["voice"] == "cedar"
