"""The ear for keys: it hears the keys of any standard transmitter, and none in speech, music or noise."""

from __future__ import annotations

import math
import random
import struct
from pathlib import Path

import pytest

from phoneagent.protocol.audio import encode_ulaw, silence, tone
from phoneagent.sim.speech import Murmur
from phoneagent.sim.tones import ToneEar
from tests.recordings import read_wav

DATA = Path(__file__).parents[1] / "data"
ROWS = {697: "123A", 770: "456B", 852: "789C", 941: "*0#D"}
COLUMNS = (1209, 1336, 1477, 1633)


def key(name: str, ms: int = 50, low: float = 3000, high: float = 3000, off: float = 1.0) -> bytes:
    """A key as another maker's telephone plays it: `off` is how far its frequencies are off."""
    row = next(hz for hz, keys in ROWS.items() if name in keys)
    column = COLUMNS[ROWS[row].index(name)]
    wave = (
        round(
            low * math.sin(2 * math.pi * row * off * n / 8000) + high * math.sin(2 * math.pi * column * off * n / 8000)
        )
        for n in range(ms * 8)
    )
    return encode_ulaw(b"".join(struct.pack("<h", sample) for sample in wave))


@pytest.mark.parametrize("off", [0.985, 1.0, 1.015])
def test_every_key_is_heard_by_its_frequencies(off: float) -> None:
    keys = "".join(ROWS.values())
    audio = b"".join(silence(50) + key(each, off=off) for each in keys) + silence(50)
    assert ToneEar().hear(audio) == keys


@pytest.mark.parametrize("size", [1, 7, 160, 4000])
def test_the_pieces_do_not_matter(size: int) -> None:
    audio = b"".join(silence(60) + key(each) for each in "1155#") + silence(60)
    ear = ToneEar()
    heard = "".join(ear.hear(audio[start : start + size]) for start in range(0, len(audio), size))
    assert heard == "1155#"


def test_a_long_key_is_one_key_and_a_click_is_none() -> None:
    assert ToneEar().hear(silence(50) + key("5", ms=900) + silence(50)) == "5"
    assert ToneEar().hear(silence(50) + key("5", ms=15) + silence(50)) == ""


def test_keys_may_be_quiet_and_uneven() -> None:
    assert ToneEar().hear(silence(50) + key("7", low=400, high=800) + silence(50)) == "7"
    assert ToneEar().hear(silence(50) + key("7", low=60, high=60) + silence(50)) == ""
    assert ToneEar().hear(silence(50) + key("7", low=200, high=3000) + silence(50)) == ""


@pytest.mark.parametrize("file", ["librivox-0880.ulaw.wav", "librivox-0920.ulaw.wav", "jfk.ulaw.wav"])
def test_speech_has_no_keys(file: str) -> None:
    assert ToneEar().hear(read_wav((DATA / file).read_bytes())) == ""


def test_neither_has_anything_else() -> None:
    noise = random.Random(1)
    hiss = encode_ulaw(b"".join(struct.pack("<h", round(noise.gauss(0, 3000))) for _ in range(16_000)))
    for audio in (hiss, tone(941, 500), tone(1000, 500), Murmur().render("Welcome to the bank. For loans, press two.")):
        assert ToneEar().hear(audio) == ""
