"""Calls by WebRTC at the simulated Realtime server (extra `web`): `POST /v1/realtime/calls` with an SDP offer.

The client's audio and events come over the peer connection, and a side-band socket may join with `?call_id=`. The
server plays its audio at the speed of speech here, so it knows what was heard, and drops the rest at an interruption.

Media goes over a local UDP port of this machine's network address: ICE leaves loopback out.
"""

from __future__ import annotations

import asyncio
import fractions
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Protocol

import av
from aiortc import MediaStreamTrack, RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av.audio.frame import AudioFrame
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from phoneagent.sim.model.audio import PCM_RATE
from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.events import decode_audio, encode_audio

FRAME_MS = 20
FRAME_BYTES = PCM_RATE * 2 * FRAME_MS // 1000

MAX_WAITING = 1000
"""How many events may wait for the client's data channel to open."""

GATHER_SECONDS = 10.0
"""How long the answer to an offer may take."""

_SILENCE = bytes(FRAME_BYTES)


class Session(Protocol):
    """The session of a call: `SimulatedSession`."""

    session: dict[str, Any]

    def emit(self, kind: str, **fields: Any) -> None: ...
    def receive(self, message: str | bytes) -> None: ...
    def hear(self, audio: str) -> None: ...
    def truncate_played(self, item_id: str, audio_end_ms: int) -> None: ...


