"""The solar system: its tools, and the files of its page. The picture moves in `browser/test_solar_system.py`."""

from __future__ import annotations

import json

import pytest

from tests.asgi import request
from tests.examples.conftest import Players, load
from tests.examples.test_weather import new_call

pytestmark = pytest.mark.anyio

SCRIPT = """
[[turn]]
heard = "Mars"
call = "show_planet"
arguments = { planet = "mars" }
then = "Mars has two moons."
"""


async def test_a_tool_returns_what_the_picture_shows(played: Players) -> None:
    async with played(load("solar_system"), SCRIPT) as number, number.call() as caller:
        await caller.says("Fly to Mars!", hears="Mars has two moons.")
        assert json.loads(caller.returned) == {"planet": "mars", "orbits": True, "speed": 1.0, "moons": 2}
        (call,) = caller.world.app.calls.values()
        assert call.state["sky"]["planet"] == "mars"


async def test_the_picture_is_that_of_its_call() -> None:
    example, call, other = load("solar_system"), new_call(), new_call()
    await example.show_planet.run(call, '{"planet": "saturn"}')
    assert json.loads(await example.set_speed.run(call, '{"speed": 3}')) == {
        "planet": "saturn",
        "orbits": True,
        "speed": 3.0,
    }
    assert json.loads(await example.show_all.run(call, '{"orbits": false}'))["planet"] is None
    assert json.loads(await example.set_speed.run(other, '{"speed": 0}'))["orbits"] is True
    for arguments in ('{"planet": "pluto"}', "{}"):
        assert "bad arguments" in await example.show_planet.run(call, arguments)
    assert "bad arguments" in await example.set_speed.run(call, '{"speed": 21}')


async def test_the_page_has_its_files_and_no_others() -> None:
    app = load("solar_system").app
    page = await request(app, "GET", "/solar")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for name in ("solar.js", "solar.css"):
        assert (await request(app, "GET", f"/solar/{name}")).status == 200
    for name in ("page.html", "..", "%2e%2e%2fsolar_system.py", "solar_system.py"):
        assert (await request(app, "GET", f"/solar/{name}")).status == 404
