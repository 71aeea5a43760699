"""`phoneagent calls`: the records of calls, as a list, a transcript or JSON, and their deletion."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from phoneagent import settings
from phoneagent.cli import call_files
from phoneagent.cli.call_files import draw_svg, write_wav
from phoneagent.cli.failures import fail
from phoneagent.demo.report import counted, plain
from phoneagent.events import Cost, Turn, Usage
from phoneagent.store import AnswerRecord, CallDetails, CallRecord, RecordingRecord, Store, ToolRecord
from phoneagent.store.afterwards import DONE, Afterwards
from phoneagent.store.recordings import Recordings

_STYLES = {
    "caller": "bold cyan",
    "agent": "bold green",
    "callee": "bold green",
    "tool": "bold magenta",
    "note": "dim",
    "to": "cyan",
    "—": "dim",
}
_SID_CHARS = 34
_MAX_SEARCHED = 10_000
"""How many of the latest calls are searched for the beginning of a SID."""

_MAX_SHOWN_CHARS = 300
"""How much of a tool's arguments and of its output the transcript shows. --json has everything."""


def calls(
    call_sid: Annotated[
        str | None, typer.Argument(help="The SID of the call to show, or its beginning. Default: list the calls.")
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Show the latest call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with full phone numbers.")] = False,
    forget: Annotated[
        str | None, typer.Option(metavar="CALL_SID|NUMBER", help="Delete a call, or all calls with a phone number.")
    ] = None,
    resend: Annotated[
        str | None,
        typer.Option(metavar="CALL_SID|failed", help="Send a call to WEBHOOK_URL again, or all that failed."),
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw the call's timeline as an SVG picture in this file.")] = None,
    wav: Annotated[Path | None, typer.Option(help="Write the call's recording to this file.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many calls to list.")] = 20,
    numbers: Annotated[bool, typer.Option("--numbers", help="Show full phone numbers.")] = False,
) -> None:
    """List the latest calls, or show one call as a transcript."""
    for value, hint in ((call_sid, "CALL_SID"), (forget, "--forget"), (resend, "--resend")):
        if value is not None and not value.strip():
            raise typer.BadParameter("it is empty: name a call, like CA0123", param_hint=hint)
    if call_sid is not None and forget is not None:
        raise typer.BadParameter("name the call only after --forget", param_hint="--forget")
    if resend is not None and (call_sid is not None or last or forget is not None):
        raise typer.BadParameter("name the call only after --resend", param_hint="--resend")
    if last and (call_sid is not None or forget is not None):
        raise typer.BadParameter("it names the call already: leave the other one out", param_hint="--last")
    if svg is not None and call_sid is None and not last:
        raise typer.BadParameter("name the call too, or --last", param_hint="--svg")
    if wav is not None and call_sid is None and not last:
        raise typer.BadParameter("name the call too, or --last", param_hint="--wav")
    if resend is not None:
        asyncio.run(_resend(resend))
        return
    asyncio.run(_run("" if last else call_sid, as_json, forget, limit, numbers, svg, wav))


async def _run(
    call_sid: str | None,
    as_json: bool,
    forget: str | None,
    limit: int,
    numbers: bool,
    svg: Path | None,
    wav: Path | None,
) -> None:
    console = Console(highlight=False, emoji=False, markup=False)
    records_of = settings.load_records()
    async with Store.from_settings(records_of) as store:
        recordings = Recordings.from_settings(records_of)
        if forget is not None:
            count, deleted = await call_files.forget(store, recordings, forget)
            also = f", {counted(deleted, 'recording')} deleted" if deleted else ""
            console.print(f"{counted(count, 'call')} forgotten{also}")
            raise typer.Exit(0 if count or deleted else 1)
        if call_sid is None:
            records = await store.calls(limit)
            if as_json:
                _print_json([record.as_dict() for record in records])
            else:
                _print_list(console, records, numbers)
            return
        record = await store.call(await _whole_sid(store, call_sid))
        if record is None and call_sid == "":
            fail("no call is recorded yet")
        if record is None:
            fail(f"no call {call_sid} is recorded: `phoneagent calls` lists the recorded ones")
        if wav is not None:
            write_wav(recordings, record, wav)
        if svg is not None:
            draw_svg(record, svg, recordings)
        if as_json:
            _print_json(record.as_dict())
        elif wav is None and svg is None:
            _print_call(console, record, numbers)
            afterwards = await store.afterwards.get(record.call_sid)
            if afterwards is not None and afterwards.state != DONE:
                console.print(_sent(afterwards), soft_wrap=True)


async def _resend(what: str) -> None:
    """Have a call sent to the receiver again, or all that failed. The server does it, within half a minute."""
    console = Console(highlight=False, emoji=False, markup=False)
    async with Store.from_settings(settings.load_records()) as store:
        call_sid = None if what == "failed" else await _whole_sid(store, what)
        count = await store.afterwards.send_again(call_sid)
    if count == 0 and call_sid is not None:
        fail(f"no call {what} has ended, so there is nothing to send: `phoneagent calls` lists the recorded ones")
    console.print(f"{counted(count, 'call')} will be sent again, if WEBHOOK_URL is set where the app runs")


async def _whole_sid(store: Store, begin: str) -> str:
    """Return the only SID that starts with `begin`, or the latest if it is empty; `begin` if there is none."""
    if len(begin) >= _SID_CHARS:
        return begin
    found = [each.call_sid for each in await store.calls(_MAX_SEARCHED) if each.call_sid.startswith(begin)]
    if len(found) > 1 and begin:
        fail(f"{len(found)} calls begin with {begin}: write more of the SID")
    return found[0] if found else begin or "at all"


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
    number = plain(number)
    return number if whole or len(number) < 6 else f"{number[:3]}…{number[-2:]}"


def _price(cost: Cost | None) -> str:
    """Return a short form of a cost: empty if it is unknown, with a plus if it is a lower bound."""
    return "" if cost is None else f"${cost.usd:.4f}{'+' if cost.at_least else ''}"


def _ended(record: CallRecord) -> str:
    if record.ended_by is None:
        return "not ended"
    return f"by {record.ended_by}: {plain(record.reason or '')}"


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
            said = Text(f"[{plain(turn.agent)}] ", "green") + said
        entries.append((turn.start_ms, turn.role, said))
    entries += [(note.at_ms, "note", Text(f"({note.role}) {_short(note.text)}", "dim")) for note in record.messages]
    entries += [(tool.at_ms, "tool", _used(tool, running=_may_run(tool, record))) for tool in record.tools]
    for each in record.transfers:
        told = f"{plain(each.to_name)}: {each.outcome}{', announced' if each.warm else ''}"
        entries.append((each.at_ms, "to", Text(f"transfer to {told}")))
    for at_ms, name, text in sorted(entries, key=lambda entry: entry[0]):
        _print_entry(console, _clock(at_ms), name, text)
    if record.duration_ms is None:
        console.print(Text("not ended", "bold"))
    else:
        end = f"ended by {record.ended_by} after {_clock(record.duration_ms)}: {plain(record.reason or '')}"
        console.print(Text(end, "bold"), soft_wrap=True)
    if record.answers:
        p50, p95 = record.latency_ms(0.5), record.latency_ms(0.95)
        answers = counted(len(record.answers), "answer")
        console.print(f"{answers}, latency {p50} ms (median), {p95} ms (95 %)", soft_wrap=True)
    if record.dead_air_ms:
        console.print(f"longest silence while an answer was due: {record.dead_air_ms} ms", soft_wrap=True)
    if record.recording is not None:
        console.print(_recorded(record.recording), soft_wrap=True)
    for line in outcome_lines(record):
        console.print(line, soft_wrap=True)
    if record.cost is not None:
        console.print(f"cost {record.cost}", soft_wrap=True)
    for used in record.usage:
        console.print(f"  {plain(used.model)}: {used.cost}{_amounts(used.usage)}", soft_wrap=True)


def outcome_lines(record: CallRecord) -> list[str]:
    """Return the outcome of a call, a line for each value, or why it was not filled in; nothing if it has none."""
    if record.outcome_error is not None:
        return [f"outcome not filled in: {plain(record.outcome_error)}"]
    if record.outcome is None:
        return []
    values = {name: json.dumps(value, ensure_ascii=False) for name, value in record.outcome.items()}
    return ["outcome", *(f"  {plain(name)}: {plain(value)}" for name, value in values.items())]


def _recorded(recording: RecordingRecord) -> str:
    length = "" if recording.duration_ms is None else f", {_clock(recording.duration_ms)}"
    whole = "" if recording.complete else ", incomplete: RECORD_AUDIO refused some of it"
    return f"recording {recording.status}{length}{whole}: {plain(recording.where)}"


def _sent(afterwards: Afterwards) -> str:
    """Return the state of what follows a call: its outcome and its webhook."""
    why = "" if afterwards.problem is None else f": {plain(afterwards.problem)}"
    tries = counted(afterwards.attempts, "attempt")
    due = f"{afterwards.due_at.astimezone():%Y-%m-%d %H:%M:%S}"
    match afterwards.state:
        case "delivered":
            return f"webhook delivered after {tries}"
        case "failed":
            return f"webhook given up after {tries}{why}"
        case "outcome":
            return f"outcome not filled in yet; {tries}, due {due}{why}"
        case _:
            return f"webhook not delivered yet; {tries}, due {due}{why}"


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
    heard = plain(turn.heard_text)
    text = Text(heard if turn.text else "(no transcript)")
    unheard = turn.text[len(turn.heard_text) :] if turn.text.startswith(turn.heard_text) else ""
    if unheard.strip():
        text.append(" [unheard: " if heard else "[unheard: ", "dim")
        text.append(plain(unheard).strip(), "dim strike")
        text.append("]", "dim")
    notes = []
    if answer is not None:
        notes.append(f"after {answer.latency_ms} ms")
    notes += [f"paused {(each.end_ms - each.start_ms) / 1000:.1f} s: {each.cause}" for each in turn.pauses]
    if turn.interrupted:
        notes.append(f"interrupted: heard {turn.heard_ms} of {turn.said_ms} ms")
    if notes:
        text.append(f"  ({', '.join(notes)})", "dim")
    return text


def _may_run(tool: ToolRecord, record: CallDetails) -> bool:
    """Return whether a tool may still be running: its process carries the call until the stream changes or ends."""
    return record.ended_at is None and all(stream.at_ms <= tool.at_ms for stream in record.streams)


def _used(tool: ToolRecord, *, running: bool) -> Text:
    text = Text(f"{plain(tool.name)} {_short(tool.arguments)}")
    if tool.output is None:
        return text.append("  (it has not returned yet)" if running else "  (outcome unknown)", "dim")
    return text.append(f" → {_short(tool.output)}").append(f"  ({tool.ms} ms)", "dim")


def _short(text: str) -> str:
    text = plain(text)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"


def _clock(ms: int) -> str:
    """Return minutes, seconds and tenths."""
    tenths = round(ms / 100)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"
