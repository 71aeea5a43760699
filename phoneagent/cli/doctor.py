"""`phoneagent doctor`: the checks of an installation, as a table or as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from phoneagent import settings
from phoneagent.agent.agent import Agent
from phoneagent.cli.failures import AppFailed
from phoneagent.cli.target import DEFAULTS, Target
from phoneagent.doctor import Check, Status, examine, settings_missing
from phoneagent.errors import ConfigurationError, PhoneAgentError
from phoneagent.server import PhoneApp
from phoneagent.settings import Settings
from phoneagent.twilio.verification import is_loopback

SIGNS = {
    Status.OK: "[green]✓[/]",
    Status.FAILED: "[red]✗[/]",
    Status.SKIPPED: "[dim]–[/]",
    Status.NOTE: "[yellow]![/]",
}


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            help="The app, for endpoints in its code, as `module:app` or `file.py`. Default: main.py, app.py or "
            "agent.py, if there is one."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the report as JSON.")] = False,
    local: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Check the app at this address, like http://127.0.0.1:8000, instead of PUBLIC_URL."
        ),
    ] = None,
) -> None:
    """Check settings, Twilio, the number, the public address, the model and the database. Exit 1 if a check fails."""
    if local is not None and urlsplit(local).scheme not in ("http", "https"):
        raise typer.BadParameter(f"{local!r} does not begin with http:// or https://", param_hint="--local")
    logging.basicConfig(handlers=[logging.NullHandler()])  # the report says it all
    console = Console(highlight=False, emoji=False)
    # what the user's module prints is no part of the report
    with console.status("Checking …") if console.is_terminal and not as_json else redirect_stdout(sys.stderr):
        app, problems = _app(target)
        checks = [*problems, *asyncio.run(_report(app, local))]
    if as_json:
        wrong = any(check.status is Status.FAILED for check in checks)
        typer.echo(json.dumps({"ok": not wrong, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        console.print(_table(checks))
    if any(check.status is Status.FAILED for check in checks):
        raise typer.Exit(1)


def _app(target: str | None) -> tuple[PhoneApp | None, list[Check]]:
    """Return the app, if there is one here, and the checks about it."""
    if target is None and not any(Path(name).is_file() for name in DEFAULTS):
        return None, []
    try:
        return Target.find(target).load(), []
    except (PhoneAgentError, SystemExit) as error:
        words = error.summary if isinstance(error, AppFailed) else str(error) or "its module ends the process"
        if target is not None:
            return None, [Check("app", Status.FAILED, words)]
        return None, [Check("app", Status.SKIPPED, f"{words}; endpoints in its code are not checked")]


async def _report(app: PhoneApp | None, local: str | None) -> list[Check]:
    try:
        loaded = settings.load() if app is None else app.settings
    except ConfigurationError as error:
        insecure = None if local is None or not is_loopback(urlsplit(local).hostname) else _without_twilio()
        if insecure is None:
            return settings_missing(error)
        loaded = insecure
    endpoints = () if app is None else app.endpoints
    agent = app.agent if app is not None and isinstance(app.agent, Agent) else None
    return [check async for check in examine(loaded, endpoints=endpoints, local=local, agent=agent)]


def _without_twilio() -> Settings | None:
    """Return the settings of `serve --insecure`; None if there is an account, because calls must then be signed."""
    with suppress(ConfigurationError):
        loaded = settings.load(
            {"insecure": True, "endpoint_in_code": True}
        )  # the model's own check reports what it lacks
        if loaded.twilio_account_sid == settings.INSECURE_ACCOUNT:
            return loaded
    return None


def _table(checks: list[Check]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        style = "dim" if check.status is Status.SKIPPED else ""
        table.add_row(SIGNS[check.status], check.name, escape(check.text), style=style)
    return table
