"""The audio of a load: 20 ms of a tone in µ-law, whose first nine bytes are the number of the frame."""

from __future__ import annotations

import base64
import math
import random

FRAME_BYTES = 160
NUMBER_BYTES = 9
"""Twelve characters of base64: see `flow.payload_head`."""


def ulaw(sample: int) -> int:
    """Return a 16-bit sample in µ-law."""
    sign = 0x80 if sample < 0 else 0
    size = min(abs(sample), 32635) + 0x84
    exponent = size.bit_length() - 8
    return ~(sign | exponent << 4 | (size >> (exponent + 3)) & 0x0F) & 0xFF


def _rest(amplitude: int) -> str:
    samples = (round(amplitude * math.sin(2 * math.pi * 440 * at / 8000)) for at in range(NUMBER_BYTES, FRAME_BYTES))
    return base64.b64encode(bytes(map(ulaw, samples))).decode()


REST = _rest(9000)
"""Base64 of everything but the number."""

HUSH = _rest(60)
"""The same for a side that does not speak."""

_chance = random.Random(1)
VOICE = base64.b64encode(bytes(ulaw(_chance.randrange(-9000, 9000)) for _ in range(NUMBER_BYTES, FRAME_BYTES))).decode()
"""The same for a caller who speaks: it differs from the agent's sound, or it would be taken for an echo."""
