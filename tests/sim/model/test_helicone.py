"""The simulated gateway of Helicone: what it passes on, and what it hides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from phoneagent.sim import Helicone
from phoneagent.sim.model.service import ANY_BETA, AZURE_PREVIEW, OPENAI

pytestmark = pytest.mark.anyio

KEYS = [("Authorization", "Bearer sk-openai"), ("Helicone-Auth", "Bearer sk-helicone")]
OPENED = "?model=gpt-realtime-2.1"


def open_(gateway: Helicone, query: str = OPENED, headers: Iterable[tuple[str, str]] = KEYS) -> connect:
    return connect(gateway.url + query, additional_headers=list(headers), compression=None)


async def closing(socket: Any) -> ConnectionClosed:
    while True:
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            return closed


async def test_it_asks_for_beta_and_passes_everything_on(make_model: Any) -> None:
    async with (
        make_model(api_key="sk-openai", service=ANY_BETA) as model,
        Helicone(model, api_key="sk-helicone") as gateway,
        open_(gateway, headers=[*KEYS, ("Helicone-Session-Id", "CA1")]) as socket,
    ):
        await socket.send(json.dumps({"type": "session.update", "session": {"voice": "coral"}}))  # it may not wait
        kinds = [json.loads(await socket.recv())["type"] for _ in range(2)]
        assert kinds == ["session.created", "session.updated"]
        assert model.sessions[0].dialect == "beta"
        assert model.sessions[0].query == {"model": "gpt-realtime-2.1"}
        assert gateway.filed == [{"Helicone-Session-Id": "CA1"}]
        assert "Helicone-Auth" not in model.sessions[0].headers
    assert model.violations == gateway.violations == []


async def test_it_finds_azure_s_preview(make_model: Any) -> None:
    async with (
        make_model(api_key="sk-openai", service=AZURE_PREVIEW) as model,
        Helicone(model, api_key="sk-helicone") as gateway,
        open_(gateway, "?resource=phones&deployment=talk&more=x") as socket,
    ):
        assert json.loads(await socket.recv())["type"] == "session.created"
        assert model.sessions[0].query == {"api-version": "2024-10-01-preview", "deployment": "talk"}
        assert model.sessions[0].headers["api-key"] == "sk-openai"
        assert "Authorization" not in model.sessions[0].headers


async def test_its_own_key_is_asked_for(make_model: Any) -> None:
    async with make_model() as model, Helicone(model, api_key="sk-helicone") as gateway:
        for headers in ([], [("Helicone-Auth", "Bearer sk-other")]):
            with pytest.raises(InvalidStatus) as caught:
                await open_(gateway, headers=headers)
            assert caught.value.response.status_code == 401
    assert model.sessions == []


@pytest.mark.parametrize("query", [OPENED, "?resource=nobody&deployment=talk"], ids=["wrong key", "no such resource"])
async def test_it_is_silent_when_its_provider_refuses(make_model: Any, query: str) -> None:
    async with (
        make_model(api_key="another") as model,
        Helicone(model, api_key="sk-helicone") as gateway,
        open_(gateway, query) as socket,
    ):
        while not gateway.failures:
            await asyncio.sleep(0.005)
        await socket.send("{}")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await socket.recv()
    assert len(gateway.failures) == 1


async def test_it_hides_why_its_provider_closed(make_model: Any) -> None:
    async with (
        make_model(service=OPENAI) as model,
        Helicone(model, api_key="sk-helicone") as gateway,
        open_(gateway) as socket,
    ):
        assert json.loads(await socket.recv())["error"]["code"] == "beta_api_shape_disabled"
        closed = await closing(socket)
    assert closed.rcvd is not None
    assert (closed.rcvd.code, closed.rcvd.reason) == (1000, "Target connection closed")


async def test_a_broken_provider_looks_the_same(make_model: Any) -> None:
    async with make_model() as model, Helicone(model, api_key="sk-helicone") as gateway, open_(gateway) as socket:
        await socket.recv()
        model.sessions[0].kill()
        closed = await closing(socket)
    assert closed.rcvd is not None
    assert closed.rcvd.code == 1000


async def test_when_the_client_goes_the_provider_is_left(make_model: Any) -> None:
    async with make_model() as model, Helicone(model, api_key="sk-helicone") as gateway:
        async with open_(gateway) as socket:
            await socket.recv()
        await model.wait_for(lambda: model.sessions[0].closed)


async def test_a_user_is_no_number(make_model: Any) -> None:
    async with (
        make_model() as model,
        Helicone(model, api_key="sk-helicone") as gateway,
        open_(gateway, headers=[*KEYS, ("Helicone-User-Id", "+15550100001")]) as socket,
    ):
        await socket.recv()
    assert len(gateway.violations) == 1


async def test_it_has_no_address_before_it_runs(make_model: Any) -> None:
    with pytest.raises(RuntimeError, match="enter it first"):
        _ = Helicone(make_model(), api_key="k").url
