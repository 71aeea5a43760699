from __future__ import annotations

import asyncio
import io
import logging
import shutil
import sys
import threading
import wave
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from phoneagent import usercode
from phoneagent.errors import ConfigurationError
from phoneagent.protocol.audio import decode_ulaw
from phoneagent.settings import Records
from phoneagent.store import audio_places
from phoneagent.store import recordings as module
from phoneagent.store.audio_places import Folder
from phoneagent.store.recordings import Recorded, Recordings
from tests.patience import HANG_SECONDS

SID = "CA" + "0123456789abcdef" * 2
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture
def recordings(tmp_path: Path) -> Recordings:
    made = Recordings(str(tmp_path / "audio"), days=30)
    made.place.prepare()
    return made


def both(left: bytes, right: bytes) -> bytes:
    return bytes(byte for pair in zip(left, right, strict=True) for byte in pair)


def found(recordings: Recordings, around: datetime | None = NOON) -> Recorded:
    recorded = recordings.find(SID, around)
    assert recorded is not None
    return recorded


# --- joining ---


def test_the_parts_of_a_stream_follow_each_other(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Folder, "part_bytes", 8)
    track = recordings.begin(SID, "MZ1", NOON)
    for number in range(12):
        track.append(both(bytes([number, number]), b"ab"))
    recorded = found(recordings)
    assert len(recorded.pieces) == 6
    assert recorded.sides() == (bytes(each for number in range(12) for each in (number, number)), b"ab" * 12)
    assert recorded.started_at == NOON


def test_between_two_streams_there_is_silence(recordings: Recordings) -> None:
    recordings.begin(SID, "MZ2", NOON + timedelta(milliseconds=3)).append(both(b"2222", b"bbbb"))
    recordings.begin(SID, "MZ1", NOON).append(both(b"11111111", b"aaaaaaaa"))
    recorded = found(recordings)
    assert recorded.sides() == (b"1" * 8 + b"\xff" * 16 + b"2" * 4, b"a" * 8 + b"\xff" * 16 + b"b" * 4)
    assert recorded.duration_ms == 3


def test_clocks_that_disagree_lose_nothing(recordings: Recordings) -> None:
    recordings.begin(SID, "MZ1", NOON).append(both(b"1" * 16, b"a" * 16))
    recordings.begin(SID, "MZ2", NOON + timedelta(milliseconds=1)).append(both(b"2" * 4, b"b" * 4))
    recordings.begin(SID, "MZ3", NOON + timedelta(hours=20)).append(both(b"3" * 4, b"c" * 4))
    left, _ = found(recordings).sides()
    assert left[:20] == b"1" * 16 + b"2" * 4
    assert len(left) == 20 + module.MAX_GAP_SAMPLES + 4


def test_one_stream_may_be_recorded_twice(recordings: Recordings) -> None:
    recordings.begin(SID, "MZ1", NOON).append(both(b"1" * 8, b"a" * 8))
    recordings.begin(SID, "MZ1", NOON + timedelta(milliseconds=2)).append(both(b"2" * 8, b"b" * 8))
    assert found(recordings).sides()[0] == b"1" * 8 + b"\xff" * 8 + b"2" * 8


def test_what_a_crash_left_of_a_sample_is_left_out(recordings: Recordings, tmp_path: Path) -> None:
    recordings.begin(SID, "MZ1", NOON).append(both(b"11", b"aa"))
    (file,) = (tmp_path / "audio").rglob("*.ulaw")
    file.write_bytes(file.read_bytes() + b"1")
    (file.parent / "something-else.txt").write_bytes(b"11111111")
    assert found(recordings).sides() == (b"11", b"aa")


# --- finding ---


def test_a_call_over_midnight_is_one_recording(recordings: Recordings) -> None:
    midnight = datetime(2026, 11, 30, tzinfo=UTC)
    recordings.begin(SID, "MZ1", midnight - timedelta(milliseconds=1)).append(both(b"1" * 8, b"a" * 8))
    recordings.begin(SID, "MZ2", midnight).append(both(b"2" * 8, b"b" * 8))
    for around in (None, midnight - timedelta(minutes=1)):
        assert found(recordings, around).sides()[0] == b"1" * 8 + b"2" * 8


