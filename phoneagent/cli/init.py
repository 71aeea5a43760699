"""`phoneagent init`: a new project, with a small agent and its test."""

from __future__ import annotations

from fnmatch import fnmatch
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from phoneagent.errors import DefinitionError

FILES = ("main.py", "tests/test_agent.py", ".env.example", "Procfile", "ngrok.yml")
"""The files that are written. If one of them exists, nothing is written."""

EXTRAS = (".gitignore", "requirements.txt")
"""Files that are written if they do not exist: `.env` will hold secrets, and a PaaS installs the requirements."""

NEXT_STEPS = """\
Next{where}:
  phoneagent demo main.py       hear a call with it: no account, no key, no network
  phoneagent chat main.py       type to it, and see its tools run
  pytest                        run its test, which calls it with a simulated phone (pip install pytest)
  cp .env.example .env          fill it in, then
  phoneagent dev                call it from a real phone, while you change it"""


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The folder. Default: the current one.", show_default=False)
    ] = Path(),
) -> None:
    """Write a small agent, its test, and the files to deploy it."""
    for name in write(folder):
        typer.echo(f"  {folder / name}")
    if not _ignored(folder):
        typer.echo(
            f"{folder / '.gitignore'} lacks .env, which will hold secrets: add .env, phoneagent.db*, recordings/"
        )
    typer.echo(NEXT_STEPS.format(where="" if folder.resolve() == Path.cwd() else f", in {folder}"))


def write(folder: Path) -> list[str]:
    """Write the files into the folder and return their names.

    Raises:
        DefinitionError: some exist already, so nothing was written, or the folder cannot be written to.
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


def _ignored(folder: Path) -> bool:
    """Return whether git ignores `.env`, as far as the folder's own `.gitignore` tells."""
    lines = (folder / ".gitignore").read_text("utf-8", errors="replace").splitlines()
    return any(fnmatch(".env", line.strip().removeprefix("/")) for line in lines)


def _template(name: str) -> str:
    # They end in .txt so that Python, linters and git do not treat them as part of this package.
    file = f"{name.removeprefix('.').removesuffix('.txt')}.txt"
    return resources.files(__package__).joinpath("templates", file).read_text("utf-8")
