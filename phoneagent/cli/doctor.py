"""`phoneagent doctor`: what stands between a caller and the agent."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import nullcontext
from dataclasses import asdict
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from phoneagent import settings
from phoneagent.doctor import Check, Status, examine, settings_missing
from phoneagent.errors import ConfigurationError

SIGNS = {Status.OK: "[green]✓[/]", Status.FAILED: "[red]✗[/]", Status.SKIPPED: "[dim]–[/]"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Write the report as JSON.")] = False,
    local: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask the app there, like http://127.0.0.1:8000, not at PUBLIC_URL."),
    ] = None,
) -> None:
    """Look at settings, Twilio, the number, the public address, the model and the records. Exit 1 if one is wrong."""
    if local is not None and urlsplit(local).scheme not in ("http", "https"):
        raise typer.BadParameter(f"{local!r} does not begin with http:// or https://", param_hint="--local")
    logging.basicConfig(handlers=[logging.NullHandler()])  # the report says it all
    console = Console(highlight=False)
    with console.status("Looking …") if console.is_terminal and not as_json else nullcontext():
        checks = asyncio.run(_report(local))
    if as_json:
        wrong = any(check.status is Status.FAILED for check in checks)
        typer.echo(json.dumps({"ok": not wrong, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        console.print(_table(checks))
    if any(check.status is Status.FAILED for check in checks):
        raise typer.Exit(1)


async def _report(local: str | None) -> list[Check]:
    try:
        loaded = settings.load()
    except ConfigurationError as error:
        return settings_missing(error)
    return [check async for check in examine(loaded, local=local)]


def _table(checks: list[Check]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        style = "dim" if check.status is Status.SKIPPED else ""
        table.add_row(SIGNS[check.status], check.name, escape(check.text), style=style)
    return table
