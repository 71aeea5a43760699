"""A WAV file of the two sides of a call."""

from __future__ import annotations

import io
import sys
import wave
from array import array

from phoneagent.protocol.audio import SAMPLE_RATE, SILENCE, decode_ulaw


def write_stereo(left: bytes, right: bytes) -> bytes:
    """Return a stereo WAV file (16-bit PCM, 8 kHz) of two µ-law tracks; the shorter one is padded with silence."""
    length = max(len(left), len(right))
    both = array("h", bytes(4 * length))
    for channel, track in enumerate((left, right)):
        both[channel::2] = _samples(decode_ulaw(track + SILENCE * (length - len(track))))
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(_pcm(both))
    return file.getvalue()


def _samples(pcm: bytes) -> array[int]:
    """Return the samples of 16-bit little-endian PCM."""
    samples = array("h", pcm)
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def _pcm(samples: array[int]) -> bytes:
    if sys.byteorder == "big":
        samples = samples[:]
        samples.byteswap()
    return samples.tobytes()
