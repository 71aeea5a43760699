"""The audio of a load: 20 ms of a tone in µ-law, whose first nine bytes are the number of the frame."""

from __future__ import annotations

import base64
import math

FRAME_BYTES = 160
NUMBER_BYTES = 9
"""Twelve characters of base64: see `flow.payload_head`."""


def ulaw(sample: int) -> int:
    """Return a 16-bit sample in µ-law."""
    sign = 0x80 if sample < 0 else 0
    size = min(abs(sample), 32635) + 0x84
    exponent = size.bit_length() - 8
    return ~(sign | exponent << 4 | (size >> (exponent + 3)) & 0x0F) & 0xFF


REST = base64.b64encode(
    bytes(ulaw(round(9000 * math.sin(2 * math.pi * 440 * at / 8000))) for at in range(NUMBER_BYTES, FRAME_BYTES))
).decode()
"""Base64 of all but the number."""
