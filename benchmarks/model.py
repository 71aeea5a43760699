"""The Realtime model server of a load: it speaks all the time, 20 ms of audio every 20 ms, and obeys the bridge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from benchmarks.call import Call
from benchmarks.flow import DOWN, UP_MARK, payload_head
from benchmarks.sound import REST
from benchmarks.wire import CLOSE, PING, PONG, TEXT, Cache, FrameReader, accept_key, head, server_frame

Json = dict[str, Any]

CALL_HEADER = "x-bench-call"
"""The header of the handshake that names the call."""

GREETING_FRAMES = 25
"""The first response is a short greeting, which no caller interrupts; later ones continue until they are stopped."""

PAUSE_SECONDS = 0.3
"""From the end of the greeting to the caller's first turn. The phone still plays the greeting for a moment."""

ONSET_SECONDS = 0.1
"""How long the caller speaks before it is detected."""

SPEECH_SECONDS = 0.3
"""The length of a caller's turn."""

WORDS_EVERY_FRAMES = 20
"""One piece of transcript goes out per this many frames: two and a half per second, as people speak."""

_FRONTS = Cache(lambda number: f'{{"type":"response.output_audio.delta","event_id":"event_{number:020d}",'.encode())
_DELTAS = Cache(lambda number: f'"delta":"{payload_head(DOWN, number)}{REST}"}}'.encode())


