"""The lists of live and of past calls in a browser: while they change, and when something is missing."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Route, expect

from phoneagent.events import AgentAnswered
from tests.browser.conftest import Serves, Visitor, an_agent
from tests.browser.history import remember
from tests.browser.test_console import begin, end, started

pytestmark = pytest.mark.real_time
NO_STORAGE = """
for (const name of ["sessionStorage", "localStorage"]) {
  Object.defineProperty(window, name, { get() { throw new DOMException("it is blocked", "SecurityError"); } });
}
"""
COUNT = """
window.listeners = 0;
const add = EventTarget.prototype.addEventListener;
EventTarget.prototype.addEventListener = function (type, listener, options) {
  if (["visibilitychange", "pagehide", "pageshow"].includes(type)) {
    window.listeners += 1;
    if (options?.signal) add.call(options.signal, "abort", () => (window.listeners -= 1));
  }
  return add.call(this, type, listener, options);
};
"""


def test_a_call_is_opened_while_its_row_changes(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA0")
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console")
        row, other = (page.locator(".calls-row", has=page.locator(f"a[href$={sid}]")) for sid in ("CA1", "CA0"))
        expect(row).to_be_visible()
        expect(page.locator("#connection")).to_have_text("Connected")
        row.hover()
        page.mouse.down()
        served.emit(*(AgentAnswered(call_sid=sid, at_ms=1, latency_ms=640) for sid in ("CA1", "CA0")))
        expect(other).to_contain_text("640 ms")
        page.mouse.up()
        expect(page).to_have_url(f"{served.url}/console/calls/CA1")
        end(served, "CA0", "CA1")


def test_calls_of_other_processes_stay_while_the_database_is_away(serves: Serves, visitor: Visitor) -> None:
    away = {"status": 503, "content_type": "application/json", "body": '{"detail": "the database is away"}'}
    with serves(an_agent()) as served:
        begin(served, "CA1")
        served.emit(started("CA2"))  # as of another process
        page = visitor.visit(f"{served.url}/console")
        rows = page.locator(".calls-row")
        expect(rows).to_have_count(2)
        page.route("**/calls?state=open**", lambda route: route.fulfill(**away))
        with page.expect_response("**/calls?state=live**"):
            page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")  # reads all again
        expect(page.locator("#problem")).to_contain_text(
            "Calls of other processes cannot be read: the database is away"
        )
        expect(rows).to_have_count(2)
        end(served, "CA1", "CA2")


def test_a_call_that_a_crash_left_open_leaves_the_list(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA1")
        served.emit(started("CA2"))
        page = visitor.watch(visitor.context().new_page())
        page.clock.install()
        page.goto(f"{served.url}/console")
        expect(page.locator(".calls-row")).to_have_count(2)
        page.clock.fast_forward("04:01:00")
        expect(page.locator(".calls-row")).to_have_count(1)
        expect(page.locator(".calls-row a")).to_have_attribute("href", "/console/calls/CA1")
        end(served, "CA1", "CA2")


def test_a_stream_that_is_closed_listens_to_nothing(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        page = visitor.watch(visitor.context().new_page())
        page.add_init_script(COUNT)
        page.goto(f"{served.url}/console")
        expect(page.locator("#connection")).to_have_text("Connected")
        before = page.evaluate("window.listeners")
        for name in ("Show numbers", "Hide numbers", "Show numbers"):
            page.get_by_role("button", name=name).click()
        assert page.evaluate("window.listeners") == before > 0


def test_the_pages_work_without_storage(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.watch(visitor.context().new_page())
        page.add_init_script(NO_STORAGE)
        page.goto(f"{served.url}/console")
        expect(page.locator(".calls-row")).not_to_contain_text("+15550100001")
        page.get_by_role("button", name="Show numbers").click()
        expect(page.locator(".calls-row")).to_contain_text("+15550100001")
        end(served, "CA1")


def test_a_past_call_is_opened_by_its_row(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        remember(served, 2)
        page = visitor.visit(f"{served.url}/console/past")
        rows = page.locator("#past tr")
        expect(rows).to_have_count(2)
        cell = rows.first.locator("td").nth(4)
        cell.click(modifiers=["Control"])
        href = rows.first.locator("a").get_attribute("href")
        page.get_by_role("heading", name="Past calls").click()
        assert page.url.endswith("/console/past")
        cell.click()
        expect(page).to_have_url(f"{served.url}{href}")


def test_an_export_that_is_not_whole_says_so(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        remember(served, 1)
        page = visitor.visit(f"{served.url}/console/past")
        expect(page.locator("#past tr")).to_have_count(1)

        def answer(route: Route) -> Any:
            call = {"call_sid": "CA1", "latency_ms": {"response_p50": None, "response_p95": None}, "cost": None}
            return route.fulfill(json={"calls": [call] * 200, "next": "more"})

        page.route("**/calls?*limit=200*", answer)
        with page.expect_download():
            page.get_by_text("Export").click()
            page.get_by_role("button", name="CSV").click()
        expect(page.locator("#problem")).to_contain_text("only the latest 5,000 of these calls")
