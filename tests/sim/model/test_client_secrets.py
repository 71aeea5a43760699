"""Ephemeral keys: what may be asked for, what a key opens, and for how long."""

from __future__ import annotations

import time
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from phoneagent.sim import Model
from phoneagent.sim.model import client_secrets
from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.client_secrets import ClientSecrets
from tests.sim.model.conftest import Client, closing, code_of

pytestmark = pytest.mark.anyio

PCMU = {"format": {"type": "audio/pcmu"}}
SESSION: Any = {
    "type": "realtime",
    "model": "gpt-realtime-2.1-mini",
    "instructions": "Be brief.",
    "audio": {"output": {**PCMU, "voice": "marin"}},
}


def issue(secrets: ClientSecrets, **request: Any) -> dict[str, Any]:
    return secrets.issue(request, default_model="gpt-realtime-2.1")


async def test_the_sdk_gets_a_key_that_opens_a_session_as_it_was_asked_for() -> None:
    async with Model(api_key="sk-test") as model:
        async with AsyncOpenAI(api_key="sk-test", base_url=model.base_url) as client:
            secret = await client.realtime.client_secrets.create(
                session=SESSION, expires_after={"anchor": "created_at", "seconds": 60}
            )
        assert secret.value.startswith("ek_")
        assert abs(secret.expires_at - time.time() - 60) < 5
        assert secret.session.type == "realtime"
        assert secret.session.audio is not None
        headers = {"Authorization": f"Bearer {secret.value}"}
        async with connect(model.url, additional_headers=headers, compression=None) as socket:
            session = (await Client(socket, dialect="ga").until("session.created"))["session"]
        assert (session["model"], session["instructions"]) == ("gpt-realtime-2.1-mini", "Be brief.")
        assert session["audio"]["output"]["format"] == {"type": "audio/pcmu"}
        assert session["audio"]["output"]["voice"] == "marin"
        assert model.violations == []


async def test_a_browser_brings_its_key_as_a_subprotocol() -> None:
    async with Model(api_key="sk-test") as model:
        async with AsyncOpenAI(api_key="sk-test", base_url=model.base_url) as client:
            key = (await client.realtime.client_secrets.create(session=SESSION)).value
        offered: Any = ["realtime", f"openai-insecure-api-key.{key}"]
        async with connect(model.url, subprotocols=offered, compression=None) as socket:
            assert socket.subprotocol == "realtime"
            assert (await Client(socket, dialect="ga").next())["type"] == "session.created"
        with pytest.raises(InvalidStatus) as caught:
            await connect(model.url, subprotocols=["realtime", "openai-insecure-api-key.ek_other"])  # type: ignore[list-item]
        assert caught.value.response.status_code == 401


async def test_a_key_makes_no_other_keys_and_reads_no_models() -> None:
    async with Model(api_key="sk-test") as model:
        async with AsyncOpenAI(api_key="sk-test", base_url=model.base_url) as client:
            key = (await client.realtime.client_secrets.create()).value
            with pytest.raises(BadRequestError, match=r"Unknown parameter: 'session\.voice'"):
                await client.realtime.client_secrets.create(session={"type": "realtime", "voice": "marin"})  # type: ignore[typeddict-unknown-key]
        async with AsyncOpenAI(api_key=key, base_url=model.base_url, max_retries=0) as client:
            with pytest.raises(Exception, match="Incorrect API key"):
                await client.realtime.client_secrets.create()
            with pytest.raises(Exception, match="Incorrect API key"):
                await client.models.list()


async def key_for(model: Model, /, **session: Any) -> str:
    async with AsyncOpenAI(api_key="sk-test", base_url=model.base_url) as client:
        return (await client.realtime.client_secrets.create(session={"type": "realtime", **session})).value


async def test_a_key_that_does_not_fit_the_model_ends_the_session_with_an_error() -> None:
    async with Model(api_key="sk-test") as model:
        key = await key_for(model, model="gpt-realtime-2.1", reasoning={"effort": "low"})
        url, headers = f"{model.url}?model=gpt-realtime-1.5", {"Authorization": f"Bearer {key}"}
        async with connect(url, additional_headers=headers, compression=None) as socket:
            client = Client(socket, dialect="ga")
            error = (await client.next())["error"]
            closed = await closing(client)
    assert (error["code"], error["param"]) == ("invalid_value", "session.reasoning")
    assert code_of(closed) == 1008


async def test_the_mcp_servers_of_a_key_are_listed_after_the_greeting() -> None:
    server = {"type": "mcp", "server_label": "shop", "server_url": "https://shop.example/mcp"}
    async with Model(api_key="sk-test") as model:
        headers = {"Authorization": f"Bearer {await key_for(model, tools=[{**server, 'authorization': 'secret'}])}"}
        async with connect(model.url, additional_headers=headers, compression=None) as socket:
            client = Client(socket, dialect="ga")
            await client.until("mcp_list_tools.completed")
    assert client.types[:2] == ["session.created", "mcp_list_tools.in_progress"]
    assert "secret" not in str(client.events[0])


def test_a_key_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ClientSecrets()
    answer = issue(secrets)
    key = answer["value"]
    assert secrets.find(["other", key]) is not None
    monkeypatch.setattr(client_secrets.time, "time", lambda: answer["expires_at"] + 0.5)
    assert secrets.find([key]) is None


def test_a_key_for_transcription_says_so() -> None:
    secrets = ClientSecrets()
    answer = issue(secrets, session={"type": "transcription", "audio": {"input": PCMU}})
    secret = secrets.find([answer["value"]])
    assert secret is not None
    assert secret.transcribes
    assert secret.model is None
    assert answer["session"]["object"] == "realtime.transcription_session"
    assert answer["session"]["audio"]["input"]["format"] == {"type": "audio/pcmu"}


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"session": {"type": "song"}}, "session.type"),
        ({"session": {"type": "realtime", "temperature": 1}}, "session.temperature"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"model": "gpt-realtime"}, "model"),
        (
            {"session": {"type": "realtime", "tools": [{"type": "mcp", "server_label": "s"}]}},
            "session.tools[0].server_url",
        ),
    ],
)
def test_what_is_not_understood_is_refused(request_: dict[str, Any], param: str) -> None:
    with pytest.raises(EventRefused) as caught:
        issue(ClientSecrets(), **request_)
    assert caught.value.param == param


def test_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_secrets, "MAX_SECRETS", 2)
    secrets = ClientSecrets()
    keys = [issue(secrets)["value"] for _ in range(3)]
    assert [secrets.find([key]) is not None for key in keys] == [False, True, True]
