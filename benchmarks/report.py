"""The results of a benchmark as a table, and as a plot of latency against the number of calls."""

from __future__ import annotations

import math
import pstats
import sys
from collections.abc import Awaitable, Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console
from rich.table import Table

from benchmarks.flow import LATE_MS, Latency
from benchmarks.load import Window

if TYPE_CHECKING:
    from benchmarks.bridge import Result

Measure: TypeAlias = Callable[[int, float], Awaitable[Window]]

PROFILED = 30
"""How many functions of a profile are shown."""


def say(text: str) -> None:
    """Tell how a run goes on, beside its results."""
    print(text, file=sys.stderr, flush=True)


def line_of(window: Window) -> str:
    """Return a window in one line."""
    generator = window.generator
    words = (
        f"  {window.calls} calls, {window.seconds:.0f} s: p99 {window.to_model.p99:.1f} ms to the model, "
        f"{window.to_caller.p99:.1f} ms to the caller, {window.lost} lost, {window.cpu_ms:.2f} CPU-ms per call-second; "
        f"generator {generator.cpu_share:.0%} of a core, p99 {generator.late_p99_ms:.1f} ms late"
    )
    return words + (", TOO LATE: these latencies say nothing" if generator.worthless else "")


def show(results: Sequence[Result]) -> None:
    """Print the results as a table, the first bridge also as a ratio to the last."""
    table = Table(title="Full-duplex calls, 50 frames a second each way", title_justify="left")
    table.add_column("")
    for each in results:
        table.add_column(each.bridge, justify="right")
    compared = len(results) > 1
    if compared:
        table.add_column(f"{results[0].bridge} / {results[-1].bridge}", justify="right")
    for name, figures in rows(results):
        cells = [_figure(figure) for figure in figures]
        table.add_row(name, *cells, *([_ratio(figures)] if compared else []))
    Console().print(table)
    for each in results:
        for window in each.windows:
            if window.generator.worthless:
                say(f"{each.bridge}, {window.calls} calls: the generator was late, so these latencies say nothing")
        for fault, number in each.faults.items():
            say(f"{each.bridge}: {number} calls: {fault}")


Figure: TypeAlias = float | str | None


def rows(results: Sequence[Result]) -> list[tuple[str, list[Figure]]]:
    """Return the lines of the table: a name, and a figure of each bridge."""

    def line(name: str, figure: Callable[[Result], Figure]) -> tuple[str, list[Figure]]:
        return name, [figure(each) for each in results]

    def of_main(name: str, figure: Callable[[Window], Figure]) -> tuple[str, list[Figure]]:
        return line(name, lambda each: None if each.main is None else figure(each.main))

    lines = [of_main("calls", lambda main: str(main.calls))]
    for words, side, lost in (
        ("to the model", "to_model", "lost_to_model"),
        ("to the caller", "to_caller", "lost_to_caller"),
    ):
        for name in ("p50", "p99", "max"):
            lines.append(
                of_main(f"added {words}, {name}, ms", lambda main, s=side, n=name: getattr(getattr(main, s), n))
            )  # type: ignore[misc]
        lines.append(of_main(f"lost {words}", lambda main, at=lost: str(getattr(main, at))))  # type: ignore[misc]
        lines.append(of_main(f"late {words} (> {LATE_MS:g} ms)", lambda main, s=side: _late(getattr(main, s))))  # type: ignore[misc]
    lines += [
        of_main("CPU-ms per call-second", lambda main: main.cpu_ms),
        line("resident KB per call", lambda each: each.kb_per_call),
        line("barge-in reaction p50, ms", lambda each: each.barge_ins and each.barge_ins.reaction.p50),
        line("barge-in reaction p99, ms", lambda each: each.barge_ins and each.barge_ins.reaction.p99),
        line(
            "barge-ins without clear / answer",
            lambda each: each.barge_ins and f"{each.barge_ins.unanswered} / {each.barge_ins.silent}",
        ),
        line("webhook to first audio at the model p50, ms", lambda each: each.accept and each.accept.p50),
        line("webhook to first audio at the model p99, ms", lambda each: each.accept and each.accept.p99),
        line("webhook to greeting p50, ms", lambda each: each.greeting and each.greeting.p50),
        line("webhook to greeting p99, ms", lambda each: each.greeting and each.greeting.p99),
    ]
    if any(each.most is not None for each in results):
        lines.append(line("most calls with p99 < 20 ms, nothing lost", lambda each: each.most))
    if any(each.shares for each in results):
        lines.append(
            line("share of the calls of each worker", lambda each: " ".join(f"{share:.0%}" for share in each.shares))
        )
    lines.append(of_main("generator: share of a core", lambda main: f"{main.generator.cpu_share:.0%}"))
    lines.append(of_main("generator: late p99, ms", lambda main: main.generator.late_p99_ms))
    return lines


def _late(latency: Latency) -> str:
    return f"{latency.late / latency.count:.2%}" if latency.count else ""


def _figure(figure: Figure) -> str:
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
    """Print the functions that took most time by themselves."""
    pstats.Stats(str(path)).sort_stats("tottime").print_stats(PROFILED)


def plot(results: Sequence[Result], limit_ms: float) -> str:
    """Return a plot as SVG."""
    return ""