class _Playout(MediaStreamTrack):
    """The server's audio, a frame every 20 ms."""

    kind = "audio"

    def __init__(self, call: WebRtcCall) -> None:
        super().__init__()
        self._call = call
        self._began_at = 0.0
        self._frames = 0

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        self._began_at = self._began_at or time.monotonic()
        await asyncio.sleep(max(0.0, self._began_at + self._frames * FRAME_MS / 1000 - time.monotonic()))
        frame = AudioFrame(format="s16", layout="mono", samples=FRAME_BYTES // 2)
        frame.planes[0].update(self._call.next_frame())
        frame.sample_rate, frame.pts = PCM_RATE, self._frames * FRAME_BYTES // 2
        frame.time_base = fractions.Fraction(1, PCM_RATE)
        self._frames += 1
        return frame


class _Item:
    """Audio of one item that is being played; `done` once no more of it will come."""

    def __init__(self, response_id: str, item_id: str) -> None:
        self.response_id = response_id
        self.item_id = item_id
        self.audio = bytearray()
        self.played = 0
        self.done = False


class WebRtcCall:
    """One call. It takes the place of a socket for its session: messages come from it, and events go to it."""

    request = None

    def __init__(self) -> None:
        self.id = f"rtc_{secrets.token_hex(16)}"
        self.session: Session | None = None
        self.side_bands: list[ServerConnection] = []
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._channel: RTCDataChannel | None = None
        self._waiting: deque[str] = deque(maxlen=MAX_WAITING)
        self._messages: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self._items: deque[_Item] = deque()
        self._cut: set[str] = set()  # items whose audio was dropped: what comes of it late is dropped too
        self._started: str | None = None  # the response that is being played
        self._listening: asyncio.Task[None] | None = None
        self._closed = False
        self.transport = self  # it is aborted like a socket's

    async def answer(self, offer: str) -> str:
        """Return the SDP answer to an offer.

        Raises:
            EventRefused: the offer is not an SDP with audio.
        """

        @self._peer.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            if track.kind == "audio" and self._listening is None:
                self._listening = asyncio.create_task(self._listen(track))

        @self._peer.on("datachannel")
        def on_channel(channel: RTCDataChannel) -> None:
            self._channel = channel
            channel.on("message", self._messages.put_nowait)
            channel.on("close", self.abort)
            while self._waiting:
                channel.send(self._waiting.popleft())

        @self._peer.on("connectionstatechange")
        def on_state() -> None:
            if self._peer.connectionState in ("failed", "closed"):
                self.abort()

        try:
            async with asyncio.timeout(GATHER_SECONDS):
                await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
                if not any(each.kind == "audio" for each in self._peer.getTransceivers()):
                    raise EventRefused("The offer has no audio.", code="invalid_offer", param="sdp")
                self._peer.addTrack(_Playout(self))
                await self._peer.setLocalDescription(await self._peer.createAnswer())
        except EventRefused:
            await self._peer.close()
            raise
        except Exception as error:  # the parser may raise anything
            await self._peer.close()
            raise EventRefused("The offer is not valid SDP.", code="invalid_offer", param="sdp") from error
        return self._peer.localDescription.sdp

    # -- the interface of a socket --

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self._received()

    async def _received(self) -> AsyncIterator[str | bytes]:
        while (message := await self._messages.get()) is not None:
            if not self._is_ours(message):
                yield message

    async def send(self, message: bytes, *, text: bool) -> None:
        """Send an event to the client and its side-bands; audio is played."""
        if self._closed:
            raise ConnectionClosedOK(None, None)
        told = json.loads(message)
        self._act_on(told)
        if told["type"] == "response.output_audio.delta":
            return
        words = message.decode()
        if self._channel is None:
            self._waiting.append(words)
        elif self._channel.readyState == "open":
            self._channel.send(words)
        for socket in list(self.side_bands):
            try:
                await socket.send(words)
            except ConnectionClosed:
                self.side_bands.remove(socket)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the call."""
        self.abort()
        for socket in list(self.side_bands):
            await socket.close(code, reason)
        await self._peer.close()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    def abort(self) -> None:
        """End the call; unsent messages are lost."""
        if not self._closed:
            self._closed = True
            self._messages.put_nowait(None)

    # -- the side-band --

    async def join(self, socket: ServerConnection) -> None:
        """Serve a side-band socket until it, or the call, is over."""
        if self.session is None or self._closed:
            await socket.close(1000)
            return
        self.side_bands.append(socket)
        try:
            await socket.send(json.dumps({"type": "session.created", "session": self.session.session}))
            async for message in socket:
                if not self._is_ours(message):
                    self.session.receive(message)
        except ConnectionClosed:
            pass
        finally:
            if socket in self.side_bands:
                self.side_bands.remove(socket)

    def _is_ours(self, message: str | bytes) -> bool:
        """Handle an event that only WebRTC calls have: the client stops the playback."""
        if isinstance(message, str) and "output_audio_buffer.clear" in message:
            try:
                if json.loads(message).get("type") == "output_audio_buffer.clear":
                    self._interrupt()
                    return True
            except (ValueError, AttributeError):
                pass
        return False

    # -- input audio --

    async def _listen(self, track: MediaStreamTrack) -> None:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=PCM_RATE)
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                self.abort()
                return
            assert isinstance(frame, AudioFrame)
            for part in resampler.resample(frame):
                if self.session is not None:
                    self.session.hear(encode_audio(bytes(part.planes[0])[: part.samples * 2]))

    # -- playback --

    def _act_on(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind in ("response.output_audio.delta", "response.output_audio.done") and event["item_id"] in self._cut:
            return
        if kind == "response.output_audio.delta":
            self._item(event).audio += decode_audio(event["delta"])
        elif kind == "response.output_audio.done":
            self._item(event).done = True
        elif kind == "input_audio_buffer.speech_started" and self.session is not None:
            detection = self.session.session["audio"]["input"]["turn_detection"]
            if detection is not None and detection["interrupt_response"]:
                self._interrupt()
        elif kind == "response.done" and event["response"]["status"] == "cancelled":
            for item in self._items:
                item.done = True

    def _item(self, event: dict[str, Any]) -> _Item:
        for item in self._items:
            if item.item_id == event["item_id"]:
                return item
        self._items.append(_Item(event["response_id"], event["item_id"]))
        return self._items[-1]

    def next_frame(self) -> bytes:
        """Return the next 20 ms to play."""
        while self._items and self._items[0].done and self._items[0].played >= len(self._items[0].audio):
            item = self._items.popleft()
            if self._started == item.response_id and all(each.response_id != self._started for each in self._items):
                self._tell("stopped", item.response_id)
        if not self._items:
            return _SILENCE
        item = self._items[0]
        frame = bytes(item.audio[item.played : item.played + FRAME_BYTES])
        if frame and self._started != item.response_id:
            self._tell("started", item.response_id)
        item.played += len(frame)
        return frame + _SILENCE[len(frame) :]

    def _interrupt(self) -> None:
        """Drop the unplayed audio, and remove it from the conversation."""
        dropped, self._items = self._items, deque()
        if self._started is not None:
            self._tell("cleared", self._started)
        for item in dropped:
            self._cut.add(item.item_id)
            if self.session is not None and item.played < len(item.audio):
                self.session.truncate_played(item.item_id, item.played * 1000 // (PCM_RATE * 2))

    def _tell(self, what: str, response_id: str) -> None:
        self._started = response_id if what == "started" else None
        if self.session is not None:
            self.session.emit(f"output_audio_buffer.{what}", response_id=response_id)
