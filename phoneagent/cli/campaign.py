"""`phoneagent campaign`: start a list of calls, see its progress, and stop it."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from phoneagent import settings
from phoneagent.cli.commands import Entry, group
from phoneagent.cli.failures import fail
from phoneagent.cli.target import Target
from phoneagent.demo.report import counted, plain
from phoneagent.errors import DefinitionError
from phoneagent.store import Store
from phoneagent.telemetry import masked

if TYPE_CHECKING:
    from phoneagent.server import PhoneApp
    from phoneagent.store.campaign_records import Campaign, CampaignCall
    from phoneagent.store.campaigns import CampaignRows

LOOK_SECONDS = 0.5
MAX_LISTED = 100

MAX_SHOWN = 40
"""How many numbers a report's table shows. --csv and --json have all of them."""

SID_CHARS = 12
"""How much of a CallSid the table shows; `phoneagent calls` takes the beginning of one."""

COLUMNS = ("line", "to", "state", "attempts", "result", "call_sid", "outcome", "reason", "due_at", "ended_at")

campaign = group(
    "Call a list of numbers, each at the right time.",
    {
        "start": Entry("phoneagent.cli.campaign", "Start calling the numbers in a CSV file, or continue."),
        "status": Entry("phoneagent.cli.campaign", "Show a campaign's progress and report."),
        "stop": Entry("phoneagent.cli.campaign", "Make no new calls; those in progress continue."),
    },
)

_Name = Annotated[str, typer.Argument(help="The name or ID of the campaign.")]
_Target = Annotated[
    str | None, typer.Argument(help="The app, as `module:app` or `file.py`. Default: main.py, app.py or agent.py.")
]
_StartAt = Annotated[
    datetime | None,
    typer.Option(help="When the first call may be made, in this machine's time.", formats=["%Y-%m-%dT%H:%M"]),
]
_TimeZone = Annotated[str | None, typer.Option(help="The time zone of numbers that have none, like Europe/Paris.")]
_Retry = Annotated[
    list[str] | None, typer.Option(help="Call again after busy, no-answer, machine or failed. Default: all of them.")
]
_DoNotCall = Annotated[Path | None, typer.Option(help="A file of numbers never to call, now or later.")]
_CallerId = Annotated[str | None, typer.Option("--from", help="The caller ID. Default: TWILIO_PHONE_NUMBER.")]
_OnMachine = Annotated[
    Literal["talk", "hang_up", "leave_message"], typer.Option(help="What to do with an answering machine.")
]
_Numbers = Annotated[bool, typer.Option("--numbers", help="Show full phone numbers.")]


def start(
    file: Annotated[Path, typer.Argument(help="A CSV file with a `to` column; the others become `call.context`.")],
    target: _Target = None,
    name: Annotated[str | None, typer.Option(help="The name of the campaign. Default: the file's name.")] = None,
    start_at: _StartAt = None,
    hours: Annotated[str, typer.Option(help="When to call people, in their own time zone.")] = "09:00-20:00",
    days: Annotated[str, typer.Option(help="On which days to call them, like mon-fri or mon,sat.")] = "mon-fri",
    time_zone: _TimeZone = None,
    at_once: Annotated[int, typer.Option(help="The maximum number of calls at once.")] = 5,
    calls_per_second: Annotated[float, typer.Option(help="The maximum number of calls per second; 0: no limit.")] = 1.0,
    attempts: Annotated[int, typer.Option(help="How many times to call each number, at most.")] = 3,
    retry_seconds: Annotated[int, typer.Option(help="How many seconds to wait before calling a number again.")] = 3600,
    retry: _Retry = None,
    do_not_call: _DoNotCall = None,
    region: Annotated[str | None, typer.Option(help="The country of numbers without a country code, like US.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Call nothing if a line has a problem.")] = False,
    agent: Annotated[str | None, typer.Option(help="The name of the agent that takes the calls.")] = None,
    caller_id: _CallerId = None,
    first: Annotated[Literal["agent", "callee"], typer.Option(help="The side that speaks first.")] = "callee",
    on_machine: _OnMachine = "hang_up",
    message: Annotated[str | None, typer.Option(help="The words to leave after the beep.")] = None,
    timeout: Annotated[int, typer.Option(help="How long to let it ring, in seconds.")] = 30,
    time_limit: Annotated[int | None, typer.Option(help="How long a call may last, in seconds.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and do not wait for its end.")] = False,
) -> None:
    """Start calling the numbers in a CSV file, and show the progress until all have been called.

    The app must be running at PUBLIC_URL, with the same database: it holds the conversations, and keeps calling when
    this command ends. The same file and options under the same name continue where they stopped.
    """
    from phoneagent.calls.campaign_list import read_numbers

    options: dict[str, Any] = {
        "start_at": None if start_at is None else start_at.astimezone(),
        "hours": hours,
        "days": days,
        "time_zone": time_zone,
        "at_once": at_once,
        "calls_per_second": calls_per_second,
        "attempts": attempts,
        "retry_seconds": retry_seconds,
        "agent": agent,
        "from_": caller_id,
        "first": first,
        "on_machine": on_machine,
        "message": message,
        "timeout": timeout,
        "time_limit": time_limit,
        "region": region,
        "strict": strict,
        **({"retry": retry} if retry else {}),
    }
    app = Target.find(target).load()
    if do_not_call is not None:
        options["do_not_call"] = list(read_numbers(do_not_call, region))
    over = asyncio.run(_start(app, name or file.stem, file, options, wait=not detach))
    raise typer.Exit(0 if over or detach else 1)


