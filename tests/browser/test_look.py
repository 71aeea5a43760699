"""How the pages look, what they weigh, and whether all people can use them, with calls of the simulated phone on them.

The pages of the phone and of the setup have tests of their own, in their modules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from phoneagent import Recording
from phoneagent.demo.stories import RESTAURANT
from tests.browser.calls import book, restaurant
from tests.browser.conftest import TOKEN, Served, Visitor, serving_in
from tests.browser.history import remember
from tests.browser.look import SIZES, THEMES, faults, picture, until, weigh
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.real_time
NAMES = ("live-call", "live", "past", "call")
PAST_CALLS = 40
WAITING = ("+15550100031", "+15550100042", "+15550100058")


@dataclass
class Calls:
    """An app with a call that was interrupted and is over, live ones that go on, and those of the last days."""

    served: Served
    past: str
    live: str


@pytest.fixture
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    folder = tmp_path_factory.mktemp("calls")
    recorded = replace(restaurant(), recording=Recording())
    options = {"idle_seconds": 0, "record_audio": str(folder / "recordings")}
    with serving_in(folder)(recorded, RESTAURANT.script(), **options) as served:
        remember(served, PAST_CALLS)
        past = served.run(book(served))
        live = [served.start(book(served, lines=2, hang_up=False, caller=caller)) for caller in WAITING]
        served.run(answered(served, 1 + len(WAITING)))
        yield Calls(served, past, next(each for each in served.lines if each != past))
        served.done.set()
        for each in live:
            each.result(30)


async def answered(served: Served, calls: int) -> None:
    """Wait until the app has answered that many calls."""
    async with asyncio.timeout(HANG_SECONDS):
        while len(served.lines) < calls:
            await asyncio.sleep(0.01)


def shown(page: Page, name: str, calls: Calls) -> None:
    """Open a page, and wait until what it shows is there."""
    place = {"live": "", "past": "/past", "call": f"/calls/{calls.past}", "live-call": f"/calls/{calls.live}"}[name]
    page.goto(f"{calls.served.url}/console{place}")
    if name == "live":
        expect(page.locator(".calls-row")).to_have_count(len(WAITING))
        expect(page.locator(".ended-call").first).to_be_visible()
    elif name == "past":
        expect(page.locator("#past tr").first).to_be_visible()
        expect(page.locator(".plot canvas")).to_have_count(2)
    else:
        expect(page.locator(".entry.tool").first).to_be_visible(timeout=30_000)
        expect(page.locator(".entry .unheard").first).to_be_visible()
        expect(page.locator(".latency-bar").first).to_be_visible()
        expect(page.locator("#call-audio audio")).to_have_count(1 if name == "call" else 0)
        until(page, "[...document.querySelectorAll('audio')].every((each) => each.duration > 0)")


def test_the_pages_with_calls_on_them(
    calls: Calls, visitor: Visitor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One test, because its calls take half a minute: other workers would make their own."""
    for name, theme, (width, height) in product(NAMES, THEMES, SIZES):
        page = visitor.watch(visitor.context(width=width, height=height, theme=theme).new_page())
        shown(page, name, calls)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert faults(page) == [], f"{name} in {theme} at {width}"
        picture(page, f"{name}-{theme}-{width}", tmp_path)
        page.close()
    with capsys.disabled():
        for name in NAMES:
            weigh(name, partial(shown, name=name, calls=calls), visitor)


def test_the_sign_in(visitor: Visitor, tmp_path: Path) -> None:
    with serving_in(tmp_path)(restaurant(), api_token=TOKEN, local_api=False) as served:
        for theme, (width, height) in product(THEMES, SIZES):
            page = visitor.visit(f"{served.url}/console", width=width, height=height, theme=theme)
            expect(page.get_by_label("Token")).to_be_focused()
            assert faults(page) == []
            picture(page, f"sign-in-{theme}-{width}", tmp_path)
