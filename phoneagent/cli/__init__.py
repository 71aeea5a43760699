"""The command line: `phoneagent demo · init · chat · dev · serve · doctor · calls · migrate · sim`."""

from __future__ import annotations

import sys

import typer

from phoneagent.errors import PhoneAgentError

from .calls import calls
from .chat import chat
from .demo import demo
from .dev import dev
from .doctor import doctor
from .init import init
from .migrate import migrate
from .serve import serve
from .sim_call import call
from .sim_model import model

app = typer.Typer(
    name="phoneagent",
    help="An AI voice agent on a phone number.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
sim = typer.Typer(help="The offline world: a Twilio phone, and a Realtime model.", no_args_is_help=True)
for command in (demo, init, chat, dev, serve, doctor, calls, migrate):
    app.command()(command)
sim.command()(call)
sim.command()(model)
app.add_typer(sim, name="sim")


def main() -> None:
    """Run the command line; errors that are ours are a line each, not a traceback."""
    try:
        app()
    except PhoneAgentError as error:
        for line in str(error).splitlines():
            print(f"phoneagent: {line}", file=sys.stderr)
        raise SystemExit(2) from None
