"""Pure tones in telephone audio: the beep of an answering machine, and the answer tone of a fax.

A beep is one steady frequency, which speech never is: a voice has harmonics, and its pitch moves. Each block of 40 ms
is fitted with one sinusoid, and the energy at its frequency is compared with the energy of the block.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from itertools import pairwise

from phoneagent.protocol.audio import BYTES_PER_MS, SAMPLE_RATE, decode_ulaw

BLOCK = 320
"""Samples of a block, 40 ms."""

BLOCK_MS = BLOCK // BYTES_PER_MS

LEAST_RMS = 400
"""A quieter block, about -37 dBm0, has no tone."""

SHARE = 0.88
"""The least share of a block's energy at its one frequency."""

MIN_HZ, MAX_HZ = 350.0, 2500.0
DRIFT = 0.015
"""How much the frequency of a tone may differ from block to block, as a share of it."""

LEVEL = 1.6
"""How much its loudness may differ, as a factor."""

BEEP_MS = range(160, 2600)
"""How long a beep is."""

FAX_HZ, FAX_DRIFT_HZ, FAX_MS = 2100.0, 25.0, 800
"""The answer tone of a fax (CED, ITU-T T.30), and when it is certain. It lasts 2.6 to 4 s."""


@dataclass(frozen=True, slots=True)
class Tone:
    """A steady tone: its frequency, and how long it has been heard."""

    hz: float
    ms: int

    @property
    def is_fax(self) -> bool:
        """Whether it is the answer tone of a fax."""
        return abs(self.hz - FAX_HZ) <= FAX_DRIFT_HZ and self.ms >= FAX_MS

    @property
    def is_beep(self) -> bool:
        """Whether it has the length of a machine's beep, once it has ended."""
        return self.ms in BEEP_MS and not self.is_fax


class BeepDetector:
    """Finds beeps and fax tones in µ-law audio, given in pieces of any length."""

    def __init__(self) -> None:
        self._rest = b""
        self._hz = 0.0
        self._rms = 0.0
        self._ms = 0

    def hear(self, ulaw: bytes) -> Tone | None:
        """Handle the next piece of audio. Return a beep as it ends, and a fax tone as soon as it is certain."""
        data = self._rest + ulaw
        whole = len(data) - len(data) % BLOCK
        self._rest = data[whole:]
        found = None
        for start in range(0, whole, BLOCK):
            found = self._block(data[start : start + BLOCK]) or found
        return found

    def _block(self, block: bytes) -> Tone | None:
        hz, rms = _sinusoid(block)
        before = Tone(self._hz, self._ms)
        if hz and self._ms and abs(hz - self._hz) <= DRIFT * self._hz and 1 / LEVEL <= rms / self._rms <= LEVEL:
            self._ms += BLOCK_MS
            tone = Tone(self._hz, self._ms)
            return tone if tone.is_fax and not before.is_fax else None
        self._hz, self._rms, self._ms = hz, rms, BLOCK_MS if hz else 0
        # A tone only partly fills the blocks in which it begins and ends, so they do not count.
        return before if before.is_beep else None


def _sinusoid(block: bytes) -> tuple[float, float]:
    """Return the frequency and the loudness of a block that is one sinusoid; zeros for any other."""
    x = array("h", decode_ulaw(block))  # both in the machine's byte order
    total = sum(value * value for value in x)
    if total < LEAST_RMS * LEAST_RMS * BLOCK:
        return 0.0, 0.0
    # Pisarenko's estimate, from two autocorrelations that white noise does not change.
    once = sum(value * later for value, later in pairwise(x[:-1]))
    twice = sum(value * later for value, later in zip(x, x[2:], strict=False))
    cosine = (twice + math.sqrt(twice * twice + 8 * once * once)) / (4 * once) if once else 0.0
    if not -1 < cosine < 1:
        return 0.0, 0.0
    angle = math.acos(cosine)
    hz = angle * SAMPLE_RATE / (2 * math.pi)
    if not MIN_HZ <= hz <= MAX_HZ:
        return 0.0, 0.0
    step, before, last = 2 * cosine, 0.0, 0.0
    for value in x:  # Goertzel's algorithm
        before, last = last, value + step * last - before
    share = 2 * (before * before + last * last - step * before * last) / BLOCK / total
    return (hz, math.sqrt(total / BLOCK)) if share >= SHARE else (0.0, 0.0)
