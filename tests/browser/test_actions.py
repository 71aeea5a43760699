"""The buttons of a live call and its messages, in a browser."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, Request, Route, expect

from phoneagent import Call, transfer
from phoneagent.sim.twilio.phone import CallFailed
from tests.browser.conftest import MICROPHONE, TOKEN, Served, Serves, Visitor, an_agent
from tests.browser.look import until
from tests.browser.test_console import begin, end

pytestmark = pytest.mark.real_time

GREETING = "Chez Nous, good evening! How can I help you tonight, at our table by the river?"
HEAR = """
() => {
  window.levels = [];
  document.addEventListener("call-level", (event) => window.levels.push(event.detail));
}
"""

LAG = """
() => {
  const turn = document.querySelector("g.turn.agent rect.block.agent");
  if (!turn) return null;
  const [first, second] = [...document.querySelectorAll("text.tick")].map((tick) => {
    const [minutes, seconds] = tick.textContent.split(":").map(Number);
    return { x: Number(tick.getAttribute("x")), seconds: 60 * minutes + seconds };
  });
  const scale = (second.x - first.x) / (second.seconds - first.seconds);
  const bars = document.querySelector("path.wave.agent").getAttribute("d").match(/M[0-9.]+/g);
  const end = Number(turn.getAttribute("x")) + Number(turn.getAttribute("width"));
  return (Number(bars.at(-1).slice(1)) - end) / scale;
}
"""
"""The seconds from the end of the agent's turn to the end of its wave."""


@pytest.fixture
def microphone() -> tuple[str, ...]:
    """No microphone, but sound without a gesture."""
    return MICROPHONE[-1:]


@contextmanager
def calling(served: Served) -> Iterator[str]:
    """A caller on the line, who listens until the call is over."""
    ready: asyncio.Queue[str] = asyncio.Queue()
    leave = asyncio.Event()

    async def call() -> None:
        with suppress(CallFailed, TimeoutError):
            async with served.phone().dial() as line:
                ready.put_nowait(line.call_sid)
                while line.ended_by is None and not leave.is_set():
                    await asyncio.sleep(0.05)

    done = served.start(call())
    try:
        yield served.run(ready.get())
    finally:
        served.loop.call_soon_threadsafe(leave.set)
        done.result(30)


def open_call(served: Served, visitor: Visitor, sid: str, **options: object) -> Page:
    page = visitor.visit(f"{served.url}/console/calls/{sid}", **options)
    expect(page.get_by_role("button", name="Listen in")).to_be_enabled()
    return page


def test_the_wave_is_where_the_words_are(serves: Serves, visitor: Visitor) -> None:
    def late(call: Call) -> str:
        call.started_at -= timedelta(seconds=2)  # the media stream began so long after the webhook
        return "x"

    with serves(an_agent(greeting=GREETING, instructions=late)) as served, calling(served) as sid:
        page = open_call(served, visitor, sid)
        until(page, "document.querySelector('path.wave.agent')?.getAttribute('d')")
        page.locator("#words .entry.agent:not(.live)").wait_for()
        assert -0.5 < page.wait_for_function(LAG).json_value() < 0.5


def test_a_call_is_listened_to_led_and_ended(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent(greeting=GREETING)) as served, calling(served) as sid:
        page = open_call(served, visitor, sid)
        page.evaluate(HEAR)
        until(page, "['caller', 'agent'].every((side) => window.levels.some((each) => each.side === side))")
        until(page, "document.querySelector('path.wave.agent').getAttribute('d')")  # what is seen needs no click
        page.get_by_role("button", name="Listen in").click()
        page.evaluate(HEAR)
        expect(page.get_by_role("button", name="Stop listening")).to_have_attribute("aria-pressed", "true")
        until(page, "window.levels.some((each) => each.side === 'caller')")
        until(page, "window.levels.some((each) => each.side === 'agent' && each.level > 0.02)")

        page.get_by_label("Text").fill("The manager is on <b>his</b> way.")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("status").filter(has_text="Will be said.")).to_be_visible()
        expect(page.locator("#words")).to_contain_text("The manager is on <b>his</b> way.", timeout=20_000)
        expect(page.get_by_label("Text")).to_have_value("")

        page.get_by_label("The agent is to").select_option("note")
        page.get_by_label("Text").fill("They are a member.")
        page.get_by_label("Text").press("Control+Enter")
        expect(page.locator("#words")).to_contain_text("They are a member.")

        page.get_by_role("button", name="Mute the agent").click()
        expect(page.get_by_role("button", name="Unmute the agent")).to_have_attribute("aria-pressed", "true")
        assert served.app.calls[sid].muted
        page.get_by_role("button", name="Unmute the agent").click()
        expect(page.get_by_role("button", name="Mute the agent")).to_be_visible()
        assert not served.app.calls[sid].muted

        page.get_by_role("button", name="Hang up").click()
        page.get_by_role("button", name="Cancel").click()
        assert sid in served.app.calls
        page.get_by_role("button", name="Hang up").click()
        page.get_by_role("button", name="Hang up now").click()
        expect(page.locator("#state")).to_have_text("Ended")
        expect(page.get_by_role("button", name="Stop listening")).to_be_hidden()
        assert sid not in served.app.calls


