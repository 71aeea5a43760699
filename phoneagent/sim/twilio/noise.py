"""The detection of audio that a caller hears as noise: Twilio takes it for µ-law, which it is not."""

from __future__ import annotations

from collections import Counter
from math import log2

MIN_BYTES = 8000
"""Less audio than this is not judged."""

MAX_BYTES = 32_000

_LOW_BITS = 6.5
_GAP_BITS = 2.0


def is_pcm16(audio: bytes) -> bool:
    """Return whether audio looks like 16-bit PCM, little-endian.

    In PCM every other byte is the low one of a sample, almost random, and the one after it is small. In µ-law both
    positions look alike.
    """
    pairs = [pair for pair in zip(audio[:MAX_BYTES:2], audio[1:MAX_BYTES:2], strict=False) if pair[0] != pair[1]]
    if len(pairs) < MIN_BYTES // 2:
        return False
    low, high = (_entropy([pair[place] for pair in pairs]) for place in (0, 1))
    return low > _LOW_BITS and low - high > _GAP_BITS


def _entropy(values: list[int]) -> float:
    """Return how many bits a value carries."""
    counts = Counter(values).values()
    return -sum(count / len(values) * log2(count / len(values)) for count in counts)