@pytest.mark.parametrize("sid", ["CA1", "", "..", "../CA1", "*", "CA1/..", "/etc", "CA" + "0" * 32])
def test_there_may_be_no_recording(recordings: Recordings, sid: str) -> None:
    recordings.begin(SID, "MZ1", NOON).append(both(b"1", b"a"))
    assert recordings.find(sid) is recordings.find(sid, NOON) is None
    assert not recordings.delete(sid)
    assert found(recordings)


@pytest.mark.parametrize("length", [1, 40, 41, 64, 65, 100])
def test_a_recording_is_found_however_long_the_name_of_its_stream_is(recordings: Recordings, length: int) -> None:
    recordings.begin(SID, "M" * length, NOON).append(both(b"1", b"a"))
    recordings.begin(SID, "-" + "M" * length, NOON).append(both(b"1", b"a"))
    assert found(recordings).pieces


def test_names_are_only_names(recordings: Recordings, tmp_path: Path) -> None:
    recordings.begin("../../etc", "../x", NOON).append(both(b"1", b"a"))
    (file,) = tmp_path.rglob("*.ulaw")
    assert file.relative_to(tmp_path / "audio").parts[:2] == ("2026-11-29", "etc")


# --- the WAV file ---


def test_any_part_of_the_wav_file_can_be_read(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_SAMPLES", 7)
    left, right = bytes(range(40)), bytes(range(100, 140))
    recordings.begin(SID, "MZ1", NOON).append(both(left, right))
    recorded = found(recordings)
    whole = b"".join(recorded.wav())
    with wave.open(io.BytesIO(whole)) as file:
        shape = file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()
        pcm = file.readframes(100)
    assert shape == (2, 2, 8000, 40)
    assert pcm == decode_ulaw(both(left, right))
    assert len(whole) == recorded.wav_bytes
    for begin in range(len(whole)):
        for end in (begin, begin + 1, begin + 5, begin + 60, len(whole) + 9):
            assert b"".join(recorded.wav(begin, end)) == whole[begin:end]


# --- deleting ---


def test_a_recording_is_deleted(recordings: Recordings) -> None:
    recordings.begin(SID, "MZ1", NOON).append(both(b"1", b"a"))
    recordings.begin("CA2", "MZ2", NOON).append(both(b"1", b"a"))
    assert recordings.delete(SID)
    assert recordings.find(SID, NOON) is None
    assert recordings.find("CA2", NOON)


def test_old_recordings_are_swept(recordings: Recordings, tmp_path: Path) -> None:
    for days in (32, 31, 30, 29, 0):
        recordings.begin(SID, "MZ1", NOON - timedelta(days=days)).append(both(b"1", b"a"))
    (tmp_path / "audio" / "notes").mkdir()
    assert recordings.sweep(date(2026, 11, 29)) == 2
    left = sorted(path.name for path in (tmp_path / "audio").iterdir())
    assert left == ["2026-10-30", "2026-10-31", "2026-11-29", "notes"]


def test_a_day_that_cannot_be_deleted_keeps_no_other(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    for days in (34, 33, 32):
        recordings.begin(SID, "MZ1", NOON - timedelta(days=days)).append(both(b"1", b"a"))
    delete = Folder.delete

    def refuse(place: Folder, path: str) -> None:
        if path < "2026-10-28":
            raise PermissionError(13, f"{path} is not ours")
        delete(place, path)

    monkeypatch.setattr(Folder, "delete", refuse)
    with pytest.raises(PermissionError, match="2026-10-26 is not ours"):
        recordings.sweep(date(2026, 11, 29))
    assert [name for name, _ in recordings.place.list("")] == ["2026-10-26", "2026-10-27"]


@pytest.mark.anyio
async def test_the_place_is_kept_while_the_server_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    recordings, swept = Recordings(str(tmp_path / "audio"), days=1), threading.Event()
    sweep = recordings.sweep

    def noted(today: date) -> Any:
        found = sweep(today)
        swept.set()
        return found

    monkeypatch.setattr(recordings, "sweep", noted)
    keeping = asyncio.create_task(recordings.keep())
    async with asyncio.timeout(HANG_SECONDS):
        while not swept.is_set():
            await asyncio.sleep(0.01)
        recordings.begin(SID, "MZ1", NOON - timedelta(days=3000)).append(both(b"1", b"a"))
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    keeping = asyncio.create_task(recordings.keep())
    async with asyncio.timeout(HANG_SECONDS):
        while "recordings of 1 days" not in caplog.text:
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert recordings.find(SID) is None


# --- settings ---


def test_the_settings_say_where() -> None:
    assert Recordings.from_settings(Records(record_audio=None)) is None
    made = Recordings.from_settings(Records(record_audio=SecretStr("memory://u:secret@audio"), record_audio_days=3))
    assert made is not None
    assert made.days == 3
    assert "secret" not in repr(made)
    assert made.folder(SID).startswith("memory://audio/2")


def test_a_url_that_needs_a_package_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(ConfigurationError, match="RECORD_AUDIO"):
        _ = Recordings("nosuch://audio").place


def test_a_place_is_made_once(tmp_path: Path) -> None:
    recordings = Recordings(str(tmp_path / "audio"))  # no server has looked after it, as in a mounted app
    recordings.begin(SID, "MZ1", NOON).append(both(b"1", b"a"))
    shutil.rmtree(tmp_path / "audio")
    with pytest.raises(FileNotFoundError):  # a disk that is gone
        recordings.begin(SID, "MZ2", NOON).append(both(b"1", b"a"))
    assert list(tmp_path.iterdir()) == []


HANGING = """
import asyncio, sys, threading
from phoneagent.store.recordings import Recordings

class Hanging(Recordings):
    def _prepare(self):
        hangs.set()
        threading.Event().wait()

async def main():
    keeping = asyncio.create_task(Hanging("x").keep())
    while not hangs.is_set():
        await asyncio.sleep(0.01)
    keeping.cancel()

hangs = threading.Event()
asyncio.run(main())
"""


@pytest.mark.anyio
async def test_a_place_that_hangs_keeps_no_process_from_exiting() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", HANGING)
    try:
        async with asyncio.timeout(HANG_SECONDS):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()


@pytest.mark.anyio
async def test_a_place_is_looked_after_again_although_no_thread_was_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.01)
    recordings, threads = Recordings(str(tmp_path / "audio")), usercode._free
    monkeypatch.setattr(usercode, "_free", threading.Semaphore(0))
    keeping = asyncio.create_task(recordings.keep())
    async with asyncio.timeout(HANG_SECONDS):
        while "threads are busy" not in caplog.text:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(usercode, "_free", threads)
        while not (tmp_path / "audio").is_dir():
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


@pytest.mark.anyio
async def test_a_place_that_cannot_be_used_is_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeping = asyncio.create_task(Recordings(str(tmp_path / "no" / "where")).keep())
    async with asyncio.timeout(HANG_SECONDS):
        while "calls may not be recorded for now" not in caplog.text:
            await asyncio.sleep(0.01)
    keeping.cancel()
    assert f"RECORD_AUDIO={tmp_path}/no/where: No such file or directory" in caplog.text
    assert "make the folder" in caplog.text


def test_after_a_long_refusal_a_part_may_be_longer(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Folder, "part_bytes", 8)
    written, works = audio_places._File.append, False

    def append(file: audio_places._File, data: bytes) -> None:
        if not works:
            raise OSError(28, "No space left on device")
        written(file, data)

    monkeypatch.setattr(audio_places._File, "append", append)
    track, said = recordings.begin(SID, "MZ1", NOON), b""
    for number in range(20):
        said += both(bytes([number]), b"a")
        works = number in (6, 7, 18, 19)
        if not works:
            with pytest.raises(OSError, match="No space"):
                track.append(said)
            continue
        track.append(said)
        said = b""
    assert found(recordings).sides() == (bytes(range(20)), b"a" * 20)
