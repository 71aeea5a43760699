"""WAV files as telephone audio: any rate, any number of channels, and the usual formats become µ-law at 8 kHz, mono;
and the header of the WAV file of a call's recording.

The standard library's `wave` reads PCM only, and telephone recordings are often µ-law, so the chunks are read here.
Reading a minute of music takes about a second; it is done once, before any call.
"""

from __future__ import annotations

import math
import struct
import warnings
from array import array

from phoneagent.protocol.audio import SAMPLE_RATE, encode_ulaw

with warnings.catch_warnings():
    # Up to 3.12 the standard library has audioop and warns at import; from 3.13 on audioop-lts brings the same module.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

_PCM, _ALAW, _ULAW, _EXTENSIBLE = 1, 6, 7, 0xFFFE
_RATES = range(4_000, 192_001)

CUT_HZ = 3_600
"""A telephone carries nothing above this; at 8 kHz it would come back as noise."""

HEAD_BYTES = 44
"""The size of what `stereo_head` returns."""

MAX_DATA_BYTES = 2**32 - 1 - HEAD_BYTES
"""A WAV file counts its bytes in 32 bits."""

TAPS_A_SIDE = 12
"""The length of the low-pass, in samples of the result on each side."""


class WavError(ValueError):
    """Bytes that are not a WAV file, or not one that can be played. The message says why in one line."""


def ulaw_of_wav(data: bytes, *, max_seconds: float) -> bytes:
    """Return the audio of a WAV file as µ-law.

    Raises:
        WavError: it is not a WAV file, its format is not supported, it is empty, or longer than `max_seconds`.
    """
    kind, channels, rate, bits, audio = _chunks(data)
    width = bits // 8
    known = (kind == _PCM and bits in (8, 16, 24, 32)) or (kind in (_ULAW, _ALAW) and bits == 8)
    if not known or not channels:
        raise WavError(
            f"it has format {kind} with {bits} bits and {channels} channels: give PCM, µ-law or A-law, as 16 bits mono"
        )
    if rate not in _RATES:
        raise WavError(f"its sample rate is {rate} Hz: use {_RATES[0]} to {_RATES[-1]}; 8000 is best")
    audio = audio[: len(audio) // (width * channels) * width * channels]
    seconds = len(audio) / (width * channels * rate)
    if not audio:
        raise WavError("it has no audio")
    if seconds > max_seconds:
        raise WavError(f"it lasts {seconds:.0f} s, and at most {max_seconds:.0f} s are played: cut it")
    if kind == _ULAW and channels == 1 and rate == SAMPLE_RATE:
        return audio
    return encode_ulaw(_at_8_khz(_mono(_linear(audio, kind, width), channels), rate))


def stereo_head(data_bytes: int) -> bytes:
    """Return what comes before the samples of a WAV file of 16-bit PCM at 8 kHz, in stereo."""
    rate, width = SAMPLE_RATE, 4
    shape = struct.pack("<4sIHHIIHH", b"fmt ", 16, _PCM, 2, rate, rate * width, width, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", HEAD_BYTES - 8 + data_bytes, b"WAVE")
        + shape
        + struct.pack("<4sI", b"data", data_bytes)
    )


def _chunks(data: bytes) -> tuple[int, int, int, int, bytes]:
    """Return the format, the channels, the rate in Hz, the bits per sample, and the samples."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise WavError("it is not a WAV file: it does not begin with RIFF…WAVE")
    shape: tuple[int, int, int, int] | None = None
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if name == b"fmt " and len(body) >= 16:
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
            if kind == _EXTENSIBLE and len(body) >= 26:
                kind = int.from_bytes(body[24:26], "little")  # the real format begins the sub-format's GUID
            shape = (kind, channels, rate, bits)
        elif name == b"data" and shape is not None:
            return *shape, body
        at += 8 + size + size % 2
    raise WavError("it has no sound: a WAV file needs a fmt and a data chunk")


def _linear(audio: bytes, kind: int, width: int) -> bytes:
    """Return samples as 16-bit PCM."""
    if kind == _ULAW:
        return audioop.ulaw2lin(audio, 2)
    if kind == _ALAW:
        return audioop.alaw2lin(audio, 2)
    if width == 1:
        audio = audioop.bias(audio, 1, -128)  # only 8-bit PCM is unsigned
    return audioop.lin2lin(audio, width, 2)


def _mono(pcm: bytes, channels: int) -> bytes:
    """Return the mean of all channels."""
    if channels == 1:
        return pcm
    samples = array("h", pcm)
    total = bytes(len(pcm) // channels)
    for channel in range(channels):
        total = audioop.add(total, audioop.mul(samples[channel::channels].tobytes(), 2, 1 / channels), 2)
    return total


def _at_8_khz(pcm: bytes, rate: int) -> bytes:
    """Return PCM at 8 kHz: brought to a multiple of that, then thinned out after a low-pass."""
    ratio = -(-rate // SAMPLE_RATE)
    if rate != ratio * SAMPLE_RATE:
        pcm, _ = audioop.ratecv(pcm, 2, 1, rate, ratio * SAMPLE_RATE, None)
    if ratio == 1:
        return pcm
    taps = _low_pass(ratio)
    margin = array("h", bytes(len(taps) // 2 * 2))
    samples = margin + array("h", pcm) + margin
    count = -(-(len(samples) - len(taps) + 1) // ratio)
    total = bytes(4 * count)
    for start, tap in enumerate(taps):
        part = audioop.lin2lin(samples[start::ratio][:count].tobytes(), 2, 4)
        total = audioop.add(total, audioop.mul(part, 4, tap), 4)
    return audioop.lin2lin(total, 4, 2)


def _low_pass(ratio: int) -> list[float]:
    """Return the taps of a windowed sinc: symmetric, with a sum of 1."""
    reach = TAPS_A_SIDE * ratio
    cut = 2 * CUT_HZ / (ratio * SAMPLE_RATE)
    taps = []
    for n in range(-reach, reach + 1):
        sinc = cut if n == 0 else math.sin(math.pi * cut * n) / (math.pi * n)
        taps.append(sinc * (0.54 + 0.46 * math.cos(math.pi * n / reach)))
    whole = sum(taps)
    return [tap / whole for tap in taps]