def status(
    name: Annotated[str | None, typer.Argument(help="The name or ID of a campaign. Default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with full phone numbers.")] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write a line for each number to this file, with full numbers.")
    ] = None,
    numbers: _Numbers = False,
) -> None:
    """Show a campaign's progress and report; without a name, list the campaigns."""
    if csv_file is not None and name is None:
        raise typer.BadParameter("name the campaign too", param_hint="--csv")
    asyncio.run(_status(name, as_json, csv_file, numbers))


def stop(name: _Name) -> None:
    """Make no new calls for a campaign: those in progress continue, and queued ones are withdrawn.

    `phoneagent campaign start` with the same file and options continues it.
    """
    asyncio.run(_stop(name))


# --- starting ---------------------------------------------------------------------------------------------------------


async def _start(app: PhoneApp, name: str, file: Path, options: dict[str, Any], *, wait: bool) -> bool:
    """Start a campaign, and wait for its end if `wait` is set; return whether it is over."""
    console = Console(highlight=False, emoji=False, markup=False)
    try:
        campaigns = app.campaigns
        known = await campaigns.get(name)
        with _progress(console) as progress:
            reading = progress.add_task("reading", total=None)

            def told(checked: int, written: int) -> None:
                progress.update(reading, total=checked, completed=written or checked)

            found = await campaigns.start(name, file, told=told, **options)
        _tell_start(console, found, again=known is not None)
        if wait:
            found = await _watch(console, campaigns.get, found)
            await _print_report(console, campaigns.page, found, numbers=False)
        return found.over
    finally:
        await app.stop_dialing()


def _tell_start(console: Console, found: Campaign, *, again: bool) -> None:
    skipped = found.numbers.get("skipped", 0)
    words = "goes on" if again and not found.over else "is over" if found.over else "starts"
    console.print(
        f"campaign {found.name} ({found.id}) {words}: {counted(found.total - skipped, 'number')}", soft_wrap=True
    )
    if skipped:
        words = f"{counted(skipped, 'line')} skipped: `phoneagent campaign status {found.name}` tells why"
        console.print(words, soft_wrap=True)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


async def _watch(console: Console, get: Any, found: Campaign) -> Campaign:
    """Show a campaign's progress until it is over."""
    if not found.over:
        console.print("the app goes on when this command ends; `phoneagent campaign stop` stops it", soft_wrap=True)
    with _progress(console) as progress:
        bar = progress.add_task(found.name, total=found.total)
        while not found.over:
            left = found.numbers.get("waiting", 0) + found.numbers.get("calling", 0)
            words = f"{found.name}: {found.numbers.get('calling', 0)} at once"
            progress.update(bar, description=words, completed=found.total - left)
            await asyncio.sleep(LOOK_SECONDS)
            latest = await get(found.id)
            if latest is None:
                fail("the campaign is no longer in the database: it was deleted")
            found = latest
    return found


# --- reports ----------------------------------------------------------------------------------------------------------


async def _status(name: str | None, as_json: bool, csv_file: Path | None, numbers: bool) -> None:
    console = Console(highlight=False, emoji=False, markup=False)
    async with Store.from_settings(settings.load_records()) as store:
        if name is None:
            found = await store.campaigns.latest(MAX_LISTED)
            if as_json:
                typer.echo(json.dumps([each.as_dict() for each in found], ensure_ascii=False, indent=2))
            else:
                _print_list(console, found)
            return
        one = await _named(store.campaigns, name)
        if csv_file is not None:
            await _write_csv(store.campaigns.calls, one, csv_file)
        if as_json:
            await _print_json(store.campaigns.calls, one)
        elif csv_file is None:
            await _print_report(console, store.campaigns.calls, one, numbers=numbers)


