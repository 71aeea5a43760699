"""The files that `phoneagent calls` writes, a call's recording and its picture, and the deletion of recordings."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from phoneagent.cli.failures import fail
from phoneagent.demo.report import Report
from phoneagent.demo.report import Turn as DrawnTurn
from phoneagent.demo.timeline import Note, draw
from phoneagent.protocol.audio import silence
from phoneagent.store import CallDetails, Store, ToolRecord
from phoneagent.store.forgetting import CALL_SID
from phoneagent.store.recordings import Recorded, Recordings
from phoneagent.store.records import ms_between

MAX_PICTURE_MS = 4 * 3_600_000
"""The sound of a longer call is not drawn: all of it would have to be in memory."""

MAX_NOTE_CHARS = 300


def write_wav(recordings: Recordings | None, record: CallDetails, file: Path) -> None:
    """Write the recording of a call to a WAV file that only its owner can read."""
    if recordings is None:
        fail("RECORD_AUDIO is not set, so there are no recordings: set it as the server has it")
    found = _find(recordings, record)
    if found is None:
        fail(f"there is no recording of {record.call_sid} at {recordings.shown}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(file, flags, 0o600), "wb") as out:
            for piece in found.wav():
                out.write(piece)
    except OSError as error:
        fail(f"{file} cannot be written ({error.strerror or error}): name another file")


def draw_svg(record: CallDetails, file: Path, recordings: Recordings | None) -> None:
    """Draw a call: who spoke when, what was said and heard, the tools, and the sound if it was recorded."""
    turns = [DrawnTurn(**{each.name: getattr(turn, each.name) for each in fields(DrawnTurn)}) for turn in record.turns]
    last = max([turn.end_ms for turn in turns], default=0)
    duration_ms = last if record.duration_ms is None else record.duration_ms
    pauses = [pause for turn in record.turns for pause in turn.pauses]
    report = Report(record.call_sid, record.ended_by or "", duration_ms, turns, pauses=pauses)
    notes = [Note(tool.at_ms, _noted(tool)) for tool in record.tools]
    caller, agent = _sides(recordings, record)
    try:
        file.write_text(draw(report, caller=caller, agent=agent, tools=notes), encoding="utf-8")
    except OSError as error:
        fail(f"{file} cannot be written ({error.strerror or error}): name another file")


async def forget(store: Store, recordings: Recordings | None, what: str) -> tuple[int, int]:
    """Delete a call, or all calls with a number, and their recordings; return how many of both.

    The calls are marked first, so that no process writes more of them. Their records are deleted after their
    recordings, because by number a recording is only found through its record: so this can be repeated if it fails
    halfway. By SID, a recording is found without a record too.
    """
    if recordings is None:
        return await store.forget(what), 0
    calls, deleted = dict[str, datetime | None](), 0
    while new := [each for each in await store.begin_forgetting(what) if each[0] not in calls]:  # one may begin now
        calls.update(new)
        deleted += _delete(recordings, new)
    if not calls and CALL_SID.fullmatch(what.strip()):
        calls[what.strip()] = None
        deleted += _delete(recordings, calls.items())
    count = await store.forget(what)
    _delete(recordings, calls.items(), again=True)  # a process may have been writing during the deletion
    return count, deleted


def _delete(recordings: Recordings, calls: Collection[tuple[str, datetime | None]], *, again: bool = False) -> int:
    """Delete the recordings of calls, and return how many there were; `again`: after the records."""
    try:
        return sum(recordings.delete(call_sid, started_at) for call_sid, started_at in calls)
    except OSError as error:
        sids = ", ".join(call_sid for call_sid, _ in calls)
        _unreachable(recordings, error, f", and repeat this with each of {sids}: their records are deleted" * again)


def _sides(recordings: Recordings | None, record: CallDetails) -> tuple[bytes, bytes]:
    """Return both sides' sound on the call's clock; nothing if it was not recorded, or is too long to draw."""
    found = None if recordings is None or record.recording is None else _find(recordings, record)
    if found is None or found.duration_ms > MAX_PICTURE_MS:
        return b"", b""
    before = silence(min(max(0, ms_between(record.started_at, found.started_at)), MAX_PICTURE_MS))
    caller, agent = found.sides()
    return before + caller, before + agent


def _find(recordings: Recordings, record: CallDetails) -> Recorded | None:
    try:
        return recordings.find(record.call_sid, record.started_at)
    except OSError as error:
        _unreachable(recordings, error)


def _unreachable(recordings: Recordings, error: OSError, then: str = "") -> NoReturn:
    fail(f"RECORD_AUDIO={recordings.shown} does not answer ({error.strerror or error}): check that it works{then}")


def _noted(tool: ToolRecord) -> str:
    text = f"{tool.name} {tool.arguments}"
    return text if len(text) <= MAX_NOTE_CHARS else text[:MAX_NOTE_CHARS] + "…"
