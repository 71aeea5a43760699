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


def test_a_block_of_the_timeline_is_clicked_while_the_call_goes_on(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console/calls/CA1", reduced_motion="reduce")
        expect(page.locator("#connection")).to_have_text("Connected")
        served.emit(TurnEnded(call_sid="CA1", turn=SAID))
        block = page.locator("#lanes g.turn.agent").bounding_box()
        assert block is not None
        page.evaluate(
            """() => {
                Element.prototype.scrollIntoView = ({ behavior }) => { document.body.dataset.scrolled = behavior; };
            }"""
        )
        page.mouse.move(block["x"] + 3, block["y"] + 20)
        page.mouse.down()
        served.emit(TurnEnded(call_sid="CA1", turn=replace(SAID, item_id="a2", text="Yes", start_ms=1000, end_ms=1800)))
        expect(page.locator("#words .entry.agent")).to_have_count(2)
        page.wait_for_timeout(600)  # the timeline of a live call is drawn twice a second
        page.mouse.up()
        found = page.locator(".entry.found")
        expect(found).to_contain_text("Hi")
        assert page.evaluate("document.body.dataset.scrolled") == "instant"
        assert found.evaluate("each => getComputedStyle(each).animationTimingFunction").startswith("steps(1")
        expect(page.locator("#lanes g.turn.agent")).to_have_count(2)  # drawn after the click
        end(served, "CA1")


def test_a_long_call_has_the_waves_of_its_end(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console/calls/CA1")
        expect(page.locator("#connection")).to_have_text("Connected")
        page.evaluate(
            """() => {
                const begun = Date.now();
                for (let count = 1; count <= 36_010; count += 1) {
                    const detail = { side: "agent", at: begun + count * 100, level: count > 36_000 ? 1 : 0 };
                    document.dispatchEvent(new CustomEvent("call-level", { detail }));
                }
            }"""
        )
        until(page, "document.querySelector('path.wave.agent')?.getAttribute('d').split('M').length === 11")
        end(served, "CA1")


def test_an_answer_that_is_out_of_date_changes_nothing(serves: Serves, visitor: Visitor) -> None:
    held: list[tuple[Route, Any]] = []
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console/calls/CA1")
        expect(page.locator("#connection")).to_have_text("Connected")
        page.route("**/calls/CA1?*", lambda route: held.append((route, route.fetch())), times=1)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if "/calls/CA1?" in request.url else None)
        with page.expect_request("**/calls/CA1?*"):
            pass
        page.wait_for_timeout(2500)
        assert len(asked) == 1  # no other is asked for until it is here
        page.get_by_role("button", name="Show numbers").click()
        expect(page.locator("#caller")).to_have_text("+15550100001")
        route, response = held.pop()
        with page.expect_response("**/calls/CA1?numbers=masked"):
            route.fulfill(response=response)
        shown = page.evaluate(
            """() => new Promise((done) => {
                const shown = new Set();
                const look = (count) => {
                    shown.add(document.getElementById("caller").textContent);
                    if (count) requestAnimationFrame(() => look(count - 1));
                    else done([...shown]);
                };
                look(30);
            })"""
        )
        assert shown == ["+15550100001"]
        end(served, "CA1")


STORY = """
async () => {
  const { Story } = await import(document.querySelector('script[src$="call.js"]').src.replace("call.js", "story.js"));
  const turn = { role: "caller", item_id: "t", text: "so", heard_text: "so", start_ms: 0, end_ms: 9, pauses: [] };
  const tool = { call_id: "f", name: "book", arguments: "{}", at_ms: 5 };
  const record = {
    turns: [{ ...turn, text: "so far" }], tool_calls: [{ ...tool, output: "done", ms: 3 }], messages: [], answers: [],
    streams: [], usage: [], cost: null, duration_ms: 90,
  };
  const story = new Story(new Date().toISOString());
  story.takeEvent({ type: "tool_called", ...tool });
  story.takeEvent({ type: "turn_ended", turn });
  story.takeRecord(record, { live: true });
  const told = [[story.turns.get("t").text, story.tools.get("f").output]];
  record.tool_calls = [{ ...tool, output: "done well", ms: 3 }];
  story.takeRecord(record, { live: true });
  told.push([story.turns.get("t").text, story.tools.get("f").output]);
  story.takeRecord(record, { live: false });
  told.push([story.turns.get("t").text, story.tools.get("f").output]);
  return told;
}
"""


def test_the_record_of_a_call_that_is_over_is_final(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        served.emit(started("CA1"), ended("CA1"))
        page = visitor.visit(f"{served.url}/console/calls/CA1")
        assert page.evaluate(STORY) == [["so", "done"], ["so", "done"], ["so far", "done well"]]


def test_the_events_of_a_call_in_another_process_are_followed(serves: Serves, visitor: Visitor) -> None:
    refused: list[str] = []

    def refuse(route: Route) -> None:
        refused.append(route.request.url)
        route.fulfill(status=204)

    with serves(an_agent()) as served:
        served.emit(started("CA1"))  # as of another process
        page = visitor.watch(visitor.context().new_page())
        page.route("**/calls/CA1/events?*", refuse, times=1)
        page.goto(f"{served.url}/console/calls/CA1")
        expect(page.locator("#connection")).to_have_text("Connected")
        expect(page.locator("#state")).to_have_text("Live")
        assert len(refused) == 1
        served.emit(ended("CA1"))
        expect(page.locator("#state")).to_have_text("Ended")
