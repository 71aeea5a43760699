"""The command line: `phoneagent demo · talk · init · chat · dev · serve · doctor · calls · migrate · sim`."""

from __future__ import annotations

import sys

import typer

from phoneagent.cli.calls import calls
from phoneagent.cli.chat import chat
from phoneagent.cli.demo import demo
from phoneagent.cli.dev import dev
from phoneagent.cli.doctor import doctor
from phoneagent.cli.init import init
from phoneagent.cli.migrate import migrate
from phoneagent.cli.serve import serve
from phoneagent.cli.sim_call import call
from phoneagent.cli.sim_model import model
from phoneagent.cli.sim_script import script
from phoneagent.cli.talk import talk
from phoneagent.errors import PhoneAgentError

app = typer.Typer(
    name="phoneagent",
    help="An AI voice agent on a phone number.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
sim = typer.Typer(help="The offline world: a Twilio phone, and a Realtime model.", no_args_is_help=True)
for command in (demo, talk, init, chat, dev, serve, doctor, calls, migrate):
    app.command()(command)
sim.command()(call)
sim.command()(model)
sim.command()(script)
app.add_typer(sim, name="sim")


def main() -> None:
    """Run the command line. phoneagent's own errors are printed as one line each, without a traceback."""
    try:
        app()
    except PhoneAgentError as error:
        for line in str(error).splitlines():
            print(f"phoneagent: {line}", file=sys.stderr)
        raise SystemExit(2) from None
