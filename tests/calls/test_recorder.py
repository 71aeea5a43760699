from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from phoneagent import Recording, RecordingChanged
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.policy import Policy
from phoneagent.calls.recorder import MAX_CONSENTS, SILENT_SECONDS, Recorder
from phoneagent.calls.take import TapedSocket
from phoneagent.errors import StoreError
from phoneagent.events import Event, Turn, TurnEnded
from phoneagent.protocol import carrier, realtime
from phoneagent.store.recordings import Recordings
from phoneagent.store.records import RecordingRecord
from tests.bridge.rig import ulaw
from tests.calls.test_take import Socket

pytestmark = pytest.mark.anyio
CONSENT = Recording(consent="This call is recorded.")


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


class Rig:
    """A recorder beside a bridge, with a socket that takes everything."""

    def __init__(
        self, folder: Path | str, option: Recording | None = None, earlier: RecordingRecord | None = None
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.told: list[RecordingChanged] = []
        self.bridge = Bridge(Policy(greeting="Hello!"), call_sid="CA1")
        recordings = Recordings(str(folder))
        recordings.place.prepare()
        self.recorder = Recorder(
            recordings,
            self.bridge,
            call_sid="CA1",
            stream_sid="MZ1",
            option=option,
            earlier=earlier,
            emit=self.emit,
        )
        self.socket: Any = Socket()
        self.sent: list[realtime.ToModel] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, RecordingChanged):
            self.told.append(event)
        self.recorder.tell(event)

    def put(self, wrap: Callable[[Any], Any]) -> None:
        self.socket = wrap(self.socket)

    def begin(self) -> None:
        """Begin the media stream, with a session that is ready."""
        now = self.loop.time()
        self.recorder.begin(now, self.put)
        self.bridge.model_opened({}, now)
        self.bridge.model_connected(now)
        self.bridge.receive_from_caller(carrier.Started(stream_sid="MZ1", call_sid="CA1", account_sid="AC1"), now)
        self.flush()

    def flush(self) -> None:
        while messages := self.bridge.take_for_model(self.loop.time(), 16):
            self.sent += messages

    def asked(self) -> list[str]:
        """What the model was told to say, up to now."""
        items = [each.item["content"][0]["text"] for each in self.sent if isinstance(each, realtime.ItemCreate)]
        return [text.rpartition(": ")[2] for text in items]

    def says(self, item_id: str, *, heard: bool = True, done: bool = True) -> None:
        """Let the model say something, and the caller hear it to its end, or not."""
        now = self.loop.time()
        number = sum(isinstance(each, realtime.ResponseCreate) for each in self.sent)
        response = realtime.Response(id=f"r{item_id}", status="in_progress", metadata={"phoneagent": str(number)})
        self.bridge.receive_from_model(realtime.ResponseCreated(response=response), now)
        audio = realtime.AudioDelta(response_id=f"r{item_id}", item_id=item_id, content_index=0, delta=ulaw(60))
        self.bridge.receive_from_model(audio, now)
        self.recorder.tell(turn_ended(item_id, interrupted=not heard))
        if done:
            over = realtime.Response(id=f"r{item_id}", status="completed")
            self.bridge.receive_from_model(realtime.ResponseDone(response=over), now)
            self.recorder.tell(turn_ended("other"))
        self.flush()

    async def speaks(self, seconds: float) -> None:
        """Let the caller speak."""
        for number in range(int(seconds * 50)):
            self.socket.decode(carrier.AudioIn(ulaw(20), 20 * number))
            await asyncio.sleep(0.02)

    @property
    def records(self) -> bool:
        return isinstance(self.socket, TapedSocket)

    @property
    def statuses(self) -> list[str]:
        return [each.status for each in self.told]


def turn_ended(item_id: str, *, interrupted: bool = False) -> TurnEnded:
    turn = Turn(
        role="agent",
        item_id=item_id,
        text="x",
        heard_text="x",
        start_ms=0,
        end_ms=60,
        said_ms=60,
        heard_ms=60,
        interrupted=interrupted,
    )
    return TurnEnded(call_sid="CA1", turn=turn)


async def test_it_begins_with_the_call_where_the_agent_says_so(tmp_path: Path) -> None:
    for option, records in ((Recording(), True), (Recording(start=False), False), (None, False)):
        rig = Rig(tmp_path, option)
        rig.begin()
        assert rig.records is records
        await rig.recorder.close()
        assert not rig.records


async def test_the_consent_line_is_asked_for_before_the_greeting(tmp_path: Path) -> None:
    rig = Rig(tmp_path, CONSENT)
    rig.begin()
    assert rig.asked() == ['"This call is recorded."']
    assert not rig.records
    rig.says("i1")
    assert rig.records
    assert rig.statuses == ["in-progress"]
    assert rig.asked() == ['"This call is recorded."', '"Hello!"']
    rig.says("i2")
    assert rig.statuses == ["in-progress"]
    await rig.recorder.close()


