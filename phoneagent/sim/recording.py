"""WAV files of telephone audio: read a recording, write the two sides of a call.

The standard library's `wave` reads PCM only, and telephone recordings are often µ-law, so this module reads the chunks.
"""

from __future__ import annotations

import io
import math
import struct
import sys
import wave
from array import array
from functools import cache
from operator import mul

from phoneagent.errors import PhoneAgentError
from phoneagent.protocol.audio import SAMPLE_RATE, SILENCE, decode_ulaw, encode_ulaw

_PCM, _ULAW, _EXTENSIBLE = 1, 7, 0xFFFE
_RATES = (8000, 16000, 24000)


class RecordingError(PhoneAgentError):
    """A WAV file cannot be used as telephone audio."""


def read_wav(data: bytes) -> bytes:
    """Return a WAV file's audio as µ-law, 8 kHz, mono.

    Supported are µ-law at 8 kHz and 16-bit PCM at 8, 16 or 24 kHz, mono or stereo.

    Raises:
        RecordingError: the file is not a WAV file, or its format is not supported.
    """
    kind, channels, rate, bits, audio = _chunks(data)
    if channels not in (1, 2) or (kind, bits) not in ((_PCM, 16), (_ULAW, 8)):
        raise RecordingError(
            f"a WAV file of format {kind}, {bits} bits, {channels} channels; give 16-bit PCM or µ-law, mono or stereo"
        )
    if rate not in _RATES or (kind == _ULAW and rate != SAMPLE_RATE):
        raise RecordingError(f"a WAV file of {rate} Hz; give 8000 (or, as PCM, 16000 or 24000)")
    frame = channels * bits // 8
    audio = audio[: len(audio) // frame * frame]
    if kind == _ULAW and channels == 1:
        return audio
    samples = _samples(decode_ulaw(audio) if kind == _ULAW else audio)
    if channels == 2:
        samples = array("h", ((left + right) // 2 for left, right in zip(samples[::2], samples[1::2], strict=True)))
    return encode_ulaw(_pcm(_at_8_khz(samples, rate)))


def _chunks(data: bytes) -> tuple[int, int, int, int, bytes]:
    """Return format tag, channels, rate in Hz, bits a sample, and the samples."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise RecordingError("not a WAV file: it does not begin with RIFF…WAVE")
    shape: tuple[int, int, int, int] | None = None
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if name == b"fmt " and len(body) >= 16:
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
            if kind == _EXTENSIBLE and len(body) >= 26:
                kind = int.from_bytes(body[24:26], "little")  # the real tag begins the sub-format's GUID
            shape = (kind, channels, rate, bits)
        elif name == b"data" and shape is not None:
            return *shape, body
        at += 8 + size + size % 2
    raise RecordingError("a WAV file without sound: a fmt and a data chunk are needed")


def _at_8_khz(samples: array[int], rate: int) -> array[int]:
    """Keep every second or third sample, after a low-pass against aliasing."""
    factor = rate // SAMPLE_RATE
    if factor == 1:
        return samples
    taps = _low_pass(rate)
    margin = array("h", bytes(len(taps) // 2 * 2))
    padded = margin + samples + margin
    starts = range(0, len(samples), factor)
    return array("h", (_clipped(sum(map(mul, taps, padded[at : at + len(taps)]))) for at in starts))


@cache
def _low_pass(rate: int) -> list[float]:
    """Return the taps of a windowed sinc that cuts at 3.6 kHz: symmetric, with a sum of 1."""
    reach = 24 * rate // SAMPLE_RATE
    cut = 2 * 3600 / rate
    taps = []
    for n in range(-reach, reach + 1):
        sinc = cut if n == 0 else math.sin(math.pi * cut * n) / (math.pi * n)
        taps.append(sinc * (0.54 + 0.46 * math.cos(math.pi * n / reach)))
    return [tap / sum(taps) for tap in taps]


def _clipped(value: float) -> int:
    return max(-32768, min(32767, round(value)))


def write_stereo(left: bytes, right: bytes) -> bytes:
    """Return a stereo WAV file (16-bit PCM, 8 kHz) of two µ-law tracks; the shorter one is filled with silence."""
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
