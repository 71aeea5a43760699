"""`python -m benchmarks.bridge`: full-duplex calls through the app and through the tutorial's bridge."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import plot, process, report, watchers
from benchmarks.console_page import console_page
from benchmarks.flow import summary
from benchmarks.load import Load, ModelPort
from benchmarks.results import Result, Window
from benchmarks.subject import Bridge, Running, phoneagent, tutorial

BARGE_IN_CALLS = 40
BARGE_IN_ROUNDS = 3
CALLS_PER_SECOND = 15.0
"""How fast calls begin. Set-up times are measured at this rate, so a server must sustain it along with its calls."""

DISTANCE_MS = 100.0
"""Twilio's time from the webhook's answer to the media socket, and the model's to answer a handshake."""

LIMIT_MS = 20.0
"""`--max`: the highest p99 of the added latency."""

STEP = 10
"""`--max`: the gap between the largest number of calls within the limits and the smallest beyond them."""

SEARCH_SECONDS = 5.0
TRIES = 3
"""How often a window is measured at most: it is repeated if other programs or a late generator disturbed it."""

MAX_SEARCH = 2560
PLOT_POINTS = (0.1, 0.25, 0.5, 0.75, 1.0)
"""The shares of --calls at which latencies are measured for the plot."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores that the bridge and the generator may use. None: any core."""

    bridge: Collection[int] | None
    generator: Collection[int] | None

    @classmethod
    def share(cls, workers: int) -> Cores:
        """Give the bridge one core and the generator another; several workers get all cores."""
        available = sorted(os.sched_getaffinity(0))
        if len(available) < 2 or workers > 1:
            return cls(None, None)
        return cls({available[0]}, set(available[1:]))


async def measure(bridge: Bridge, port: ModelPort, cores: Cores, options: argparse.Namespace) -> Result:
    """Measure one bridge in its own process."""
    result = Result(bridge.name, bridge.workers)
    profile = Path(options.profile) if options.profile and bridge.status_path and bridge.workers == 1 else None
    async with Running(bridge, port.url, cores.bridge, profile) as running:
        if cores.generator is not None:
            os.sched_setaffinity(0, cores.generator)
        load = port.load = Load(
            running.address, bridge.voice_path, bridge.status_path, distance_seconds=options.distance / 1000
        )
        load.start()
        try:
            await _measure(running, load, port, result, options)
        except ConnectionError as error:
            result.faults = {str(error): 1}
            report.say(f"{bridge.name}: {error}\n{running.log_end()}")
        finally:
            load.stop()
    return result


async def _measure(running: Running, load: Load, port: ModelPort, result: Result, options: argparse.Namespace) -> None:
    pids = running.pids()
    await load.grow(1, per_second=CALLS_PER_SECOND)
    await load.shrink(0)  # the first call loads things that stay in memory
    result.idle_kb = process.resident_kb(pids)
    report.say(f"{result.bridge}: {options.calls} calls")
    first = await load.grow(min(BARGE_IN_CALLS, options.calls), per_second=CALLS_PER_SECOND)
    result.barge_ins = await load.barge_in(BARGE_IN_ROUNDS)

    async def window(number: int, seconds: float) -> Window:
        await load.shrink(number)
        await load.grow(number, per_second=CALLS_PER_SECOND)
        found = await least_disturbed(lambda: load.measure(seconds, running.usage))
        result.windows.append(found)
        return found

    if options.plot:
        for share in PLOT_POINTS[:-1]:
            await window(max(1, round(share * options.calls)), min(options.seconds, SEARCH_SECONDS))
    result.main = await window(options.calls, options.seconds)
    result.kb_per_call = (process.resident_kb(pids) - result.idle_kb) / options.calls
    result.accept = summary([call.accept_seconds for call in first if call.accept_seconds is not None])
    result.greeting = summary([call.greeting_seconds for call in first if call.greeting_seconds is not None])
    if running.bridge.status_path:
        for each in _watchers(options):
            result.watch_costs.append(await watchers.measure(load, running, each, options.seconds))
    if result.workers > 1:
        held = [number for number in process.connections(pids, port.port).values() if number]
        result.shares = sorted((number / sum(held) for number in held), reverse=True)
    if options.max:
        result.most = await search(window, options.calls)
    await load.shrink(0)
    result.faults = dict(load.faults())


