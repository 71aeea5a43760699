"""The command line: `phoneagent demo · talk · init · chat · dev · serve · call · campaign · doctor · calls …`."""

from __future__ import annotations

import io
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from phoneagent.cli.commands import Entry, group
from phoneagent.errors import ConfigurationError, DefinitionError, PhoneAgentError

app = group(
    "An AI voice agent on a phone number.",
    {
        "demo": Entry("phoneagent.cli.demo", "Play a phone call on this machine, in real time: no account, no phone."),
        "talk": Entry("phoneagent.cli.talk", "Talk to your agent: your microphone and loudspeaker are the phone."),
        "init": Entry("phoneagent.cli.init", "Write a small agent, its test, and the files to deploy it."),
        "chat": Entry("phoneagent.cli.chat", "Type to the agent, and see its tools run."),
        "dev": Entry("phoneagent.cli.dev", "Run the app with reload behind a real phone number."),
        "serve": Entry("phoneagent.cli.serve", "Answer calls."),
        "call": Entry("phoneagent.cli.call", "Call a number, and let your agent talk."),
        "campaign": Entry("phoneagent.cli.campaign", "Call a list of numbers, each at the right time."),
        "doctor": Entry("phoneagent.cli.doctor", "Check settings, Twilio, public address, model and database."),
        "calls": Entry("phoneagent.cli.calls", "List the latest calls, or show one call as a transcript."),
        "migrate": Entry("phoneagent.cli.migrate", "Bring the database at DATABASE_URL up to date."),
        "sim": Entry("phoneagent.cli.sim", "Simulators: a Twilio phone, Twilio's REST API, and a Realtime model."),
    },
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"phoneagent {version('phoneagent')}")
        raise typer.Exit


@app.callback()
def _phoneagent(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None: ...


def _joined(lines: list[str]) -> list[str]:
    """Return the lines, joining those that say the same about several variables, so that a screen shows them all."""
    names: dict[str, str] = {}
    for line in lines:
        name, found, rest = line.partition(" is missing: ")
        if not found or rest not in names:
            names[rest if found else line] = name
        else:
            names[rest] += f" and {name}"
    return [
        line if name == line else f"{name} {'are' if ' and ' in name else 'is'} missing: {_of(name, line)}"
        for line, name in names.items()
    ]


def _of(names: str, remedy: str) -> str:
    return remedy.replace("copy it", "copy them", 1) if " and " in names else remedy


def _open_stdin() -> None:
    """Make an empty standard input if the shell has closed it. Otherwise the next file or socket would be taken for it.

    `closefd` is what Python sets for its own: the file is open until the process ends, and nothing warns of that.
    """
    if sys.stdin is None:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        os.set_inheritable(descriptor, True)  # for the processes that commands start
        sys.stdin = os.fdopen(descriptor, encoding="utf-8", closefd=False)


def _widen_output() -> None:
    """Let the output take every character: files and pipes get UTF-8, and a terminal a question mark for what it lacks.

    Otherwise a `→`, or a caller's words, would end a command on Windows or in an old locale.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # it may be None, or replaced by the program around
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")


def main() -> None:
    """Run the command line. phoneagent's own errors are printed as one line each, without a traceback.

    The exit status is 2 if the user has to correct the command line, a setting or their code, and 1 if the command
    failed.
    """
    _open_stdin()
    _widen_output()
    try:
        app()
    except PhoneAgentError as error:
        for line in _joined(str(error).splitlines()):
            print(f"phoneagent: {line}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ConfigurationError | DefinitionError) else 1) from None
