"""A web page's call: headless Chromium with a fake microphone talks by WebRTC, and the agent's tools run here."""

from __future__ import annotations

import asyncio
import shutil
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from phoneagent import Agent, CallEnded, CallStarted, Endpoint, PhoneApp, Settings, ToolReturned, TurnEnded
from phoneagent.events import Event, ModelEvent
from phoneagent.protocol.audio import decode_ulaw, silence, tone
from phoneagent.sim import Model, Script, serving
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.sim.speech import Murmur
from phoneagent.store import Store
from tests.end_to_end.conftest import EVENTS
from tests.examples.conftest import load
from tests.patience import HANG_SECONDS

pytest.importorskip("aiortc", reason="the extra `web` is not installed")
playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.real_time,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]
SCRIPT = """
[[turn]]
caller = "Do you have a bell?"
call = "in_stock"
arguments = { article = "bell" }
then = "Yes: {output}"
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def fake_microphone(ulaw: bytes, path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(decode_ulaw(ulaw))
    return path


class Wish(BaseModel):
    subject: str


class Visit:
    """A page in a browser, the app that serves it, and the model that it talks to."""

    def __init__(self, page: Any, model: Model, store: Store) -> None:
        self.page = page
        self.model = model
        self.store = store
        self.events: list[Event] = []
        self.app: PhoneApp

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Any) -> Any:
        try:
            async with asyncio.timeout(HANG_SECONDS):
                while not (found := condition()):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"it never came; there were {self.events}") from None
        return found


@asynccontextmanager
async def visit(microphone: bytes, tmp_path: Path, script: str = SCRIPT) -> AsyncIterator[Visit]:
    """Open the example's page in a browser whose microphone hears that."""
    wav = fake_microphone(microphone, tmp_path / "microphone.wav")
    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    model = Model(Script.parse(script), voice=Murmur(), vad=EnergyGate, api_key="the-api-key")
    async with model, playwright.async_playwright() as p:
        app = load("web_call").app
        endpoint = Endpoint.openai("the-api-key", "gpt-realtime-2.1", base_url=model.base_url)
        given: dict[str, Any] = {"insecure": True, "realtime_url": "ws://unused"}
        made = PhoneApp(app.agent, settings=Settings(**given), endpoint=endpoint, store=store)
        made.router.routes += [route for route in app.routes if route.path == "/"]
        browser = await p.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={wav}%noloop",
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
            ],
        )
        async with serving(made) as url:
            page = await browser.new_page()
            visited = Visit(page, model, store)
            visited.app = made
            made.on(EVENTS)(visited.events.append)
            await page.goto(url)
            try:
                yield visited
            finally:
                await browser.close()
            await visited.until(lambda: not made.calls)
            assert model.violations == []


async def test_a_page_talks_to_the_agent_and_its_tools_run_here(tmp_path: Path) -> None:
    question = silence(5_000) + tone(300, 900) + silence(20_000)
    async with visit(question, tmp_path) as v:
        await v.page.click("#call")
        await v.until(lambda: [turn for turn in v.of(TurnEnded) if "12 left" in turn.turn.text])
        assert await v.page.text_content("#state") == "connected"
        words = await v.page.locator("#words p").all_text_contents()
        await v.page.click("#end")
        (ended,) = await v.until(lambda: v.of(CallEnded))
        said = [(turn.role, turn.text) for turn in ended.transcript]
        assert said == [
            ("agent", "The bicycle shop, hello!"),
            ("caller", "Do you have a bell?"),
            ("agent", "Yes: 12 left."),
        ]
        assert words == [text for _, text in said]
        assert not any(turn.interrupted for turn in ended.transcript)
        (returned,) = v.of(ToolReturned)
        assert (returned.name, returned.output) == ("in_stock", "12 left.")
        (started,) = v.of(CallStarted)
        assert started.direction == "web"
        assert ended.ended_by == "caller"
        await v.store.flush()
        record = await v.store.call(started.call_sid)
        assert record is not None
        assert [(turn.role, turn.text) for turn in record.turns] == said
        (session,) = v.model.sessions
        assert session.session["instructions"].startswith("You answer for a bicycle shop")
        assert all("hangup" in refusal for refusal in v.model.refusals)  # of a call that may be over already
        assert isinstance(v.app.agent, Agent)
        assert v.app._parts.outcomes is not None
        v.app.agent = replace(v.app.agent, outcome=Wish)
        await v.app._parts.outcomes.fill(started.call_sid)
        record = await v.store.call(started.call_sid)
        assert record is not None
        assert record.outcome == {"subject": "example"}  # as the simulated model makes it up


TRACKS = """
window.tracks = [];
const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => {
  const stream = await open(wanted);
  window.tracks.push(...stream.getTracks());
  return stream;
};
"""


async def test_a_call_that_does_not_begin_leaves_no_microphone_on(tmp_path: Path) -> None:
    async with visit(silence(20_000), tmp_path) as v:
        await v.page.add_init_script(TRACKS)
        await v.page.reload()
        held: list[Any] = []

        async def refuse(route: Any) -> None:
            await route.fulfill(status=429, json={"detail": "too many calls"})

        await v.page.route("**/console/session", refuse, times=1)
        state = v.page.locator("#state")
        await v.page.click("#call")
        await playwright.expect(state).to_have_text("it did not work: too many calls")
        await v.page.route("**/console/session", lambda route: held.append(route), times=1)
        await v.page.click("#call")
        await v.until(lambda: held)
        await v.page.click("#end")
        await playwright.expect(state).to_have_text("you hung up")
        async with v.page.expect_response("**/console/session"):
            await held[0].continue_()
        assert await v.page.evaluate("window.tracks.map((each) => each.readyState)") == ["ended", "ended"]
        await playwright.expect(state).to_have_text("you hung up")
        await playwright.expect(v.page.locator("#call")).to_be_enabled()


async def test_user_code_stops_what_the_page_plays(tmp_path: Path) -> None:
    async with visit(silence(20_000), tmp_path) as v:
        seen: list[str] = []
        v.app.on(ModelEvent)(lambda event: seen.append(event.type))
        await v.page.click("#call")
        # the words of the first sounds come a moment later, and without words there is no turn
        words = "response.output_audio_transcript.delta"
        await v.until(lambda: "output_audio_buffer.started" in seen and seen.count(words) >= 3)
        (call,) = v.app.calls.values()
        call.mute()
        (turn,) = [event.turn for event in await v.until(lambda: v.of(TurnEnded))]
        assert turn.interrupted
        assert len(turn.heard_text) < len(turn.text)
        (truncation,) = v.model.sessions[0].truncations
        assert truncation.ok
        await v.page.click("#end")


async def test_the_caller_interrupts_and_the_agent_hangs_up(tmp_path: Path) -> None:
    script = """
[[turn]]
caller = "Wait!"
call = "hang_up"
say = "Goodbye."
"""
    async with visit(silence(1_700) + tone(300, 900) + silence(20_000), tmp_path, script) as v:
        await v.page.click("#call")
        (ended,) = await v.until(lambda: v.of(CallEnded))
        greeting, caller, _ = ended.transcript
        assert greeting.interrupted
        assert len(greeting.heard_text) < len(greeting.text)
        assert caller.text == "Wait!"
        assert ended.ended_by == "agent"
        (truncation,) = v.model.sessions[0].truncations
        assert truncation.ok
        await v.until(lambda: not v.model._web_calls._calls)
        await playwright.expect(v.page.locator("#state")).to_have_text("the call has ended")
