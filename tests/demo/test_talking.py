"""Whole calls on loopback with a fake sound card, whose callbacks run in a thread in real time."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from phoneagent import Agent, PhoneApp
from phoneagent.demo.run import Senses
from phoneagent.demo.talking import ECHO_MS, Sound, Talked, simulated_model, talk
from phoneagent.protocol.audio import audioop
from phoneagent.sim.model.script import Script
from phoneagent.sim.model.server import Model
from phoneagent.sim.sound.card_microphone import CardMicrophone
from phoneagent.sim.sound.card_playout import CardPlayout
from phoneagent.sim.sound.devices import SoundError, list_devices
from tests.patience import HANG_SECONDS
from tests.recordings import read_wav
from tests.sim.sound.fake_card import FakeBackend, Hardware

pytestmark = pytest.mark.anyio

VOICE = read_wav((Path(__file__).parent.parent / "data" / "librivox-0880.ulaw.wav").read_bytes())[:10000]
SCRIPT = """
[[turn]]
caller = "Hello?"
say = "This answer is long, so that there is time to interrupt it before all of it has been said, is there not?"
[[turn]]
caller = "Stop!"
say = "Yes."
"""


class Phone:
    """A person at a fake sound card, and the call that they hold."""

    def __init__(self, hardware: Hardware, folder: Path | None = None, *, half_duplex: bool = False) -> None:
        self.hardware, self.folder, self.half_duplex = hardware, folder, half_duplex
        self.stop = asyncio.Event()
        self.press: Callable[[str], object] = print
        self.console = Console(file=io.StringIO(), width=200, highlight=False)

    @contextmanager
    def keys(self, on_key: Callable[[str], object]) -> Iterator[bool]:
        self.press = on_key
        yield True

    async def call(self, app: PhoneApp, *, simulated: bool = True) -> Talked:
        [device, _] = list_devices(self.hardware.backend)
        sound = Sound(
            backend=self.hardware.backend, input_device=device, output_device=device, half_duplex=self.half_duplex
        )
        return await talk(
            app,
            sound,
            model=simulated_model(Script.parse(SCRIPT), Senses.scripted()) if simulated else None,
            caller="+15550100001",
            save=self.folder,
            stop=self.stop,
            keys=self.keys,
            console=self.console,
        )

    @property
    def shown(self) -> str:
        return self.console.file.getvalue()

    def sounds(self) -> int:
        """How many ms of sound the loudspeaker has played."""
        pcm = bytes(self.hardware.played)
        return sum(10 for at in range(0, len(pcm), 160) if audioop.rms(pcm[at : at + 160], 2) > 100)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            while not condition():
                await asyncio.sleep(0.02)


@pytest.fixture
def hardware() -> Iterator[Hardware]:
    with Hardware(FakeBackend()) as hardware:
        yield hardware


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "")
    for name in ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "PUBLIC_URL", "OPENAI_API_KEY", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)


def app() -> PhoneApp:
    return PhoneApp(Agent(instructions="Answer.", greeting="Good day."))


async def test_a_call_with_an_interruption_and_a_key(hardware: Hardware, tmp_path: Path):
    phone = Phone(hardware, tmp_path)
    call = asyncio.create_task(phone.call(app()))
    await phone.until(lambda: "Good day." in phone.shown)
    greeted = phone.sounds()
    phone.press("5")
    hardware.say(VOICE)
    await phone.until(lambda: phone.sounds() > greeted + 600)
    hardware.say(VOICE)
    await phone.until(lambda: "barge-in" in phone.shown)
    await phone.until(lambda: "Yes." in phone.shown)
    phone.stop.set()
    talked = await call
    assert talked.passed, (talked.trouble, talked.report.violations)
    assert talked.report.ended_by == "caller"
    [barge] = talked.report.barge_ins
    assert barge.audio_end_ms == pytest.approx(barge.truth_heard_ms, abs=150)
    heard_ms = sum(turn.heard_ms for turn in talked.report.turns if turn.role == "agent")
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["sound"]["output_name"] == "Fake headset"
    assert heard_ms == pytest.approx(phone.sounds(), abs=600), "a murmur has pauses, and little else differs"
    assert "key" in phone.shown
    assert "cut off, not heard" in (tmp_path / "transcript.txt").read_text()
    assert (tmp_path / "timeline.svg").read_text().startswith("<svg")
    assert read_wav((tmp_path / "call.wav").read_bytes())
    assert talked.saved == ["call.wav", "timeline.svg", "transcript.txt", "report.json"]
    assert (tmp_path / "talk.db").exists()
    assert not (tmp_path / "phoneagent.db").exists(), "a folder may have the app's own database"


async def test_a_file_that_cannot_be_written_costs_no_other_one(hardware: Hardware, tmp_path: Path):
    (tmp_path / "timeline.svg").mkdir()
    phone = Phone(hardware, tmp_path)
    call = asyncio.create_task(phone.call(app()))
    await phone.until(lambda: "Good day." in phone.shown)
    phone.stop.set()
    talked = await call
    assert talked.trouble == f"{tmp_path}/timeline.svg cannot be written (Is a directory): choose another folder"
    assert talked.saved == ["call.wav", "transcript.txt", "report.json"]
    assert all((tmp_path / name).is_file() for name in talked.saved)


async def test_half_duplex_waits_until_the_echo_has_come_through_the_microphone():
    [device, _] = list_devices(backend := FakeBackend())
    sound = Sound(backend=backend, input_device=device, output_device=device, half_duplex=True)
    microphone, playout = CardMicrophone(), CardPlayout(0.0)
    async with sound.open(microphone, playout, lambda: None) as card:
        ended = time.monotonic() - ECHO_MS / 1000
        playout.media(VOICE[:160], ended)
        playout.take(160, ended - 0.05)
        assert not microphone.muted()
        card.state.input_ms, microphone.buffer.average_ms = HANG_SECONDS * 500, HANG_SECONDS * 500
        assert microphone.muted()


async def test_half_duplex_does_not_hear_while_the_agent_speaks(hardware: Hardware):
    phone = Phone(hardware, half_duplex=True)
    call = asyncio.create_task(phone.call(app()))
    await phone.until(lambda: phone.sounds() > 0)
    hardware.say(VOICE)
    await phone.until(lambda: "Good day." in phone.shown)
    phone.stop.set()
    talked = await call
    assert talked.report.barge_ins == []
    [greeting] = [turn for turn in talked.report.turns if turn.role == "agent"]
    assert not greeting.interrupted


async def test_a_headset_that_is_unplugged_ends_the_call_with_a_reason(hardware: Hardware):
    phone = Phone(hardware)
    call = asyncio.create_task(phone.call(app()))
    await phone.until(lambda: phone.sounds() > 0)
    hardware.unplugged.set()
    talked = await call
    assert not talked.passed
    assert "unplugged?" in (talked.trouble or "")


async def test_the_receiver_and_the_recordings_of_the_app_get_nothing(
    hardware: Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WEBHOOK_URL", "https://office.example.com/calls")
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_" + "A" * 44)
    monkeypatch.setenv("RECORD_AUDIO", "s3://bucket/calls")
    phone, served = Phone(hardware, tmp_path), app()
    call = asyncio.create_task(phone.call(served))
    await phone.until(lambda: "Good day." in phone.shown)
    phone.stop.set()
    assert (await call).passed
    where = served.settings.record_audio
    assert (served.settings.webhook_url, where and where.get_secret_value()) == (None, f"{tmp_path}/recordings")


async def test_the_model_of_the_settings_and_an_account_that_is_never_used(
    hardware: Hardware, monkeypatch: pytest.MonkeyPatch
):
    async with Model(Script.parse(SCRIPT)) as model:
        monkeypatch.setenv("REALTIME_URL", model.url)
        monkeypatch.setenv("TWILIO_ACCOUNT_SID", "AC" + "7" * 32)
        monkeypatch.setenv("TWILIO_AUTH_TOKEN", "the-token-of-a-real-account")
        monkeypatch.setenv("PUBLIC_URL", "https://agent.example.org")
        phone, served = Phone(hardware), app()
        call = asyncio.create_task(phone.call(served, simulated=False))
        await phone.until(lambda: "Good day." in phone.shown)
        phone.stop.set()
        assert (await call).passed
        assert len(model.sessions) == 1
        assert served.settings.twilio_account_sid != "AC" + "7" * 32
        assert (served.settings.twilio_api_url or "").startswith("http://127.0.0.1:")


async def test_a_card_that_cannot_be_opened_makes_no_call(hardware: Hardware):
    hardware.backend.busy = True
    with pytest.raises(SoundError, match="another program"):
        await Phone(hardware).call(app())
