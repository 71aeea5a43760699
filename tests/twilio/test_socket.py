"""The media socket and its `start`, over a WebSocket whose far end is a list of messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from starlette.websockets import WebSocket

from phoneagent import ProtocolError
from phoneagent.protocol.carrier import Audio, AudioIn, Clear, Key, SendMark, Started, Stopped
from phoneagent.twilio import socket as socket_module
from phoneagent.twilio.socket import DIRECT, MAX_BEFORE_START, TwilioSocket, read_start

pytestmark = pytest.mark.anyio
ACCOUNT, CALL = "AC" + "1" * 32, "CA" + "7" * 32
CONNECTED = json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"})
MULAW = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}


PRESSED = json.dumps({"event": "dtmf", "streamSid": "MZ1", "dtmf": {"digit": "5"}})
MEDIA = json.dumps({"event": "media", "streamSid": "MZ1", "media": {"payload": "AAAA", "timestamp": "20"}})
STOP = json.dumps({"event": "stop", "streamSid": "MZ1"})
NEW = '{"event": "of the future"}'


def start(**changes: Any) -> str:
    details = {
        "accountSid": ACCOUNT,
        "streamSid": "MZ1",
        "callSid": CALL,
        "tracks": ["inbound"],
        "mediaFormat": MULAW,
        "customParameters": {"caller": "+15550100001"},
        **changes,
    }
    return json.dumps({"event": "start", "sequenceNumber": "1", "streamSid": "MZ1", "start": details})


class FarEnd:
    """What Twilio sends: text or binary frames, then silence, or its end of the socket."""

    def __init__(self, *frames: str | bytes, hangs_up: bool = False) -> None:
        self.frames = list(frames)
        self.hangs_up = hangs_up
        self.got: list[dict[str, Any]] = []
        self.breaks: Exception | None = None

    @property
    def written(self) -> list[Any]:
        """What was written to it since the socket was accepted."""
        return [json.loads(message["text"]) for message in self.got if message["type"] == "websocket.send"]

    async def receive(self) -> dict[str, Any]:
        if self.frames:
            frame = self.frames.pop(0)
            return {"type": "websocket.receive", "text" if isinstance(frame, str) else "bytes": frame}
        if not self.hangs_up:
            await asyncio.Event().wait()
        return {"type": "websocket.disconnect", "code": 1005}

    async def send(self, message: Any) -> None:
        if self.breaks is not None:
            raise self.breaks
        self.got.append(dict(message))


async def opened(far_end: FarEnd, **scope: Any) -> TwilioSocket:
    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"} if not far_end.got else await far_end.receive()

    websocket = WebSocket({"type": "websocket", "headers": [], **scope}, receive, far_end.send)
    await websocket.accept()
    return TwilioSocket(websocket)


# --- a socket that is open ---


async def test_frames_are_read_as_neutral_messages_and_the_end_is_none() -> None:
    socket = await opened(FarEnd(start(), MEDIA, PRESSED, STOP, hangs_up=True))
    messages = [await socket.receive() for _ in range(5)]
    assert isinstance(messages[0], Started)
    assert messages[1:] == [AudioIn("AAAA", 20), Key("5"), Stopped(), None]


async def test_what_a_call_does_not_need_is_skipped() -> None:
    socket = await opened(FarEnd(CONNECTED, NEW, start(), NEW, MEDIA))
    assert isinstance(await socket.receive(), Started)
    assert await socket.receive() == AudioIn("AAAA", 20)


@pytest.mark.parametrize("bad", ["garbage", "", b"binary", b"", PRESSED.replace("MZ1", "MZ2"), start()])
async def test_after_a_bad_message_the_next_one_can_be_read(bad: str | bytes) -> None:
    socket = await opened(FarEnd(start(), bad, MEDIA))
    await socket.receive()
    with pytest.raises(ProtocolError, match="ignored"):
        await socket.receive()
    assert await socket.receive() == AudioIn("AAAA", 20)


async def test_messages_are_written_as_text_frames_of_the_stream() -> None:
    far_end = FarEnd(start())
    socket = await opened(far_end)
    await socket.receive()
    socket.write([Audio("AAAA"), SendMark("1.1"), Clear()])
    assert far_end.written == [
        {"event": "media", "streamSid": "MZ1", "media": {"payload": "AAAA"}},
        {"event": "mark", "streamSid": "MZ1", "mark": {"name": "1.1"}},
        {"event": "clear", "streamSid": "MZ1"},
    ]


@pytest.mark.parametrize("error", [OSError("reset"), RuntimeError("closed already")])
async def test_writing_to_a_broken_socket_is_an_os_error(error: Exception) -> None:
    far_end = FarEnd(start())
    socket = await opened(far_end)
    far_end.breaks = error
    with pytest.raises(ConnectionError):
        socket.write([Clear()])


async def test_writing_to_a_closed_socket_is_an_os_error() -> None:
    socket = await opened(FarEnd(start()))
    await socket.close()
    with pytest.raises(ConnectionError):
        socket.write([Clear()])


async def test_closing_says_goodbye_once() -> None:
    far_end = FarEnd()
    socket = await opened(far_end)
    await socket.close()
    await socket.close()
    closes = [message for message in far_end.got if message["type"] == "websocket.close"]
    assert [message["code"] for message in closes] == [1000]


@pytest.mark.parametrize("error", [OSError("reset"), RuntimeError("closed already")])
async def test_closing_a_broken_socket_is_no_error(error: Exception) -> None:
    far_end = FarEnd()
    socket = await opened(far_end)
    far_end.breaks = error
    await socket.close()


async def test_what_comes_after_the_start_is_passed_on_undecoded() -> None:
    socket = await opened(FarEnd(start(), MEDIA, b"binary", NEW, hangs_up=True))
    await socket.receive()
    taken: list[str | bytes] = []
    await socket.read(taken.append, lambda: None)
    assert taken == [MEDIA, b"binary", NEW]
    assert socket.decode(MEDIA) == AudioIn("AAAA", 20)
    assert socket.decode(NEW) is None
    with pytest.raises(ProtocolError, match="binary"):
        socket.decode(b"binary")


async def test_a_server_that_offers_its_socket_is_read_and_written_directly() -> None:
    class Raw:
        writable = True

        def __init__(self) -> None:
            self.written: list[bytes] = []

        def write(self, texts: Iterable[bytes]) -> None:
            self.written.extend(texts)

        async def read(self, take: Callable[[str | bytes], None], resumed: Callable[[], None]) -> None:
            take(MEDIA)

    raw, taken = Raw(), list[str | bytes]()
    socket = await opened(FarEnd(start()), extensions={DIRECT: {"socket": raw}})
    await socket.receive()
    assert socket.writable
    await socket.read(taken.append, lambda: None)
    socket.write([Clear()])
    assert taken == [MEDIA]
    assert [json.loads(text)["event"] for text in raw.written] == ["clear"]


# --- the start ---


@pytest.mark.parametrize("account", [ACCOUNT, None])
async def test_the_start_is_found_behind_what_may_come_before_it(account: str | None) -> None:
    far_end = FarEnd(CONNECTED, b"binary", NEW, start(), "after it")
    found = await read_start(await opened(far_end), CALL, account)
    assert found.stream_sid == "MZ1"
    assert found.parameters == {"caller": "+15550100001"}
    assert far_end.frames == ["after it"]


async def test_what_cannot_be_read_is_logged_with_its_call_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    found = await read_start(await opened(FarEnd("garbage", start())), CALL, ACCOUNT)
    assert found.stream_sid == "MZ1"
    assert [record.call_sid for record in caplog.records] == [CALL]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"callSid": "CA" + "8" * 32}, "another call than its token"),
        ({"accountSid": "AC" + "8" * 32}, "another call than its token"),
        ({"mediaFormat": {**MULAW, "encoding": "audio/x-l16"}}, "audioFormat"),
        ({"mediaFormat": {**MULAW, "sampleRate": 16000}}, "audioFormat"),
    ],
)
async def test_a_start_that_does_not_fit_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        await read_start(await opened(FarEnd(start(**changes))), CALL, ACCOUNT)


@pytest.mark.parametrize("changes", [{"callSid": None}, {"accountSid": []}, {"mediaFormat": {"sampleRate": "8000"}}])
async def test_a_start_with_an_odd_field_is_of_the_call_that_its_token_names(changes: dict[str, Any]) -> None:
    found = await read_start(await opened(FarEnd(start(**changes))), CALL, ACCOUNT)
    assert found.stream_sid == "MZ1"


async def test_another_account_is_good_where_any_is() -> None:
    other = "AC" + "8" * 32
    found = await read_start(await opened(FarEnd(start(accountSid=other))), CALL, None)
    assert found.account_sid == other


async def test_a_socket_that_closes_before_its_start_is_refused() -> None:
    with pytest.raises(ProtocolError, match="closed before"):
        await read_start(await opened(FarEnd(CONNECTED, hangs_up=True)), CALL, ACCOUNT)


async def test_a_socket_that_stays_silent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_module, "START_SECONDS", 0.01)
    with pytest.raises(ProtocolError, match=r"within 0\.01 s"):
        await read_start(await opened(FarEnd(CONNECTED)), CALL, ACCOUNT)


@pytest.mark.parametrize("noise", ["garbage", b"binary", MEDIA])
async def test_a_socket_that_only_sends_bad_messages_is_refused(noise: str | bytes) -> None:
    far_end = FarEnd(*[noise] * MAX_BEFORE_START, start())
    with pytest.raises(ProtocolError, match=f"first {MAX_BEFORE_START} messages"):
        await read_start(await opened(far_end), CALL, ACCOUNT)
    assert far_end.frames == [start()]


@pytest.mark.parametrize("noise", [CONNECTED, NEW])
async def test_a_socket_that_only_chatters_is_refused(noise: str) -> None:
    class Chatterbox(FarEnd):
        async def receive(self) -> dict[str, Any]:
            self.frames.append(noise)
            return {"type": "websocket.receive", "text": noise}

    far_end = Chatterbox()
    with pytest.raises(ProtocolError, match=f"first {MAX_BEFORE_START} messages"):
        await read_start(await opened(far_end), CALL, ACCOUNT)
    assert len(far_end.frames) <= MAX_BEFORE_START**2
