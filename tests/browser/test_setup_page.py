"""The setup page in a browser: checks as they come, the number pointed here, and settings tried on the next call."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.sync_api import Page, expect

from phoneagent.agent.tools import tool
from phoneagent.doctor.checks import Check, failed, note, ok, skipped
from phoneagent.sim import TwilioRest
from tests.browser.conftest import ACCOUNT_SID, AUTH_TOKEN, Served, Serves, Visitor, an_agent
from tests.browser.look import SIZES, THEMES, faults, picture, weigh
from tests.patience import HANG_SECONDS
from tests.ports import free_port

pytestmark = pytest.mark.real_time

NUMBER = "+15550100002"
REPORT = (
    ok("settings", "complete"),
    ok("Twilio", "the credentials are valid, a trial account: only verified callers get through"),
    ok("clock", "within 60 s of Twilio's"),
    failed(
        "number", 'it points to https://old.example/voice: set "A call comes in" to https://agent.example/twilio/voice'
    ),
    ok("webhook", "answers Twilio and refuses a forged signature"),
    skipped("media socket", "the webhook must answer first"),
    failed("model", "api.openai.com: the key is <refused> (401): check OPENAI_API_KEY"),
    note("model's session", "it runs without audio.input.noise_reduction"),
    ok("database", "phoneagent.db, created at the first call"),
)


@tool
async def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return "sunny"


@tool
async def remember(fact: str) -> str:
    """Remember a fact about the caller."""
    return "ok"


SCRIPT = """
greeting = "Chez Nous, good evening!"
"""
AGENT = an_agent(instructions="You answer the phone of a restaurant.\nBe brief.", tools=[get_weather, remember])


class Doctor:
    """Checks that come when a test lets them: `slow` holds back those after the first."""

    def __init__(self, *, slow: bool = False) -> None:
        self.runs = 0
        self.go_on = threading.Event()
        if not slow:
            self.go_on.set()

    async def examine(self) -> AsyncGenerator[Check]:
        self.runs += 1
        for number, check in enumerate(REPORT):
            if number == 1:
                await asyncio.to_thread(self.go_on.wait, 20)
            yield check


@contextmanager
def setup_of(serves: Serves, doctor: Doctor | None = None, **changes: Any) -> Iterator[Served]:
    """Serve the app with the checks of a doctor."""
    with serves(AGENT, SCRIPT, **changes) as served:
        served.app.examine = (doctor or Doctor()).examine
        yield served


def open_setup(visitor: Visitor, served: Served, **options: Any) -> Page:
    page = visitor.watch(visitor.context(**options).new_page())
    show_setup(page, served)
    return page


def show_setup(page: Page, served: Served) -> None:
    page.goto(f"{served.url}/console/setup")
    expect(page.locator("#checks")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#number-state")).not_to_have_text("asking Twilio…")


@pytest.fixture
def twilio() -> Iterator[TwilioRest]:
    """A simulated Twilio in the thread of its own event loop."""
    started: concurrent.futures.Future[tuple[TwilioRest, asyncio.AbstractEventLoop, asyncio.Event]]
    started = concurrent.futures.Future()

    async def run() -> None:
        stop = asyncio.Event()
        async with TwilioRest(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN) as rest:
            rest.add_number(NUMBER, voice_url="https://old.example/voice")
            started.set_result((rest, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    rest, loop, stop = started.result(20)
    yield rest
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)
    assert rest.violations == []


# --- the checks ---


def test_the_checks_are_shown_as_they_come_and_again(serves: Serves, visitor: Visitor) -> None:
    doctor = Doctor(slow=True)
    with setup_of(serves, doctor) as served:
        page = visitor.visit(f"{served.url}/console/setup")
        lines = page.locator("#checks li")
        expect(lines).to_have_count(1)
        expect(page.locator("#checks-summary")).to_have_text("checking…")
        doctor.go_on.set()
        expect(lines).to_have_count(len(REPORT))
        expect(page.locator("#checks-summary")).to_have_text("2 to repair")
        model = page.locator("#checks li", has_text="api.openai.com")
        expect(model.locator(".text")).to_have_text("api.openai.com: the key is <refused> (401): check OPENAI_API_KEY")
        expect(model.locator("pre")).to_have_text("OPENAI_API_KEY=")
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        model.get_by_role("button").click()
        expect(model.get_by_role("button")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == "OPENAI_API_KEY="
        page.get_by_role("button", name="Check again").click()
        expect(page.locator("#checks-problem")).to_contain_text("try again in")
        assert doctor.runs == 1


def test_without_a_doctor_the_page_says_what_to_run(serves: Serves, visitor: Visitor) -> None:
    with serves(AGENT) as served:
        page = open_setup(visitor, served)
        expect(page.locator("#checks-problem")).to_contain_text("run `phoneagent doctor` in a terminal")
        link = page.get_by_role("link", name="Solar system")
        assert (link.get_attribute("href") or "").endswith("/examples/solar_system.py")


def test_a_server_that_is_gone_is_said_and_the_page_goes_on_after_it_is_back(serves: Serves, visitor: Visitor) -> None:
    port = free_port()
    with setup_of(serves, port=port) as served:
        page = open_setup(visitor, served)
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#checks-problem")).to_contain_text("The server does not answer")
    with setup_of(serves, port=port):
        page.get_by_role("button", name="Check again").click()
        expect(page.locator("#checks li")).to_have_count(len(REPORT))


# --- the number ---


def test_the_number_is_pointed_here_once_that_is_confirmed(
    serves: Serves, visitor: Visitor, twilio: TwilioRest
) -> None:
    (number,) = twilio.numbers.values()
    with setup_of(serves, twilio_api_url=twilio.url, twilio_phone_number=NUMBER) as served:
        page = open_setup(visitor, served)
        expect(page.locator("#number-state")).to_have_text("points elsewhere")
        assert NUMBER not in page.content()
        page.locator("#point").click()
        page.get_by_role("button", name="Leave it").click()
        assert number["voice_url"] == "https://old.example/voice"
        page.locator("#point").click()
        expect(page.locator("#confirm-before")).to_have_text("https://old.example/voice")
        page.get_by_role("dialog").get_by_role("button", name="Point it here").click()
        expect(page.locator("#number-state")).to_have_text("calls come here")
        expect(page.locator("#point-said")).to_contain_text("Before, it was https://old.example/voice")
        assert number["voice_url"].startswith("https://agent.example/twilio/voice#")
        expect(page.locator("#point")).to_be_disabled()


# --- trial settings ---


def test_settings_are_tried_on_the_next_call_and_copied_as_python(serves: Serves, visitor: Visitor) -> None:
    with setup_of(serves) as served:
        page = open_setup(visitor, served)
        expect(page.get_by_label("Instructions")).to_have_value(str(AGENT.instructions))
        page.get_by_label("Voice").fill("cedar")
        page.get_by_label("Speed").fill("1.1")
        page.get_by_label("Model", exact=True).fill("gpt-realtime-mini")
        page.get_by_label("Turn detection").select_option("semantic_vad")
        page.get_by_label("Eagerness").select_option("low")
        page.get_by_label("Instructions").fill("Be <b>very</b> brief.")
        page.get_by_label("get_weather").uncheck()
        page.get_by_role("button", name="Use on the next call").click()
        expect(page.locator("#trial-state")).to_have_text("on the next call")
        python = page.locator("#python-text")
        expect(python).to_contain_text("voice=Voice('cedar', speed=1.1),")
        expect(python).to_contain_text("# .env: OPENAI_MODEL=gpt-realtime-mini")

        served.run(call_from_the_browser(served))
        session = served.model.sessions[-1]
        assert session.session["model"] == "gpt-realtime-mini"
        assert session.session["instructions"] == "Be <b>very</b> brief."
        assert session.session["audio"]["output"]["voice"] == "cedar"
        assert session.session["audio"]["output"]["speed"] == 1.1
        assert session.session["audio"]["input"]["turn_detection"]["eagerness"] == "low"
        assert [each["name"] for each in session.session["tools"]] == ["remember"]

        served.run(call_by_telephone(served))
        session = served.model.sessions[-1]
        assert session.session["model"] == "gpt-realtime-2.1"
        assert session.session["audio"]["output"]["voice"] == "marin"

        page.reload()  # the server keeps it
        expect(page.get_by_label("Voice")).to_have_value("cedar")
        expect(page.get_by_label("get_weather")).not_to_be_checked()
        page.get_by_role("button", name="Back to the agent's own").click()
        expect(page.locator("#trial-state")).to_have_text("the agent's own")
        expect(page.get_by_label("Voice")).to_have_value("")
        served.run(call_from_the_browser(served))
        assert served.model.sessions[-1].session["audio"]["output"]["voice"] == "marin"


def test_what_the_model_would_refuse_is_said(serves: Serves, visitor: Visitor) -> None:
    with setup_of(serves) as served:
        page = open_setup(visitor, served)
        page.get_by_label("Instructions").fill("漢" * 30_000)
        page.get_by_role("button", name="Use on the next call").click()
        expect(page.locator("#trial-problem")).to_contain_text("shorten them")


async def call_from_the_browser(served: Served) -> None:
    """Begin a call as the phone page does, and wait for its session; then report that it is over."""
    before = len(served.model.sessions)
    async with aiohttp.ClientSession(served.url) as http:
        async with http.post("/console/phone/calls", json={}) as answer:
            assert answer.status == 201
            sid = (await answer.json())["call_sid"]
        await until(lambda: len(served.model.sessions) > before and served.model.sessions[-1].session["tools"])
        async with http.post(f"/console/phone/calls/{sid}", json={"status": "completed"}) as answer:
            assert answer.status == 204
    await until(lambda: served.model.sessions[-1].closed)


async def call_by_telephone(served: Served) -> None:
    async with served.phone().dial() as line:
        await line.wait_for_agent(ms=200)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


# --- the look ---


def test_the_page_is_accessible_and_fits(
    serves: Serves, visitor: Visitor, twilio: TwilioRest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with setup_of(serves, twilio_api_url=twilio.url, twilio_phone_number=NUMBER) as served:
        for theme, (width, height) in product(THEMES, SIZES):
            page = open_setup(visitor, served, width=width, height=height, theme=theme)
            page.get_by_label("Voice").fill("cedar")
            page.get_by_label("Turn detection").select_option("server_vad")
            page.get_by_role("button", name="Use on the next call").click()
            expect(page.locator("#trial-state")).to_have_text("on the next call")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert faults(page) == []
            page.evaluate("scrollTo(0, 0)")
            picture(page, f"setup-{theme}-{width}", tmp_path)
            page.close()
        with capsys.disabled():
            weigh("setup", lambda page: show_setup(page, served), visitor)
