"""`phoneagent demo`: a whole phone call on this machine, with no account, no key and no network."""

from __future__ import annotations

import asyncio
import errno
import shlex
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from phoneagent.cli.brain import BrainModelOption, BrainOption, brain_of, wake
from phoneagent.cli.calls import outcome_lines
from phoneagent.cli.failures import fail
from phoneagent.cli.own_agent import derived_script, target_named, unknown_calls_of
from phoneagent.cli.target import Target
from phoneagent.demo.playing import open_picture, play, players
from phoneagent.demo.report import counted, plain
from phoneagent.demo.run import Outcome, Senses, demonstrate
from phoneagent.demo.serving import RECORDS, ServerFailed
from phoneagent.demo.stories import RESTAURANT, Story
from phoneagent.sim.model.brain import Brain
from phoneagent.sim.model.script import Script

FILES = ("call.wav", "timeline.svg", "transcript.txt")
"""The files of a call, beside its report."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

BRAIN_INTERRUPTED_MS = 2500
"""How long the caller listens to a brain's answer before the second line interrupts it."""


def demo(
    target: Annotated[
        str | None, typer.Argument(help="The app, as `module:app` or `file.py`. Default: the built-in restaurant.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for the recording, the picture and the report.")] = Path(
        "demo-call"
    ),
    report: Annotated[Path | None, typer.Option(help="The file for the report. Default: OUT/report.json.")] = None,
    script: Annotated[
        Path | None, typer.Option(help="What model and caller say, as a TOML file. Default: made from the agent.")
    ] = None,
    brain: BrainOption = None,
    brain_model: BrainModelOption = None,
    play_it: Annotated[bool, typer.Option("--play", help="Play the recorded call at the end.")] = False,
    open_it: Annotated[bool, typer.Option("--open", help="Open the picture of the call in the browser.")] = False,
    scripted: Annotated[
        bool, typer.Option("--scripted", "--no-speech", help="Use no speech models, even if they are installed.")
    ] = False,
) -> None:
    """Play a phone call in real time: the app, a simulated model and a simulated caller. Exit 0 if all went well."""
    if target is not None:
        Target.find(target).load()  # its errors are reported before anything is announced
    console = Console(highlight=False, emoji=False)
    thinker = brain_of(brain, brain_model)
    story = _story(target, script, thinker)
    senses = _senses(scripted=scripted, thinker=thinker, own=target is not None or script is not None)
    _clear(out)
    if report is not None:
        _check_report(report)
    file = report or out / "report.json"
    try:
        _introduce(console, target, senses, script)
        outcome = asyncio.run(demonstrate(target or story.target or "", story, senses, out, console))
    except ServerFailed as failure:
        console.print(f"[dim]{escape(failure.tail)}[/]")
        fail(str(failure))
    except OSError as problem:
        fail(_unwritable(out, problem) if _of_the_disk(out, problem) else f"the call failed ({problem}): try it again")
    except KeyboardInterrupt:
        console.print("[red]the call was aborted[/]")
        raise typer.Exit(130) from None
    try:
        file.write_text(outcome.report.json(), encoding="utf-8", errors="replace")
    except OSError as problem:
        fail(_unwritable(out, problem) if report is None else _unwritable_report(report, problem))
    _summarise(console, outcome, out, file)
    if outcome.report.turns:
        _present(console, outcome, out, play_it=play_it, open_it=open_it)
    if not outcome.passed:
        raise typer.Exit(1)


def _clear(out: Path) -> None:
    """Make the folder, and delete what an earlier call has left: a call that fails writes no files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in (*FILES, "report.json"):
            (out / name).unlink(missing_ok=True)
    except OSError as problem:
        fail(_unwritable(out, problem))


def _check_report(file: Path) -> None:
    """End the command, before there is a call, if its report cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not (file.is_fifo() or file.is_char_device()):  # their reader gets the report alone
            there = file.exists()
            file.open("ab").close()
            if not there:
                file.unlink()
    except OSError as problem:
        fail(_unwritable_report(file, problem))


def _unwritable_report(file: Path, problem: OSError) -> str:
    return f"--report {file} cannot be written ({problem.strerror or problem}): name another file"


def _of_the_disk(out: Path, problem: OSError) -> bool:
    """Return whether an error is about the folder `out`. One that names no file may be about a connection."""
    if problem.filename is None:
        return problem.errno in _FULL
    return Path(str(problem.filename)).absolute().is_relative_to(out.absolute())


def _unwritable(out: Path, problem: OSError) -> str:
    if isinstance(problem, FileExistsError):
        return f"{out} exists and is not a folder: name another folder with --out"
    name = problem.filename or out
    return f"{name} cannot be written to ({problem.strerror or problem}): name another folder with --out"


