from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from phoneagent.errors import ConfigurationError
from phoneagent.store import audio_places
from phoneagent.store.audio_places import Bucket, Folder, Place, place_at, shown_place

PART, NEXT = "2026-11-29/CA1/1-MZ1-0.ulaw", "2026-11-29/CA1/1-MZ1-9.ulaw"


@pytest.fixture(params=["folder", "memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A folder; a store of objects; and a folder by its URL."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    urls = {"folder": str(tmp_path / "audio"), "memory": "memory://audio", "file": f"local://{tmp_path}/audio"}
    made = place_at(urls[request.param])
    made.prepare()
    yield made
    MemoryFileSystem.store.clear()


def test_what_was_written_is_read(place: Place) -> None:
    part = place.begin(PART, None)
    part.append(b"one")
    part.append(b"two")
    place.begin(NEXT, PART).append(b"three")
    assert place.list("") == [("2026-11-29", place.list("")[0][1])]
    assert place.list("2026-11-29/CA1") == [("1-MZ1-0.ulaw", 6), ("1-MZ1-9.ulaw", 5)]
    assert place.read(PART, 1, 5) == b"netw"
    place.delete("2026-11-29")
    assert place.list("2026-11-29/CA1") == place.list("2026-11-29") == []
    place.delete("2026-11-29")


def test_what_was_deleted_does_not_come_back(place: Place) -> None:
    part = place.begin(PART, None)
    part.append(b"one")
    place.delete("2026-11-29/CA1")
    with pytest.raises(FileNotFoundError):
        part.append(b"two")
    with pytest.raises(FileNotFoundError):
        place.begin(NEXT, PART)
    assert place.list("2026-11-29/CA1") == []


def test_only_a_write_that_creates_a_part_may_restore_it(place: Place) -> None:
    part = place.begin(PART, None)
    each_creates = isinstance(place, Bucket)  # an object is written anew
    assert [part.append(b"one"), part.append(b"two")] == [True, each_creates]
    assert place.begin(NEXT, PART).append(b"three")


def test_there_may_be_nothing_yet(place: Place) -> None:
    assert place.list("2026-11-28/CA1") == []
    with pytest.raises(FileNotFoundError):
        place.read(PART, 0, 4)


# --- a folder ---


def test_only_its_owner_reads_a_folder(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        place = Folder(tmp_path / "audio")
        place.prepare()
        place.begin(PART, None).append(b"one")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "audio").rglob("*")}
    assert modes == {"2026-11-29": 0o700, "CA1": 0o700, "1-MZ1-0.ulaw": 0o600}
    assert stat.S_IMODE((tmp_path / "audio").stat().st_mode) == 0o700


def test_a_disk_that_is_not_there_is_not_replaced(tmp_path: Path) -> None:
    place = Folder(tmp_path / "mnt" / "audio")
    with pytest.raises(FileNotFoundError):
        place.prepare()
    with pytest.raises(FileNotFoundError):
        place.begin(PART, None)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_broke_off_is_written_again(tmp_path: Path) -> None:
    place = Folder(tmp_path)
    part = place.begin(PART, None)
    part.append(b"one")
    with (tmp_path / PART).open("ab") as file:
        file.write(b"tw")  # and then the disk was full
    part.append(b"two")
    assert (tmp_path / PART).read_bytes() == b"onetwo"


def test_a_link_in_the_place_of_a_part_is_not_followed(tmp_path: Path) -> None:
    place = Folder(tmp_path / "audio")
    place.prepare()
    part = place.begin(PART, None)
    (tmp_path / "audio" / PART).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"symbolic|loop|link"):
        part.append(b"one")
    assert not (tmp_path / "elsewhere").exists()


# --- URLs ---


class Failing(MemoryFileSystem):  # type: ignore[misc]
    """A driver that fails in a way of its own."""

    def pipe_file(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("key=secret")


def test_what_a_driver_raises_is_an_os_error_without_its_text() -> None:
    part = Bucket(Failing(skip_instance_cache=True), "audio").begin(PART, None)
    with pytest.raises(OSError, match="RuntimeError from the driver") as caught:
        part.append(b"one")
    assert "secret" not in str(caught.value)


def test_a_url_needs_fsspec_and_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="RECORD_AUDIO cannot be a nosuch:// URL") as caught:
        place_at("nosuch://user:secret@host/audio")
    assert "secret" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'phoneagent\[recording\]'"):
        place_at("memory://audio")


def test_what_is_shown_has_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_place("audio") == f"{tmp_path}/audio"
    assert shown_place("ftp://user:secret@host/audio?key=secret") == "ftp://host/audio"


def test_parts_of_a_url_are_short() -> None:
    assert audio_places.URL_PART_BYTES == 160_000  # each second, one of them is written anew


def test_two_processes_may_delete_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Folder(tmp_path)
    place.begin(PART, None).append(b"one")
    remove, tries = shutil.rmtree, []

    def lose_the_race(path: Path) -> None:
        tries.append(path)
        if len(tries) < 3:
            raise FileNotFoundError(2, "the other process was faster")
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", lose_the_race)
    place.delete("2026-11-29")
    assert len(tries) == 3
    assert place.list("2026-11-29") == []


def test_a_folder_that_cannot_be_written_is_found_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(PermissionError):
        Folder(tmp_path).prepare()
