"""The results of a benchmark as a table."""

from __future__ import annotations

import dataclasses
import json
import math
import pstats
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table

from benchmarks.flow import LATE_MS
from benchmarks.results import CROWDED, Result, Side, Window

PROFILED = 30
"""How many functions of a profile are shown."""

PAGE_COLUMNS = 120
"""The width of a table that goes to a file."""

Figure: TypeAlias = float | str | None


def say(text: str) -> None:
    """Print the progress of a run, separate from its results."""
    print(text, file=sys.stderr, flush=True)


def line_of(window: Window) -> str:
    """Return a window in one line."""
    generator = window.generator
    words = (
        f"  {window.calls} calls, {window.seconds:.0f} s: p99 {window.to_model.latency.p99:.1f} ms to the model, "
        f"{window.to_caller.latency.p99:.1f} ms to the caller, {window.lost} lost, "
        f"{window.cpu_ms:.2f} CPU-ms per call-second; "
        f"generator {generator.cpu_share:.0%} of a core, p99 {generator.late_p99_ms:.1f} ms late"
    )
    if window.others > CROWDED:
        words += f"; other programs took {window.others:.0%} of the bridge's cores"
    return words + ("; TOO LATE: these latencies say nothing" if generator.worthless else "")


def show(results: Sequence[Result]) -> None:
    """Print the results as a table, with the first bridge as a ratio to the last."""
    table = Table(title="Full-duplex calls, 50 frames a second each way", title_justify="left")
    table.add_column("")
    for each in results:
        table.add_column(each.bridge, justify="right")
    compared = len(results) > 1
    if compared:
        table.add_column("first / last", justify="right")
    for name, *figures in rows(results):
        cells = [_written(figure) for figure in figures]
        table.add_row(str(name), *cells, *([_ratio(figures)] if compared else []))
    Console(width=None if sys.stdout.isatty() else PAGE_COLUMNS).print(table)
    for each in results:
        for fault, number in each.faults.items():
            say(f"{each.bridge}: {number} calls: {fault}")


def _watched(watchers: str, figure: str, result: Result) -> Figure:
    """Return a figure of the cost of these watchers for a bridge."""
    return next((getattr(cost, figure) for cost in result.watch_costs if cost.watchers == watchers), None)


def as_json(results: Sequence[Result]) -> str:
    """Return the results as JSON; figures that were not measured are null."""
    return json.dumps([_plain(dataclasses.asdict(each)) for each in results], indent=2)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case float() if math.isnan(value):
            return None
    return value


def rows(results: Sequence[Result]) -> list[list[Figure]]:
    """Return the lines of the table: a name, and a figure for each bridge."""
    found = _window_rows(results)

    def add(name: str, figure: Callable[[Result], Figure]) -> None:
        found.append([name, *map(figure, results)])

    add("resident KB per call", lambda each: each.kb_per_call)
    add("barge-in reaction p50, ms", lambda each: each.barge_ins.reaction.p50 if each.barge_ins else None)
    add("barge-in reaction p99, ms", lambda each: each.barge_ins.reaction.p99 if each.barge_ins else None)
    add("barge-ins without a clear", lambda each: str(each.barge_ins.unanswered) if each.barge_ins else None)
    add("calls silent after a barge-in", lambda each: str(each.barge_ins.silent) if each.barge_ins else None)
    add("webhook to audio at the model p50, ms", lambda each: each.accept.p50 if each.accept else None)
    add("webhook to audio at the model p99, ms", lambda each: each.accept.p99 if each.accept else None)
    add("webhook to greeting p50, ms", lambda each: each.greeting.p50 if each.greeting else None)
    add("webhook to greeting p99, ms", lambda each: each.greeting.p99 if each.greeting else None)
    if any(each.most is not None for each in results):
        add("most calls, p99 < 20 ms, none lost", lambda each: each.most)
    for name in dict.fromkeys(cost.watchers for each in results for cost in each.watch_costs):
        add("CPU-ms per second during conversation", partial(_watched, name, "without_ms"))
        add(f"with {name}", partial(_watched, name, "with_ms"))
        if any(_watched(name, "events_per_second", each) is not None for each in results):
            add("events per second for each", partial(_watched, name, "events_per_second"))
    if any(each.shares for each in results):
        add("calls of each worker", lambda each: " ".join(f"{share:.0%}" for share in each.shares))
    return found


def _window_rows(results: Sequence[Result]) -> list[list[Figure]]:
    found: list[list[Figure]] = []

    def add(name: str, figure: Callable[[Window], Figure]) -> None:
        found.append([name, *(None if each.main is None else figure(each.main) for each in results)])

    def add_side(words: str, side: Callable[[Window], Side]) -> None:
        add(f"added {words} p50, ms", lambda window: side(window).latency.p50)
        add(f"added {words} p99, ms", lambda window: side(window).latency.p99)
        add(f"added {words} max, ms", lambda window: side(window).latency.max)
        add(f"lost {words}", lambda window: str(side(window).lost))
        add(f"late {words} (> {LATE_MS:g} ms)", lambda window: _late(side(window)))

    add("calls", lambda window: str(window.calls))
    add_side("to the model", lambda window: window.to_model)
    add_side("to the caller", lambda window: window.to_caller)
    add("CPU-ms per call-second", lambda window: window.cpu_ms)
    add("other programs, of the bridge's cores", lambda window: f"{window.others:.0%}")
    add("generator, of its core", lambda window: f"{window.generator.cpu_share:.0%}")
    add("generator late p99, ms", lambda window: window.generator.late_p99_ms)
    return found


def _late(side: Side) -> str:
    return f"{side.latency.late / side.latency.count:.2%}" if side.latency.count else ""


def _written(figure: Figure) -> str:
    if figure is None or isinstance(figure, str):
        return figure or ""
    if math.isnan(figure):
        return ""
    return f"{figure:.0f}" if figure >= 100 or isinstance(figure, int) else f"{figure:.2f}"


def _ratio(figures: Sequence[Figure]) -> str:
    first, last = figures[0], figures[-1]
    if isinstance(first, str) or isinstance(last, str) or not first or not last or math.isnan(first / last):
        return ""
    return f"{first / last:.2f}"


def show_profile(path: Path) -> None:
    """Print the functions with the most time of their own."""
    pstats.Stats(str(path)).sort_stats("tottime").print_stats(PROFILED)
