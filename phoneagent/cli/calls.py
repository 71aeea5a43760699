"""`phoneagent calls`: the records of calls, as a list, a transcript or JSON, and their deletion."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from phoneagent import settings
from phoneagent.demo.report import Report
from phoneagent.demo.report import Turn as DrawnTurn
from phoneagent.demo.timeline import Note, draw
from phoneagent.events import Cost, Turn, Usage
from phoneagent.store import AnswerRecord, CallDetails, CallRecord, Store, ToolRecord

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_STYLES = {"caller": "bold cyan", "agent": "bold green", "tool": "bold magenta", "note": "dim", "—": "dim"}
_SID_CHARS = 34
_MAX_SEARCHED = 10_000
"""Among how many of the latest calls the beginning of a SID is looked for."""

_MAX_SHOWN_CHARS = 300
"""How much of a tool's arguments and of its output the transcript shows. --json has everything."""


def calls(
    call_sid: Annotated[
        str | None, typer.Argument(help="The call to show, or the beginning of its SID. Without it, all are listed.")
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Show the latest call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with whole phone numbers.")] = False,
    forget: Annotated[
        str | None, typer.Option(metavar="CALL_SID|NUMBER", help="Delete a call, or all calls with a phone number.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw the call's timeline as a picture in this file.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many calls to list.")] = 20,
    numbers: Annotated[bool, typer.Option("--numbers", help="Show whole phone numbers.")] = False,
) -> None:
    """List the latest calls, or show one call as a transcript."""
    if call_sid is not None and forget is not None:
        raise typer.BadParameter("name the call only after --forget", param_hint="--forget")
    if last and (call_sid is not None or forget is not None):
        raise typer.BadParameter("it names the call already: leave the other one out", param_hint="--last")
    if svg is not None and call_sid is None and not last:
        raise typer.BadParameter("name the call too, or --last", param_hint="--svg")
    asyncio.run(_run("" if last else call_sid, as_json, forget, limit, numbers, svg))


async def _run(
    call_sid: str | None, as_json: bool, forget: str | None, limit: int, numbers: bool, svg: Path | None
) -> None:
    console = Console(highlight=False, emoji=False, markup=False)
    async with Store.from_settings(settings.load_records()) as store:
        if forget is not None:
            count = await store.forget(forget)
            console.print(f"{count} call{'' if count == 1 else 's'} forgotten")
            raise typer.Exit(0 if count else 1)
        if call_sid is None:
            records = await store.calls(limit)
            if as_json:
                _print_json([record.as_dict() for record in records])
            else:
                _print_list(console, records, numbers)
            return
        record = await store.call(await _whole_sid(store, call_sid))
        if record is None:
            typer.echo(
                f"phoneagent: no call {call_sid} is recorded: `phoneagent calls` lists the recorded ones", err=True
            )
            raise typer.Exit(1)
        if svg is not None:
            _draw(record, svg)
        elif as_json:
            _print_json(record.as_dict())
        else:
            _print_call(console, record, numbers)


async def _whole_sid(store: Store, begin: str) -> str:
    """Return the SID of the latest call that begins so; the text itself if there is none or several."""
    if len(begin) >= _SID_CHARS:
        return begin
    found = [each.call_sid for each in await store.calls(_MAX_SEARCHED) if each.call_sid.startswith(begin)]
    if len(found) > 1 and begin:
        typer.echo(f"phoneagent: {len(found)} calls begin with {begin}: write more of the SID", err=True)
        raise typer.Exit(1)
    return found[0] if found else begin or "at all"


def _draw(record: CallDetails, file: Path) -> None:
    """Draw a call without its sound, which is not recorded: who spoke when, what was said and heard, and the tools."""
    turns = [DrawnTurn(**{each.name: getattr(turn, each.name) for each in fields(DrawnTurn)}) for turn in record.turns]
    last = max([turn.end_ms for turn in turns], default=0)
    duration_ms = last if record.duration_ms is None else record.duration_ms
    report = Report(record.call_sid, record.ended_by or "nobody yet", duration_ms, turns)
    notes = [Note(tool.at_ms, f"{_plain(tool.name)} {_short(tool.arguments)}") for tool in record.tools]
    try:
        file.write_text(draw(report, caller=b"", agent=b"", tools=notes), encoding="utf-8")
    except OSError as error:
        typer.echo(f"phoneagent: {file} cannot be written: {error.strerror}: name another file", err=True)
        raise typer.Exit(1) from None


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


# --- the list ---------------------------------------------------------------------------------------------------------


def _print_list(console: Console, records: list[CallRecord], numbers: bool) -> None:
    if not records:
        console.print("no call is recorded yet")
    for record in records:
        outbound = record.direction.startswith("outbound")
        person = f"{'→' if outbound else '←'} {_number(record.called if outbound else record.caller, numbers)}"
        lasted = _clock(record.duration_ms) if record.duration_ms is not None else ""
        line = f"{record.started_at.astimezone():%Y-%m-%d %H:%M}  {record.call_sid}  {person:<18} {lasted:>8}  "
        console.print(f"{line}{_price(record.cost):>9}  {_ended(record)}", soft_wrap=True)


def _number(number: str | None, whole: bool) -> str:
    """Return a phone number, shortened to its beginning and its last two digits unless `whole` is set."""
    if not number:
        return "unknown"
    number = _plain(number)
    return number if whole or len(number) < 6 else f"{number[:3]}…{number[-2:]}"


def _price(cost: Cost | None) -> str:
    """Return a cost in short: empty if it is unknown, with a plus if it is a lower bound."""
    return "" if cost is None else f"${cost.usd:.4f}{'+' if cost.at_least else ''}"


def _ended(record: CallRecord) -> str:
    if record.ended_by is None:
        return "not ended"
    return f"by {record.ended_by}: {_plain(record.reason or '')}"


# --- one call ---------------------------------------------------------------------------------------------------------


def _print_call(console: Console, record: CallDetails, numbers: bool) -> None:
    start = f"{record.started_at.astimezone():%Y-%m-%d %H:%M:%S}"
    caller, called = _number(record.caller, numbers), _number(record.called, numbers)
    title = f"{record.call_sid}  {start}  {record.direction} from {caller} to {called}"
    console.print(Text(title, "bold"), soft_wrap=True)
    answer_of = {id(turn): answer for turn, answer in _answered(record)}
    went_on = Text("the call went on in another media stream", "dim")
    several = len({turn.agent for turn in record.turns if turn.agent is not None}) > 1
    entries: list[tuple[int, str, Text]] = [(stream.at_ms, "—", went_on) for stream in record.streams[1:]]
    for turn in record.turns:
        said = _said(turn, answer_of.get(id(turn)))
        if several and turn.agent is not None:
            said = Text(f"[{_plain(turn.agent)}] ", "green") + said
        entries.append((turn.start_ms, turn.role, said))
    entries += [(note.at_ms, "note", Text(f"({note.role}) {_short(note.text)}", "dim")) for note in record.messages]
    entries += [(tool.at_ms, "tool", _used(tool, running=_may_run(tool, record))) for tool in record.tools]
    for at_ms, name, text in sorted(entries, key=lambda entry: entry[0]):
        _print_entry(console, _clock(at_ms), name, text)
    if record.duration_ms is None:
        console.print(Text("not ended", "bold"))
    else:
        end = f"ended by {record.ended_by} after {_clock(record.duration_ms)}: {_plain(record.reason or '')}"
        console.print(Text(end, "bold"), soft_wrap=True)
    if record.answers:
        p50, p95 = record.latency_ms(0.5), record.latency_ms(0.95)
        console.print(f"{len(record.answers)} answers, latency {p50} ms (median), {p95} ms (95 %)", soft_wrap=True)
    if record.cost is not None:
        console.print(f"cost {record.cost}", soft_wrap=True)
    for used in record.usage:
        console.print(f"  {_plain(used.model)}: {used.cost}{_amounts(used.usage)}", soft_wrap=True)


def _amounts(usage: Usage) -> str:
    parts = []
    for kind in ("text", "audio", "image"):
        counts = {way: getattr(usage, f"{kind}_{way}", 0) for way in ("in", "cached", "out")}
        if any(counts.values()):
            parts.append(f"{kind} " + ", ".join(f"{count} {way}" for way, count in counts.items() if count))
    told = [f"tokens: {'; '.join(parts)}"] if parts else []
    if usage.audio_ms:
        told.append(f"{usage.audio_ms / 1000:.1f} s of audio")
    return "".join(f"; {each}" for each in told)


def _print_entry(console: Console, clock: str, name: str, text: Text) -> None:
    label = Text(f"{name:<6}", _STYLES[name])
    if not console.is_terminal:  # one line for each entry, for other programs
        console.print(Text("  ").join([Text(f"{clock:>8}"), label, text]), soft_wrap=True)
        return
    line = Table.grid(padding=(0, 2))
    line.add_column(no_wrap=True)
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(Text(f"{clock:>8}", "dim"), label, text)
    console.print(line)


def _answered(record: CallDetails) -> list[tuple[Turn, AnswerRecord]]:
    """Pair each answer with its turn: the agent's turn that starts closest to it."""
    agent = [turn for turn in record.turns if turn.role == "agent"]
    if not agent:
        return []
    return [(min(agent, key=lambda turn: abs(turn.start_ms - answer.at_ms)), answer) for answer in record.answers]


def _said(turn: Turn, answer: AnswerRecord | None) -> Text:
    heard = _plain(turn.heard_text)
    text = Text(heard if turn.text else "(no transcript)")
    unheard = turn.text[len(turn.heard_text) :] if turn.text.startswith(turn.heard_text) else ""
    if unheard.strip():
        text.append(" [unheard: " if heard else "[unheard: ", "dim")
        text.append(_plain(unheard).strip(), "dim strike")
        text.append("]", "dim")
    notes = []
    if answer is not None:
        notes.append(f"after {answer.latency_ms} ms")
    if turn.interrupted:
        notes.append(f"interrupted: heard {turn.heard_ms} of {turn.said_ms} ms")
    if notes:
        text.append(f"  ({', '.join(notes)})", "dim")
    return text


def _may_run(tool: ToolRecord, record: CallDetails) -> bool:
    """Return whether a tool may still be running: its process carries the call until the stream changes or ends."""
    return record.ended_at is None and all(stream.at_ms <= tool.at_ms for stream in record.streams)


def _used(tool: ToolRecord, *, running: bool) -> Text:
    text = Text(f"{_plain(tool.name)} {_short(tool.arguments)}")
    if tool.output is None:
        return text.append("  (it has not returned yet)" if running else "  (outcome unknown)", "dim")
    return text.append(f" → {_short(tool.output)}").append(f"  ({tool.ms} ms)", "dim")


def _short(text: str) -> str:
    text = _plain(text)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"


def _plain(text: str) -> str:
    """Return text without control characters: a caller or a tool could use them to control the terminal."""
    return _CONTROL.sub(" ", text)


def _clock(ms: int) -> str:
    """Return minutes, seconds and tenths."""
    tenths = round(ms / 100)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"