async def test_a_turn_that_is_not_the_consent_line_starts_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, CONSENT)
    rig.begin()
    rig.recorder.tell(turn_ended("i0"))
    rig.says("i1", done=False)
    assert not rig.records  # the response may still fail, and be asked for again
    rig.recorder.tell(turn_ended("i0"))
    assert not rig.records
    await rig.recorder.close()
    assert rig.told == []


async def test_a_consent_line_that_a_lost_session_cut_off_is_said_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, CONSENT)
    rig.begin()
    rig.says("i1", done=False)
    now = rig.loop.time()
    rig.bridge.model_away(now, "lost")
    rig.recorder.tell(turn_ended("i0"))
    assert not rig.records
    rig.bridge.model_connected(now)
    rig.flush()
    assert rig.asked()[-1] == '"This call is recorded."'
    rig.says("i2")
    assert rig.records
    await rig.recorder.close()


async def test_half_a_consent_line_does_not_count_because_the_call_ends(tmp_path: Path) -> None:
    rig = Rig(tmp_path, CONSENT)
    rig.begin()
    rig.says("i1", done=False)
    rig.bridge.model_lost(rig.loop.time(), "gone for good")
    rig.recorder.tell(turn_ended("i1"))
    rig.recorder.tell(turn_ended("apology"))
    assert not rig.records
    await rig.recorder.close()
    assert rig.told == []


async def test_a_consent_line_that_is_interrupted_is_said_again_but_not_forever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, CONSENT)
    rig.begin()
    for number in range(MAX_CONSENTS):
        assert "consent line was not heard" not in caplog.text
        rig.says(f"i{2 * number}", heard=False)
    assert "the call is not recorded: its consent line was not heard" in caplog.text
    rig.says("later")
    assert not rig.records
    await rig.recorder.close()


async def test_code_may_start_it_later_with_its_consent_line_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Recording(consent="May I record this?", start=False))
    rig.begin()
    rig.says("i1")  # the greeting
    now = rig.loop.time()
    rig.recorder.start(now)
    rig.recorder.start(now)
    rig.bridge.move_on(now)
    rig.flush()
    assert rig.asked() == ['"Hello!"', '"May I record this?"']
    rig.recorder.pause(now)  # changed their mind, while it is said
    rig.says("i2")
    assert not rig.records
    rig.recorder.start(now)  # it was heard
    assert rig.records
    rig.recorder.stop(now)
    assert not rig.records
    rig.recorder.start(now)
    assert rig.records
    await rig.recorder.close()
    assert rig.statuses == ["stopped", "in-progress", "stopped", "in-progress", "completed"]


@pytest.mark.parametrize("refuse", [Recorder.stop, Recorder.pause])
async def test_what_is_refused_during_the_consent_line_does_not_begin_in_the_next_stream(
    tmp_path: Path, refuse: Callable[[Recorder, float], None]
) -> None:
    rig = Rig(tmp_path, CONSENT)
    rig.begin()
    refuse(rig.recorder, rig.loop.time())
    (told,) = rig.told
    assert (told.status, told.complete, told.duration_ms) == ("stopped", True, 0)
    rig.bridge.hand_over(rig.loop.time(), "a deploy")
    await rig.recorder.close()
    assert rig.told == [told]
    stopped = RecordingRecord(status="stopped", where=told.where, complete=True, duration_ms=0)
    later = Rig(tmp_path, CONSENT, stopped)
    later.begin()
    later.says("i1")
    assert later.asked() == ['"Hello!"']
    assert not later.records
    later.recorder.start(later.loop.time())  # the consent line was never heard
    later.bridge.move_on(later.loop.time())
    later.flush()
    assert (later.asked()[-1], later.records) == ('"This call is recorded."', False)
    later.says("i2")
    assert later.records
    await later.recorder.close()


async def test_its_stop_is_told_at_once_and_again_with_its_length(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Recording())
    rig.begin()
    await rig.speaks(1)
    now = rig.loop.time()
    rig.recorder.stop(now)
    assert [(each.status, each.duration_ms) for each in rig.told] == [("in-progress", None), ("stopped", None)]
    assert rig.told[-1].at_ms == rig.bridge.clock.ms(now)
    await asyncio.sleep(2)
    found = Recordings(str(tmp_path)).find("CA1")
    assert found is not None
    assert rig.statuses == ["in-progress", "stopped", "stopped"]
    assert (rig.told[-1].complete, rig.told[-1].duration_ms) == (True, found.duration_ms)
    await rig.recorder.close()
    assert len(rig.told) == 3


async def test_one_that_is_started_again_at_once_is_not_told_as_stopped_after_that(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Recording())
    rig.begin()
    rig.recorder.stop(rig.loop.time())
    rig.recorder.start(rig.loop.time())
    await asyncio.sleep(2)
    assert rig.statuses == ["in-progress", "stopped", "in-progress"]
    rig.recorder.stop(rig.loop.time())
    rig.recorder.start(rig.loop.time())
    await rig.recorder.close()
    assert rig.statuses == ["in-progress", "stopped", "in-progress", "stopped", "in-progress", "completed"]


async def test_pausing_and_stopping_what_is_off_changes_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.begin()
    rig.recorder.pause(0.0)
    rig.recorder.stop(0.0)
    await rig.recorder.close()
    assert rig.told == []


