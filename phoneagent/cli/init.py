"""`phoneagent init`: the beginnings of an agent, in a folder."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from phoneagent.errors import DefinitionError

FILES = ("main.py", "tests/test_agent.py", ".env.example", "Procfile", "ngrok.yml")
"""What is written, and never over anything that is there."""

EXTRAS = (".gitignore", "requirements.txt")
"""Written too, each where there is none: `.env` will hold secrets, and a PaaS looks for what to install."""

NEXT_STEPS = """\
Next{where}:
  phoneagent demo main.py       hear a call with it: no account, no key, no network
  pytest                        its test calls it through the simulated phone (pip install pytest)
  cp .env.example .env          fill it in, then
  phoneagent dev                call it from a real phone, while you change it"""


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where; without it, here.", show_default=False)
    ] = Path(),
) -> None:
    """Write a small agent, its test, and what it takes to deploy it."""
    for name in write(folder):
        typer.echo(f"  {folder / name}")
    typer.echo(NEXT_STEPS.format(where="" if folder.resolve() == Path.cwd() else f", in {folder}"))


def write(folder: Path) -> list[str]:
    """Write the files into the folder and return their names.

    Raises:
        DefinitionError: some are there already, or the folder cannot be written to; then nothing was written.
    """
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        raise DefinitionError(
            f"{', '.join(there)} in {folder}: already there, so nothing is written; name another folder"
        )
    names = [*FILES, *(name for name in EXTRAS if not (folder / name).exists())]
    try:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_template(path.name), encoding="utf-8")
    except OSError as problem:
        raise DefinitionError(f"{folder} cannot be written to ({problem.strerror}): name another folder") from None
    return names


def _template(name: str) -> str:
    # They end in .txt so that neither Python, linters nor git take them for what they are going to be.
    file = f"{name.removeprefix('.').removesuffix('.txt')}.txt"
    return resources.files(__package__).joinpath("templates", file).read_text("utf-8")
