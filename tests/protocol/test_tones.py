"""The tones of telephone keys: what they are by the standard, and a receiver that does not know them hears them."""

from __future__ import annotations

import math
import random
import struct

import pytest

from phoneagent.protocol.audio import decode_ulaw, encode_ulaw, silence
from phoneagent.protocol.tones import GAP_MS, RINGING_DBM0, RINGING_MS, SENDABLE, TONE_MS, ringing, tones
from phoneagent.sim.tones import ToneEar

KEYS = "0123456789*#ABCD"
DBM0 = 32124 * 10 ** (-3.17 / 20)  # the amplitude of a sine of 0 dBm0


def samples_of(ulaw: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(ulaw)}h", decode_ulaw(ulaw)))


def level(samples: list[int], hz: float) -> float:
    """Return the level of one frequency in dBm0, by its correlation with a sine and a cosine."""
    turn = 2 * math.pi * hz / 8000
    parts = [sum(s * f(turn * n) for n, s in enumerate(samples)) for f in (math.sin, math.cos)]
    return 20 * math.log10(2 * math.hypot(*parts) / len(samples) / DBM0 + 1e-9)


def noisy(ulaw: bytes, db: float, seed: int) -> bytes:
    """Add white noise, `db` against the tones, and pass it through µ-law once more."""
    noise = random.Random(seed)
    clean = samples_of(ulaw)
    loud = [s for s in clean if s]
    rms = math.sqrt(sum(s * s for s in loud) / len(loud)) * 10 ** (db / 20)
    mixed = (max(-32768, min(32767, round(s + noise.gauss(0, rms)))) for s in clean)
    return encode_ulaw(b"".join(struct.pack("<h", s) for s in mixed))


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [("1", 697, 1209), ("6", 770, 1477), ("9", 852, 1477), ("0", 941, 1336), ("#", 941, 1477), ("A", 697, 1633)],
)
def test_a_key_is_two_frequencies_at_the_nominal_levels(key: str, low: int, high: int) -> None:
    tone = samples_of(tones(key)[GAP_MS * 8 : (GAP_MS + TONE_MS) * 8])
    assert level(tone, low) == pytest.approx(-11, abs=0.3)
    assert level(tone, high) == pytest.approx(-9, abs=0.3)
    assert all(
        level(tone, other) < -25 for other in (697, 770, 852, 941, 1209, 1336, 1477, 1633) if other not in (low, high)
    )


def test_tones_and_gaps_last_a_tenth_of_a_second_and_waits_are_twilios() -> None:
    assert len(tones("5")) == (100 + 100 + 100) * 8
    assert len(tones("1ww23#")) == (4 * 200 + 2 * 500 + 100) * 8
    assert tones("w") == silence(600)
    assert tones("W") == silence(1100)
    assert set(KEYS) | {"w", "W"} == SENDABLE


@pytest.mark.parametrize("seed", range(5))
def test_every_key_is_heard_through_noise(seed: int) -> None:
    order = random.Random(seed).sample(KEYS * 4, 64)
    keys = "".join(order)
    assert ToneEar().hear(noisy(tones(keys), -20, seed)) == keys


def test_a_ringing_tone_is_soft() -> None:
    samples = samples_of(ringing())
    assert len(samples) == RINGING_MS * 8
    assert [round(level(samples, hz)) for hz in (440, 480)] == [round(RINGING_DBM0)] * 2
    assert level(samples, 1000) < RINGING_DBM0 - 30
