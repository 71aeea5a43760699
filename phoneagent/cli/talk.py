"""`phoneagent talk`: a call with your agent; this machine's microphone and loudspeaker are the phone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from phoneagent import settings
from phoneagent.cli.brain import BrainModelOption, BrainOption, brain_of, wake
from phoneagent.cli.failures import warnings_told
from phoneagent.cli.keys import reading_keys
from phoneagent.cli.own_agent import derived_script, unknown_calls_of
from phoneagent.cli.real_model import real_model
from phoneagent.cli.stopping import on_stop_signal
from phoneagent.cli.target import DEFAULTS, Target
from phoneagent.demo.report import counted, plain
from phoneagent.demo.run import Senses
from phoneagent.demo.stories import RESTAURANT
from phoneagent.demo.talking import Sound, Talked, simulated_model
from phoneagent.demo.talking import talk as hold_call
from phoneagent.errors import DefinitionError
from phoneagent.model.endpoint import Endpoint
from phoneagent.server import PhoneApp
from phoneagent.sim.model.brain import Brain
from phoneagent.sim.model.script import Script
from phoneagent.sim.model.server import Model
from phoneagent.sim.sound.card import load_backend
from phoneagent.sim.sound.devices import choose, describe, list_devices
from phoneagent.sim.twilio.phone import CALLER

INTERRUPTED = 130
"""The exit status after a second Ctrl-C."""


def talk(
    target: Annotated[
        str | None,
        typer.Argument(
            help="The app, as `module:app` or `file.py`. Default: main.py, app.py, agent.py, or a restaurant."
        ),
    ] = None,
    sim: Annotated[bool, typer.Option("--sim", help="Use the simulated model, even if there is a key.")] = False,
    script: Annotated[Path | None, typer.Option(help="What the simulated model says, as a TOML file.")] = None,
    brain: BrainOption = None,
    brain_model: BrainModelOption = None,
    half_duplex: Annotated[
        bool, typer.Option("--half-duplex", help="Mute the microphone while the agent speaks: for a loudspeaker.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Save the recording, the picture and the report here.")
    ] = None,
    devices: Annotated[bool, typer.Option("--devices", help="List the sound devices and exit.")] = False,
    input: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="The microphone: its number, or part of its name.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="The loudspeaker: its number, or part of its name.")
    ] = None,
    caller: Annotated[str, typer.Option(help="The caller's number, for code that depends on it.")] = CALLER,
) -> None:
    """Talk to your agent: your microphone and loudspeaker are the phone. The model is real if there is a key.

    A headset is best. Keys 0-9, * and # are sent as on a telephone. Ctrl-C hangs up; a second one exits at once.
    """
    console = Console(highlight=False, emoji=False)
    thinker = brain_of(brain, brain_model)
    backend = load_backend()
    found = list_devices(backend)
    default_input, default_output = backend.default.device
    if devices:
        for line in describe(found, default_input, default_output):
            console.print(escape(line), soft_wrap=True)
        return
    sound = Sound(
        backend=backend,
        input_device=choose(found, "input", input, default_input),
        output_device=choose(found, "output", output, default_output),
        half_duplex=half_duplex,
    )
    name = target or next((each for each in DEFAULTS if Path(each).is_file()), RESTAURANT.target)
    app = Target.find(name).load()
    model = None
    if sim or script is not None or thinker is not None or real_model(app) is None:
        model = _simulated(console, app, name or "", script, thinker)
    if save is not None:
        try:
            save.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise DefinitionError(f"--save {save}: {problem.strerror}; choose another folder") from None
    _introduce(console, name or "", sound)
    talked = asyncio.run(_call(app, sound, model, caller, save, console))
    _summarize(console, talked, save)
    if not talked.passed:
        raise typer.Exit(1)


def _simulated(
    console: Console, app: PhoneApp, target: str, script: Path | None, thinker: Brain | None
) -> AbstractAsyncContextManager[tuple[Model, Endpoint]]:
    """Return the simulated model, and print what it is.

    Raises:
        PhoneAgentError: the brain does not answer, or there is no ear for it.
    """
    senses = replace(Senses.best(), brain=thinker)
    if thinker is not None:
        if senses.ear is None:
            raise DefinitionError("--brain needs a recognizer for what you say: pip install 'phoneagent[demo]'")
        console.print(f"[dim]{escape(asyncio.run(wake(thinker)))}[/]")
        return simulated_model(Script.of(script), senses)
    if script is None and target != RESTAURANT.target:
        senses = replace(senses, ear=None)  # a derived script goes turn by turn: its words are not meant for an ear
    hears = "hears words" if senses.ear else "hears that you speak, but no words"
    console.print(f"[dim]The model is simulated: it follows a script, and {hears}.[/]")
    console.print("[dim]--brain auto thinks with your instructions; with OPENAI_API_KEY the model is a real one.[/]")
    if script is not None:
        loaded = Script.of(script)
        for line in asyncio.run(unknown_calls_of(app, loaded)):
            console.print(f"[red]! {escape(line)}[/]", soft_wrap=True)
        return simulated_model(loaded, senses)
    if target == RESTAURANT.target:
        return simulated_model(RESTAURANT.script(), senses)
    made = asyncio.run(derived_script(app, target))
    return simulated_model(Script.parse(made, source=f"the script made for {target}"), senses)


async def _call(
    app: PhoneApp,
    sound: Sound,
    model: AbstractAsyncContextManager[tuple[Model, Endpoint]] | None,
    caller: str,
    save: Path | None,
    console: Console,
) -> Talked:
    """Hold the call. The first Ctrl-C hangs up; the second one ends the process."""
    stop, terminal = asyncio.Event(), ExitStack()

    @contextmanager
    def keys(on_key: Callable[[str], object]) -> Iterator[bool]:
        with terminal:
            yield terminal.enter_context(reading_keys(on_key))

    def interrupt() -> None:
        if stop.is_set():
            terminal.close()  # restores the terminal; nothing else is cleaned up
            os._exit(INTERRUPTED)
        console.print("[dim]Hanging up. Ctrl-C again ends at once.[/]")
        stop.set()

    on_stop_signal(interrupt)
    with warnings_told(lambda words: console.print(f"[red]! {escape(words)}[/]", soft_wrap=True)):
        return await hold_call(app, sound, model=model, caller=caller, save=save, stop=stop, keys=keys, console=console)


def _introduce(console: Console, target: str, sound: Sound) -> None:
    for line in settings.misspelled_names():
        console.print(f"[red]! {escape(line)}[/]", soft_wrap=True)
    console.print(f"[bold]Calling {escape(target)}[/]")
    console.print(f"  microphone: {escape(sound.input_device.name)}, loudspeaker: {escape(sound.output_device.name)}")
    if sound.half_duplex:
        console.print("[dim]The microphone is muted while the agent is heard, so you cannot interrupt.[/]")
    else:
        console.print("[dim]Use a headset, or the agent hears itself; with a loudspeaker use --half-duplex.[/]")


def _summarize(console: Console, talked: Talked, save: Path | None) -> None:
    report, sound = talked.report, talked.sound
    console.print()
    turns = counted(len(report.turns), "turn")
    console.print(f"[bold]{report.duration_ms / 1000:.1f} s, {turns}, ended by {escape(report.ended_by)}[/]")
    for barge in report.barge_ins:
        told = f"the model was told {barge.audio_end_ms} ms were heard, the card played {barge.truth_heard_ms} ms"
        console.print(f"  interrupted: {told}")
    latency = report.latency_ms
    if latency.response_p50 is not None:
        console.print(f"  answers after {latency.response_p50} ms (median), {latency.response_p95} ms (p95)")
    if sound:
        delays = f"{sound['input_ms']:.0f} ms in, {sound['output_ms']:.0f} ms out, {sound['buffer_ms']:.0f} ms buffered"
        console.print(f"  sound card: {delays}; {counted(sound['xruns'] + sound['underruns'], 'interruption')}")
    for violation in report.violations:
        console.print(f"  [red]{escape(plain(violation))}[/]")
    if talked.trouble:
        console.print(f"  [red]{escape(plain(talked.trouble))}[/]")
    if save is not None and talked.saved:
        console.print(f"[dim]Saved in {escape(str(save))}/: {', '.join(talked.saved)}[/]")
