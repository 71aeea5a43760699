"""The provider that the simulated server stands for: what each one takes and refuses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from phoneagent.sim import Faults
from phoneagent.sim.model.service import ANY, ANY_BETA, AZURE, AZURE_PREVIEW, BETA_GATEWAY, OPENAI, Service
from tests.sim.model.conftest import Client

pytestmark = pytest.mark.anyio

KEY = "sk-test"
BEARER = [("Authorization", f"Bearer {KEY}")]
BETA = ("OpenAI-Beta", "realtime=v1")
VERSION = "api-version=2025-04-01-preview"


def open_(model: Any, query: str, headers: Iterable[tuple[str, str]] = BEARER, path: str | None = None) -> connect:
    url = model.url if path is None else model.url.replace(AZURE.path, path)
    return connect(f"{url}?{query}", additional_headers=list(headers), compression=None)


async def refused(model: Any, *given: Any, **more: Any) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as caught:
        async with open_(model, *given, **more):
            pass
    return caught.value.response.status_code, model.refusals[-1].split()[1].rstrip(":")


async def first(socket: ClientConnection) -> dict[str, Any]:
    event: dict[str, Any] = await Client(socket, dialect=None).next()
    return event


async def test_openai_has_switched_the_beta_off(make_model: Any) -> None:
    async with make_model(service=OPENAI, api_key=KEY) as model:
        async with open_(model, "model=m", [*BEARER, BETA]) as socket:
            event = await first(socket)
            with pytest.raises(ConnectionClosed) as caught:
                await socket.recv()
        async with open_(model, "model=m") as socket:
            assert (await first(socket))["session"]["type"] == "realtime"
    assert event["error"]["code"] == "beta_api_shape_disabled"
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4000


async def test_openai_takes_a_bearer_and_its_own_path(make_model: Any) -> None:
    async with make_model(service=OPENAI, api_key=KEY) as model:
        assert await refused(model, "model=m", [("api-key", KEY)]) == (401, "invalid_api_key")
        assert await refused(model, "model=m&api-key=" + KEY, []) == (401, "invalid_api_key")
        model_url = model.url
        with pytest.raises(InvalidStatus):
            await connect(model_url.replace("/v1/", "/openai/v1/") + "?model=m", additional_headers=BEARER)
        assert model.refusals[-1].startswith("404")


async def test_azure_s_door(make_model: Any) -> None:
    faults = Faults(refuse_models={"nothing"})
    async with make_model(service=AZURE, api_key=KEY, faults=faults) as model:
        for query, headers in (("", BEARER), ("", [("api-key", KEY)]), (f"&api-key={KEY}", []), ("", [*BEARER, BETA])):
            async with open_(model, f"model=talk{query}", headers) as socket:
                assert (await first(socket))["session"]["model"] == "talk"
        assert await refused(model, f"model=talk&{VERSION}") == (401, "Unauthorized")
        assert await refused(model, "model=nothing") == (404, "DeploymentNotFound")
        assert await refused(model, "deployment=talk") == (404, "DeploymentNotFound")
        assert await refused(model, "model=talk", path="/openai/realtime") == (404, "not_found")


async def test_azure_s_preview(make_model: Any) -> None:
    async with make_model(service=AZURE_PREVIEW, api_key=KEY) as model:
        async with open_(model, f"deployment=talk&{VERSION}", [("api-key", KEY)]) as socket:
            session = (await first(socket))["session"]
        assert await refused(model, "deployment=talk") == (404, "NotFound")
        assert await refused(model, "deployment=talk&api-version=2024-10-21") == (404, "NotFound")
        assert await refused(model, f"model=talk&{VERSION}") == (404, "DeploymentNotFound")
    assert (session["modalities"], session["model"]) == (["text", "audio"], "talk")


async def test_the_preview_has_not_all_voices(make_model: Any) -> None:
    async with make_model(service=AZURE_PREVIEW) as model:
        async with open_(model, f"deployment=talk&{VERSION}") as socket:
            talker = Client(socket, dialect=None)
            await talker.until("session.created")
            error = await talker.refused("session.update", session={"voice": "marin"})
            await talker.send("session.update", session={"voice": "coral"})
            await talker.until("session.updated")
        assert error["param"] == "session.voice"
        assert "marin" not in error["message"].split("Supported")[1]
        assert model.violations == []


@pytest.mark.parametrize(("recogniser", "outcome"), [("whisper-1", "completed"), ("gpt-4o-transcribe", "failed")])
async def test_at_azure_a_recognizer_is_a_deployment_too(make_model: Any, recogniser: str, outcome: str) -> None:
    async with make_model('[[turn]]\ncaller = "Hi."\nsay = "Hello."', service=AZURE) as model:
        async with open_(model, "model=talk") as socket:
            talker = Client(socket, dialect="ga")
            await talker.configure()
            listening = {"audio": {"input": {"transcription": {"model": recogniser}}}}
            await talker.send("session.update", session={"type": "realtime", **listening})
            await talker.until("session.updated")  # taken all the same
            await talker.speak()
            event = await talker.until(f"conversation.item.input_audio_transcription.{outcome}")
        assert event.get("error", {}).get("code") == (None if outcome == "completed" else "DeploymentNotFound")


async def test_an_emulator_speaks_beta_to_every_client(make_model: Any) -> None:
    async with make_model(service=BETA_GATEWAY, api_key=KEY) as model:
        for headers in (BEARER, [*BEARER, BETA]):
            async with open_(model, "model=m", headers) as socket:
                assert "modalities" in (await first(socket))["session"]


@pytest.mark.parametrize("service", [OPENAI, AZURE])
async def test_models_have_entries_beside_the_sessions(make_model: Any, service: Service) -> None:
    async with make_model(service=service, api_key=KEY) as model:
        entry = model.url.replace("ws:", "http:").removesuffix("realtime") + "models/talk"
        async with aiohttp.ClientSession(headers=dict(BEARER)) as http, http.get(entry) as answer:
            assert (await answer.json())["id"] == "talk"


async def test_people_have_no_numbers(make_model: Any) -> None:
    async with make_model(service=OPENAI) as model:
        async with open_(model, "model=m", [("OpenAI-Safety-Identifier", "0f" * 16)]) as socket:
            await first(socket)
        assert model.violations == []
        async with open_(model, "model=m", [("OpenAI-Safety-Identifier", "+15550100001")]) as socket:
            await first(socket)
        assert len(model.violations) == 1
        assert "15550100001" not in model.violations[0]


async def test_a_call_of_webrtc_or_sip_cannot_be_joined(make_model: Any) -> None:
    async with make_model() as model:
        assert await refused(model, "call_id=rtc_1") == (404, "call_not_found")
    assert model.refusals[0].endswith("it is over, or never was.")


async def test_a_transcription_needs_no_model(make_model: Any) -> None:
    async with make_model() as model, open_(model, "intent=transcription") as socket:
        assert (await first(socket))["session"]["type"] == "transcription"
    assert model.violations == []


MODEL_PARAMETER = "You must not provide a model parameter for transcription sessions."
MISUSED = "Model gpt-4o-transcribe is a transcription model and cannot be used as the realtime session model. "
MISUSED += "Pass this transcription model as audio.input.transcription.model instead."
GONE = "The model `gpt-4o-realtime-preview-2025-06-03` does not exist or you do not have access."


@pytest.mark.parametrize("service", [OPENAI, ANY])
@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ("intent=transcription&model=gpt-4o-transcribe", "invalid_model", MODEL_PARAMETER),
        ("model=gpt-4o-transcribe", "invalid_model", MISUSED),
        ("model=gpt-4o-realtime-preview-2025-06-03", "model_not_found", GONE),
    ],
)
async def test_models_that_openai_turns_away(
    make_model: Any, service: Service, query: str, code: str, message: str
) -> None:
    async with make_model(service=service) as model, open_(model, query) as socket:
        error = (await first(socket))["error"]
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    expected = {"type": "invalid_request_error", "code": code, "message": message, "param": None, "event_id": None}
    assert error == expected


@pytest.mark.parametrize("options", [{"service": ANY_BETA}, {"dialect": "litellm"}, {"dialect": "xai"}])
@pytest.mark.parametrize("name", ["gpt-4o-transcribe", "gpt-4o-mini-realtime-preview"])
async def test_elsewhere_a_model_may_have_any_name(make_model: Any, options: dict[str, Any], name: str) -> None:
    async with make_model(**options) as model, open_(model, f"model={name}") as socket:
        assert (await first(socket))["type"].endswith(".created")


async def test_the_beta_has_no_transcriptions_here(make_model: Any) -> None:
    async with make_model(service=BETA_GATEWAY) as model, open_(model, "intent=transcription") as socket:
        assert (await first(socket))["error"]["code"] == "not_supported"
        with pytest.raises(ConnectionClosed):
            await socket.recv()


@pytest.mark.parametrize(
    ("offered", "accepted"),
    [
        (["realtime", f"openai-insecure-api-key.{KEY}"], True),
        ([f"openai-insecure-api-key.{KEY}"], True),
        (["realtime", "openai-insecure-api-key.sk-wrong"], False),
        (["realtime"], False),
    ],
)
async def test_a_browser_s_key_is_a_subprotocol(make_model: Any, offered: list[Any], accepted: bool) -> None:
    async with make_model(service=OPENAI, api_key=KEY) as model:
        dialling = connect(f"{model.url}?model=m", subprotocols=offered, compression=None)
        if accepted:
            async with dialling as socket:
                assert (await first(socket))["type"] == "session.created"
        else:
            with pytest.raises(InvalidStatus):
                await dialling


async def test_a_browser_asks_for_the_beta_by_a_subprotocol(make_model: Any) -> None:
    offered: list[Any] = ["realtime", "openai-beta.realtime-v1"]
    async with make_model() as model, connect(f"{model.url}?model=m", subprotocols=offered) as socket:
        assert (await first(socket))["error"]["code"] == "beta_api_shape_disabled"