def test_a_text_is_sent_once_and_what_is_typed_meanwhile_stays(serves: Serves, visitor: Visitor) -> None:
    accepted = json.dumps({"call_sid": "CA1", "operation": "say", "muted": False})
    held: list[Route] = []
    sent: list[Request] = []

    def hold(route: Route) -> None:
        held.append(route)
        sent.append(route.request)

    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = open_call(served, visitor, "CA1")
        page.route("**/calls/CA1/say", hold)
        text, send = page.get_by_label("Text"), page.get_by_role("button", name="Send")
        text.fill("One moment.")
        page.keyboard.down("Control")
        for _ in range(3):
            page.keyboard.down("Enter")  # as when the key is held
        page.keyboard.up("Enter")
        page.keyboard.press("Enter")
        page.keyboard.up("Control")
        with page.expect_response("**/calls/CA1"):  # the state of the call, which enables the buttons
            pass
        expect(send).to_be_disabled()
        assert len(held) == 1
        held.pop().abort()
        expect(send).to_be_enabled()
        expect(text).to_have_value("One moment.")

        send.click()
        text.press_sequentially(" And then?")
        assert len(held) == 1
        held.pop().fulfill(status=202, content_type="application/json", body=accepted)
        expect(page.get_by_role("status").filter(has_text="Will be said.")).to_be_visible()
        expect(text).to_have_value("One moment. And then?")
        send.click()
        expect(send).to_be_disabled()
        held.pop().fulfill(status=202, content_type="application/json", body=accepted)
        expect(text).to_have_value("")
        keys = [each.headers["idempotency-key"] for each in sent]
        assert keys[0] == keys[1] != keys[2]  # the first one may have been said
        end(served, "CA1")


def test_the_buttons_wait_for_the_call(serves: Serves, visitor: Visitor) -> None:
    held: list[Route] = []
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.watch(visitor.context().new_page())
        page.route(f"{served.url}/calls/CA1", lambda route: held.append(route))
        with page.expect_request(f"{served.url}/calls/CA1"):
            page.goto(f"{served.url}/console/calls/CA1")
        expect(page.get_by_role("button", name="Mute the agent")).to_be_disabled()
        page.unroute_all()  # and the requests go on
        expect(page.get_by_role("button", name="Mute the agent")).to_be_enabled()
        end(served, "CA1")


def test_a_call_that_another_process_has_goes_on(serves: Serves, visitor: Visitor) -> None:
    answers: list[str] = []

    def as_elsewhere(route: Route) -> None:
        """Answer at first that there is no such call, and later in turn as its process and as another one."""
        answers.append(route.request.url)
        if len(answers) <= 3:  # one for each module
            return route.fulfill(status=404, content_type="application/json", body='{"detail": "no such call"}')
        response = route.fetch()
        call: dict[str, Any] = response.json()
        if call["state"] == "live" and answers.count(route.request.url) % 2:  # each module has an address of its own
            call |= {"state": "open", "floor": None, "muted": None}
            call.pop("call_state", None)
        return route.fulfill(response=response, json=call)

    with serves(an_agent()) as served:
        begin(served, "CA1")
        served.app.calls["CA1"].state["table"] = 4
        page = visitor.watch(visitor.context().new_page())
        page.route(lambda url: url.partition("?")[0] == f"{served.url}/calls/CA1", as_elsewhere)
        page.goto(f"{served.url}/console/calls/CA1")
        expect(page.locator("#state")).to_have_text("Live")
        expect(page.locator("#callstate")).to_contain_text("table")
        page.get_by_role("button", name="Transfer", exact=True).click()
        page.evaluate(WATCH)
        dialog = page.get_by_role("dialog", name="Transfer the call")
        dialog.get_by_label("To").fill("bill")
        seen = len(answers)
        until_more(page, answers, seen + 10)
        dialog.get_by_label("To").press_sequentially("ing")
        expect(dialog.get_by_label("To")).to_have_value("billing")
        assert page.evaluate("[...window.states]") == ["Live"]
        assert page.evaluate("window.closed") == 0
        expect(page.locator("#callstate")).to_contain_text("table")
        end(served, "CA1")
        expect(page.locator("#state")).to_have_text("Ended")
        expect(dialog).to_be_hidden()


WATCH = """
() => {
  const [state, card] = [document.getElementById("state"), document.querySelector("#call-actions > .card")];
  window.states = new Set([state.textContent]);
  window.closed = 0;
  new MutationObserver(() => window.states.add(state.textContent)).observe(state, { childList: true });
  const look = () => { if (card.hidden || !card.querySelector("dialog[open]")) window.closed += 1; };
  new MutationObserver(look).observe(card, { attributes: true, subtree: true });
}
"""


def until_more(page: Page, answers: list[str], count: int) -> None:
    for _ in range(300):
        if len(answers) >= count:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"only {len(answers)} answers")


