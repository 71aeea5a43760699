"""The phone's page: Chromium with a microphone that plays recorded speech calls an agent, and what goes wrong there."""

from __future__ import annotations

import asyncio
import json
import re
import time
import wave
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from phoneagent import Agent, Call
from phoneagent.demo import restaurant
from phoneagent.demo.stories import CALLER_CLIPS, RESTAURANT
from phoneagent.protocol.audio import decode_ulaw, silence
from tests.browser.conftest import MICROPHONE, TOKEN, Served, Serves, Visitor, an_agent
from tests.browser.look import SIZES, THEMES, faults, picture, until, weigh
from tests.patience import HANG_SECONDS
from tests.ports import free_port

pytestmark = pytest.mark.real_time

FIRST, SECOND, LAST = (
    "good-evening-do-you-have-a",
    "half-past-seven-would-be-perfect",
    "no-thats-all-thank-you-goodbye",
)
CALL_MS = 90_000


@pytest.fixture
def speech() -> list[int | str]:
    """What the microphone plays: silence of so many milliseconds, and clips of the demo's caller."""
    return [60_000]


@pytest.fixture
def microphone(tmp_path: Path, speech: list[int | str]) -> tuple[str, ...]:
    ulaw = b"".join(
        silence(each) if isinstance(each, int) else CALLER_CLIPS.joinpath(f"{each}.ulaw").read_bytes()
        for each in speech
    )
    path = tmp_path / "microphone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(decode_ulaw(ulaw))
    return (*MICROPHONE, f"--use-file-for-fake-audio-capture={path}%noloop")


def open_phone(visitor: Visitor, served: Served, **options: Any) -> Page:
    return visitor.visit(f"{served.url}/console/phone", **options)


def dial(page: Page) -> str:
    """Press the green button; return the call's sid once the call is up."""
    page.get_by_role("button", name="Call the agent").click()
    expect(page.locator("#handset")).to_have_attribute("data-state", "up")
    return page.locator("#call-link").get_attribute("data-call-sid") or ""


def ended(page: Page, words: str, *, timeout: float = 15_000) -> None:
    expect(page.locator("#handset")).to_have_attribute("data-state", "idle", timeout=timeout)
    expect(page.locator("#state")).to_have_text(words)


@pytest.mark.parametrize("speech", [[4000, FIRST, 4500, SECOND, 12_000, LAST, 60_000]])
def test_the_restaurant_books_a_table(
    serves: Serves, visitor: Visitor, tmp_path: Path, capsys: pytest.CaptureFixture[str], speech: list[int | str]
) -> None:
    with serves(restaurant.host, RESTAURANT.script()) as served:
        page = open_phone(visitor, served, height=810)
        sid = dial(page)
        expect(page.locator("#turns")).to_contain_text("Done! Booked for 4", timeout=CALL_MS)
        picture(page, "phone-call-light-1440", tmp_path)
        ended(page, "The call is over.", timeout=CALL_MS)
        expect(page.locator("#turns")).to_contain_text("Ended by the agent")
        assert served.store is not None
        record = served.run(served.store.call(sid))
        assert record is not None
        shown = page.locator("#turns .turn[data-role]").evaluate_all(
            "turns => turns.map(t => [t.dataset.role, t.querySelector('.heard').textContent, "
            "t.querySelector('s')?.textContent ?? ''])"
        )
        recorded = [(turn.role, turn.heard_text if turn.role == "agent" else turn.text, turn) for turn in record.turns]
        assert [(role, heard) for role, heard, _ in shown] == [(role, heard) for role, heard, _ in recorded]
        assert shown[0][1] == "Chez Nous, good evening! How can I help you?"
        (cut,) = [(heard, rest) for role, heard, rest in shown if rest]
        assert cut[0] + cut[1] == next(turn.text for turn in record.turns if turn.interrupted)
        assert cut[0].startswith("With pleasure!")
        assert [tool.name for tool in record.tools] == ["book_table", "hang_up"]
        assert "Booked for 4 at 19:30" in (record.tools[0].output or "")
        assert (record.caller, record.direction, record.ended_by) == ("client:browser", "inbound", "agent")
        waits = page.locator("#waits")
        with capsys.disabled():
            print(
                f"\nbrowser leg of this call: {waits.get_attribute('data-there')} ms there, "
                f"{waits.get_attribute('data-back')} ms back"
            )


