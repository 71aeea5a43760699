"""An ear for the tones of telephone keys (DTMF), like the one at the far end of a call.

It follows ITU-T Q.24, and shares nothing with the tones that phoneagent makes. Each block of 12.75 ms is measured at
the eight frequencies (Goertzel's algorithm). A key counts once two blocks in a row contain it and nothing else, which
is less than the 40 ms that every receiver must accept; it counts again after two blocks without it.
"""

from __future__ import annotations

import math
import sys
from array import array

from phoneagent.protocol.audio import SAMPLE_RATE, decode_ulaw

_LOW_HZ = (697, 770, 852, 941)
_HIGH_HZ = (1209, 1336, 1477, 1633)
_KEYS = ("123A", "456B", "789C", "*0#D")
_STEPS = [2 * math.cos(2 * math.pi * hz / SAMPLE_RATE) for hz in (*_LOW_HZ, *_HIGH_HZ)]

BLOCK = 102
"""The samples in a block: with fewer, neighboring frequencies cannot be told apart."""

LEAST_RMS = 200
"""A quieter block (below about -43 dBm0) has no tone."""

TONES_SHARE = 0.76
"""The least share of a block's energy in the two tones; in speech it is lower."""

MAX_TWIST = 10.0
"""The stronger of the two tones has at most this many times the other's energy: 10 dB."""


class ToneEar:
    """Hears keys in µ-law audio, given in pieces of any length."""

    def __init__(self) -> None:
        self._rest = b""
        self._before = ""
        self._pressed = ""

    def hear(self, ulaw: bytes) -> str:
        """Return the keys pressed in the next piece of audio."""
        data = self._rest + ulaw
        found = ""
        whole = len(data) - len(data) % BLOCK
        for start in range(0, whole, BLOCK):
            key = _key(data[start : start + BLOCK])
            if key == self._before and key != self._pressed:
                self._pressed = key
                found += key
            self._before = key
        self._rest = data[whole:]
        return found


def _key(block: bytes) -> str:
    """Return the key whose two tones, and hardly anything else, are in a block; "" for none."""
    samples = array("h", decode_ulaw(block))
    if sys.byteorder == "big":
        samples.byteswap()
    total = sum(sample * sample for sample in samples)
    if total < LEAST_RMS * LEAST_RMS * BLOCK:
        return ""
    energies = [_energy(samples, step) for step in _STEPS]
    low = max(range(4), key=lambda index: energies[index])
    high = max(range(4), key=lambda index: energies[4 + index])
    weak, strong = sorted((energies[low], energies[4 + high]))
    if strong > MAX_TWIST * weak or weak + strong < TONES_SHARE * total:
        return ""
    return _KEYS[low][high]


def _energy(samples: array[int], step: float) -> float:
    """Return the energy of one frequency, on the scale of the samples' squares: a pure tone has all of it."""
    before, last = 0.0, 0.0
    for sample in samples:
        before, last = last, sample + step * last - before
    return 2 * (before * before + last * last - step * before * last) / len(samples)
