"""Audio formats of the simulated Realtime server: µ-law at 8 kHz inside, the session's formats outside."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

from phoneagent.protocol.audio import BYTES_PER_MS, SAMPLE_RATE, decode_ulaw, encode_ulaw

with warnings.catch_warnings():
    # The standard library's audioop warns up to 3.12; audioop-lts brings the same module from 3.13 on.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

PCM_RATE = 24000
"""Hz of `audio/pcm`: 16-bit little-endian, mono. The server supports no other rate."""


def bytes_per_ms(audio_format: Mapping[str, Any]) -> int:
    """Return how many bytes of a session's audio format (like `{"type": "audio/pcmu"}`) are one millisecond."""
    return PCM_RATE * 2 // 1000 if audio_format["type"] == "audio/pcm" else BYTES_PER_MS


class Resampler:
    """Changes the rate of a stream of 16-bit PCM, piece by piece."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._from_hz, self._to_hz = from_hz, to_hz
        self._state: Any = None

    def feed(self, pcm: bytes) -> bytes:
        """Return the samples that `pcm` (whole samples) adds at the new rate."""
        converted, self._state = audioop.ratecv(pcm, 2, 1, self._from_hz, self._to_hz, self._state)
        return converted


class SoxResampler:
    """A resampler on top of `soxr`. It filters before it drops samples, so sibilants stay intelligible."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._numpy = importlib.import_module("numpy")
        self._stream = importlib.import_module("soxr").ResampleStream(from_hz, to_hz, 1, dtype="int16")

    def feed(self, pcm: bytes) -> bytes:
        samples = self._stream.resample_chunk(self._numpy.frombuffer(pcm, dtype="<i2"))
        return bytes(samples.tobytes())


def best_resampler(from_hz: int, to_hz: int) -> Resampler | SoxResampler:
    """Return a filtering resampler if `soxr` is installed; else the standard library's, which does not filter."""
    sox = importlib.util.find_spec("soxr") is not None and importlib.util.find_spec("numpy") is not None
    return (SoxResampler if sox else Resampler)(from_hz, to_hz)


class Intake:
    """Converts a session's input audio to µ-law, piece by piece."""

    def __init__(self, audio_format: Mapping[str, Any]) -> None:
        self._type: str = audio_format["type"]
        self._half = b""
        self._down: Resampler | SoxResampler | None = None
        if self._type == "audio/pcm":
            self._down = best_resampler(PCM_RATE, SAMPLE_RATE)

    def feed(self, audio: bytes) -> bytes:
        """Return `audio` as µ-law. Half a sample at the end is kept for the next piece."""
        if self._down is not None:
            audio = self._half + audio
            whole = len(audio) & ~1
            self._half = audio[whole:]
            return encode_ulaw(self._down.feed(audio[:whole])) if whole else b""
        if self._type == "audio/pcma":
            return encode_ulaw(audioop.alaw2lin(audio, 2))
        return audio


def from_ulaw(ulaw: bytes, audio_format: Mapping[str, Any]) -> bytes:
    """Return `ulaw` in a session's output format."""
    if audio_format["type"] == "audio/pcm":
        return Resampler(SAMPLE_RATE, PCM_RATE).feed(decode_ulaw(ulaw))
    if audio_format["type"] == "audio/pcma":
        return audioop.lin2alaw(decode_ulaw(ulaw), 2)
    return ulaw