ROUND_TRIP = """
async (delay) => {
  const at = (name) => new URL(name, document.querySelector('script[src$="phone.js"]').src).href;
  const { decode } = await import(at("phone-audio.js"));
  const { Sound } = await import(at("phone-sound.js"));
  const sound = await Sound.open();
  const { context } = sound;
  const make = () => new AudioWorkletNode(context, "phone", { outputChannelCount: [1] });
  const line = make(), ear = make();
  const source = new OscillatorNode(context, { frequency: 1000 });
  line.port.postMessage({ line: { delay } });
  source.connect(line).connect(ear);
  line.port.onmessage = ({ data }) => data.frame && line.port.postMessage({ media: data.frame });
  const began = context.currentTime, at_ms = 1000;
  source.start(began + at_ms / 1000);
  let samples = 0;
  const heard = await new Promise((resolve) => {
    ear.port.onmessage = ({ data }) => {
      if (!data.frame) return;
      const first = data.frame.findIndex((byte) => Math.abs(decode(byte)) > 0.1);
      if (first >= 0) resolve((samples + first) / 8);
      samples += data.frame.length;
    };
  });
  const result = {
    leg: heard - at_ms, filter: 3, microphone: 1000 * (sound.track.getSettings().latency ?? 0),
    loudspeaker: 1000 * (context.outputLatency || context.baseLatency),
  };
  sound.close();
  return result;
}
"""


def test_the_latency_that_a_browser_adds(serves: Serves, visitor: Visitor, capsys: pytest.CaptureFixture[str]) -> None:
    with serves(an_agent()) as served:
        page = open_phone(visitor, served)
        found, delayed = (  # the best of three, as the machine may stop for a moment
            min((page.evaluate(ROUND_TRIP, each) for _ in range(3)), key=lambda trip: trip["leg"]) for each in (0, 500)
        )
        with capsys.disabled():
            print(
                f"\nadded by the browser: {json.dumps(found)} (ms; leg: microphone to frame, and back to loudspeaker)"
            )
        assert 20 < found["leg"] < 400
        assert 900 < delayed["leg"] < 1400, "half a second each way"


