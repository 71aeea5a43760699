"""The shell of a transcribed call: sockets that break, sessions that do not open, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterable
from typing import Any, Never

import msgspec
import pytest

from phoneagent.billing.prices import PRICES
from phoneagent.bridge.tracks import TranscribedCall
from phoneagent.calls.opening import BRIEF_SECONDS
from phoneagent.calls.transcription import MAX_FAILURES, STOPPED, Transcription
from phoneagent.errors import EndpointRefused, EndpointUnreachable, ProtocolError
from phoneagent.events import CallEnded, Event, ModelEvent, Trouble, TurnEnded
from phoneagent.protocol import carrier, realtime
from phoneagent.protocol.carrier import AudioIn, Stopped
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
FRAME = base64.b64encode(bytes(160)).decode()
VAD = {"type": "server_vad", "prefix_padding_ms": 300, "silence_duration_ms": 500}


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


class Socket:
    """A media socket whose messages are objects."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.both = self.closed = False

    def take_both_tracks(self) -> None:
        self.both = True

    async def read(self, take: Callable[[Any], None], resumed: Callable[[], None]) -> None:
        while (message := await self.incoming.get()) is not None:
            take(message)

    def decode(self, raw: Any) -> carrier.FromCarrier | None:
        if isinstance(raw, Exception):
            raise raw
        return raw  # type: ignore[no-any-return]

    async def close(self) -> None:
        self.closed = True


class Recognizer:
    """A session: it hears, and says what it is told to."""

    dropped = ("noise reduction (unknown)",)
    writable = True

    def __init__(self) -> None:
        self.effective: Any = {"audio": {"input": {"transcription": {"model": "gpt-transcribe"}}}}
        self.heard: list[str] = []
        self.events: asyncio.Queue[dict[str, Any] | Exception] = asyncio.Queue()
        self.closed = False

    def write(self, messages: Iterable[realtime.ToModel]) -> None:
        self.heard += [message.audio for message in messages if isinstance(message, realtime.AudioAppend)]

    async def read(self, take: Callable[[bytes], None], resumed: Callable[[], None]) -> Never:
        while True:
            event = await self.events.get()
            if isinstance(event, Exception):
                raise event
            take(json.dumps(event).encode())

    def decode(self, raw: bytes) -> realtime.FromModel:
        return realtime.decode(raw)

    async def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def understands(self, item: str, text: str) -> None:
        self.events.put_nowait({"type": "input_audio_buffer.speech_started", "item_id": item, "audio_start_ms": 0})
        self.events.put_nowait({"type": "input_audio_buffer.speech_stopped", "item_id": item, "audio_end_ms": 600})
        self.events.put_nowait({"type": "input_audio_buffer.committed", "item_id": item})
        done = "conversation.item.input_audio_transcription.completed"
        self.events.put_nowait({"type": done, "item_id": item, "transcript": text})


class Rig:
    def __init__(
        self, *, fails: Exception | None = None, model_events: bool = False, max_seconds: float = 3600
    ) -> None:
        self.socket = Socket()
        self.sessions: list[Recognizer] = []
        self.tries = 0
        self.fails = fails
        self.events: list[Event] = []
        transcribed = TranscribedCall("CA1", VAD, PRICES)
        self.running = Transcription(
            "CA1",
            transcribed,
            self.socket,
            self._open,
            self.events.append,
            max_seconds=max_seconds,
            model_events=model_events,
        )

    async def _open(self) -> Recognizer:
        self.tries += 1
        if self.fails is not None:
            raise self.fails
        self.sessions.append(Recognizer())
        return self.sessions[-1]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def ended(self) -> CallEnded:
        (found,) = self.of(CallEnded)
        assert self.events[-1] is found
        assert self.socket.closed
        assert all(session.closed for session in self.sessions)
        assert isinstance(found, CallEnded)
        return found


