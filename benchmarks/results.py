"""The results of a benchmark: of one time window, of barge-ins, and of one bridge as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.flow import Latency

MAX_LATE_MS = 5.0
"""A generator whose clock is later than this (p99) only measures itself."""

CROWDED = 0.05
"""The share of the bridge's core that other programs may take."""


@dataclass(frozen=True, slots=True)
class Generator:
    """The state of the generator itself while it measured."""

    cpu_share: float
    """Of one core."""
    late_p99_ms: float
    late_max_ms: float

    @property
    def worthless(self) -> bool:
        """Whether the generator was so late that latencies say more about it than about the bridge."""
        return self.late_p99_ms > MAX_LATE_MS


@dataclass(frozen=True, slots=True)
class Side:
    """The frames in one direction."""

    latency: Latency
    lost: int


@dataclass(frozen=True, slots=True)
class Window:
    """The measurements of one time window, at a number of calls."""

    calls: int
    seconds: float
    cpu_ms: float
    """CPU-ms of the bridge per second of each call."""
    to_model: Side
    to_caller: Side
    broken: int
    """Calls that ended without a hang-up."""
    generator: Generator
    others: float
    """The share of the bridge's cores that other programs took."""

    @property
    def disturbed(self) -> bool:
        """Whether its latencies are partly due to a busy machine."""
        return self.generator.worthless or self.others > CROWDED

    @property
    def worst_p99(self) -> float:
        """Return the worse of the two sides, in milliseconds."""
        return max(self.to_model.latency.p99, self.to_caller.latency.p99)

    @property
    def lost(self) -> int:
        """Return the number of frames that never arrived, both ways."""
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
    """The cost of watchers: CPU-ms of the app per second, without them and with them."""

    watchers: str
    calls: int
    without_ms: float
    with_ms: float
    events_per_second: float | None
    """The events that each of them gets, if they are counted."""
    uneven: int
    """The largest difference between the event counts of two of them at the end of a window."""


@dataclass(slots=True)
class Result:
    """All measurements of one bridge."""

    bridge: str
    workers: int
    idle_kb: float = 0.0
    """Resident memory of all its processes after one finished call."""
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
    """The most calls within the limits; None if this was not searched for."""
    watch_costs: list[WatchCost] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    """The share of the calls that each worker carries."""
    faults: dict[str, int] = field(default_factory=dict)
