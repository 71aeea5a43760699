"""The log of a call's messages: what both sides sent and received, for finding faults.

It is kept only if it is switched on. Then each socket of a call is wrapped in one that logs its messages; otherwise
nothing of this is on a frame's path. Audio is left out, and so are gathered digits.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Never, TypeAlias

import msgspec

from phoneagent.calls.model_sessions import ModelSocket
from phoneagent.calls.writer import CallerSocket, TappedSocket
from phoneagent.protocol import carrier, realtime
from phoneagent.protocol.audio import base64_bytes
from phoneagent.protocol.providers import Dialect

MAX_MESSAGES = 2000
MAX_BYTES = 2 * 1024 * 1024
"""The size of the messages kept per call, not counting messages with audio."""

MAX_AUDIO_MESSAGES = 3000
"""How many messages with audio are kept per call: half a minute of talk. Only their sizes are kept."""

MAX_CALLS = 50
"""How many calls, live or over, have their messages kept. The oldest is dropped first."""

KEEP_SECONDS = 300.0
"""How long the messages of a call are kept after its end, as long as its events."""

MAX_TEXT_CHARS = 4000
"""How much of each text is kept."""

MAX_DEPTH = 30
"""How many levels of a message are read."""

PAGE = 500
"""How many messages are read at once."""

Side: TypeAlias = Literal["caller", "model"]

_OpenModel: TypeAlias = Callable[[bool], Awaitable[ModelSocket]]

_AUDIO = frozenset({"payload", "audio", "delta", "image_url"})
_SECRETS = frozenset({"authorization", "headers", "client_secret", "api_key", "token"})
_KEYLESS = frozenset({"connected", "start", "media", "mark", "stop"})
_AUDIO_TYPES = ("media", "input_audio_buffer.append", "response.output_audio.delta", "response.audio.delta")


class Message(msgspec.Struct, frozen=True):
    """A message of a call. `direction` is seen from here, and `bytes` is its size as JSON."""

    number: int
    at: datetime
    side: Side
    direction: Literal["in", "out"]
    type: str
    bytes: int
    data: Any


class MessageLog:
    """The latest messages of one call."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._audio: deque[Message] = deque(maxlen=MAX_AUDIO_MESSAGES)
        self._bytes = 0
        self.streams = 0
        """How many media streams the call has had so far."""
        self.number = 0
        """The number of the newest message."""
        self.dropped = 0
        """The number of the newest message, other than audio, that is no longer here."""

    def add(self, side: Side, direction: Literal["in", "out"], kind: str, size: int, data: Any) -> None:
        """Append a message, and drop the oldest ones beyond the limits."""
        self.number += 1
        message = Message(self.number, datetime.now(UTC), side, direction, kind[:200], size, elided(data))
        if kind in _AUDIO_TYPES:
            self._audio.append(message)
            return
        self._messages.append(message)
        self._bytes += size
        while len(self._messages) > MAX_MESSAGES or (self._bytes > MAX_BYTES and len(self._messages) > 1):
            oldest = self._messages.popleft()
            self._bytes -= oldest.bytes
            self.dropped = oldest.number

    def after(self, number: int, limit: int = PAGE) -> list[Message]:
        """Return the next messages after that number, oldest first."""
        newer = (_newer(self._messages, number), _newer(self._audio, number))
        merged = heapq.merge(*newer, key=lambda message: message.number)
        return [message for message, _ in zip(merged, range(limit), strict=False)]


def _newer(messages: deque[Message], number: int) -> list[Message]:
    found: list[Message] = []
    for message in reversed(messages):
        if message.number <= number:
            break
        found.append(message)
    return found[::-1]


class MessageLogs:
    """The logs of the calls of a process, by CallSid."""

    def __init__(self) -> None:
        self._logs: OrderedDict[str, MessageLog] = OrderedDict()

    def get(self, call_sid: str) -> MessageLog | None:
        """Return the log of a call, if there is one."""
        return self._logs.get(call_sid)

    def begin(self, call_sid: str) -> MessageLog:
        """Return the log of a call that has a media stream now."""
        log = self._logs.setdefault(call_sid, MessageLog())
        log.streams += 1
        self._logs.move_to_end(call_sid)
        while len(self._logs) > MAX_CALLS:
            self._logs.popitem(last=False)
        return log

    def end(self, call_sid: str) -> None:
        """Note that a media stream of a call is over: forget the log later, unless another stream has begun."""
        if (log := self._logs.get(call_sid)) is not None:
            asyncio.get_running_loop().call_later(KEEP_SECONDS, self._forget, call_sid, log, log.streams)

    def _forget(self, call_sid: str, log: MessageLog, streams: int) -> None:
        if self._logs.get(call_sid) is log and log.streams == streams:
            del self._logs[call_sid]

    def watch(
        self, call_sid: str, socket: CallerSocket, open_model: _OpenModel, secret: Callable[[], bool]
    ) -> tuple[CallerSocket, _OpenModel]:
        """Return the sockets of a call's media stream, with a log from now on."""
        log = self.begin(call_sid)

        async def open_logged(elsewhere: bool) -> ModelSocket:
            return LoggedModel(await open_model(elsewhere), log)

        return LoggedCaller(socket, log, secret), open_logged


