"""`python -m benchmarks.many`: thousands of short calls in a row, and whether the server's memory grows."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import process, report
from benchmarks.load import Load, ModelPort
from benchmarks.subject import Running, phoneagent

SAMPLES = 10
AT_ONCE = 20
REST_SECONDS = 1.0
"""How long the server rests before each sample, to finish its work after the calls."""

MAX_GROWTH = 1.05
"""How much more memory the server may hold at the end than at the first sample: half a kilobyte for each of ten
thousand calls."""

MAX_MORE = 5
"""How many more files and tasks the server may have at the end than at the first sample."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The server after a number of calls, at rest."""

    calls: int
    seconds: float
    resident_kb: float
    files: int
    threads: int
    tasks: int
    objects: int


def flat(samples: Sequence[Sample]) -> bool:
    """Tell whether nothing grew between the first sample and the last."""
    first, last = samples[0], samples[-1]
    more = max(last.files - first.files, last.threads - first.threads, last.tasks - first.tasks)
    return last.resident_kb <= first.resident_kb * MAX_GROWTH and more <= MAX_MORE


async def run(options: argparse.Namespace) -> list[Sample]:
    """Make the calls; return a sample after each tenth of them."""
    port = ModelPort()
    await port.open()
    bridge = phoneagent(media_socket=options.media_socket)
    try:
        async with Running(bridge, port.url, None) as running:
            load = port.load = Load(running.address, bridge.voice_path, bridge.status_path)
            load.start()
            try:
                return await _run(running, load, options)
            finally:
                load.stop()
    finally:
        port.close()


async def _run(running: Running, load: Load, options: argparse.Namespace) -> list[Sample]:
    samples: list[Sample] = []
    began, done = time.monotonic(), 0
    for part in range(1, SAMPLES + 1):
        upto = options.calls * part // SAMPLES
        await _calls(load, upto - done, options.at_once)
        done = upto
        await asyncio.sleep(REST_SECONDS)
        samples.append(await asyncio.to_thread(_sample, running, done, time.monotonic() - began))
        report.say(f"  {done} calls: {samples[-1].resident_kb / 1024:.1f} MB, {samples[-1].tasks} tasks")
    return samples


async def _calls(load: Load, number: int, at_once: int) -> None:
    """Make short calls: each ends once its greeting was heard."""
    left = iter(range(number))

    async def one_after_another() -> None:
        for _ in left:
            await load.short_call()

    await asyncio.gather(*(one_after_another() for _ in range(at_once)))


def _sample(running: Running, calls: int, seconds: float) -> Sample:
    counted = json.loads(running.get("/benchmark/count"))
    pids = running.pids()
    return Sample(
        calls=calls,
        seconds=seconds,
        resident_kb=process.resident_kb(pids),
        files=sum(map(process.files, pids)),
        threads=sum(map(process.threads, pids)),
        tasks=counted["tasks"],
        objects=counted["objects"],
    )


def show(samples: Sequence[Sample]) -> None:
    """Print the samples as a table."""
    table = Table(title="Short calls in a row", title_justify="left")
    for name in ("calls", "seconds", "resident MB", "files", "threads", "tasks", "objects"):
        table.add_column(name, justify="right")
    for each in samples:
        table.add_row(
            str(each.calls),
            f"{each.seconds:.0f}",
            f"{each.resident_kb / 1024:.1f}",
            *map(str, (each.files, each.threads, each.tasks, each.objects)),
        )
    Console().print(table)
    print("flat" if flat(samples) else "NOT flat")


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.many", description=__doc__)
    found.add_argument("--calls", type=int, default=10_000, help="calls in all (10000)")
    found.add_argument("--at-once", type=int, default=AT_ONCE, help=f"calls at the same time ({AT_ONCE})")
    found.add_argument("--media-socket", choices=("direct", "asgi"), help="the option of `phoneagent serve`")
    found.add_argument("--json", action="store_true", help="print the samples as JSON instead of a table")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if something grew."""
    options = parser().parse_args(arguments)
    samples = uvloop.run(run(options))
    if options.json:
        print(json.dumps([dataclasses.asdict(each) for each in samples], indent=2))
    else:
        show(samples)
    return 0 if flat(samples) else 1


if __name__ == "__main__":
    sys.exit(main())
