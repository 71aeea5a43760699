"""The page of a call in a browser: its timeline at any length, what an ended call says, and a server that is away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from phoneagent.events import CallControlled, ToolCalled, TurnEnded
from tests.browser.conftest import Serves, Visitor, an_agent
from tests.browser.history import remember
from tests.browser.look import until
from tests.browser.test_console import SAID, begin, end, ended, started

pytestmark = pytest.mark.real_time
HOUR_MS = 3_600_000

CUT_TICKS = """
() => {
  const edge = document.querySelector("#lanes > svg").clientWidth;
  return [...document.querySelectorAll("#lanes .tick")].filter((tick) => {
    const { x, width } = tick.getBBox();
    return x + width > edge;
  }).length;
}
"""
OVERLAPS = """
() => {
  const ticks = [...document.querySelectorAll("#lanes .tick")].map((tick) => tick.getBoundingClientRect());
  return ticks.filter((tick, place) => place && tick.left < ticks[place - 1].right + 8).length;
}
"""


def an_ended_call(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#state")).to_have_text("Ended")
    expect(page.locator("#lanes > svg")).to_be_visible()


@pytest.mark.parametrize("hours", [0.001, 1, 12])
def test_fit_shows_a_call_of_any_length(serves: Serves, visitor: Visitor, hours: float) -> None:
    length_ms = int(hours * HOUR_MS)
    with serves(an_agent()) as served:
        last = replace(SAID, item_id="last", start_ms=length_ms - 900, end_ms=length_ms - 100)
        served.emit(started("CA1"), TurnEnded(call_sid="CA1", turn=SAID), TurnEnded(call_sid="CA1", turn=last))
        served.emit(replace(ended("CA1"), duration_ms=length_ms))
        page = visitor.visit("about:blank", width=390, height=844)
        an_ended_call(page, f"{served.url}/console/calls/CA1")
        assert page.evaluate(CUT_TICKS) == 0
        page.get_by_role("button", name="Fit").click()
        fits = "document.getElementById('lanes').scrollWidth <= document.getElementById('lanes').clientWidth"
        assert page.evaluate(fits)
        assert page.evaluate(CUT_TICKS) == 0
        assert page.evaluate(OVERLAPS) == 0
        assert page.locator("#lanes .tick").count() >= 2
        page.get_by_role("button", name="Zoom in").click()
        assert not page.evaluate(fits)
        for _ in range(2):
            page.get_by_role("button", name="Zoom out").click()
        assert page.evaluate(fits)


def test_an_ended_call_without_words_waits_for_none(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console/calls/CA1")
        expect(page.locator("#words-empty")).to_have_text("Nothing has been said yet.")
        expect(page.locator("#latency")).to_have_text("No answer yet.")
        end(served, "CA1")
        expect(page.locator("#words-empty")).to_have_text("Nothing was said.")
        expect(page.locator("#latency")).to_have_text("No answer.")


def test_a_tool_without_a_result_waits_for_one_until_the_end(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console/calls/CA1")
        served.emit(ToolCalled(call_sid="CA1", at_ms=10, call_id="c", name="book", arguments="{}"))
        expect(page.locator(".entry.tool .badge")).to_have_text("no result yet")
        end(served, "CA1")
        expect(page.locator(".entry.tool .badge")).to_have_text("no result")


def test_the_side_of_a_call_scrolls_with_the_page(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA1")
        served.app.calls["CA1"].state.update({f"value {number}": number for number in range(40)})
        page = visitor.visit(f"{served.url}/console/calls/CA1")
        expect(page.locator("#state-card")).to_be_visible()
        assert page.locator(".call-side").evaluate("each => each.scrollHeight <= each.clientHeight")
        end(served, "CA1")


@pytest.mark.parametrize("width", [390, 701, 760, 851])
def test_the_lists_of_calls_fit_the_window(serves: Serves, visitor: Visitor, width: int) -> None:
    with serves(an_agent(name="front-of-house")) as served:
        remember(served, 1)
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console", width=width)
        expect(page.locator(".calls-row")).to_have_count(1)
        expect(page.locator(".ended-call")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".list").evaluate("each => each.scrollWidth <= each.clientWidth")
        end(served, "CA1")


def test_what_an_operator_did_is_told_in_whole_words(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console/calls/CA1")
        expect(page.locator("#connection")).to_have_text("Connected")
        served.emit(CallControlled(call_sid="CA1", at_ms=100, operation="say"), replace(started("CA1"), resumed=True))
        expect(page.locator(".entry.control")).to_have_text("0:00.1Controlsay")
        expect(page.locator(".entry.stream")).to_contain_text("New media stream")
        cut = (
            "[...document.querySelectorAll('.entry .who')].filter((each) => each.scrollWidth > each.clientWidth).length"
        )
        assert page.evaluate(cut) == 0
        end(served, "CA1")


def test_a_server_that_is_away_at_first_is_asked_again(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        served.emit(started("CA1"), TurnEnded(call_sid="CA1", turn=SAID), ended("CA1"))
        page = visitor.watch(visitor.context().new_page())
        is_away = True

        def answer(route: Route) -> Any:
            return route.abort() if is_away else route.continue_()

        page.route("**/calls/CA1?*", answer)
        page.goto(f"{served.url}/console/calls/CA1")
        expect(page.locator("#connection")).to_have_text("Reconnecting…")
        is_away = False
        expect(page.locator("#state")).to_have_text("Ended")
        expect(page.locator("#connection")).to_be_hidden()


def test_more_past_calls_are_added_once(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        remember(served, 130)
        page = visitor.visit(f"{served.url}/console/past")
        rows = page.locator("#past tr")
        expect(rows).to_have_count(100)
        page.get_by_role("button", name="Show more").dblclick()
        expect(rows).to_have_count(130)
        expect(page.get_by_role("button", name="Show more")).to_be_hidden()
        page.wait_for_timeout(500)
        until(page, "new Set([...document.querySelectorAll('#past a')].map((each) => each.href)).size === 130")
        expect(rows).to_have_count(130)
