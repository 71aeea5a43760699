"""The doctor's look at recordings: whether the place takes them, and whether callers are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from phoneagent import Agent, Recording
from phoneagent.doctor import recording as module
from phoneagent.doctor.checks import Status
from phoneagent.doctor.recording import check_recording
from phoneagent.settings import Settings
from phoneagent.store.audio_places import Folder

pytestmark = pytest.mark.anyio


def settings(where: Path | str | None = None) -> Settings:
    given: dict[str, Any] = {"insecure": True, "endpoint_in_code": True}
    return Settings(**given, **({} if where is None else {"record_audio": str(where)}))


def agent(name: str = "shop", recording: Recording | None = None, **options: Any) -> Agent:
    return Agent(name=name, instructions="Be brief.", recording=recording, **options)


async def test_where_nothing_is_recorded_nothing_is_said() -> None:
    assert await check_recording(settings(), None) == []
    assert await check_recording(settings(), agent()) == []


async def test_a_folder_that_takes_recordings_is_left_as_it_was(tmp_path: Path) -> None:
    (found,) = await check_recording(settings(tmp_path / "audio"), None)
    assert (found.status, "can be written to" in found.text) == (Status.OK, True)
    assert list((tmp_path / "audio").iterdir()) == []


async def test_a_store_of_objects_that_takes_recordings() -> None:
    MemoryFileSystem.store.clear()
    (found,) = await check_recording(settings("memory://audio"), None)
    assert (found.status, MemoryFileSystem.store) == (Status.OK, {})


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (found,) = await check_recording(settings(tmp_path / "file" / "audio"), None)
    assert found.status is Status.FAILED
    assert "RECORD_AUDIO" in found.text


async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "begin", full)
    (found,) = await check_recording(settings(tmp_path), None)
    assert (found.status, "(No space left on device)" in found.text) == (Status.FAILED, True)


async def test_a_package_that_is_missing_is_named() -> None:
    (found,) = await check_recording(settings("nothing-like-it://audio"), None)
    assert found.status is Status.FAILED
    assert "nothing-like-it" in found.text


async def test_a_place_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLACE_SECONDS", 0.0)
    (found,) = await check_recording(settings(tmp_path), None)
    assert (found.status, "is it reachable?" in found.text) == (Status.FAILED, True)


async def test_agents_that_record_without_a_word_are_named(tmp_path: Path) -> None:
    silent, asks = agent("billing", Recording()), agent("complaints", Recording(start=False))
    told = agent("shop", Recording(consent="This call is recorded."), handoffs=[silent, asks])
    _, found = await check_recording(settings(tmp_path), told)
    assert found.status is Status.NOTE
    assert found.text.startswith("billing records without telling callers")


async def test_a_recording_without_a_place_is_none() -> None:
    (found,) = await check_recording(settings(), agent(recording=Recording()))
    assert (found.status, "RECORD_AUDIO is not set" in found.text) == (Status.NOTE, True)