class ModelServer(asyncio.Protocol):
    """One session. `begun` returns the call that the handshake names; `ended` gets the session at its end.

    The handshake is answered after `opening_seconds`.
    """

    def __init__(
        self,
        begun: Callable[[str, ModelServer], Call | None],
        ended: Callable[[ModelServer], None],
        opening_seconds: float = 0.0,
    ) -> None:
        self._opening_seconds = opening_seconds
        self._begun = begun
        self._ended = ended
        self._call: Call | None = None
        self._reader = FrameReader()
        self._handshake: bytes | None = b""
        self._transport: asyncio.Transport
        self._session: Json = {}
        self._number = 0
        self._response: str | None = None
        self._item = ""
        self._middle = b""
        self._size = 0
        self._spoken = 0
        self._greeting = True
        self.answer_frames: int | None = None
        """After how many frames an answer ends; None: it continues until it is stopped."""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._response = None
        self.closed.set_result(None)
        if self._call is not None:
            self._call.fail("the bridge closed the model's socket")
            self._ended(self)

    def data_received(self, data: bytes) -> None:
        if self._handshake is not None:
            self._handshake += data
            if (at := self._handshake.find(b"\r\n\r\n")) < 0:
                return
            request, data = self._handshake[:at], self._handshake[at + 4 :]
            self._handshake = None
            if self._opening_seconds:
                asyncio.get_running_loop().call_later(self._opening_seconds, self._open, request)
            else:
                self._open(request)
        now = perf_counter()
        call = self._call
        for opcode, payload in self._reader.feed(data):
            if opcode == TEXT:
                at = payload.find(UP_MARK)
                if at >= 0 and call is not None:
                    call.up.receive(int(payload[at + 4 : at + 12]), now)
                    if call.accepted_at is None:
                        call.accepted_at = now
                else:
                    self._obey(json.loads(payload), now)
            elif opcode == PING:
                self._transport.write(server_frame(payload, PONG))
            elif opcode == CLOSE:
                self._transport.write(server_frame(payload, CLOSE))
                self._transport.close()

    def _open(self, request: bytes) -> None:
        if self.closed.done():
            return
        lines = request.decode("latin-1").split("\r\n")[1:]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        accept = accept_key(headers["sec-websocket-key"].encode())
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self._call = self._begun(headers.get(CALL_HEADER, ""), self)
        pcmu = {"format": {"type": "audio/pcmu"}}
        self._session = {
            "type": "realtime",
            "object": "realtime.session",
            "id": "sess_0000000000000000000001",
            "model": "gpt-realtime-2.1",
            "output_modalities": ["audio"],
            "audio": {"input": pcmu, "output": pcmu | {"voice": "marin"}},
        }
        self._emit("session.created", session=self._session)

    # --- client events ---

    def _obey(self, event: Json, now: float) -> None:
        match event["type"]:
            case "session.update":
                self._session |= event["session"]
                self._emit("session.updated", session=self._session)
            case "response.create":
                if self._call is not None and self._call.asked_at is None:
                    self._call.asked_at = now
                if self._response is None:
                    self._begin(event.get("response") or {})
            case "response.cancel":
                self._end("cancelled", "client_cancelled")
            case "conversation.item.truncate":
                about = {name: event[name] for name in ("item_id", "content_index", "audio_end_ms")}
                self._emit("conversation.item.truncated", **about)
            case "conversation.item.create":
                item = {"id": self._id("item"), "object": "realtime.item", "status": "completed", **event["item"]}
                self._emit("conversation.item.added", previous_item_id=None, item=item)
                self._emit("conversation.item.done", previous_item_id=None, item=item)

    @property
    def _turns(self) -> Json:
        return self._session["audio"]["input"].get("turn_detection") or {}

    # --- the caller's turn ---

    def barge_in(self) -> None:
        """Have the caller interrupt the agent; the call notes when the `clear` comes."""
        self._take_turn(interrupts=True)

    def _take_turn(self, *, interrupts: bool = False) -> None:
        if self._call is not None:
            self._call.speaking = True
        asyncio.get_running_loop().call_later(ONSET_SECONDS, partial(self.hear_turn, interrupts=interrupts))

    def hear_turn(self, *, interrupts: bool) -> None:
        """Detect that the caller speaks."""
        if self.closed.done():
            return
        if self._call is not None and interrupts:
            self._call.speech_at = perf_counter()
        self._speech_started()
        asyncio.get_running_loop().call_later(SPEECH_SECONDS, self._speech_stopped)

    def _speech_started(self) -> None:
        self._turn = self._id("item")
        self._emit("input_audio_buffer.speech_started", audio_start_ms=0, item_id=self._turn)
        if self._turns.get("interrupt_response", True):
            self._end("cancelled", "turn_detected")

    def _speech_stopped(self) -> None:
        """Complete the turn, and answer it if the session says so."""
        if self._call is not None:
            self._call.speaking = False
        if self.closed.done():
            return
        item: Json = {
            "id": self._turn,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        self._emit("input_audio_buffer.speech_stopped", audio_end_ms=300, item_id=self._turn)
        self._emit("input_audio_buffer.committed", item_id=self._turn, previous_item_id=None)
        self._emit("conversation.item.added", previous_item_id=None, item=item)
        self._emit("conversation.item.done", previous_item_id=None, item=item)
        words = "Wait!"  # fits into SPEECH_SECONDS; more words would be taken for noise
        usage = {"type": "duration", "seconds": 1}
        self._emit(
            "conversation.item.input_audio_transcription.completed",
            item_id=self._turn,
            content_index=0,
            transcript=words,
            usage=usage,
        )
        if self._turns.get("create_response", True) and self._response is None:
            self._begin({})

    # --- responses ---

    def _begin(self, params: Json) -> None:
        self._response, self._item = self._id("resp"), self._id("item")
        if self._call is not None and not self._greeting:
            self._call.talking = True
        self._emit("response.created", response=self._as_json("in_progress", None, params.get("metadata")))
        about = {"response_id": self._response, "output_index": 0}
        self._emit("response.output_item.added", **about, item=self._item_json("in_progress"))
        self._emit("conversation.item.added", previous_item_id=None, item=self._item_json("in_progress"))
        part = {"type": "audio", "transcript": ""}
        self._emit("response.content_part.added", **about, item_id=self._item, content_index=0, part=part)
        self._middle = (
            f'"response_id":"{self._response}","item_id":"{self._item}","output_index":0,"content_index":0,'
        ).encode()
        number = self._call.down.sent if self._call is not None else 0
        self._spoken = 0
        self._size = len(_FRONTS[number]) + len(self._middle) + len(_DELTAS[number])
        self._head = head(self._size, mask=False)
        self.tick(perf_counter())

    def tick(self, now: float) -> None:
        """Speak the next 20 ms."""
        call = self._call
        if self._response is None or call is None:
            return
        number = call.down.send(now)
        if call.spoke_at is None:
            call.spoke_at = now
        frame = self._head + _FRONTS[number] + self._middle + _DELTAS[number]
        self._spoken += 1
        if self._spoken % WORDS_EVERY_FRAMES == 0:
            frame += self._event(
                "response.output_audio_transcript.delta",
                response_id=self._response,
                item_id=self._item,
                output_index=0,
                content_index=0,
                delta=" and so on",
            )
        self._transport.write(frame)
        if self._greeting and self._spoken == GREETING_FRAMES:
            self._greeting = False
            self._end("completed", None)
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._take_turn)
        elif not self._greeting and self._spoken == self.answer_frames:
            self._end("completed", None)

    def _end(self, status: str, reason: str | None) -> None:
        if self._response is None:
            return
        response_id, self._response = self._response, None
        done = "incomplete" if status == "cancelled" else status
        about = {"response_id": response_id, "item_id": self._item, "output_index": 0, "content_index": 0}
        self._emit("response.output_audio.done", **about)
        self._emit("response.output_audio_transcript.done", **about, transcript="And so on and so on")
        self._emit("response.output_item.done", response_id=response_id, output_index=0, item=self._item_json(done))
        details = None if reason is None else {"type": status, "reason": reason}
        response = self._as_json(status, details, None) | {"id": response_id, "output": [self._item_json(done)]}
        self._emit("response.done", response=response)

    def _as_json(self, status: str, details: Json | None, metadata: Json | None) -> Json:
        return {
            "object": "realtime.response",
            "id": self._response,
            "status": status,
            "status_details": details,
            "output": [],
            "output_modalities": ["audio"],
            "metadata": metadata,
            "usage": None,
        }

    def _item_json(self, status: str) -> Json:
        return {
            "id": self._item,
            "object": "realtime.item",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [],
        }

    # --- writing ---

    def _id(self, kind: str) -> str:
        self._number += 1
        return f"{kind}_{id(self) & 0xFFFFFFFF:08x}{self._number:013d}"

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "event_id": self._id("event"), **fields}
        return server_frame(json.dumps(event, separators=(",", ":")).encode())

    def _emit(self, kind: str, **fields: Any) -> None:
        self._transport.write(self._event(kind, **fields))
