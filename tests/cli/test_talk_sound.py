"""A whole call through a real sound server: PulseAudio without hardware, a null sink for each direction.

The caller's voice is played into the sink whose monitor is the microphone. The monitor of the other sink records what
the loudspeaker played; that recording is the truth that the call's own record is held against.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from phoneagent.protocol.audio import audioop
from phoneagent.sim.recording import write_stereo
from phoneagent.sim.sound.card import load_backend
from phoneagent.sim.sound.devices import SoundError
from tests.patience import HANG_SECONDS
from tests.recordings import read_wav

DATA = Path(__file__).parent.parent / "data"
TOLERANCE_MS = 150
NAP_SECONDS = 0.05
SLICE_MS = 10
LOUD = 150
"""RMS above which the agent's voice is heard; the sinks themselves are silent."""

AGENT = """
from phoneagent import Agent, PhoneApp

app = PhoneApp(Agent(instructions="Answer.", greeting="Good evening."))
"""
SCRIPT = f"""
default = "Yes."

[[turn]]
heard = "disposed|young|man"
say = "{"This answer is long, so that there is time to interrupt it before it has been said. " * 3}"

[[turn]]
heard = "married|woman|amiable"
say = "Of course, I have stopped."
"""


def missing() -> str | None:
    """Name what the test needs and this machine does not have."""
    for program in ("pulseaudio", "pactl", "paplay", "parec"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: pulseaudio, pulseaudio-utils)"
    plugin = "alsa-lib/libasound_module_pcm_pulse.so"
    if not any(True for place in ("lib", "lib64", "lib/*") for _ in Path("/usr").glob(f"{place}/{plugin}")):
        return "ALSA cannot reach PulseAudio (Debian: libasound2-plugins)"
    try:
        load_backend()
    except SoundError as error:
        return str(error)
    return None


class Burst(NamedTuple):
    """A stretch of sound, in ms from the start of its recording."""

    start: float
    end: float


