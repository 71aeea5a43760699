"""`python -m benchmarks.interruptions`: sounds that wrongly stop an agent, and sounds that wrongly do not."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib.util
import json
import logging
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.cases import Case, cases
from benchmarks.interrupted_call import Caller, Outcome, Played, Setting, measure, play
from phoneagent.bridge.policy import Interruption
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.sim.speech import default_ear

AT_ONCE = 27
MAX_LATE_MS = 20.0
"""A p99 above this means that other programs or too many calls at once delay the frames as much."""

COLUMNS = ("cases", "number", "false cancels", "false answers", "missed", "stop p50 ms", "max", "truncation error ms")
TODAY = "cut at once"
DECIDING = "pause, then decide"


def rules() -> dict[str, dict[str, Any]]:
    """Return the agent's options for each rule that this version has."""
    at_once: dict[str, Any] = {"min_speech_ms": 0}
    if "min_speech_ms" not in {each.name for each in dataclasses.fields(Interruption)}:
        return {TODAY: {}}
    return {TODAY: {"barge_in": Interruption(**at_once)}, DECIDING: {}}


async def run(chosen: Sequence[Case], setting: Setting, *, at_once: int = AT_ONCE) -> list[Outcome]:
    """Play the cases, several at once; return the outcome of each, in their order.

    Slow work is done before the first call and after the last one, where it delays no call.
    """
    free = asyncio.Semaphore(at_once)
    callers = list(map(Caller, chosen))

    async def one(caller: Caller) -> Played:
        async with free:
            return await play(caller, setting)

    late: list[float] = []
    watching = asyncio.create_task(_watch(late))
    played = await asyncio.gather(*map(one, callers))
    watching.cancel()
    late.sort()
    if late and late[len(late) * 99 // 100] > MAX_LATE_MS:
        print(f"This process was late by up to {late[-1]:.0f} ms: do not trust the times.", file=sys.stderr)
    return list(map(measure, played))


async def _watch(late: list[float]) -> None:
    """Note every 10 ms how late the event loop is."""
    while True:
        due = time.monotonic() + 0.01
        await asyncio.sleep(0.01)
        late.append((time.monotonic() - due) * 1000)


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """The figures of several cases."""

    cases: int
    false_cancels: int
    false_answers: int
    missed: int
    stop_p50_ms: int | None
    stop_max_ms: int | None
    truncation_error_ms: int | None
    """The largest in absolute value, among the interruptions that were obeyed."""


def summary(outcomes: Iterable[Outcome]) -> Summary:
    """Return the figures of these cases."""
    found = list(outcomes)
    stops = [each.stop_ms for each in found if each.stop_ms is not None]
    errors = [each.truncation_error_ms for each in found if each.truncation_error_ms is not None and each.must_stop]
    return Summary(
        cases=len(found),
        false_cancels=sum(each.false_cancel for each in found),
        false_answers=sum(each.answered and not each.must_stop for each in found),
        missed=sum(each.missed for each in found),
        stop_p50_ms=round(statistics.median(stops)) if stops else None,
        stop_max_ms=max(stops, default=None),
        truncation_error_ms=max(errors, key=abs, default=None),
    )


def show(by_rule: dict[str, list[Outcome]], *, every_case: bool) -> None:
    """Print a table for each rule: one line per group of cases or, with `every_case`, also per case."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    for rule, outcomes in by_rule.items():
        table = Table(title=f"{rule}: {len(outcomes)} calls", title_justify="left")
        for name in COLUMNS:
            table.add_column(name, justify="left" if name == "cases" else "right")
        for group in dict.fromkeys(each.group for each in outcomes):
            some = [each for each in outcomes if each.group == group]
            table.add_row(*_row(group, some, must_stop=some[0].must_stop))
        table.add_section()
        ignored = [each for each in outcomes if not each.must_stop]
        obeyed = [each for each in outcomes if each.must_stop]
        for name, some, must_stop in (("to be ignored", ignored, False), ("to be obeyed", obeyed, True)):
            if some:
                table.add_row(*_row(name, some, must_stop=must_stop))
        console.print(table)
        for each in outcomes:
            if every_case or each.trouble:
                console.print(_line(each), highlight=False)


def _row(name: str, outcomes: Sequence[Outcome], *, must_stop: bool) -> list[str]:
    found = summary(outcomes)
    wrong = [found.false_cancels, "", found.missed] if must_stop else [found.false_cancels, found.false_answers, ""]
    figures = [found.stop_p50_ms, found.stop_max_ms, found.truncation_error_ms]
    return [name, str(found.cases), *map(str, wrong), *("" if each is None else str(each) for each in figures)]


def _line(outcome: Outcome) -> str:
    noise = outcome.answered and not outcome.must_stop
    verdict = "MISSED" if outcome.missed else "CUT" if outcome.false_cancel else "ANSWER" if noise else "right"
    parts = [f"{verdict:6} {outcome.group}: {outcome.name}"]
    parts += [f"voice stopped after {outcome.stop_ms} ms"] if outcome.stop_ms is not None else []
    parts += [f"{outcome.pauses} pauses"] if outcome.pauses > 1 else []
    parts += [f"{outcome.lost_ms} ms lost"] if outcome.lost_ms else []
    parts += ["answered"] if outcome.answered else []
    return ", ".join([*parts, *([outcome.trouble] if outcome.trouble else [])])


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.interruptions", description=__doc__)
    found.add_argument("--only", metavar="TEXT", default="", help="only the cases with this text in group or name")
    found.add_argument("--rule", choices=list(rules()), help="only this rule")
    found.add_argument("--at-once", type=int, default=AT_ONCE, help=f"calls at the same time ({AT_ONCE})")
    found.add_argument("--ear", action="store_true", help="understand with the recogniser of the extra `demo`")
    found.add_argument("--gate", action="store_true", help="detect speech by its level alone, as simple servers do")
    found.add_argument("--cases", action="store_true", help="print every case, not only each group")
    found.add_argument("--json", action="store_true", help="print what came of each case as JSON instead of a table")
    found.add_argument("--save", type=Path, metavar="FOLDER", help="keep each call as WAV: caller left, agent right")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser().parse_args(arguments)
    ear = default_ear() if options.ear else None
    if options.ear and ear is None:
        print("--ear needs the extra `demo`: pip install 'phoneagent[demo]'", file=sys.stderr)
        return 2
    chosen = [case for case in cases() if options.only in f"{case.group} {case.name}"]
    played: dict[str, list[Outcome]] = {}
    began = time.monotonic()
    for rule, changes in rules().items():
        if options.rule in (None, rule):
            folder = options.save and options.save / rule.replace(",", "").replace(" ", "-")
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
            setting = Setting(rule=changes, ear=ear, vad=EnergyGate if options.gate else None, folder=folder)
            played[rule] = uvloop.run(run(chosen, setting, at_once=options.at_once))
    if options.json:
        print(json.dumps({rule: list(map(dataclasses.asdict, each)) for rule, each in played.items()}, indent=2))
        return 0
    show(played, every_case=options.cases)
    neural = not options.gate and importlib.util.find_spec("earshot") is not None
    detector = "a neural detector" if neural else "their level alone (the extra `demo` has a neural detector)"
    print(f"Sounds were taken for speech by {detector}. {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # sixty calls that hang up in mid-sentence
    sys.exit(main())