def test_keys_reach_the_agent_and_a_mute_is_silent(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        page = open_phone(visitor, served)
        dial(page)
        page.locator('[data-key="5"]').click()
        page.keyboard.press("#")
        expect(page.locator("#turns")).to_contain_text("Key 5")
        expect(page.locator("#turns")).to_contain_text("Key #")
        mute = page.get_by_role("button", name="Mute")
        mute.click()
        expect(mute).to_have_attribute("aria-pressed", "true")
        page.get_by_role("button", name="Hang up").click()
        ended(page, "You have hung up.")
        served.run(until_idle(served))


async def until_idle(served: Served) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while served.app.calls:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("speech", [[3000, FIRST, 4000, SECOND, 60_000]])
def test_only_what_is_said_with_the_button_held_is_heard(
    serves: Serves, visitor: Visitor, speech: list[int | str]
) -> None:
    with serves(restaurant.host, RESTAURANT.script()) as served:
        page = open_phone(visitor, served)
        page.get_by_label("Hold to talk: the button, or the space bar").check()
        dial(page)
        began = time.monotonic()
        expect(page.locator("#turns")).to_contain_text("Chez Nous")
        page.wait_for_timeout(max(0, 7500 - 1000 * (time.monotonic() - began)))  # the first line passes unheard
        assert page.locator('#turns [data-role="caller"]').count() == 0
        page.keyboard.down(" ")
        expect(page.locator("#talk")).to_have_class("round held")
        page.wait_for_timeout(max(0, 14_000 - 1000 * (time.monotonic() - began)))  # the second line
        page.keyboard.up(" ")
        expect(page.locator('#turns [data-role="caller"]')).to_have_count(1)
        expect(page.locator("#meter-agent")).to_have_attribute("style", re.compile(r"--level: ?0\.[3-9]"))
        page.wait_for_timeout(1000)
        page.keyboard.down(" ")  # the agent speaks: that interrupts it
        expect(page.locator("#turns")).to_contain_text("With pleasure!")
        page.keyboard.up(" ")
        page.get_by_role("button", name="Hang up").click()
        ended(page, "You have hung up.")


def test_the_number_dialed_chooses_the_agent(serves: Serves, visitor: Visitor) -> None:
    asked: list[Call] = []

    def answer(call: Call) -> Agent:
        asked.append(call)
        return an_agent(name="sales", greeting="This is sales.")

    with serves(answer) as served:
        page = open_phone(visitor, served)
        for key in "1239":
            page.locator(f'[data-key="{key}"]').click()
        page.get_by_role("button", name="Delete the last digit").click()
        page.get_by_label("Your caller ID").fill("+15550100001")
        dial(page)
        expect(page.locator("#turns")).to_contain_text("This is sales.")
        assert [(call.called, call.caller) for call in asked] == [("123", "+15550100001")]
        page.get_by_role("button", name="Hang up").click()
        ended(page, "You have hung up.")


def test_a_reader_who_signs_in_calls(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent(), api_token=TOKEN, local_api=False) as served:
        page = open_phone(visitor, served)
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Sign in").click()
        dial(page)
        expect(page.locator("#turns")).to_contain_text("Chez Nous, good evening!")
        page.get_by_role("button", name="Hang up").click()
        ended(page, "You have hung up.")


def test_a_refused_call_says_so(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent(), deny_callers=["+15550100009"]) as served:
        page = open_phone(visitor, served)
        page.get_by_label("Your caller ID").fill("+15550100009")
        page.get_by_role("button", name="Call the agent").click()
        ended(page, "Rejected. A list of callers does not allow this caller ID.")


def test_two_tabs_have_a_call_each(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        one = open_phone(visitor, served)
        other = visitor.watch(one.context.new_page())
        other.goto(one.url)
        assert dial(one) != dial(other)
        assert len(served.app.calls) == 2
        one.close()  # as a reader closes a tab
        expect(other.locator("#handset")).to_have_attribute("data-state", "up")
        other.get_by_role("button", name="Hang up").click()
        ended(other, "You have hung up.")
        served.run(until_idle(served))


NOTE_STATES = """
() => {
  const state = document.getElementById("state");
  window.states = [];
  new MutationObserver(() => window.states.push(state.textContent)).observe(state, { childList: true });
}
"""
"""It may be reconnected sooner than the page is looked at again."""


def test_a_socket_that_breaks_is_followed_by_another_one(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        page = open_phone(visitor, served)
        sid = dial(page)
        expect(page.locator("#turns")).to_contain_text("Chez Nous, good evening!")

        async def move() -> None:
            served.app.hand_over_now(sid, "a test")

        page.evaluate(NOTE_STATES)
        served.run(move())
        until(page, "window.states.includes('Reconnecting…')")
        expect(page.locator("#state")).to_have_text("Connected")
        page.get_by_role("button", name="Hang up").click()
        ended(page, "You have hung up.")
        served.run(until_idle(served))


def test_a_hang_up_while_the_server_is_asked_counts_at_once(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        page = open_phone(visitor, served)
        sid = dial(page)
        held: list[Route] = []
        page.route(
            f"**/calls/{sid}",
            lambda route: held.append(route) if "in-progress" in (route.request.post_data or "") else route.continue_(),
        )

        async def move() -> None:
            served.app.hand_over_now(sid, "a test")

        served.run(move())
        expect(page.locator("#state")).to_have_text("Reconnecting…")
        page.get_by_role("button", name="Hang up").click()
        ended(page, "You have hung up.")


def test_keys_work_after_a_slider_and_the_button_waits_for_the_call(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        page = open_phone(visitor, served)
        page.locator("#settings [name=delay]").evaluate(
            "(each) => { each.closest('details')?.setAttribute('open', ''); each.focus(); }"
        )
        page.keyboard.press("5")
        expect(page.locator("#display-number")).to_have_text("5")
        page.get_by_label("Your caller ID").press("6")
        expect(page.locator("#display-number")).to_have_text("5")
        page.get_by_label("Hold to talk: the button, or the space bar").check()
        held: list[Route] = []
        page.route("**/console/phone/calls", lambda route: held.append(route))
        turns: list[str] = []
        page.on("request", lambda request: turns.append(request.url) if request.url.endswith("/turn") else None)
        with page.expect_request("**/console/phone/calls"):
            page.get_by_role("button", name="Call the agent").click()
        expect(page.locator("#state")).to_have_text("Calling…")
        page.keyboard.down(" ")
        page.keyboard.up(" ")
        held[0].continue_()
        expect(page.locator("#handset")).to_have_attribute("data-state", "up")
        page.locator("#settings [name=delay]").focus()
        page.keyboard.down(" ")
        expect(page.locator("#talk")).to_have_class("round held")
        with page.expect_request("**/turn"):
            page.keyboard.up(" ")
        assert not [each for each in turns if "null" in each]
        page.get_by_role("button", name="Hang up").click()
        ended(page, "You have hung up.")


LATE = """
async () => {
  const page = document.querySelector('script[src$="phone.js"]').src;
  const { Sound } = await import(page.replace("phone.js", "phone-sound.js"));
  const sound = await Sound.open();
  const heard = [];
  sound.onWait = (wait) => heard.push(wait);
  const { port } = sound.node;
  port.dispatchEvent(new MessageEvent("message", { data: { wait: 1 } }));
  sound.close();
  port.dispatchEvent(new MessageEvent("message", { data: { wait: 2 } }));
  return heard;
}
"""


def test_a_call_that_is_over_reports_no_more_sound(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        assert 2 not in open_phone(visitor, served).evaluate(LATE)


def test_a_call_outlives_a_restart_of_the_server(serves: Serves, visitor: Visitor) -> None:
    port = free_port()
    with serves(an_agent(), port=port) as served:
        page = open_phone(visitor, served)
        sid = dial(page)
        expect(page.locator("#turns")).to_contain_text("Chez Nous, good evening!")
    expect(page.locator("#state")).to_have_text("Reconnecting…")
    with serves(an_agent(), port=port) as served:
        expect(page.locator("#state")).to_have_text("Connected", timeout=20_000)
        assert list(served.app.calls) == [sid]
        page.get_by_role("button", name="Hang up").click()
        ended(page, "You have hung up.")
        served.run(until_idle(served))


def test_a_computer_that_slept_has_no_call_any_more(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        page = open_phone(visitor, served)
        dial(page)
        page.evaluate("Date.now = ((now) => () => now() + 60_000)(Date.now)")
        ended(page, "This computer slept, so the call is over.")
        served.run(until_idle(served))


def test_without_a_server_the_call_ends_with_words(serves: Serves, visitor: Visitor) -> None:
    with serves(an_agent()) as served:
        page = open_phone(visitor, served)
        dial(page)
    ended(page, "The server does not answer.", timeout=40_000)


@pytest.mark.parametrize("microphone", [("--use-fake-device-for-media-stream", "--deny-permission-prompts")])
def test_a_refused_microphone_is_told(serves: Serves, visitor: Visitor, microphone: tuple[str, ...]) -> None:
    with serves(an_agent()) as served:
        page = open_phone(visitor, served)
        page.get_by_role("button", name="Call the agent").click()
        expect(page.get_by_role("alert")).to_contain_text("The browser may not use the microphone.")
        ended(page, "No call was made")
        assert served.app._parts.calls.pending == {}


@pytest.mark.parametrize("microphone", [("--use-fake-ui-for-media-stream",)])
def test_no_microphone_is_told(serves: Serves, visitor: Visitor, microphone: tuple[str, ...]) -> None:
    with serves(an_agent()) as served:
        page = open_phone(visitor, served)
        page.get_by_role("button", name="Call the agent").click()
        expect(page.get_by_role("alert")).to_contain_text("There is no microphone.")


def test_the_page_is_accessible(
    serves: Serves, visitor: Visitor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serves(an_agent()) as served:
        for theme, (width, height) in product(THEMES, SIZES):
            page = open_phone(visitor, served, width=width, height=height, theme=theme)
            dial(page)
            expect(page.locator("#turns")).to_contain_text("Chez Nous, good evening!")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert faults(page) == []
            picture(page, f"phone-{theme}-{width}", tmp_path)
            page.get_by_role("button", name="Hang up").click()
            ended(page, "You have hung up.")
            page.close()
        with capsys.disabled():
            weigh("phone", lambda page: page.goto(f"{served.url}/console/phone"), visitor)
