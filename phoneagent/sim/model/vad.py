"""Voice activity detection: is there speech in these 20 ms?

A `Vad` decides about one frame of telephone audio at a time and keeps its own state. `InputBuffer` turns its decisions
into *turns*: it knows how long speech must last to count, and how much silence ends it.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Protocol

from phoneagent.protocol.audio import FRAME_BYTES, SILENCE, decode_ulaw, rms
from phoneagent.sim.model.audio import Resampler

FRAME_MS = 20
"""The duration of one frame."""

_SILENT_FRAME = SILENCE * FRAME_BYTES


class Vad(Protocol):
    """A detector of speech for one stream of audio."""

    def feed(self, frame: bytes) -> bool:
        """Return whether the next frame, 160 bytes of µ-law (20 ms), holds speech."""
        ...


class EnergyGate:
    """A detector that treats anything louder than a fixed level as speech: deterministic, cheap, no dependencies.

    `level` is the root mean square of the samples, 0 to 32767: 500 (-36 dB of full scale) lies between the noise of an
    ordinary line (below 270) and quiet speech (about 800).
    """

    def __init__(self, level: int = 500) -> None:
        self._level = level

    def feed(self, frame: bytes) -> bool:
        return frame != _SILENT_FRAME and rms(frame) > self._level


class EarshotVad:
    """The neural detector of the package `earshot` (extra `demo`): it tells speech from noise, music and tones.

    `threshold` is the score, 0 to 1, from which 16 ms count as speech; a session's `threshold` can be used directly.
    """

    _WINDOW_BYTES = 512
    """256 samples of 16-bit PCM at 16 kHz: the only size that the detector accepts."""

    _REST_FRAMES = 50
    """After this many frames of digital silence (1 s) the detector rests until other audio comes."""

    def __init__(self, threshold: float = 0.5) -> None:
        self._detector: Any = importlib.import_module("earshot").Detector()
        self._threshold = threshold
        self._resampler = Resampler(8000, 16000)
        self._pending = b""
        self._silent_frames = 0
        self._speech = False

    def feed(self, frame: bytes) -> bool:
        self._silent_frames = self._silent_frames + 1 if frame == _SILENT_FRAME else 0
        if self._silent_frames > self._REST_FRAMES:
            return False
        self._pending += self._resampler.feed(decode_ulaw(frame))
        # A frame completes one window or two; either may find speech.
        scores = []
        while len(self._pending) >= self._WINDOW_BYTES:
            window, self._pending = self._pending[: self._WINDOW_BYTES], self._pending[self._WINDOW_BYTES :]
            scores.append(self._detector.predict_i16(memoryview(window).cast("h")))
        if scores:
            self._speech = max(scores) >= self._threshold
        return self._speech


def default_vad(threshold: float = 0.5) -> Vad:
    """Return the best installed detector: `EarshotVad`, else an `EnergyGate` with a matching level."""
    if importlib.util.find_spec("earshot") is not None:
        return EarshotVad(threshold)
    return EnergyGate(round(1000 * threshold))
