"""The recording and the picture of a call, and how a recording is deleted, through the command."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import stat
import wave
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from phoneagent import RecordingChanged
from phoneagent.cli import call_files
from phoneagent.protocol.audio import tone
from phoneagent.store import Store
from phoneagent.store.audio_places import Folder
from phoneagent.store.recordings import Recordings
from tests.cli.test_calls import CALL, INBOUND, OUTBOUND, PERSON, Invoke, invoke  # noqa: F401 - a fixture


@pytest.fixture
def recorded(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> Invoke:  # noqa: F811
    """A call with a recording of two seconds, from a second after its beginning on."""
    monkeypatch.setenv("RECORD_AUDIO", "recordings")

    async def record() -> None:
        async with Store.from_url("sqlite:///phoneagent.db") as store:
            for event in CALL:
                store.tell(event)
            store.tell(
                RecordingChanged(
                    call_sid=INBOUND,
                    at_ms=3000,
                    status="completed",
                    where=f"/recordings/2026-11-29/{INBOUND}",
                    complete=False,
                    duration_ms=2000,
                ),
                stream_sid="MZ1",
            )

    begun = datetime.now(UTC)
    asyncio.run(record())
    recordings = Recordings("recordings")
    recordings.place.prepare()
    caller, agent = tone(440, 2000), tone(880, 1000) + b"\xff" * 8000
    both = bytes(byte for pair in zip(caller, agent, strict=True) for byte in pair)
    recordings.begin(INBOUND, "MZ1", begun + timedelta(seconds=1)).append(both)
    recordings.begin(OUTBOUND, "MZ2", begun).append(both)
    return invoke


def test_a_recording_is_written_to_a_file(recorded: Invoke, tmp_path: Path) -> None:
    result = recorded("calls", INBOUND[:20], "--wav", "call.wav")
    assert (result.exit_code, result.output) == (0, "")
    assert stat.S_IMODE((tmp_path / "call.wav").stat().st_mode) == 0o600
    with wave.open(str(tmp_path / "call.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 8000, 16_000)


def test_the_transcript_says_how_the_recording_stands(recorded: Invoke) -> None:
    shown = (
        f"recording completed, 0:02.0, incomplete: RECORD_AUDIO refused some of it: /recordings/2026-11-29/{INBOUND}"
    )
    assert shown in recorded("calls", INBOUND).output.splitlines()
    assert '"status": "completed"' in recorded("calls", INBOUND, "--json").output


def test_the_picture_has_the_sound(recorded: Invoke, tmp_path: Path) -> None:
    assert recorded("calls", INBOUND, "--svg", "call.svg", "--wav", "call.wav").exit_code == 0
    picture = (tmp_path / "call.svg").read_text("utf-8")
    bars = {role: re.findall(rf'<path class="{role}" d="([^"]*)"', picture) for role in ("caller", "agent")}
    assert bars["caller"][0].count("M") > 1.5 * bars["agent"][0].count("M") > 0
    assert "bar" not in re.findall(r'class="([^"]*)"', picture)


def test_without_its_recording_a_call_is_drawn_as_bars(
    recorded: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RECORD_AUDIO")
    assert recorded("calls", INBOUND, "--svg", "call.svg").exit_code == 0
    assert 'class="agent bar"' in (tmp_path / "call.svg").read_text("utf-8")


def test_what_is_not_there_is_said(recorded: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "name another file" in recorded("calls", INBOUND, "--wav", "no/where.wav").output
    assert recorded("calls", "--wav", "call.wav").exit_code == 2
    Recordings("recordings").delete(INBOUND)
    assert f"there is no recording of {INBOUND}" in recorded("calls", INBOUND, "--wav", "call.wav").output

    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "list", fail)
        result = recorded("calls", INBOUND, "--wav", "call.wav")
        assert (result.exit_code, "does not answer (Input/output error): check that it works" in result.output) == (
            1,
            True,
        )
        assert recorded("calls", "--forget", INBOUND).exit_code == 1
    assert recorded("calls", INBOUND).exit_code == 0  # nothing of it was deleted
    monkeypatch.delenv("RECORD_AUDIO")
    assert "RECORD_AUDIO is not set" in recorded("calls", INBOUND, "--wav", "call.wav").output


def test_forgetting_a_call_deletes_its_recording(recorded: Invoke) -> None:
    recordings = Recordings("recordings")
    assert recorded("calls", "--forget", PERSON).output == "1 call forgotten, 1 recording deleted\n"
    assert recordings.find(INBOUND) is None
    assert recordings.find(OUTBOUND) is not None
    assert recorded("calls", "--forget", OUTBOUND).output == "1 call forgotten, 1 recording deleted\n"


def test_a_call_is_marked_before_its_recording_is_deleted_and_what_comes_late_is_deleted_too(
    recorded: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = Folder.delete
    marks: list[int] = []

    def meanwhile(place: Folder, path: str) -> None:
        delete(place, path)
        with closing(sqlite3.connect("phoneagent.db")) as database:
            marks.extend(*database.execute("SELECT count(*) FROM claims WHERE name = ?", (f"forgotten {INBOUND}",)))
        if len(marks) == 1:  # another process has a write under way
            Recordings("recordings").begin(INBOUND, "MZ9", datetime.now(UTC)).append(b"\xff\xff")

    monkeypatch.setattr(Folder, "delete", meanwhile)
    assert recorded("calls", "--forget", PERSON).output == "1 call forgotten, 1 recording deleted\n"
    assert marks == [1, 1]
    assert Recordings("recordings").find(INBOUND) is None


class Calls:
    """The calls of a person, in place of a store; another one begins during each deletion but the last."""

    def __init__(self) -> None:
        self.made = [[INBOUND], [INBOUND, OUTBOUND], [INBOUND, OUTBOUND]]
        self.forgotten = False

    async def begin_forgetting(self, what: str) -> list[tuple[str, datetime]]:
        assert not self.forgotten
        return [(sid, datetime.now(UTC)) for sid in self.made.pop(0)]

    async def forget(self, what: str) -> int:
        self.forgotten = True
        return 2


def test_the_recording_of_a_call_that_begins_meanwhile_is_deleted_too(recorded: Invoke) -> None:
    calls: Any = Calls()
    recordings = Recordings("recordings")
    assert asyncio.run(call_files.forget(calls, recordings, PERSON)) == (2, 2)
    assert recordings.find(INBOUND) is recordings.find(OUTBOUND) is None


def test_a_deletion_that_fails_after_the_records_names_the_calls(
    recorded: Invoke, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: Any = Calls()
    found = Folder.list

    def fail_later(place: Folder, path: str) -> list[tuple[str, int]]:
        if calls.forgotten:
            raise OSError(5, "Input/output error")
        return found(place, path)

    monkeypatch.setattr(Folder, "list", fail_later)
    with pytest.raises(typer.Exit):
        asyncio.run(call_files.forget(calls, Recordings("recordings"), PERSON))
    told = " ".join(capsys.readouterr().err.split())
    assert f"repeat this with each of {INBOUND}, {OUTBOUND}: their records are deleted" in told


def test_a_recording_is_deleted_also_without_a_record(recorded: Invoke) -> None:
    other = "CA" + "3" * 32
    Recordings("recordings").begin(other, "MZ1", datetime(2026, 1, 1, tzinfo=UTC)).append(b"\xff\xff")
    result = recorded("calls", "--forget", other)
    assert (result.exit_code, result.output) == (0, "0 calls forgotten, 1 recording deleted\n")
    assert recorded("calls", "--forget", other).exit_code == 1