def test_sound_that_the_system_stops_goes_on(serves: Serves, visitor: Visitor) -> None:
    keep = """
    window.contexts = [];
    window.AudioContext = class extends AudioContext {
      constructor(...given) { super(...given); window.contexts.push(this); }
    };
    """
    with serves(an_agent(greeting=GREETING)) as served, calling(served) as sid:
        page = visitor.watch(visitor.context().new_page())
        page.add_init_script(keep)
        page.goto(f"{served.url}/console/calls/{sid}")
        page.get_by_role("button", name="Listen in").click()
        until(page, "window.contexts[0]?.state === 'running'")
        page.evaluate("window.contexts[0].suspend()")
        until(page, "window.contexts[0].state === 'running'")


def test_a_call_is_transferred_to_a_party_of_the_agents_list(serves: Serves, visitor: Visitor) -> None:
    agent = an_agent(greeting=GREETING, tools=[transfer(to={"billing": "+12025550107"})])
    with serves(agent) as served, calling(served) as sid:
        page = open_call(served, visitor, sid)
        button = page.get_by_role("button", name="Transfer", exact=True)
        button.click()
        dialog = page.get_by_role("dialog", name="Transfer the call")
        dialog.get_by_role("button", name="Cancel").click()
        expect(dialog).to_be_hidden()
        button.click()
        dialog.get_by_label("To").fill("911")
        dialog.get_by_role("button", name="Transfer").click()
        told = page.get_by_role("status").filter(has_text="an emergency number")
        expect(told).to_contain_text("the agent's own list has billing")
        button.click()
        dialog.get_by_label("To").fill("billing")
        dialog.get_by_label("How").select_option("Connect them at once")
        dialog.get_by_label("To").press("Enter")
        expect(page.locator("#words")).to_contain_text("transfer")  # the event of it, and then how it went
        expect(page.locator("#words")).to_contain_text("billing", timeout=20_000)


def test_the_messages_of_a_call_are_read_filtered_and_copied(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent(greeting=GREETING)) as served, calling(served) as sid:
        page = open_call(served, visitor, sid, permissions=["clipboard-read", "clipboard-write"])
        log = page.locator("#call-log")
        log.get_by_role("button", name="Show").click()
        expect(log.locator(".log-row").first).to_be_visible()
        expect(log.locator(".log-row", has_text="media")).to_have_count(0)
        log.get_by_label("audio", exact=True).check()
        expect(log.locator(".log-row", has_text="media").first).to_be_visible()
        expect(log.get_by_role("status").filter(has_text=" of ")).to_have_text(re.compile(r"^\d{3,} of \d{3,}$"))
        assert log.locator(".log-row").count() < 60  # only what is seen, of hundreds
        log.get_by_label("audio", exact=True).uncheck()

        log.get_by_label("Filter").fill("response.create")
        log.get_by_label("Side").select_option("model")
        row = log.locator(".log-row", has_text="response.created").first
        row.click()
        expect(row).to_have_attribute("aria-selected", "true")
        assert json.loads(log.locator("pre").inner_text())["type"] == "response.created"
        log.get_by_role("listbox").press("ArrowUp")
        log.get_by_role("button", name="Copy as JSON").click()
        expect(log.get_by_role("button", name="Copied")).to_be_visible()
        copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
        assert {each["side"] for each in copied} == {"model"}
        assert "response.created" in {each["type"] for each in copied}
        log.get_by_role("button", name="Hide").click()
        expect(log.get_by_label("Filter")).to_be_hidden()


def test_a_row_of_the_log_is_chosen_while_messages_arrive(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent(greeting=GREETING)) as served, calling(served) as sid:
        page = open_call(served, visitor, sid)
        log = page.locator("#call-log")
        log.get_by_role("button", name="Show").click()
        log.get_by_label("audio", exact=True).check()
        expect(log.locator(".log-row").nth(12)).to_be_visible()
        page.locator("#words .entry.agent:not(.live)").wait_for()  # from now on, nothing above the log moves it
        log.get_by_role("listbox").scroll_into_view_if_needed()
        box = log.get_by_role("listbox").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 60, box["y"] + box["height"] / 2)
        page.mouse.down()
        count = log.get_by_role("status").filter(has_text=" of ")
        before = count.inner_text()
        for _ in range(3):  # what arrived is drawn
            expect(count).not_to_have_text(before)
            before = count.inner_text()
        page.mouse.up()
        expect(log.get_by_label("The chosen message")).to_be_visible()


def test_without_a_log_the_page_says_how_to_get_one(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent(), local_api=False, api_token=TOKEN) as served, calling(served) as sid:
        page = visitor.visit(f"{served.url}/console/calls/{sid}")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.locator("#call-log").get_by_role("button", name="Show").click()
        expect(page.locator("#call-log")).to_contain_text("--log-messages")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_it_fits_the_screen(serves: Serves, visitor: Visitor, theme: str, width: int) -> None:
    with serves(an_agent()) as served, calling(served) as sid:
        page = open_call(served, visitor, sid, theme=theme, width=width)
        page.locator("#call-log").get_by_role("button", name="Show").click()
        expect(page.locator(".log-row").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
