"""How a page looks, what it weighs, and whether all people can use it.

The pictures are the ones of the documentation: PHONEAGENT_WRITE_DOCS=1 writes them to docs/console/.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, Response

from tests.browser.conftest import Visitor

DOCS = Path(__file__).parents[2] / "docs" / "console"
MAX_PICTURE_BYTES = 150_000
MAX_PAGE_BYTES = 250_000
FIRST_VIEW_MS = 1000
MAX_LAYOUT_SHIFT = 0.1
THEMES = ("light", "dark")
SIZES = ((1440, 810), (390, 844))


def faults(page: Page) -> list[str]:
    """Return what axe finds that is serious or worse, each with the first element that has it."""
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in ("serious", "critical")]


def picture(page: Page, name: str, folder: Path) -> None:
    where = DOCS if os.environ.get("PHONEAGENT_WRITE_DOCS") else folder
    where.mkdir(parents=True, exist_ok=True)
    path = where / f"{name}.png"
    page.screenshot(path=path, animations="disabled", caret="hide")
    assert path.stat().st_size < MAX_PICTURE_BYTES


def weigh(name: str, show: Callable[[Page], object], visitor: Visitor) -> None:
    """Print what a page costs its reader, and hold it against the limits. `show` opens it and waits for its content."""
    page = visitor.watch(visitor.context().new_page())
    sizes: list[int] = []

    def count(answer: Response) -> None:
        if not answer.url.endswith(".wav"):  # the length of a recording, of which a player reads the beginning
            sizes.append(int(answer.headers.get("content-length", "0")))

    page.on("response", count)
    show(page)
    until(page, "performance.getEntriesByName('first-contentful-paint').length > 0")
    view_ms = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    shift = page.evaluate(
        """() => new Promise((done) => {
            let sum = 0;
            new PerformanceObserver((list) => { for (const each of list.getEntries()) sum += each.value; })
                .observe({type: "layout-shift", buffered: true});
            setTimeout(() => done(sum), 300);
        })"""
    )
    page.close()
    kilobytes = sum(sizes) / 1000
    print(f"\n{name}: {kilobytes:.0f} kB, first view after {view_ms:.0f} ms, layout shift {shift:.3f}", end="")
    assert 20_000 < sum(sizes) < MAX_PAGE_BYTES  # all of it was counted
    assert view_ms < FIRST_VIEW_MS
    assert shift < MAX_LAYOUT_SHIFT


def until(page: Page, condition: str) -> None:
    """Wait for a condition in the page, whose policy forbids what Playwright's own waiting does."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never: {condition}")
