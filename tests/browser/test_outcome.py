"""The outcome of a call on the call's page: it comes while the page is open, after the call."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from phoneagent.events import TurnEnded
from tests.browser.conftest import Serves, Visitor, an_agent
from tests.browser.history import SAID
from tests.browser.test_console import ended, started

pytestmark = pytest.mark.real_time
SID, OTHER = "CA" + "7" * 32, "CA" + "8" * 32
OUTCOME = {"booked": True, "note": "<b>by the window</b>", "days": ["Monday"]}


def test_the_outcome_comes_to_the_page_of_a_call_that_is_over(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        assert served.store is not None
        for sid in (SID, OTHER):
            served.emit(started(sid), TurnEnded(call_sid=sid, turn=SAID), ended(sid))
        page = visitor.visit(f"{served.url}/console/calls/{SID}")
        expect(page.locator("#state")).to_have_text("Ended")
        expect(page.locator("#outcome-card")).to_be_hidden()
        assert served.run(served.store.outcomes.write(SID, "MZ1", OUTCOME, None))
        expect(page.locator("#outcome-card")).to_be_visible(timeout=30_000)
        expect(page.locator("#outcome")).to_contain_text("booked")
        expect(page.locator("#outcome")).to_contain_text("<b>by the window</b>")  # as text
        expect(page.locator("#outcome")).to_contain_text('["Monday"]')
        assert served.run(served.store.outcomes.write(OTHER, "MZ1", None, "the model did not fill it in"))
        page.goto(f"{served.url}/console/calls/{OTHER}")
        expect(page.locator("#outcome")).to_contain_text("the model did not fill it in")