def elided(value: Any, name: str = "", depth: int = 0) -> Any:
    """Return a message without its audio and without secrets, and with long texts cut."""
    if name in _SECRETS and value:
        return "(hidden)"
    if isinstance(value, dict):
        if depth >= MAX_DEPTH:
            return "…"
        is_audio = name == "media" or str(value.get("type", "")).endswith(("audio.delta", "buffer.append"))
        return {
            key: f"({base64_bytes(each)} bytes)"
            if isinstance(each, str) and key in _AUDIO and (is_audio or key != "delta")
            else elided(each, key, depth + 1)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [elided(each, "", depth + 1) for each in value] if depth < MAX_DEPTH else "…"
    if isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
        return f"{value[:MAX_TEXT_CHARS]}… ({len(value)} characters)"
    return value


def _parsed(raw: str | bytes) -> dict[str, Any]:
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data = None
    return data if isinstance(data, dict) else {}


class LoggedCaller(TappedSocket):
    """A caller's socket whose messages are logged. `secret` tells whether a key pressed now is secret."""

    def __init__(self, socket: CallerSocket, log: MessageLog, secret: Callable[[], bool]) -> None:
        super().__init__(socket)
        self._log = log
        self._secret = secret

    def decode(self, raw: str | bytes) -> carrier.FromCarrier | None:
        """Return a message, and log it."""
        data = _parsed(raw)
        kind = str(data.get("event", "(unreadable)"))
        if kind not in _KEYLESS and self._secret():  # whatever it looks like, it may be a key
            data = {"event": kind, "dtmf": "(hidden)"}
        self._log.add("caller", "in", kind, len(raw), data)
        return self.socket.decode(raw)

    def write(self, messages: Iterable[carrier.ToCarrier]) -> None:
        """Write messages at once, and log them."""
        messages = list(messages)
        self.socket.write(messages)
        for message in messages:
            match message:
                case carrier.Audio(payload=payload):
                    data: dict[str, Any] = {"event": "media", "media": {"payload": payload}}
                case carrier.SendMark(name=mark):
                    data = {"event": "mark", "mark": {"name": mark}}
                case carrier.Clear():
                    data = {"event": "clear"}
            self._log.add("caller", "out", data["event"], len(msgspec.json.encode(data)), data)


class LoggedModel:
    """A model's session whose messages are logged, from when it is open."""

    def __init__(self, socket: ModelSocket, log: MessageLog) -> None:
        self._socket = socket
        self._log = log
        self.dropped: Any = socket.dropped
        self.effective: Mapping[str, Any] = socket.effective
        session = {"type": "session.updated", "session": dict(socket.effective)}
        log.add("model", "in", "session.updated", len(msgspec.json.encode(session)), session)

    @property
    def writable(self) -> bool:
        """Whether the server accepts writes."""
        return self._socket.writable

    def write(self, messages: Iterable[realtime.ToModel]) -> None:
        """Write events at once, and log them."""
        messages = list(messages)
        self._socket.write(messages)
        for message in messages:
            raw = realtime.encode(message, Dialect.GA)
            data = _parsed(raw)
            self._log.add("model", "out", str(data.get("type")), len(raw), data)

    async def read(self, take: Callable[[bytes], None], resumed: Callable[[], None]) -> Never:
        """Pass each event to `take`, until the session is lost."""
        await self._socket.read(take, resumed)

    def decode(self, raw: bytes) -> realtime.FromModel:
        """Return an event, and log it."""
        data = _parsed(raw)
        self._log.add("model", "in", str(data.get("type", "(unreadable)")), len(raw), data)
        return self._socket.decode(raw)

    async def close(self) -> None:
        """Close the session."""
        await self._socket.close()

    def abort(self) -> None:
        """End the session at once."""
        self._socket.abort()