def _watchers(options: argparse.Namespace) -> list[watchers.Watchers]:
    found = [watchers.readers(options.readers)] if options.readers else []
    return [*found, console_page()] if options.console else found


async def least_disturbed(measure: Callable[[], Awaitable[Window]]) -> Window:
    """Repeat a measurement while other programs disturb it, TRIES times in all; return the least disturbed window."""
    windows: list[Window] = []
    while len(windows) < TRIES and (not windows or windows[-1].disturbed):
        windows.append(await measure())
        report.say(report.line_of(windows[-1]))
    return min(windows, key=lambda window: (window.generator.worthless, window.others))


async def search(window: Callable[[int, float], Awaitable[Window]], begin: int) -> int:
    """Return the largest number of calls within the limits: double it until it is too large, then bisect."""

    async def bears(number: int) -> bool:
        try:
            found = await window(number, SEARCH_SECONDS)
        except ConnectionError as error:
            report.say(f"{number} calls: {error}")
            return False
        return found.worst_p99 < LIMIT_MS and not found.lost and not found.broken

    good, bad = 0, begin
    while bad <= MAX_SEARCH and await bears(bad):
        good, bad = bad, 2 * bad
    while bad - good > STEP:
        middle = (good + bad) // 2
        if await bears(middle):
            good = middle
        else:
            bad = middle
    return good


def chosen(options: argparse.Namespace) -> list[Bridge]:
    """Return the bridges to measure; the app with several workers is compared with itself in one."""
    found = []
    for name in options.bridges.split(","):
        if name == "tutorial":
            found.append(tutorial())
        else:
            found.append(phoneagent(media_socket=options.media_socket))
            if options.workers > 1:
                found.append(phoneagent(workers=options.workers, media_socket=options.media_socket))
    return found


async def run(options: argparse.Namespace) -> list[Result]:
    """Measure all requested bridges, one after another."""
    port = ModelPort()
    await port.open()
    cores = Cores.share(options.workers)
    try:
        return [await measure(bridge, port, cores, options) for bridge in chosen(options)]
    finally:
        port.close()


def _bridges(text: str) -> str:
    if unknown := set(text.split(",")) - {"phoneagent", "tutorial"}:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: the bridges are phoneagent and tutorial")
    return text


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_SEARCH:
        raise argparse.ArgumentTypeError(f"{text}: from 1 to {MAX_SEARCH}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.bridge", description=__doc__)
    found.add_argument("--calls", type=_number, default=100, help="calls at once (100)")
    found.add_argument("--seconds", type=float, default=15.0, help="how long they are measured (15)")
    found.add_argument("--max", action="store_true", help=f"also find the most calls with p99 < {LIMIT_MS:g} ms")
    found.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    found.add_argument("--plot", metavar="FILE.svg", help="draw latency against calls")
    found.add_argument("--bridges", type=_bridges, default="phoneagent,tutorial", help="which ones, with a comma")
    found.add_argument("--workers", type=_number, default=1, help="also measure the app in this many processes")
    found.add_argument(
        "--distance",
        type=float,
        default=DISTANCE_MS,
        metavar="MS",
        help=f"how far Twilio and the model are: see benchmarks/README.md ({DISTANCE_MS:g})",
    )
    found.add_argument("--media-socket", choices=("direct", "asgi"), help="the option of `phoneagent serve`")
    found.add_argument("--readers", type=_number, help="also measure what so many readers of events cost the app")
    found.add_argument("--console", action="store_true", help="also measure what the console in a browser costs it")
    found.add_argument("--profile", metavar="FILE", help="run the app under cProfile, which makes it slower")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if a bridge did not carry its calls."""
    options = parser().parse_args(arguments)
    if not hasattr(os, "sched_getaffinity"):
        print("benchmarks.bridge reads /proc and chooses cores: run it on Linux", file=sys.stderr)
        return 2
    results = uvloop.run(run(options))
    if options.json:
        print(report.as_json(results))
    else:
        report.show(results)
    if options.plot:
        Path(options.plot).write_text(plot.draw(results, LIMIT_MS), encoding="utf-8")
    if options.profile:
        report.show_profile(Path(options.profile))
    return 1 if any(each.main is None or each.faults for each in results) else 0


if __name__ == "__main__":
    sys.exit(main())
