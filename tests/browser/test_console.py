"""The pages of the console in a browser: what they show of calls, and that nothing stops them."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from phoneagent import Call
from phoneagent.demo.stories import RESTAURANT
from phoneagent.events import (
    AgentAnswered,
    BargeIn,
    CallEnded,
    CallerSpoke,
    CallStarted,
    KeyPressed,
    MessageAdded,
    Pause,
    ToolCalled,
    ToolReturned,
    Trouble,
    Turn,
    TurnEnded,
)
from tests.browser.calls import book, restaurant
from tests.browser.conftest import TOKEN, Served, Serves, Visitor, an_agent
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.real_time
SAID = Turn(role="agent", item_id="a1", text="Hi", heard_text="Hi", start_ms=100, end_ms=900, said_ms=800, heard_ms=800)
HOSTILE = '<script>document.title="broken"</script><img src=x onerror="document.title=1">'


def started(sid: str) -> CallStarted:
    return CallStarted(
        call_sid=sid, stream_sid="MZ1", caller="+15550100001", called="+15550100002", direction="inbound"
    )


def ended(sid: str) -> CallEnded:
    return CallEnded(call_sid=sid, ended_by="caller", reason="the caller hung up", duration_ms=9000, transcript=())


def begin(served: Served, sid: str) -> None:
    """Let a call begin that has no phone: what happens in it is up to the test."""
    event = started(sid)
    served.app.calls[sid] = Call(
        sid=sid, caller=event.caller, called=event.called, direction="inbound", started_at=datetime.now(UTC)
    )
    served.emit(event)


def end(served: Served, *sids: str) -> None:
    for sid in sids:
        served.app.calls.pop(sid, None)
    served.emit(*map(ended, sids))


def test_a_call_as_it_happens_is_the_same_as_its_record(serves: Serves, visitor: Visitor) -> None:
    with serves(restaurant(), RESTAURANT.script()) as served:
        page = visitor.visit(f"{served.url}/console")
        expect(page.get_by_role("heading", name="No call is live")).to_be_visible()
        call = served.start(book(served))
        row = page.locator(".calls-row")
        expect(row).to_have_count(1)
        expect(row).to_contain_text("+1••••••77")
        expect(row).to_contain_text("host")
        row.get_by_role("link").click()
        expect(page.locator("#state")).to_have_text("Live")
        interrupted = page.locator(".entry.agent", has=page.locator(".unheard"))
        expect(interrupted).to_be_visible(timeout=30_000)
        expect(interrupted).to_contain_text("interrupted, silent in")
        expect(page.locator(".entry.tool", has_text="book_table")).to_contain_text(
            '{"guests":4,"time":"19:30"}', timeout=30_000
        )
        expect(page.locator("#callstate")).to_contain_text("19:30")
        expect(page.locator(".lanes .block.unheard")).to_have_count(1)
        expect(page.locator("#state")).to_have_text("Ended", timeout=40_000)
        expect(page.locator("#facts")).to_contain_text("the agent hung up")
        sid = call.result(60)
        seen = conversation(page)
        page.reload()
        expect(page.locator("#state")).to_have_text("Ended")
        assert conversation(page) == seen
        record = served.run(served.store.call(sid)) if served.store else None
        assert record is not None
        assert seen == [(turn.heard_text, turn.text[len(turn.heard_text) :].strip()) for turn in record.turns]
        assert page.locator("#cost-sum").inner_text() == f"${record.cost.usd:.4f}" if record.cost else False


def conversation(page: Page) -> list[tuple[str, str]]:
    """Return what the page shows as heard, and as not heard, of each turn."""
    expect(page.locator(".entry .heard").first).to_be_visible()
    found = []
    for text in page.locator(".entry.caller, .entry.agent").all():
        unheard = text.locator(".unheard")
        rest = unheard.inner_text() if unheard.count() else ""
        found.append((text.locator(".heard").inner_text().strip(), rest.replace("(not heard:", "").rstrip(")").strip()))
    return found


def test_whatever_is_said_stays_text(serves: Serves, visitor: Visitor) -> None:
    arabic, emoji = "مرحبا، طاولة لأربعة من فضلك", "👩‍🍳🍽️ bon appétit"
    with serves(an_agent(name=HOSTILE)) as served:
        begin(served, "CA1")
        served.app.calls["CA1"].state[HOSTILE] = HOSTILE
        texts = [HOSTILE, arabic, emoji, "a" * 3000, "line\nbreak"]
        turns = [
            replace(
                SAID,
                item_id=str(n),
                text=text,
                heard_text=text[:3],
                agent=HOSTILE,
                start_ms=n * 1000,
                end_ms=n * 1000 + 900,
            )
            for n, text in enumerate(texts)
        ]
        page = visitor.visit(f"{served.url}/console/calls/CA1")
        served.emit(
            *(TurnEnded(call_sid="CA1", turn=turn) for turn in turns),
            ToolCalled(call_sid="CA1", at_ms=10, call_id="c", name=HOSTILE, arguments=json.dumps({"x": HOSTILE})),
            ToolReturned(call_sid="CA1", at_ms=20, call_id="c", name=HOSTILE, output=HOSTILE, ms=10),
            MessageAdded(call_sid="CA1", at_ms=30, number=1, role="user", text=HOSTILE),
            Trouble(call_sid="CA1", at_ms=40, what=HOSTILE),
            KeyPressed(call_sid="CA1", at_ms=50, digit=""),
        )
        expect(page.locator(".entry.agent")).to_have_count(5)
        expect(page.locator(".entry.key")).to_contain_text("a secret digit")
        for text in texts[:4]:
            expect(page.locator(".entry .text", has_text=text[3:40])).to_have_count(1)
        direction = "element => getComputedStyle(element).direction"
        assert page.locator(".entry .text", has_text=arabic[3:]).evaluate(direction) == "rtl"
        assert page.locator(".entry .text", has_text="bon app").evaluate(direction) == "ltr"
        assert page.title() == "+1••••••01 · phoneagent"
        width = "document.scrollingElement.scrollWidth <= innerWidth"
        assert page.evaluate(width)
        end(served, "CA1")


def test_pauses_hand_offs_and_interruptions_are_told(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console/calls/CA1")
        paused = replace(SAID, agent="host", pauses=(Pause(start_ms=300, end_ms=700, cause="backchannel"),))
        cut = replace(
            SAID,
            item_id="a2",
            agent="kitchen",
            text="Hi you",
            start_ms=3000,
            end_ms=3900,
            interrupted=True,
            said_ms=2000,
        )
        served.emit(
            TurnEnded(call_sid="CA1", turn=paused),
            CallerSpoke(call_sid="CA1", at_ms=2000),
            AgentAnswered(call_sid="CA1", at_ms=3000, latency_ms=640),
            BargeIn(call_sid="CA1", at_ms=3900, item_id="a2", audio_end_ms=900, said_ms=2000, reaction_ms=180),
            TurnEnded(call_sid="CA1", turn=cut),
        )
        expect(page.locator(".entry", has_text="paused 400 ms: backchannel")).to_be_visible()
        second = page.locator(".entry", has_text="kitchen")
        for words in ("from host", "answered in 640 ms", "interrupted, silent in 180 ms"):
            expect(second).to_contain_text(words)
        expect(page.locator(".lanes .pause")).to_have_count(1)
        expect(page.locator(".lanes .cut")).to_have_count(1)
        expect(page.locator(".lanes .hand-off-name")).to_have_text("→ kitchen")
        end(served, "CA1")


def test_a_thousand_live_calls_stay_quick(serves: Serves, visitor: Visitor) -> None:
    sids = [f"CA{number:04}" for number in range(1000)]
    with serves(an_agent()) as served:
        for sid in sids:
            begin(served, sid)
        page = visitor.visit(f"{served.url}/console")
        expect(page.locator("#count")).to_have_text("1000")
        rows = page.locator(".calls-row")
        assert rows.count() < 40
        page.evaluate(
            """() => {
                window.longest = 0;
                let last = performance.now();
                const look = (now) => {
                    window.longest = Math.max(window.longest, now - last);
                    last = now;
                    requestAnimationFrame(look);
                };
                requestAnimationFrame(look);
            }"""
        )
        for _ in range(10):
            served.emit(*(AgentAnswered(call_sid=sid, at_ms=1, latency_ms=640) for sid in sids))
            page.mouse.wheel(0, 3000)
        last = page.locator(".calls-row", has_text="640 ms").last
        expect(last).to_be_visible()
        assert rows.count() < 40
        assert page.evaluate("window.longest") < 1000
        page.evaluate("scrollTo(0, 0)")
        page.get_by_label("Find a live call").fill("nobody")
        expect(rows).to_have_count(0)
        end(served, *sids)
        expect(page.get_by_role("heading", name="No call is live")).to_be_visible()


def test_a_server_that_comes_back_is_found_again_and_nothing_is_missed(
    serves: Serves, visitor: Visitor, tmp_path: Any
) -> None:
    with serves(an_agent()) as served:
        port = int(served.url.rpartition(":")[2])
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console")
        other = visitor.visit(f"{served.url}/console")
        for each in (page, other):
            expect(each.locator(".calls-row")).to_have_count(1)
            expect(each.locator("#connection")).to_have_text("Connected")
    for each in (page, other):
        expect(each.locator("#connection")).to_have_text("Reconnecting…")
    with serves(an_agent(), port=port) as served:
        begin(served, "CA2")
        begin(served, "CA3")
        for each in (page, other):
            expect(each.locator("#connection")).to_have_text("Connected", timeout=20_000)
            expect(each.locator(".calls-row")).to_have_count(3)
            expect(each.locator(".calls-row", has=each.locator("a[href$=CA1]"))).to_contain_text("not ended")
        end(served, "CA1", "CA2")
        for each in (page, other):
            expect(each.locator(".calls-row")).to_have_count(1)
        end(served, "CA3")


def test_a_tab_in_the_background_disconnects_and_catches_up(serves: Serves, visitor: Visitor) -> None:
    show = """state => {
        Object.defineProperty(document, "visibilityState", {value: state, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.watch(visitor.context().new_page())
        page.clock.install()
        page.goto(f"{served.url}/console")
        expect(page.locator("#connection")).to_have_text("Connected")
        page.evaluate(show, "hidden")
        page.clock.fast_forward(61_000)
        served.run(until_readers(served, 0))
        end(served, "CA1")
        begin(served, "CA2")
        begin(served, "CA3")
        page.evaluate(show, "visible")
        served.run(until_readers(served, 1))
        for sid in ("CA2", "CA3"):
            expect(page.locator(f".calls-row a[href$={sid}]")).to_have_count(1)
        expect(page.locator(".calls-row")).to_have_count(2)
        end(served, "CA2", "CA3")


def test_a_tab_that_begins_in_the_background_takes_no_connection(serves: Serves, visitor: Visitor) -> None:
    state = "state => Object.defineProperty(document, 'visibilityState', {value: state, configurable: true})"
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.watch(visitor.context().new_page())
        page.add_init_script(f"({state})('hidden')")
        page.goto(f"{served.url}/console")
        expect(page.locator(".calls-row")).to_have_count(1)
        served.run(until_readers(served, 0))
        page.evaluate(state, "visible")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        served.run(until_readers(served, 1))
        end(served, "CA1")
        expect(page.locator(".calls-row")).to_have_count(0)


def test_a_call_that_ends_while_the_list_is_read_is_not_in_it(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA1")
        begin(served, "CA2")
        page = visitor.visit(f"{served.url}/console")
        rows = page.locator(".calls-row")
        expect(rows).to_have_count(2)
        held: list[tuple[Any, Any]] = []
        page.route("**/calls?state=live**", lambda route: held.append((route, route.fetch())), times=1)
        with page.expect_request("**/calls?state=live**"):
            page.get_by_role("button", name="Show numbers").click()
        begin(served, "CA3")
        end(served, "CA1")
        served.emit(AgentAnswered(call_sid="CA3", at_ms=1, latency_ms=640))
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("640 ms")
        for route, response in held:
            route.fulfill(response=response)
        expect(rows).to_have_count(2)
        assert page.locator("a[href$=CA1]").count() == 0
        end(served, "CA2", "CA3")


async def until_readers(served: Served, count: int) -> None:
    """Wait until so many streams of events are open."""
    console = served.app._parts.console
    assert console is not None
    async with asyncio.timeout(HANG_SECONDS):
        while len(console._readers) != count:
            await asyncio.sleep(0.02)


def test_signing_in_and_out(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent(), api_token=TOKEN, local_api=False) as served:
        page = visitor.visit(f"{served.url}/console/past?words=table")
        expect(page).to_have_url(re.compile("/console/sign-in"))
        page.get_by_label("Token").fill("no")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("this is not PHONEAGENT_API_TOKEN")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{served.url}/console/past?words=table")
        (cookie,) = page.context.cookies()
        assert (cookie.get("httpOnly"), cookie.get("sameSite")) == (True, "Strict")
        assert TOKEN not in cookie.get("value", "")
        page.get_by_role("link", name="Live", exact=True).click()
        begin(served, "CA1")
        expect(page.locator(".calls-row")).to_have_count(1)  # the cookie opens the stream too
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_url(f"{served.url}/console/sign-in")
        page.goto(f"{served.url}/console")
        expect(page).to_have_url(re.compile("/console/sign-in"))
        end(served, "CA1")


def test_a_session_that_is_over_leads_to_the_sign_in_and_back(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent(), api_token=TOKEN, local_api=False) as served:
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console/calls/CA1")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_text("Live")
        page.context.clear_cookies()
        expect(page).to_have_url(re.compile("/console/sign-in"))
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_text("Live")
        end(served, "CA1")


def test_past_calls_are_searched_and_exported(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        for number in range(3):
            sid = f"CA{number}"
            words = replace(
                SAID, item_id=sid, role="caller", text=f"=1+1 word{number}", heard_text=f"=1+1 word{number}"
            )
            served.emit(started(sid), TurnEnded(call_sid=sid, turn=words))
            served.emit(AgentAnswered(call_sid=sid, at_ms=10, latency_ms=500 + number))
            served.emit(TurnEnded(call_sid=sid, turn=replace(SAID, agent=f"agent{number}")), ended(sid))
        page = visitor.visit(f"{served.url}/console/past")
        rows = page.locator("#past tr")
        expect(rows).to_have_count(3)
        expect(page.locator(".plot canvas")).to_have_count(2)
        expect(page.locator("#plot-latency-sum")).to_have_text("median of 3 calls 501 ms")
        page.get_by_label("Number").fill("(555) 010-0001")
        expect(page).to_have_url(re.compile(r"\?party=5550100001$"))
        expect(rows).to_have_count(3)
        page.get_by_label("Number").fill("")
        page.get_by_label("Words said").fill(" =1+1    WORD1")
        expect(rows).to_have_count(1)
        page.get_by_label("Words said").fill("WORD1")
        expect(page).to_have_url(re.compile(r"\?words=WORD1$"))
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("agent1")
        assert page.url.endswith("?words=WORD1")
        page.reload()
        expect(rows).to_have_count(1)
        page.get_by_role("button", name="Clear").click()
        expect(rows).to_have_count(3)
        with page.expect_download() as downloading:
            page.locator("#export summary").click()
            page.get_by_role("button", name="CSV").click()
        exported = downloading.value.path().read_bytes()
        assert exported.startswith(b"\xef\xbb\xbfcall_sid,")  # the mark tells Excel that it is UTF-8
        assert len(exported.splitlines()) == 4
        rows.filter(has_text="agent0").get_by_role("link").click()
        for kind, expected in (("JSON", '"call_sid"'), ("CSV", "'=1+1 word0"), ("SVG", "<svg")):
            expect(page.locator(".entry.caller")).to_have_count(1)
            with page.expect_download() as downloading:
                page.locator("#export summary").click()
                page.get_by_role("button", name=kind).click()
            assert expected in downloading.value.path().read_text("utf-8")


def test_numbers_are_shown_only_when_asked_for(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console")
        expect(page.locator(".calls-row")).to_contain_text("+1••••••01")
        page.get_by_role("button", name="Show numbers").click()
        expect(page.locator(".calls-row")).to_contain_text("+15550100001")
        page.locator(".calls-row a").click()
        expect(page.locator("#caller")).to_have_text("+15550100001")
        page.get_by_role("button", name="Hide numbers").click()
        expect(page.locator("#caller")).to_have_text("+1••••••01")
        end(served, "CA1")


def test_all_of_it_is_reached_by_the_keyboard(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        begin(served, "CA1")
        page = visitor.visit(f"{served.url}/console")
        expect(page.locator(".calls-row")).to_have_count(1)
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.closest('.calls-row') !== null"):
                break
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{served.url}/console/calls/CA1")
        end(served, "CA1")


def test_light_and_dark_are_chosen_and_kept(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        page = visitor.visit(f"{served.url}/console", theme="dark")
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(ground)
        page.get_by_role("button", name="Switch between light and dark").click()
        light = page.evaluate(ground)
        assert light != dark
        page.reload()
        assert page.evaluate(ground) == light


def test_the_page_of_an_unknown_call_says_so(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        page = visitor.visit(f"{served.url}/console/calls/CA404")
        expect(page.get_by_role("heading", name="No such call")).to_be_visible()
        assert page.title() == "No such call · phoneagent"
        assert page.locator("main button").count() == 0
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(2500)  # longer than the pause between two looks at a call
        assert asked == []
        page.get_by_role("link", name="All past calls").click()
        expect(page).to_have_url(f"{served.url}/console/past")