async def test_frames_go_to_the_session_of_their_track_and_words_come_back() -> None:
    rig = Rig(model_events=True)
    run = asyncio.create_task(rig.running.run())
    rig.socket.incoming.put_nowait(AudioIn(FRAME, 20))  # before any session is there
    await asyncio.sleep(1)
    rig.socket.incoming.put_nowait(AudioIn(FRAME, 40, outbound=True))
    rig.socket.incoming.put_nowait(ProtocolError("not JSON"))
    await asyncio.sleep(1)
    caller, callee = rig.sessions
    assert (len(caller.heard), len(callee.heard)) == (1, 1)
    callee.understands("a", "Hello.")
    await asyncio.sleep(1)
    rig.socket.incoming.put_nowait(Stopped())
    await run
    assert rig.socket.both
    assert [event.turn.text for event in rig.of(TurnEnded)] == ["Hello."]
    assert [event.what for event in rig.of(Trouble)] == [
        "the session runs without noise reduction (unknown)",
        "not JSON",
    ]
    assert len(rig.of(ModelEvent)) == 4
    assert (rig.ended.ended_by, rig.ended.reason) == ("caller", STOPPED)
    assert len(caller.heard) == 2  # and the silence after the end


async def test_words_that_come_after_the_end_of_the_call_are_awaited() -> None:
    rig = Rig()
    run = asyncio.create_task(rig.running.run())
    rig.socket.incoming.put_nowait(AudioIn(FRAME, 20))
    await asyncio.sleep(1)
    caller = rig.sessions[0]
    caller.events.put_nowait({"type": "input_audio_buffer.speech_started", "item_id": "a", "audio_start_ms": 0})
    await asyncio.sleep(0.1)
    rig.socket.incoming.put_nowait(None)  # the line breaks
    await asyncio.sleep(4)
    assert not run.done()
    caller.understands("a", "Bye.")
    await run
    assert [turn.text for turn in rig.ended.transcript] == ["Bye."]
    assert rig.ended.ended_by == "line"


async def test_a_session_that_stays_silent_keeps_no_call_open_forever() -> None:
    rig = Rig()
    run = asyncio.create_task(rig.running.run())
    rig.socket.incoming.put_nowait(AudioIn(FRAME, 20))
    await asyncio.sleep(1)
    rig.sessions[0].events.put_nowait({"type": "input_audio_buffer.committed", "item_id": "a"})
    rig.socket.incoming.put_nowait(Stopped())
    await asyncio.wait_for(run, HANG_SECONDS)
    assert [turn.text for turn in rig.ended.transcript] == [""]


async def test_an_endpoint_that_refuses_is_asked_once_and_one_that_is_away_a_few_times() -> None:
    rig = Rig(fails=EndpointRefused("no such recognizer"))
    await rig.running.run()
    assert rig.ended.ended_by == "error"
    assert "no such recognizer" in rig.ended.reason
    assert rig.tries == 2  # by each track

    rig = Rig(fails=EndpointUnreachable("no route"))
    await asyncio.wait_for(rig.running.run(), HANG_SECONDS)
    assert rig.tries in range(2 * MAX_FAILURES - 1, 2 * MAX_FAILURES + 1)
    assert "no session stays open" in rig.ended.reason


async def test_a_session_that_lasted_is_replaced_as_often_as_it_takes() -> None:
    rig = Rig()
    run = asyncio.create_task(rig.running.run())
    for number in range(MAX_FAILURES + 2):
        await asyncio.sleep(BRIEF_SECONDS + 1)
        assert len(rig.sessions) == 2 + number
        rig.sessions[0 if number == 0 else -1].events.put_nowait(EndpointUnreachable("closed with 1001"))
    await asyncio.sleep(2)
    rig.running.end("caller", "Twilio reports that it is completed")
    rig.running.end("line", "too late to count")
    await run
    assert rig.ended.reason == "Twilio reports that it is completed"


async def test_a_call_without_an_end_is_ended() -> None:
    rig = Rig(max_seconds=10)
    await rig.running.run()
    assert "longer than 10 s" in rig.ended.reason


async def test_a_fault_of_ours_ends_this_transcript_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    monkeypatch.setattr(TranscribedCall, "hear", lambda self, frame: msgspec.json.decode(b"{"))
    rig.socket.incoming.put_nowait(AudioIn(FRAME, 20))
    await rig.running.run()
    assert rig.ended.reason == "internal fault: DecodeError"


async def test_the_end_of_the_process_leaves_nothing() -> None:
    rig = Rig()
    run = asyncio.create_task(rig.running.run())
    await asyncio.sleep(1)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert rig.ended.ended_by == "error"
