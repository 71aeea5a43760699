"""`python -m benchmarks.sizes`: how many calls a host of each usual size carries, computed from the cost of a call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

CORE_SHARE = 0.6
"""The share of its CPU that calls may use. The rest is for call setup, tools, and other tenants."""

MEMORY_SHARE = 0.8
"""The share of its memory that the app may use."""

BASE_MB = 120
"""Resident memory of one process without calls."""


@dataclass(frozen=True, slots=True)
class Size:
    """A host size. `cores` is its guaranteed share, in cores."""

    name: str
    cores: float
    memory_mb: int
    note: str = ""


SIZES = (
    Size("Heroku Basic, Standard-1X", 0.25, 512, "shared; assumed"),
    Size("Heroku Standard-2X", 0.5, 1024, "shared; assumed"),
    Size("Heroku Performance-M", 2, 2560),
    Size("Heroku Performance-L", 8, 14336),
    Size("Fly shared-cpu-1x", 1 / 16, 256, "without its bursts"),
    Size("Fly performance-1x", 1, 2048),
    Size("Render Starter", 0.5, 512),
    Size("Render Standard", 1, 2048),
    Size("Render Pro", 2, 4096),
    Size("Railway, for each vCPU with 1 GB", 1, 1024),
)


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many calls a host carries, in how many processes, and what it runs out of first."""

    calls: int
    processes: int
    bound: str


def capacity(size: Size, cost_ms: float, call_kb: float, base_mb: float = BASE_MB) -> Capacity:
    """Return the capacity of a host if a call takes `cost_ms` of CPU per second and `call_kb` of memory."""
    processes = max(1, int(size.cores))
    by_cpu = size.cores * CORE_SHARE * 1000 / cost_ms
    by_memory = (size.memory_mb * MEMORY_SHARE - processes * base_mb) * 1024 / call_kb
    return Capacity(max(0, int(min(by_cpu, by_memory))), processes, "CPU" if by_cpu <= by_memory else "memory")


def table(cost_ms: float, call_kb: float, base_mb: float = BASE_MB) -> str:
    """Return the capacities of all sizes as a Markdown table."""
    lines = ["| host | cores | memory | processes | calls at once | its limit |", "|---|---|---|---|---|---|"]
    for size in SIZES:
        found = capacity(size, cost_ms, call_kb, base_mb)
        note = f" ({size.note})" if size.note else ""
        lines.append(
            f"| {size.name} | {size.cores:.2g}{note} | {_memory(size.memory_mb)} | {found.processes} "
            f"| {found.calls} | {found.bound} |"
        )
    return "\n".join(lines)


def _memory(megabytes: int) -> str:
    return f"{megabytes} MB" if megabytes < 1024 else f"{megabytes / 1024:g} GB"


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__)
    found.add_argument("--cost", type=_positive, required=True, metavar="MS", help="CPU-ms per call-second")
    found.add_argument("--memory", type=_positive, required=True, metavar="KB", help="resident KB per call")
    found.add_argument("--base", type=_positive, default=BASE_MB, metavar="MB", help="a process without calls")
    return found


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: it must be above 0")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    options = parser().parse_args(arguments)
    print(table(options.cost, options.memory, options.base))
    return 0


if __name__ == "__main__":
    sys.exit(main())
