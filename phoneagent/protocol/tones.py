"""The tones of telephone keys (DTMF), as audio: the far end of a call hears them as if keys were pressed.

Each key is two sines, as in ITU-T Q.23. Their levels are the nominal ones of ETSI ES 201 235-2: -11 dBm0 for the low
group, -9 dBm0 for the high one. By ITU-T Q.24, a receiver accepts 40 ms of tone and of pause; 100 ms of each are safe.
"""

from __future__ import annotations

import math
from functools import cache

from phoneagent.protocol.audio import SAMPLE_RATE, encode_ulaw, silence

LOW_HZ = (697, 770, 852, 941)
HIGH_HZ = (1209, 1336, 1477, 1633)
_ROWS = ("123A", "456B", "789C", "*0#D")

LOW_DBM0 = -11.0
HIGH_DBM0 = -9.0

FULL_SCALE_DBM0 = 3.17
"""The level of the loudest sine that µ-law can express."""

RINGING_DBM0 = -25.0
RINGING_MS = 1_500
"""Softer and shorter than the network's, because the agent and the caller may speak over it."""

TONE_MS = 100
GAP_MS = 100

WAITS_MS = {"w": 500, "W": 1000}
"""Pauses between keys, as in Twilio's `SendDigits`."""

SENDABLE = frozenset("".join(_ROWS)) | WAITS_MS.keys()
"""What `tones` accepts."""


def tones(keys: str) -> bytes:
    """Return the tones of `keys` as µ-law: 0-9, *, #, A-D, and the pauses `w` (half a second) and `W` (a second).

    A gap precedes each tone and follows the last one, so that neither runs into other audio.
    """
    parts = [silence(WAITS_MS[key]) if key in WAITS_MS else silence(GAP_MS) + _tone(key) for key in keys]
    return b"".join(parts) + silence(GAP_MS)


@cache
def _tone(key: str) -> bytes:
    row = next(index for index, keys in enumerate(_ROWS) if key in keys)
    return _sines(((LOW_HZ[row], LOW_DBM0), (HIGH_HZ[_ROWS[row].index(key)], HIGH_DBM0)), TONE_MS)


@cache
def ringing() -> bytes:
    """Return one ring as a caller hears it in North America, as µ-law."""
    return _sines(((440, RINGING_DBM0), (480, RINGING_DBM0)), RINGING_MS)


def _sines(parts: tuple[tuple[float, float], ...], ms: int) -> bytes:
    waves = [(2 * math.pi * hz / SAMPLE_RATE, 32767 * 10 ** ((dbm0 - FULL_SCALE_DBM0) / 20)) for hz, dbm0 in parts]
    samples = (
        round(sum(amplitude * math.sin(step * n) for step, amplitude in waves)) for n in range(ms * SAMPLE_RATE // 1000)
    )
    return encode_ulaw(b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples))
