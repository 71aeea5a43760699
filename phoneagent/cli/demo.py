"""`phoneagent demo`: a whole phone call on this machine, with no account, no key and no network."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from phoneagent.cli.target import Target
from phoneagent.demo.run import Outcome, Senses, demonstrate
from phoneagent.demo.serving import ServerFailed
from phoneagent.demo.stories import RESTAURANT, VISITOR


def demo(
    target: Annotated[
        str | None, typer.Argument(help="The app, `module:app` or `file.py`. Without it: the built-in restaurant.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for the recording, the picture and the report.")] = Path(
        "demo-call"
    ),
    report: Annotated[Path | None, typer.Option(help="The file for the report. Without it: OUT/report.json.")] = None,
    scripted: Annotated[
        bool, typer.Option("--scripted", "--no-speech", help="Use no speech models, even if they are installed.")
    ] = False,
) -> None:
    """Play a phone call in real time: the app, a simulated model and a simulated caller. Exit 0 if all went well."""
    if target is not None:
        Target.find(target).load()  # what is wrong with it is said before anything is announced
    console = Console(highlight=False)
    story = RESTAURANT if target is None else VISITOR
    senses = Senses.scripted() if scripted else Senses.best()
    try:
        out.mkdir(parents=True, exist_ok=True)
        _introduce(console, target, senses)
        outcome = asyncio.run(demonstrate(target or story.target or "", story, senses, out, console))
        file = report or out / "report.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(outcome.report.json(), encoding="utf-8")
    except ServerFailed as failure:
        console.print(f"[red]{escape(str(failure))}[/]\n[dim]{escape(failure.tail)}[/]")
        raise typer.Exit(1) from None
    except OSError as problem:
        console.print(f"[red]{escape(str(problem))}[/]: choose another folder with --out")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("[red]the call was aborted[/]")
        raise typer.Exit(130) from None
    _summarise(console, outcome, out, file)
    if not outcome.passed:
        raise typer.Exit(1)


def _introduce(console: Console, target: str | None, senses: Senses) -> None:
    console.print(f"[bold]A phone call with {escape(target or 'a restaurant')}[/], on this machine, in real time.")
    if senses.ear is not None:
        console.print("[dim]The simulated model really listens (Moonshine tiny) and speaks (hibari).[/]")
        return
    words = "The simulated model's hearing is scripted: after each turn of the caller, it says its script's next line."
    console.print(f"[dim]{words}[/]")
    console.print("[dim]With pip install 'phoneagent\\[demo]' it understands what it hears and can speak any text.[/]")


def _summarise(console: Console, outcome: Outcome, out: Path, report: Path) -> None:
    measured, latency = outcome.report, outcome.report.latency_ms
    console.print()
    facts = [f"{measured.duration_ms / 1000:.1f} s", f"{len(measured.turns)} turns", f"ended by {measured.ended_by}"]
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
        console.print(f"  [red]{escape(violation)}[/]")
    if not measured.violations:
        console.print("  no protocol rule broken")
    if outcome.trouble:
        console.print(f"  [red]{escape(outcome.trouble)}[/]")
    if measured.turns:
        names = ", ".join(["call.wav", "timeline.svg", "transcript.txt"])
        console.print(f"[dim]Saved in {escape(str(out))}/: {names}. Report: {escape(str(report))}[/]")
