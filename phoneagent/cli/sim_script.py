"""`phoneagent sim script`: a commented script for the simulated model, made from your agent."""

from __future__ import annotations

import asyncio
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from phoneagent.cli.failures import fail
from phoneagent.cli.own_agent import derived_script, target_named


def script(
    target: Annotated[
        str | None, typer.Argument(help="The app, as `module:app` or `file.py`. Default: main.py, app.py or agent.py.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: standard output.", show_default=False)
    ] = None,
) -> None:
    """Write a script that greets, calls each of the agent's tools once and hangs up. Edit it, then play it."""
    with redirect_stdout(sys.stderr):  # what the user's module prints is no part of the script
        app, named = target_named(target)
        text = asyncio.run(derived_script(app, named))
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        fail(f"{out} exists, and is left as it is: name another file with --out")
    except OSError as problem:
        fail(f"{out} cannot be written ({problem.strerror or problem}): name another file with --out")
    typer.echo(f"{out} is written. Play it: phoneagent demo {named} --script {out}")