@pytest.mark.parametrize(
    ("status", "after"),
    [
        ("in-progress", ["in-progress", "in-progress"]),
        ("completed", ["in-progress", "in-progress"]),
        ("paused", ["in-progress", "paused", "paused"]),
        ("stopped", []),
    ],
)
async def test_the_next_media_stream_goes_on_as_the_last_one(tmp_path: Path, status: Any, after: list[str]) -> None:
    earlier = RecordingRecord(status=status, where="there", complete=False, duration_ms=None)
    rig = Rig(tmp_path, CONSENT, earlier)
    rig.begin()
    assert rig.records is bool(after)
    assert "recorded" not in str(rig.asked())
    rig.bridge.hand_over(rig.loop.time(), "a deploy")
    await rig.recorder.close()
    assert rig.statuses == after
    assert {(each.where, each.complete) for each in rig.told} <= {("there", False)}


@pytest.mark.parametrize(
    ("by", "paused", "status"),
    [
        ("caller", False, "completed"),
        ("agent", True, "completed"),
        ("line", False, "completed"),
        ("line", True, "paused"),
        ("error", True, "paused"),
        (None, False, "in-progress"),
        (None, True, "paused"),
    ],
)
async def test_its_end_says_whether_it_may_go_on(tmp_path: Path, by: Any, *, paused: bool, status: str) -> None:
    rig = Rig(tmp_path, Recording())
    rig.begin()
    if paused:
        rig.recorder.pause(rig.loop.time())
    await asyncio.sleep(1)
    rig.bridge.end(rig.loop.time(), by, "over")
    await rig.recorder.close()
    assert rig.statuses[-1] == status
    assert rig.told[-1].duration_ms is not None
    await rig.recorder.close()
    assert rig.statuses.count("completed") <= 1


async def test_what_plays_when_it_starts_is_in_it_from_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    rig = Rig(tmp_path)
    rig.begin()
    now = rig.loop.time()
    rig.bridge.playback.queue(ulaw(1000), "i1")
    assert rig.bridge.take_for_caller(now, 100)
    await asyncio.sleep(0.5)
    rig.recorder.start(rig.loop.time())
    await asyncio.sleep(1)
    rig.bridge.end(rig.loop.time(), "caller", "over")
    await rig.recorder.close()
    found = Recordings(str(tmp_path)).find("CA1")
    assert found is not None
    right = found.sides()[1]
    assert abs(len(right.rstrip(b"\xff")) - 4000) <= 16
    assert caplog.text == ""


async def test_a_call_that_was_forgotten_is_not_recorded_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, Recording())

    async def forgotten(call_sid: str) -> bool:
        return call_sid == "CA1"

    rig.recorder._recordings.forgotten = forgotten
    rig.begin()
    await rig.speaks(2)
    assert not rig.records
    assert (rig.statuses, rig.told[-1].complete) == (["in-progress", "stopped"], False)
    assert "is not recorded for now: the call was forgotten" in caplog.text
    rig.recorder.start(rig.loop.time())
    await rig.speaks(0.5)
    await rig.recorder.close()
    assert Recordings(str(tmp_path)).place.list("") == []


@pytest.fixture
def bucket() -> Iterator[str]:
    """A place at a URL."""
    MemoryFileSystem.store.clear()
    yield "memory://audio"
    MemoryFileSystem.store.clear()


async def test_a_call_that_is_forgotten_is_recorded_no_further_at_a_url(bucket: str) -> None:
    """Its objects are written anew each second, and one of these writes may restore what was deleted."""
    rig = Rig(bucket, Recording())
    marked: list[str] = []

    async def forgotten(call_sid: str) -> bool:
        return call_sid in marked

    rig.recorder._recordings.forgotten = forgotten
    rig.begin()
    await rig.speaks(2)
    assert rig.records
    marked.append("CA1")
    await rig.speaks(2)
    assert (rig.records, rig.statuses) == (False, ["in-progress", "stopped"])
    assert Recordings(bucket).find("CA1") is None
    await rig.recorder.close()


async def test_a_database_that_does_not_answer_is_not_asked_at_each_write(bucket: str) -> None:
    rig = Rig(bucket, Recording())
    asked: list[float] = []

    async def away(call_sid: str) -> bool:
        asked.append(rig.loop.time())
        raise StoreError("it does not answer", retry=True)

    rig.recorder._recordings.forgotten = away
    rig.begin()
    await rig.speaks(4 * SILENT_SECONDS)
    await rig.recorder.close()
    assert rig.told[-1].complete
    assert 3 <= len(asked) <= 5
    assert all(later - earlier >= SILENT_SECONDS for earlier, later in itertools.pairwise(asked))


async def test_a_call_is_recorded_although_the_database_does_not_answer(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Recording())

    async def away(call_sid: str) -> bool:
        raise StoreError("it does not answer", retry=True)

    rig.recorder._recordings.forgotten = away
    rig.begin()
    await rig.speaks(2)
    assert rig.records
    await rig.recorder.close()
    assert rig.told[-1].complete
    assert Recordings(str(tmp_path)).find("CA1") is not None
