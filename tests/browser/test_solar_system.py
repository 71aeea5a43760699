"""The solar system's page: the picture moves to what the agent's tools show, from the app's own stream of events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from phoneagent import ToolReturned
from phoneagent.sim.speech import Murmur
from tests.browser.conftest import Served, Serves, Visitor
from tests.browser.look import faults
from tests.examples.conftest import load
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.real_time

SCRIPT = """
[[turn]]
caller = "Fly to Saturn!"
say = "There it is."
call = "show_planet"
arguments = { planet = "saturn" }
then = "It has rings."
"""


def test_a_tool_moves_the_picture(serves: Serves, visitor: Visitor) -> None:
    example = load("solar_system")
    with serves(example.app.agent, SCRIPT) as served:
        for path in ("/solar", "/solar/{name}"):
            served.app.add_route(path, example.show_page)
        page = visitor.visit(f"{served.url}/solar")
        expect(page.locator("[data-planet]")).to_have_count(8)
        returned: list[Any] = []
        served.app.on(ToolReturned)(returned.append)
        served.run(say_it(served, returned))
        expect(page.locator("#sky")).to_have_attribute("data-planet", "saturn")
        expect(page.locator("#caption")).to_have_text("saturn, moons: 274")
        wait_until_near(page)
        assert faults(page) == []
        page.close()  # a server that stops waits for those who read its events


def wait_until_near(page: Page) -> None:
    """Wait until the picture has moved. The page's policy forbids what Playwright's own wait evaluates."""
    for _ in range(200):
        if page.evaluate("document.getElementById('sky').viewBox.baseVal.width") < 400:
            return
        page.wait_for_timeout(50)
    raise AssertionError("the picture never moved")


async def say_it(served: Served, returned: list[Any]) -> None:
    async with served.phone().dial() as line, asyncio.timeout(HANG_SECONDS):
        await line.wait_for_silence(ms=300)
        await line.say(Murmur().render("Fly to Saturn!"))
        while not returned:
            await asyncio.sleep(0.02)