def bursts(pcm: bytes, *, gap_ms: float = 800) -> list[Burst]:
    """Find what is loud in 16-bit PCM at 8 kHz; silences shorter than `gap_ms` belong to it."""
    found: list[Burst] = []
    step = SLICE_MS * 16
    for number in range(len(pcm) // step):
        if audioop.rms(pcm[number * step : (number + 1) * step], 2) > LOUD:
            start, end = number * SLICE_MS, (number + 1) * SLICE_MS
            if found and start - found[-1].end < gap_ms:
                found[-1] = Burst(found[-1].start, end)
            else:
                found.append(Burst(start, end))
    return [each for each in found if each.end - each.start > 50]


class Room:
    """A PulseAudio of its own: a microphone to speak into, and a loudspeaker that is recorded."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_RUNTIME_PATH": str(folder),
            "PULSE_SERVER": f"unix:{folder}/native",
        }
        self._stack, self._folder = stack, folder
        self.late_ms = 0.0
        """How late this process was at most: everything that plays and records waits as long."""
        self._output: Path | None = None
        self._recording = folder / "loudspeaker.raw"
        sinks = [["-L", f"module-null-sink sink_name={name} rate=48000"] for name in ("mouth", "loudspeaker")]
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--realtime=no"]
        self._start([*command, "-L", f"module-native-protocol-unix socket={folder}/native", *sinks[0], *sinks[1]])
        self.wait(lambda: self._run("pactl", "info") == 0, "PulseAudio is up")
        assert self._run("pactl", "set-default-sink", "loudspeaker") == 0
        assert self._run("pactl", "set-default-source", "mouth.monitor") == 0
        # A null sink without a listener that is in a hurry works in blocks of two seconds.
        record = ["parec", "--rate=8000", "--channels=1", "--format=s16le", "--latency-msec=10"]
        self._start([*record, "--device=mouth.monitor", str(folder / "mouth.raw")])
        self._start([*record, "--device=loudspeaker.monitor", str(self._recording)])

    def start_talk(self, *arguments: str, output: Path) -> subprocess.Popen[bytes]:
        """Start `phoneagent talk`."""
        command = [sys.executable, "-m", "phoneagent", "talk", *arguments]
        self._output = output
        return self._start(command, output=output)

    def say(self, name: str, seconds: float = 3) -> None:
        """Speak the beginning of a recording into the microphone."""
        voice = read_wav((DATA / name).read_bytes())[: round(seconds * 8000)]
        file = self._folder / name
        file.write_bytes(write_stereo(voice, voice))
        assert self._run("paplay", "--device=mouth", "--latency-msec=20", str(file)) == 0

    def heard(self) -> list[Burst]:
        """What the loudspeaker has played so far."""
        return bursts(self._recorded())

    def silent_ms(self) -> float:
        """For how long the loudspeaker has been silent."""
        return len(self._recorded()) / 16 - max((each.end for each in self.heard()), default=0.0)

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = HANG_SECONDS) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"{seconds} s passed before {what}: {self.heard()}\n{self._shown()}"
            due = time.monotonic() + NAP_SECONDS
            time.sleep(NAP_SECONDS)
            self.late_ms = max(self.late_ms, 1000 * (time.monotonic() - due))

    def _shown(self) -> str:
        return self._output.read_text() if self._output is not None else ""

    def _recorded(self) -> bytes:
        return self._recording.read_bytes() if self._recording.exists() else b""

    def _run(self, *command: str) -> int:
        quiet = subprocess.DEVNULL
        return subprocess.run(
            command, env=self.environment, stdout=quiet, stderr=quiet, timeout=HANG_SECONDS, check=False
        ).returncode

    def _start(self, command: list[str], output: Path | None = None) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((output or Path(os.devnull)).open("wb"))
        process = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def end() -> None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        self._stack.callback(end)
        return process


@pytest.fixture
def room() -> Iterator[Room]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        # Not tmp_path: the address of a Unix socket has at most 107 characters.
        yield Room(Path(stack.enter_context(tempfile.TemporaryDirectory())), stack)


def test_a_call_by_microphone_and_loudspeaker(room: Room, tmp_path: Path) -> None:
    (tmp_path / "agent_of_talk.py").write_text(AGENT, encoding="utf-8")
    (tmp_path / "script.toml").write_text(SCRIPT, encoding="utf-8")
    saved, shown = tmp_path / "saved", tmp_path / "shown"
    options = ("--sim", "--script", str(tmp_path / "script.toml"), "--save", str(saved))
    talk = room.start_talk(str(tmp_path / "agent_of_talk.py"), *options, output=shown)

    room.wait(lambda: bool(room.heard()) and room.silent_ms() > 1000, "the greeting was heard")
    room.say("librivox-0880.ulaw.wav")
    room.wait(lambda: len(room.heard()) > 1 and lasted(room.heard()[1]) > 1500, "the answer was heard for 1.5 s")
    room.say("librivox-0920.ulaw.wav", 2.2)
    room.wait(lambda: len(room.heard()) > 2 and room.silent_ms() > 1000, "the last answer was heard")
    talk.send_signal(signal.SIGINT)
    assert talk.wait(HANG_SECONDS) == 0, shown.read_text()

    report: dict[str, Any] = json.loads((saved / "report.json").read_text())
    assert report["ended_by"] == "caller"
    assert not report["violations"]
    check_the_record(room.heard(), saved / "call.wav", report, TOLERANCE_MS + 2 * room.late_ms)


def check_the_record(truth: list[Burst], recording: Path, report: dict[str, Any], tolerance_ms: float) -> None:
    """Hold what the call's record says was heard against what the loudspeaker's monitor recorded."""
    with wave.open(str(recording)) as file:
        right = audioop.tomono(file.readframes(file.getnframes()), 2, 0, 1)
    record = bursts(right)
    assert len(record) == len(truth) == 3
    offset = truth[0].start - record[0].start
    for real, noted in zip(truth, record, strict=True):
        assert noted.start + offset == pytest.approx(real.start, abs=tolerance_ms)
        assert noted.end + offset == pytest.approx(real.end, abs=tolerance_ms)

    agent = [turn for turn in report["turns"] if turn["role"] == "agent"]
    assert [turn["interrupted"] for turn in agent] == [False, True, False]
    late_ms = report["sound"]["output_ms"]
    for turn, real in zip(agent, truth, strict=True):
        assert turn["heard_ms"] == pytest.approx(lasted(real), abs=tolerance_ms + late_ms)
    [barge] = report["barge_ins"]
    assert barge["audio_end_ms"] == pytest.approx(lasted(truth[1]), abs=tolerance_ms + late_ms)
    assert lasted(truth[1]) < agent[1]["said_ms"] - 1000, "the interruption cut the audio"
    assert [turn["role"] for turn in report["turns"]].count("caller") >= 2, "both turns of the caller's were heard"


def lasted(burst: Burst) -> float:
    return burst.end - burst.start
