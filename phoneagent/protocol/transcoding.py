"""µ-law at 8 kHz to linear PCM at 24 kHz and back, for a far end that speaks only PCM.

Both directions keep their state from piece to piece, so that a stream may be cut anywhere, and share one low-pass
filter: upsampling, it removes the images of the voice above 4 kHz; downsampling, what would fold into the band. Lengths
are exact: as many milliseconds come out as went in, including the filter's 1.2 ms of delay.

The filter works in three phases: each is a sum of shifted copies, and audioop computes sums and products of whole
pieces. That takes about 90 µs for a frame of 20 ms; an ordinary call never needs it.
"""

from __future__ import annotations

import math
import warnings

with warnings.catch_warnings():
    # Up to 3.12 the standard library has audioop and warns at import; from 3.13 on audioop-lts brings the same module.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

PCM_RATE = 24_000
"""Samples a second of `audio/pcm`: 16 bits, little-endian, mono."""

PCM_BYTES_PER_MS = 48
RATIO = 3
"""Samples of PCM for each of µ-law."""

TAPS = 60
CUTOFF_HZ = 3700
"""Where the filter passes half: the telephone's band ends at 3400 Hz, and what is above 4 kHz would fold."""

_WIDTH = 4
"""Bytes per sample while summing: in 16 bits, each tap would round."""

_HISTORY = TAPS // RATIO - 1


def _low_pass() -> tuple[tuple[float, ...], ...]:
    """Return the filter's taps by phase: a windowed sinc whose three phases let a constant through unchanged."""
    middle = (TAPS - 1) / 2
    taps = []
    for n in range(TAPS):
        x = 2 * math.pi * CUTOFF_HZ / PCM_RATE * (n - middle)
        window = 0.54 - 0.46 * math.cos(2 * math.pi * n / (TAPS - 1))
        taps.append(window * math.sin(x) / x)  # with an even number of taps, x is never 0
    phases = [taps[phase::RATIO] for phase in range(RATIO)]
    return tuple(tuple(tap / sum(phase) for tap in phase) for phase in phases)


_PHASES = _low_pass()


class _Phase:
    """One phase of the filter on a stream of samples of `_WIDTH` bytes."""

    def __init__(self, taps: tuple[float, ...]) -> None:
        self._taps = taps
        self._past = bytes(_HISTORY * _WIDTH)

    def feed(self, samples: bytes) -> bytes:
        stream = self._past + samples
        self._past = stream[-_HISTORY * _WIDTH :]
        total = bytes(len(samples))
        for shift, tap in enumerate(reversed(self._taps)):
            start = shift * _WIDTH
            total = audioop.add(total, audioop.mul(stream[start : start + len(samples)], _WIDTH, tap), _WIDTH)
        return total


class ToPcm:
    """A converter of a stream of µ-law at 8 kHz to PCM at 24 kHz."""

    def __init__(self) -> None:
        self._phases = [_Phase(taps) for taps in _PHASES]

    def feed(self, ulaw: bytes) -> bytes:
        """Return what `ulaw` adds: `RATIO` samples for each byte."""
        if not ulaw:
            return b""
        samples = audioop.ulaw2lin(ulaw, _WIDTH)
        pcm = bytearray(len(ulaw) * RATIO * 2)
        interleaved = memoryview(pcm).cast("h")
        for number, phase in enumerate(self._phases):
            interleaved[number::RATIO] = memoryview(audioop.lin2lin(phase.feed(samples), _WIDTH, 2)).cast("h")
        return bytes(pcm)


class ToUlaw:
    """A converter of a stream of PCM at 24 kHz to µ-law at 8 kHz."""

    def __init__(self) -> None:
        self._phases = [_Phase(tuple(tap / RATIO for tap in taps)) for taps in reversed(_PHASES)]
        self._rest = b""

    def feed(self, pcm: bytes) -> bytes:
        """Return what `pcm` adds: a byte for every `RATIO` samples; an incomplete sample or group waits."""
        pcm = self._rest + pcm
        whole = len(pcm) - len(pcm) % (RATIO * 2)
        self._rest = pcm[whole:]
        if not whole:
            return b""
        samples = memoryview(pcm)[:whole].cast("h")
        total = bytes(whole // (RATIO * 2) * _WIDTH)
        for number, phase in enumerate(self._phases):
            part = audioop.lin2lin(samples[number::RATIO].tobytes(), 2, _WIDTH)
            total = audioop.add(total, phase.feed(part), _WIDTH)
        return audioop.lin2ulaw(audioop.lin2lin(total, _WIDTH, 2), 2)
