"""What a benchmark measures: of one window of time, of barge-ins, and of one bridge in all."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.flow import Latency

MAX_LATE_MS = 5.0
"""A generator whose clock is later than this (p99) measures itself."""

CROWDED = 0.05
"""The share of the bridge's core that other programs may take."""


@dataclass(frozen=True, slots=True)
class Generator:
    """What the generator itself was like while it measured."""

    cpu_share: float
    """Of one core."""
    late_p99_ms: float
    late_max_ms: float

    @property
    def worthless(self) -> bool:
        """Whether the generator was so late that latencies say more of it than of the bridge."""
        return self.late_p99_ms > MAX_LATE_MS


@dataclass(frozen=True, slots=True)
class Side:
    """The frames in one direction."""

    latency: Latency
    lost: int


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured in one window of time, at a number of calls."""

    calls: int
    seconds: float
    cpu_ms: float
    """CPU-ms of the bridge per second of each call."""
    to_model: Side
    to_caller: Side
    broken: int
    """Calls that ended although nobody had hung up."""
    generator: Generator
    others: float
    """The share of the bridge's cores that other programs took."""

    @property
    def disturbed(self) -> bool:
        """Whether its latencies are partly those of a busy machine."""
        return self.generator.worthless or self.others > CROWDED

    @property
    def worst_p99(self) -> float:
        """Return the worse of the two sides, in milliseconds."""
        return max(self.to_model.latency.p99, self.to_caller.latency.p99)

    @property
    def lost(self) -> int:
        """Return the frames that never came, both ways."""
        return self.to_model.lost + self.to_caller.lost


@dataclass(frozen=True, slots=True)
class BargeIns:
    """The reactions to barge-ins: from `speech_started`, as the model wrote it, to `clear` at the phone."""

    calls: int
    reaction: Latency
    unanswered: int
    """Barge-ins without a `clear`."""
    silent: int
    """Calls in which the model was not heard again afterwards."""


@dataclass(frozen=True, slots=True)
class WatchCost:
    """What watchers cost: CPU-ms of the app per second, without them and with them."""

    watchers: str
    calls: int
    without_ms: float
    with_ms: float
    events_per_second: float | None
    """What each of them gets, if that is counted."""
    uneven: int
    """How many events one of them had more than another at the end of a window."""


@dataclass(slots=True)
class Result:
    """Everything that was measured of one bridge."""

    bridge: str
    workers: int
    idle_kb: float = 0.0
    """Resident memory of all its processes after one call that is over."""
    kb_per_call: float = 0.0
    accept: Latency | None = None
    """From the webhook to the first audio at the model."""
    greeting: Latency | None = None
    """From the webhook to the first audio at the phone, without the model's own time."""
    barge_ins: BargeIns | None = None
    main: Window | None = None
    """At --calls."""
    windows: list[Window] = field(default_factory=list)
    """All windows, in the order of their measurement."""
    most: int | None = None
    """The most calls within the limits; None if that was not looked for."""
    watch_costs: list[WatchCost] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    """The share of the calls that each worker carries."""
    faults: dict[str, int] = field(default_factory=dict)
