"""A check of a session's first audio: it should be µ-law, but is it linear PCM, which is noise on a telephone?

Each sample of PCM has two bytes. In speech, the low byte is practically random, and the high byte is not. In µ-law,
with one byte per sample, neighboring bytes look alike, because a voice does not depend on which samples are even. So
the bytes at even and at odd places are counted by their upper four bits, and compared. Silence shows nothing and is
left out.
"""

from __future__ import annotations

import base64

WINDOW = 1000
"""How many pairs of bytes are examined together."""

MAX_WINDOWS = 10
MAX_BYTES = 480_000
"""Ten seconds of PCM at 24 kHz: what shows nothing by then never will."""

MIN_EVEN = 0.2
"""Random bytes fill each of the sixteen counts to at least this part of the mean; a voice in µ-law leaves one empty."""

MIN_DIFFERENCE = 0.25
"""The part of the bytes that the counts of even and odd places do not share. For a voice in µ-law it is about 5%."""

_SILENT = frozenset((0x00, 0xFF))  # the upper byte of a sample near zero, and µ-law's byte for zero itself


class PcmCheck:
    """The check of one session. It takes a tenth of a second of speech, and stops after a second or two."""

    def __init__(self) -> None:
        self.over = False
        """Whether enough was heard."""
        self._rest = b""
        self._bytes = self._windows = 0
        self._clear()

    def _clear(self) -> None:
        self._low, self._high, self._pairs = [0] * 16, [0] * 16, 0

    def hear(self, payload: str) -> bool:
        """Handle the next audio, as base64. Return True once, if it is PCM."""
        audio = self._rest + base64.b64decode(payload)
        self._bytes += len(audio)
        self._rest = audio[len(audio) & ~1 :]
        for low, high in zip(audio[0::2], audio[1::2], strict=False):
            if high in _SILENT:
                continue
            self._low[low >> 4] += 1
            self._high[high >> 4] += 1
            self._pairs += 1
            if self._pairs == WINDOW:
                if self._is_pcm():
                    self.over = True
                    return True
                self._windows += 1
                self._clear()
                if self._windows == MAX_WINDOWS:
                    break
        self.over = self._windows == MAX_WINDOWS or self._bytes >= MAX_BYTES
        return False

    def _is_pcm(self) -> bool:
        shared = sum(map(min, self._low, self._high)) / WINDOW
        return min(self._low) >= MIN_EVEN * WINDOW / 16 and 1 - shared >= MIN_DIFFERENCE
