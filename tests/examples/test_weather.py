"""The weather, from a server like Open-Meteo's, and a memory; both are in the call's state."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from phoneagent import Call
from tests.examples.conftest import Players, load

pytestmark = pytest.mark.anyio

SCRIPT = """
[[turn]]
heard = "Turku"
call = "get_weather"
arguments = { city = "Turku" }
then = "Here it is: {output}"
[[turn]]
heard = "live there"
call = "remember"
arguments = { name = "hometown", value = "Turku" }
then = "{output}"
"""


class Meteo:
    """A weather service: what it answers, and what it was asked."""

    def __init__(self) -> None:
        self.places: Any = {"results": [{"name": "Turku", "latitude": 60.45, "longitude": 22.27}]}
        self.forecast: Any = {"current": {"temperature_2m": -3.5, "weather_code": 71}}
        self.asked: list[dict[str, str]] = []

    async def find(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        return web.json_response(self.places)

    async def tell(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        return web.json_response(self.forecast) if self.forecast else web.Response(status=503)


@pytest.fixture
async def meteo(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Meteo]:
    service, app = Meteo(), web.Application()
    app.router.add_get("/places", service.find)
    app.router.add_get("/forecast", service.tell)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setenv("PLACES_URL", f"{address}/places")
    monkeypatch.setenv("WEATHER_URL", f"{address}/forecast")
    yield service
    await runner.cleanup()


def new_call() -> Call:
    return Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))


async def test_a_call_about_the_weather(meteo: Meteo, played: Players) -> None:
    async with played(load("weather"), SCRIPT) as number, number.call() as caller:
        await caller.says("How is it in Turku?", hears='"celsius":-3.5')
        assert json.loads(caller.returned) == {"city": "Turku", "celsius": -3.5, "sky": "snowy"}
        await caller.says("I live there.", hears="Noted: hometown.")
        (call,) = caller.world.app.calls.values()
        assert call.state == {
            "weather": {"city": "Turku", "celsius": -3.5, "sky": "snowy"},
            "memory": {"hometown": "Turku"},
        }
    assert meteo.asked[0] == {"name": "Turku", "count": "1"}
    assert meteo.asked[1] == {"latitude": "60.45", "longitude": "22.27", "current": "temperature_2m,weather_code"}


@pytest.mark.parametrize(
    ("places", "forecast", "words"),
    [
        ({}, {}, "no place called Turku"),
        ({"results": [{}]}, {}, "does not answer"),
        (None, {}, "does not answer"),
        ({"results": [{"name": "Turku", "latitude": 1, "longitude": 2}]}, None, "does not answer"),
        ({"results": [{"name": "Turku", "latitude": 1, "longitude": 2}]}, {"current": []}, "does not answer"),
    ],
)
async def test_what_goes_wrong_is_told_to_the_model(meteo: Meteo, places: Any, forecast: Any, words: str) -> None:
    meteo.places, meteo.forecast = places, forecast
    call = new_call()
    output = await load("weather").get_weather.run(call, '{"city": "Turku"}')
    assert words in json.loads(output)["error"]
    assert call.state == {}


async def test_the_memory_is_bounded() -> None:
    example, call = load("weather"), new_call()
    for number in range(example.MAX_FACTS):
        await example.remember.run(call, json.dumps({"name": f"n{number}", "value": "x"}))
    assert "no room" in await example.remember.run(call, '{"name": "more", "value": "x"}')
    assert await example.remember.run(call, '{"name": "n1", "value": "y"}') == "Noted: n1."
    assert "at most 200" in await example.remember.run(call, json.dumps({"name": "n1", "value": "x" * 201}))