def _story(target: str | None, script: Path | None, brain: Brain | None) -> Story:
    """Return the call to play: a script's, the user's agent's, or the restaurant's.

    A brain decides how long it speaks, so the caller interrupts it sooner. It also decides when the call ends.
    """
    if script is not None:
        named = RESTAURANT.target if target is None else target
        loaded = Script.load(script)
        for line in asyncio.run(unknown_calls_of(Target.find(named).load(), loaded)):
            typer.echo(f"! {line}")
        return Story(target=named, source=loaded, interrupts_after_ms=None, free=True)
    if target is None:
        return RESTAURANT if brain is None else replace(RESTAURANT, interrupts_after_ms=BRAIN_INTERRUPTED_MS, free=True)
    app, named = target_named(target)
    made = Script.parse(asyncio.run(derived_script(app, named)), source=f"the script made for {named}")
    return Story(
        target=target, source=made, interrupts_after_ms=4500 if brain is None else BRAIN_INTERRUPTED_MS, free=True
    )


def _senses(*, scripted: bool, thinker: Brain | None, own: bool) -> Senses:
    """Return what speaks, hears and thinks. A script that is not the restaurant's goes turn by turn, without an ear:
    its words are not meant for one."""
    senses = Senses.scripted() if scripted else Senses.best()
    if own and thinker is None:
        senses = replace(senses, ear=None)
    return replace(senses, brain=thinker)


def _introduce(console: Console, target: str | None, senses: Senses, script: Path | None) -> None:
    note = None if senses.brain is None else asyncio.run(wake(senses.brain))
    console.print(f"[bold]A phone call with {escape(target or 'a restaurant')}[/], on this machine, in real time.")
    if note is not None:
        heard = (
            "hears what the caller says" if senses.ear is not None else "reads the caller's lines, as there is no ear"
        )
        console.print(f"[dim]{escape(note)} It has your agent's instructions and tools, and {heard}.[/]")
    elif target is not None and script is None:
        words = "The model is scripted: it reads no instructions, but calls each of your tools once, with made-up "
        console.print(f"[dim]{words}arguments. --brain auto thinks with them; --script FILE plays your own lines.[/]")
    elif senses.ear is not None:
        console.print("[dim]The simulated model really listens (Moonshine tiny) and speaks (hibari).[/]")
    else:
        words = "The simulated model's hearing is scripted: after each turn of the caller, it says its next line."
        console.print(f"[dim]{words}[/]")
    if senses.murmurs:
        console.print("[dim]Words without a recording are murmured: pip install 'phoneagent\\[demo]' has a voice.[/]")


def _present(console: Console, outcome: Outcome, out: Path, *, play_it: bool, open_it: bool) -> None:
    """Open the picture and play the recording, if asked to. On a terminal, ask whether to play it."""
    problems = [open_picture(out / "timeline.svg")] if open_it else []
    if not play_it and sys.stdin.isatty() and sys.stdout.isatty() and players():
        try:
            play_it = typer.confirm("Play the call?", default=False)
        except typer.Abort:  # Ctrl-C or Ctrl-D
            console.print()
    if play_it:
        with suppress(KeyboardInterrupt):
            problems.append(play(out / "call.wav", outcome.report.duration_ms / 1000))
    for problem in problems:
        if problem is not None:
            console.print(f"[red]{escape(problem)}[/]")


def _summarise(console: Console, outcome: Outcome, out: Path, report: Path) -> None:
    measured, latency = outcome.report, outcome.report.latency_ms
    console.print()
    facts = [
        f"{measured.duration_ms / 1000:.1f} s",
        counted(len(measured.turns), "turn"),
        f"ended by {measured.ended_by}",
    ]
    console.print(f"[bold]{', '.join(facts)}[/]")
    for barge in measured.barge_ins:
        told = f"the model was told {barge.audio_end_ms} ms were heard, the caller heard {barge.truth_heard_ms} ms"
        console.print(f"  interrupted: {told}")
        if barge.reaction_ms is not None:
            console.print(f"  the agent fell silent {barge.reaction_ms} ms after the caller began to speak")
    if latency.response_p50 is not None:
        console.print(f"  answers after {latency.response_p50} ms (median), {latency.response_p95} ms (p95)")
    if latency.bridge_up_p99 is not None and latency.bridge_down_p99 is not None:
        up, down = latency.bridge_up_p99, latency.bridge_down_p99
        console.print(f"  through phoneagent: {up} ms to the model, {down} ms to the caller (p99)")
    for violation in measured.violations:
        console.print(f"  [red]{escape(plain(violation))}[/]")
    if not measured.violations:
        console.print("  no protocol rule broken")
    for line in outcome.raised:
        console.print(f"  [red]! {escape(line)}[/]", soft_wrap=True)
    if outcome.trouble:
        console.print(f"  [red]{escape(plain(outcome.trouble))}[/]")
    for line in outcome_lines(outcome.record) if outcome.record is not None else ():
        console.print(f"  {escape(line)}", soft_wrap=True)
    if measured.turns:
        names = ", ".join(FILES)
        console.print(f"[dim]Saved in {escape(str(out))}/: {names}. Report: {escape(str(report))}[/]")
    if outcome.record is not None:
        command = f"DATABASE_URL={shlex.quote(f'sqlite:///{out}/{RECORDS}')} phoneagent calls --last"
        console.print(f"[dim]The app's own record: {escape(command)}[/]", soft_wrap=True)