async def _stop(name: str) -> None:
    async with Store.from_settings(settings.load_records()) as store:
        found = await _named(store.campaigns, name)
        if found.over:
            typer.echo(f"campaign {found.name} is over already: {found.state}")
            return
        await store.campaigns.stop(found.id)
        found = await _named(store.campaigns, found.id)
        left = found.numbers.get("calling", 0)
        typer.echo(f"campaign {found.name}: no new calls" + (f"; {left} in progress go on" if left else ""))


async def _named(rows: CampaignRows, name: str) -> Campaign:
    found = await rows.find(name)
    if found is None:
        fail(f"there is no campaign {name!r:.80}: `phoneagent campaign status` lists them")
    return found


def _print_list(console: Console, found: list[Campaign]) -> None:
    if not found:
        console.print("there is no campaign yet: `phoneagent campaign start FILE.csv`")
    for each in found:
        begun = f"{each.created_at.astimezone():%Y-%m-%d %H:%M}"
        console.print(f"{begun}  {each.id}  {each.state:<8}  {_counts(each)}  {each.name}", soft_wrap=True)


def _counts(found: Campaign) -> str:
    return ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in sorted(found.numbers.items()))


async def _print_report(console: Console, page: Any, found: Campaign, *, numbers: bool) -> None:
    console.print(f"campaign {found.name} ({found.id}) {found.state}: {_counts(found)}", soft_wrap=True)
    if found.results:
        results = ", ".join(f"{count} {result}" for result, count in sorted(found.results.items()))
        console.print(f"last calls: {results}", soft_wrap=True)
    shown: list[CampaignCall] = await page(found.id, limit=MAX_SHOWN)
    table = Table(box=None, pad_edge=False)
    for column in ("line", "to", "state", "attempts", "call", "outcome", "reason"):
        table.add_column(column, overflow="fold", no_wrap=column != "reason")
    for each in shown:
        cells = _cells(each, numbers, running=found.state == "running")
        if console.is_terminal:
            table.add_row(*cells)
        else:  # one line for each number, for other programs
            console.print("  ".join(cell or "-" for cell in cells), soft_wrap=True)
    if console.is_terminal:
        console.print(table)
    if found.total > len(shown):
        console.print(f"… and {found.total - len(shown)} more: --csv FILE or --json has all", soft_wrap=True)


def _cells(call: CampaignCall, numbers: bool, *, running: bool) -> tuple[str, ...]:
    number = call.to if numbers or not call.to else masked(call.to)
    outcome = "" if call.outcome is None else json.dumps(call.outcome, ensure_ascii=False)
    sid = (call.call_sid or "")[:SID_CHARS]
    state = call.state.replace("_", " ")
    reason = call.reason or (_due(call) if running else "")
    return str(call.position), number, state, str(call.attempts), sid, plain(outcome), reason


def _due(call: CampaignCall) -> str:
    """Return when a waiting number is called, if that is not now: a list started at night is called in the morning."""
    if call.state != "waiting" or call.due_at is None or call.due_at <= datetime.now(UTC):
        return ""
    return f"next call {call.due_at.astimezone():%Y-%m-%d %H:%M}"


async def _lines(page: Any, found: Campaign) -> AsyncIterator[dict[str, Any]]:
    from phoneagent.calls.campaigns import report

    async for each in report(page, found.id):
        yield each.as_dict()


async def _print_json(page: Any, found: Campaign) -> None:
    head = json.dumps(found.as_dict(), ensure_ascii=False)[:-1]
    sys.stdout.write(head + ', "calls": [')
    begin = "\n"
    async for line in _lines(page, found):
        sys.stdout.write(begin + json.dumps(line, ensure_ascii=False))
        begin = ",\n"
    sys.stdout.write("]}\n")


async def _write_csv(page: Any, found: Campaign, path: Path) -> None:
    try:
        file: TextIO = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise DefinitionError(f"{path} cannot be written: {error.strerror}") from None
    with file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        async for line in _lines(page, found):
            if line["outcome"] is not None:
                line["outcome"] = json.dumps(line["outcome"], ensure_ascii=False)
            writer.writerow(line)
