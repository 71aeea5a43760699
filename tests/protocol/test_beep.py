from __future__ import annotations

import math
import random
import sys
from array import array
from pathlib import Path

import pytest

from phoneagent.protocol.audio import encode_ulaw, silence
from phoneagent.protocol.beep import BeepDetector, Tone
from phoneagent.protocol.tones import tones
from phoneagent.protocol.wav import ulaw_of_wav
from phoneagent.sim.speech import Murmur


def tone(*hz: float, seconds: float, amplitude: int = 8000, noise: int = 0) -> bytes:
    rng = random.Random(7)
    samples = array(
        "h",
        (
            round(amplitude * sum(math.sin(2 * math.pi * each * n / 8000) for each in hz) / len(hz))
            + rng.randint(-noise, noise)
            for n in range(int(seconds * 8000))
        ),
    )
    if sys.byteorder == "big":
        samples.byteswap()
    return encode_ulaw(samples.tobytes())


def heard(audio: bytes, piece: int = 160) -> list[Tone]:
    detector = BeepDetector()
    found = [detector.hear(audio[at : at + piece]) for at in range(0, len(audio), piece)]
    return [each for each in found if each is not None]


@pytest.mark.parametrize("piece", [1, 160, 333, 4000])
@pytest.mark.parametrize("hz", [400, 440, 850, 1000, 1400, 2000])
def test_a_beep_is_heard_when_it_ends(hz: float, piece: int) -> None:
    (beep,) = heard(silence(530) + tone(hz, seconds=0.4) + silence(200), piece)
    assert beep.is_beep
    assert beep.hz == pytest.approx(hz, rel=0.01)
    assert 300 <= beep.ms <= 400


@pytest.mark.parametrize("amplitude", [800, 3000, 20_000])
@pytest.mark.parametrize("length", [0.25, 0.5, 1.0, 2.0])
def test_beeps_of_any_loudness_and_length_with_noise(amplitude: int, length: float) -> None:
    assert len(heard(silence(100) + tone(1000, seconds=length, amplitude=amplitude, noise=amplitude // 10))) == 0
    audio = silence(100) + tone(1000, seconds=length, amplitude=amplitude, noise=amplitude // 10) + silence(100)
    assert [each.is_beep for each in heard(audio)] == [True]


def test_a_beep_at_the_end_of_speech_is_heard_within_80_ms() -> None:
    greeting = Murmur().render("You have reached Anna. Please leave a message after the tone.")
    audio = greeting + tone(1000, seconds=0.5)
    detector = BeepDetector()
    assert all(detector.hear(audio[at : at + 160]) is None for at in range(0, len(audio), 160))
    waited = 0
    while detector.hear(silence(20)) is None:
        waited += 20
    assert waited <= 80


def test_a_fax_is_told_before_its_tone_ends_and_only_once() -> None:
    (fax,) = heard(silence(300) + tone(2100, seconds=3.3) + silence(500))
    assert fax.is_fax
    assert not fax.is_beep
    assert fax.ms == 800


@pytest.mark.parametrize(
    "audio",
    [
        silence(2000),
        tones("0123456789*#ABCD"),
        tone(350, 440, seconds=2) + silence(100),  # the dial tone
        tone(440, 480, seconds=2) + silence(100),  # ringing
        tone(1000, seconds=0.1) + silence(100),
        tone(1000, seconds=5) + silence(100),
        tone(1000, seconds=0.5, amplitude=300) + silence(100),
        bytes(random.Random(3).randbytes(16_000)),
    ],
    ids=["silence", "keys", "dial tone", "ringing", "click", "hum", "faint", "noise"],
)
def test_what_is_no_beep(audio: bytes) -> None:
    assert heard(audio) == []


def test_sweeps_and_whistles_are_no_beeps() -> None:
    phase, samples = 0.0, array("h")
    for n in range(16_000):
        phase += 2 * math.pi * (600 + 400 * n / 8000) / 8000
        samples.append(round(8000 * math.sin(phase)))
    if sys.byteorder == "big":
        samples.byteswap()
    assert heard(encode_ulaw(samples.tobytes()) + silence(100)) == []


def test_recorded_speech_has_no_beep() -> None:
    """The clips of the demonstration, the recordings and noises of the benchmarks, and murmurs of many pitches."""
    root = Path(__file__).parents[2]
    recordings = sorted((root / "benchmarks" / "data").rglob("*.wav"))
    clips = sorted((root / "phoneagent" / "demo" / "clips").rglob("*.ulaw"))
    assert recordings
    assert clips
    for clip in clips:
        assert heard(clip.read_bytes()) == [], clip.name
    for recording in recordings:
        assert heard(ulaw_of_wav(recording.read_bytes(), max_seconds=60)) == [], recording.name
    for pitch in (90, 140, 200, 260):
        assert heard(Murmur(pitch_hz=pitch).render("Good morning, who is calling, please? " * 4)) == []
