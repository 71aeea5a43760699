"""The command `phoneagent talk`, with a fake sound card: its choices, its words, and how it ends."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from phoneagent.demo.report import Report
from phoneagent.demo.talking import Talked
from phoneagent.sim.sound.devices import SoundError
from tests.cli.conftest import run
from tests.patience import HANG_SECONDS
from tests.sim.sound.fake_card import FakeBackend, Hardware

module = importlib.import_module("phoneagent.cli.talk")  # the package has the function under this name

SOUND = {"input_ms": 20.0, "output_ms": 60.0, "buffer_ms": 45.0, "xruns": 1, "underruns": 2}
REPO = Path(__file__).parent.parent.parent


class Ear:
    async def hear(self, ulaw: bytes) -> str:
        return ""


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    backend = FakeBackend()
    monkeypatch.setattr(module, "load_backend", lambda: backend)
    return backend


@pytest.fixture
def asked(backend: FakeBackend, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The call is replaced; these are its arguments."""
    seen: dict[str, object] = {}

    async def hold_call(app: object, sound: object, **options: object) -> Talked:
        seen.update(options, app=app, sound=sound)
        return Talked(Report("CA1", "caller", 31_000), SOUND)

    monkeypatch.setattr(module, "hold_call", hold_call)
    return seen


def test_the_devices_are_listed(backend, folder, monkeypatch, capsys):
    assert run(monkeypatch, "talk", "--devices") == 0
    assert capsys.readouterr().out.splitlines() == [
        "  0  Fake headset: microphone and loudspeaker, 44100 Hz (default microphone) (default loudspeaker)",
        "  1  Fake monitor: loudspeaker, 48000 Hz",
    ]


def test_the_real_model_is_taken_where_there_is_a_key(asked, monkeypatch, capsys):
    assert run(monkeypatch, "talk", "cli_app.py", "--output", "monitor", "--half-duplex") == 0
    assert asked["model"] is None
    sound = asked["sound"]
    assert (sound.input_device.name, sound.output_device.name, sound.half_duplex) == (
        "Fake headset",
        "Fake monitor",
        True,
    )
    out = " ".join(capsys.readouterr().out.split())
    assert "simulated" not in out
    assert "you cannot interrupt" in out
    assert "31.0 s, 0 turns, ended by caller" in out
    assert "sound card: 20 ms in, 60 ms out, 45 ms buffered; 3 interruptions" in out


@pytest.mark.parametrize("options", [("--sim",), ()])
def test_the_simulated_model_otherwise(asked, monkeypatch, capsys, options):
    if not options:
        monkeypatch.delenv("OPENAI_API_KEY")
        for name in ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "PUBLIC_URL"):  # none of them is needed
            monkeypatch.delenv(name)
    assert run(monkeypatch, "talk", "cli_app.py", *options) == 0
    assert asked["model"] is not None
    out = " ".join(capsys.readouterr().out.split())
    assert "The model is simulated" in out
    assert "Use a headset" in out


def test_half_of_a_model_is_not_simulated(asked, monkeypatch, capsys):
    monkeypatch.setenv("REALTIME_PROVIDER", "azure")
    assert run(monkeypatch, "talk", "cli_app.py") == 2
    assert "AZURE_OPENAI_ENDPOINT is missing" in capsys.readouterr().err


def test_a_brain_without_an_ear_is_refused(asked, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(monkeypatch, "talk", "cli_app.py", "--brain", "http://127.0.0.1:9/v1") == 2
    assert "--brain needs a recognizer" in capsys.readouterr().err


def test_a_brain_that_does_not_answer_is_one_line(asked, monkeypatch, capsys):
    monkeypatch.setattr(module.Senses, "best", lambda: replace(module.Senses.scripted(), ear=Ear()))
    assert run(monkeypatch, "talk", "cli_app.py", "--brain", "http://127.0.0.1:9/v1") == 1
    assert "127.0.0.1:9" in capsys.readouterr().err


def test_without_a_target_the_restaurant_answers(asked, monkeypatch, capsys):
    assert run(monkeypatch, "talk", "--sim") == 0
    assert asked["app"].agent.name == "host"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--input", "webcam"), "--input webcam: no microphone has this number or name"),
        (("--save", "cli_app.py/x"), "--save cli_app.py/x: Not a directory; choose another folder"),
    ],
)
def test_a_mistake_is_one_line(asked, monkeypatch, capsys, options, words):
    assert run(monkeypatch, "talk", "cli_app.py", "--sim", *options) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_machine_without_sound_is_one_line(folder, monkeypatch, capsys):
    def load() -> None:
        raise SoundError("the package sounddevice is not installed")

    monkeypatch.setattr(module, "load_backend", load)
    assert run(monkeypatch, "talk") == 1
    assert capsys.readouterr().err == "phoneagent: the package sounddevice is not installed\n"


def test_a_call_that_failed_is_told(asked, monkeypatch, capsys):
    async def hold_call(*_: object, **__: object) -> Talked:
        report = Report("CA1", "error", 10, violations=["phone: 31951\x1bnonsense"])
        return Talked(report, SOUND, "the sound card's input was lost: unplugged?")

    monkeypatch.setattr(module, "hold_call", hold_call)
    assert run(monkeypatch, "talk", "cli_app.py", "--sim") == 1
    out = capsys.readouterr().out
    assert "31951 nonsense" in out
    assert "unplugged?" in out


def test_ctrl_c_hangs_up_a_real_call(backend, folder, monkeypatch, capsys, tmp_path):
    with Hardware(backend) as hardware:

        def interrupt() -> None:
            hardware.wait(lambda: any(hardware.played))
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert run(monkeypatch, "talk", "--sim", "--save", str(tmp_path / "saved")) == 0
        thread.join()
    out = " ".join(capsys.readouterr().out.split())
    assert "Hanging up. Ctrl-C again ends at once." in out
    assert "ended by caller" in out
    assert {each.name for each in (tmp_path / "saved").iterdir()} >= {"call.wav", "report.json", "timeline.svg"}


SECOND_CTRL_C = """
import asyncio, importlib, os, signal, sys
module = importlib.import_module("phoneagent.cli.talk")
from tests.sim.sound.fake_card import FakeBackend

async def hold_call(app, sound, *, stop, keys, **_):
    with keys(print) as typed:
        assert typed
        os.kill(os.getpid(), signal.SIGINT)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)  # a hang-up that takes long

module.load_backend = FakeBackend
module.hold_call = hold_call
sys.argv = ["phoneagent", "talk", "--sim"]
from phoneagent.cli import main
main()
"""


def test_a_second_ctrl_c_ends_at_once_and_restores_the_terminal(folder):
    termios = pytest.importorskip("termios")
    person, program = os.openpty()
    try:
        before = termios.tcgetattr(program)[:4]
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        command = [sys.executable, "-c", SECOND_CTRL_C]
        done = subprocess.run(
            command, stdin=program, capture_output=True, env=environment, timeout=HANG_SECONDS, check=False
        )
        assert done.returncode == 130, done.stderr
        assert termios.tcgetattr(program)[:4] == before
    finally:
        os.close(person)
        os.close(program)
