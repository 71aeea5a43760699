"""One direction of a call: when each frame was sent, whether it arrived, and how long it took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FRAME_SECONDS = 0.020
LATE_MS = 20.0
"""A frame with more added latency than this is late: it arrives after its successor was due."""

_RING = 1024
"""How many frames of one direction can be in flight: twenty seconds."""


class Flow:
    """The frames of one direction of one call. `samples` gets the latency of each, in seconds."""

    __slots__ = ("_expected", "_missing", "_times", "samples", "sent")

    def __init__(self, samples: list[float]) -> None:
        self.samples = samples
        self.sent = 0
        self._times = [0.0] * _RING
        self._expected = 0
        self._missing = 0

    def send(self, now: float) -> int:
        """Note that the next frame leaves now; return its number."""
        number = self.sent
        self._times[number % _RING] = now
        self.sent = number + 1
        return number

    def receive(self, number: int, now: float) -> None:
        """Note that a frame arrived."""
        if number != self._expected:
            self._missing += number - self._expected
        self._expected = number + 1
        self.samples.append(now - self._times[number % _RING])

    @property
    def arrived(self) -> int:
        """Return how many frames got through: all up to the newest one that arrived, without the gaps."""
        return self._expected - self._missing

    def lost(self, since_missing: int, upto: int) -> int:
        """Return how many frames up to number `upto` are lost; `since_missing` were missing before."""
        return self._missing - since_missing + max(0, upto - self._expected)

    @property
    def missing(self) -> int:
        """The gaps so far. Frames that were dropped on purpose, at a barge-in, are gaps too."""
        return self._missing


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies in milliseconds."""

    count: int
    p50: float
    p99: float
    max: float
    late: int = 0


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that this share of the ordered values does not exceed; NaN if there are none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(seconds: Sequence[float]) -> Latency:
    """Return the latencies of these samples, given in seconds."""
    ordered = sorted(seconds)
    late = sum(1 for each in ordered if each * 1000 > LATE_MS)
    return Latency(
        count=len(ordered),
        p50=percentile(ordered, 0.50) * 1000,
        p99=percentile(ordered, 0.99) * 1000,
        max=(ordered[-1] if ordered else math.nan) * 1000,
        late=late,
    )


def payload_head(direction: str, number: int) -> str:
    """Return the first twelve base64 characters of a frame: four name the direction, eight the number."""
    return f"{direction}{number:08d}"


UP, DOWN = "UpUp", "Down"
UP_MARK, DOWN_MARK = UP.encode(), DOWN.encode()


def find_number(payload: bytes, mark: bytes) -> int | None:
    """Return the number of the frame whose audio this message has, None if it has none."""
    at = payload.find(mark)
    return None if at < 0 else int(payload[at + 4 : at + 12])
