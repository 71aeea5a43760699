from __future__ import annotations

import asyncio
import base64
import errno
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from phoneagent.bridge.tape import AgentAudio, CallerFrame, Cleared, Entry
from phoneagent.calls import take as module
from phoneagent.calls.take import MAX_UNWRITTEN_BYTES, Refused, Take, TapedSocket, TapeWriter
from phoneagent.protocol import carrier
from phoneagent.store.audio_places import Bucket, Folder
from phoneagent.store.recordings import Recordings
from tests.patience import HANG_SECONDS

FRAME = base64.b64encode(b"a" * 160).decode()


def frames(first: int, count: int) -> list[Entry]:
    return [CallerFrame((number + 1) / 50, FRAME, 160, 20 * number) for number in range(first, first + count)]


@pytest.fixture
def recordings(tmp_path: Path) -> Recordings:
    made = Recordings(str(tmp_path / "audio"))
    made.place.prepare()
    return made


def left(recordings: Recordings) -> bytes:
    found = recordings.find("CA1")
    return b"" if found is None else found.sides()[0]


# --- what works in threads ---


def test_facts_become_a_file(recordings: Recordings) -> None:
    writer = TapeWriter(recordings, "CA1", "MZ1", 0.0, lambda: 1_800_000_000.0)
    writer.write(frames(0, 10), 0.2)
    assert left(recordings) == b"a" * 1600
    writer.write([], 0.3)
    writer.write(frames(10, 5), 0.3, final=True)
    assert left(recordings) == b"a" * 2400
    found = recordings.find("CA1")
    assert found is not None
    assert found.started_at.timestamp() == 1_800_000_000.0


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room there"),
        (errno.EROFS, "let this process write there"),
        (errno.ENOENT, "make the folder"),
        (errno.EIO, "check that it works"),
    ],
)
def test_a_refusal_has_its_remedy_and_loses_nothing(
    number: int, remedy: str, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> Any:
        raise OSError(number, "no")

    writer = TapeWriter(recordings, "CA1", "MZ1", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "begin", refuse)
        with pytest.raises(Refused, match=remedy) as refused:
            writer.write(frames(0, 10), 0.2)
        assert not refused.value.final
        with pytest.raises(Refused, match=remedy) as refused:
            writer.write(frames(10, 1600), 32.2)
        assert refused.value.final
        assert MAX_UNWRITTEN_BYTES < 16_000 * 32
    writer.write(frames(1610, 1), 32.22)
    assert left(recordings) == b"a" * 160 * 1611


def test_a_package_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = TapeWriter(Recordings("nosuch://audio"), "CA1", "MZ1", 0.0)
    with pytest.raises(Refused, match="RECORD_AUDIO cannot be a nosuch:// URL"):
        writer.write(frames(0, 10), 0.2)


def test_a_recording_that_begins_while_its_call_is_forgotten_is_deleted(recordings: Recordings) -> None:
    answers = iter([False, True])  # it is marked between the first look and the write
    writer = TapeWriter(recordings, "CA1", "MZ1", 0.0, forgotten=lambda: next(answers))
    with pytest.raises(Refused, match="the call was forgotten") as refused:
        writer.write(frames(0, 10), 0.2)
    assert refused.value.final
    assert recordings.find("CA1") is None


@pytest.fixture
def bucket() -> Iterator[Recordings]:
    """Recordings at a URL."""
    MemoryFileSystem.store.clear()
    yield Recordings("memory://audio")
    MemoryFileSystem.store.clear()


def test_a_write_that_the_deletion_of_a_forgotten_call_misses_is_deleted(
    bucket: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked: list[str] = []
    writer = TapeWriter(bucket, "CA1", "MZ1", 0.0, forgotten=lambda: "CA1" in marked)
    writer.write(frames(0, 10), 0.2)
    write = MemoryFileSystem.pipe_file

    def late(*arguments: Any, **options: Any) -> None:  # the part was still there when the write began
        marked.append("CA1")
        assert bucket.delete("CA1")
        write(*arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", late)
    with pytest.raises(Refused, match="the call was forgotten") as refused:
        writer.write(frames(10, 5), 0.3)
    assert refused.value.final
    assert bucket.find("CA1") is None


def test_audio_of_a_forgotten_call_that_may_be_left_is_told(
    bucket: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EACCES, "no")

    answers = iter([False, True])
    writer = TapeWriter(bucket, "CA1", "MZ1", 0.0, forgotten=lambda: next(answers))
    monkeypatch.setattr(Bucket, "delete", refuse)
    with pytest.raises(Refused, match=r"may be left: RECORD_AUDIO=.*, and forget the call again by its SID") as refused:
        writer.write(frames(0, 10), 0.2)
    assert refused.value.final


def test_whether_a_call_was_forgotten_is_asked_after_each_write_that_may_restore_it(
    recordings: Recordings, bucket: Recordings
) -> None:
    for place, expected in ((recordings, 2), (bucket, 4)):
        asked: list[bool] = []
        writer = TapeWriter(place, "CA1", "MZ1", 0.0, forgotten=lambda asked=asked: bool(asked.append(True)))  # type: ignore[misc]
        for number in range(3):
            writer.write(frames(10 * number, 10), 0.2 * (number + 1))
        assert len(asked) == expected


# --- what is noted ---


class Socket:
    """A socket whose messages are what they are."""

    writable = True

    def __init__(self) -> None:
        self.written: list[carrier.ToCarrier] = []
        self.closed = False

    async def read(self, take: Any, resumed: Any) -> None: ...
    def decode(self, raw: Any) -> Any:
        return raw

    def write(self, messages: Any) -> None:
        if self.closed:
            raise ConnectionError
        self.written += messages

    async def close(self) -> None: ...


@pytest.mark.anyio
async def test_a_socket_notes_what_passes_it() -> None:
    noted: list[Entry] = []
    socket, secret = Socket(), False
    taped = TapedSocket(socket, noted.append, lambda: secret)
    for message in (carrier.Key("1"), carrier.Played("1.1"), carrier.AudioIn(FRAME, 40)):
        assert taped.decode(message) is message  # type: ignore[arg-type]
    secret = True
    taped.decode(carrier.AudioIn(FRAME, 60))  # type: ignore[arg-type]
    messages: list[carrier.ToCarrier] = [carrier.Clear(), carrier.Audio(FRAME), carrier.SendMark("1.2")]
    taped.write(iter(messages))
    assert socket.written == messages
    assert taped.writable
    shape = [each._replace(now=0.0) for each in noted]
    assert shape == [
        CallerFrame(0.0, FRAME, 160, 40), CallerFrame(0.0, None, 160, 60), Cleared(0.0), AgentAudio(0.0, FRAME)
    ]  # fmt: skip
    socket.closed = True
    with pytest.raises(ConnectionError):
        taped.write(messages)
    assert len(noted) == 4  # what was not written is not heard


# --- what works on the event loop ---


class Slow(TapeWriter):
    """A writer that can be held up, and that fails as it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool]] = []
        self.free = threading.Event()
        self.free.set()
        self.error: Exception | None = None

    def write(self, entries: Any, now: float, *, final: bool = False) -> None:
        self.free.wait(10)
        self.calls.append((len(list(entries)), final))
        if self.error is not None:
            raise self.error


@pytest.fixture
async def slow() -> AsyncIterator[Slow]:
    writer = Slow()
    yield writer
    writer.free.set()


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_it_is_written_about_once_a_second_and_at_the_end(slow: Slow) -> None:
    take = Take(slow, "CA1", lambda: None)
    take.note(frames(0, 1)[0])
    await until(lambda: len(slow.calls) == 3)
    assert slow.calls == [(1, False), (0, False), (0, False)]
    take.note(frames(1, 1)[0])
    take.note(frames(2, 1)[0])
    await take.finish()
    assert slow.calls[3:] == [(2, True)]
    await take.finish()
    await asyncio.sleep(5)
    assert len(slow.calls) == 4
    assert take.complete


@pytest.mark.anyio
async def test_one_write_at_a_time(slow: Slow) -> None:
    take = Take(slow, "CA1", lambda: None)
    slow.free.clear()
    await until(lambda: take._writing is not None)
    for number in range(3):
        take.note(frames(number, 1)[0])
    await asyncio.sleep(1.0)
    ending = asyncio.create_task(take.finish())
    await asyncio.sleep(0.1)
    assert slow.calls == []
    slow.free.set()
    await ending
    assert slow.calls == [(0, False), (3, True)]
    assert take.complete


@pytest.mark.anyio
async def test_it_is_said_once_that_something_is_wrong(slow: Slow, caplog: pytest.LogCaptureFixture) -> None:
    broke: list[int] = []
    take = Take(slow, "CA1", lambda: broke.append(1))
    slow.error = Refused("make room there", final=False)
    await until(lambda: len(slow.calls) == 3)
    assert broke == []
    slow.error = Refused("make room there", final=True)
    await until(lambda: broke)
    calls = len(slow.calls)
    await take.finish()
    await asyncio.sleep(3)
    assert (len(slow.calls), broke, take.complete) == (calls, [1], False)
    assert [each for each in caplog.messages if "make room there" in each] == [
        "the call goes on, and is not recorded for now: make room there"
    ]


@pytest.mark.anyio
async def test_a_fault_of_ours_ends_the_recording_alone(slow: Slow, caplog: pytest.LogCaptureFixture) -> None:
    broke: list[int] = []
    take = Take(slow, "CA1", lambda: broke.append(1))
    slow.error = ZeroDivisionError("a fault")
    await until(lambda: broke)
    assert not take.complete
    assert "internal error in phoneagent" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize("ending", [False, True])
async def test_a_place_that_does_not_answer_is_given_up(
    slow: Slow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, ending: bool
) -> None:
    monkeypatch.setattr(module, "MAX_WRITE_SECONDS", 1.0)
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.2)
    broke: list[int] = []
    take = Take(slow, "CA1", lambda: broke.append(1))
    slow.free.clear()
    await until(lambda: take._writing is not None)
    if ending:
        await take.finish()
    else:
        await until(lambda: broke)
    assert not take.complete
    assert "does not answer" in caplog.text


# --- threads ---


@pytest.mark.anyio
async def test_work_that_has_not_begun_is_dropped_if_it_is_no_longer_wanted() -> None:
    release, ran = threading.Event(), []
    busy = [module.in_thread(release.wait, HANG_SECONDS) for _ in range(module.THREADS)]
    dropped = module.in_thread(ran.append, "dropped")
    wanted = module.in_thread(ran.append, "wanted")
    dropped.cancel()
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*busy, wanted)
    assert ran == ["wanted"]


@pytest.mark.anyio
async def test_a_failure_is_raised_where_the_work_was_asked_for() -> None:
    with pytest.raises(ZeroDivisionError):
        await module.in_thread(divmod, 1, 0)


def test_a_place_that_hangs_keeps_no_process_from_exiting() -> None:
    code = (
        "import asyncio, threading\n"
        "from phoneagent.calls.take import in_thread\n"
        "async def main():\n"
        "    begun = asyncio.Event()\n"
        "    loop = asyncio.get_running_loop()\n"
        "    in_thread(lambda: (loop.call_soon_threadsafe(begun.set), threading.Event().wait()))\n"
        "    await begun.wait()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANG_SECONDS)
