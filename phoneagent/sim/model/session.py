"""One session of the simulated Realtime server: it obeys the client's events and records all that happens."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed

from phoneagent.sim.model.audio import Intake
from phoneagent.sim.model.checks import Refusal, unsupported_values
from phoneagent.sim.model.config import (
    TRANSCRIPTION_MODELS,
    VOICES,
    Json,
    check_model_options,
    check_response,
    check_session,
    check_voice,
    default_session,
    refuse_fields,
    updated_session,
)
from phoneagent.sim.model.conversation import Conversation
from phoneagent.sim.model.dialect import event_to_beta, item_from_beta, response_from_beta, session_from_beta
from phoneagent.sim.model.events import check_event, check_item, decode_audio
from phoneagent.sim.model.input_buffer import Heard, IdleTimeout, InputBuffer, SpeechStarted, SpeechStopped
from phoneagent.sim.model.mcp import McpServers
from phoneagent.sim.model.records import AudioItem, CallerTurn, SessionRecord, Setup, Truncation
from phoneagent.sim.model.replies import Replies
from phoneagent.sim.model.response import Response
from phoneagent.sim.model.transcription import Transcriber
from phoneagent.sim.model.wire import Wire

log = logging.getLogger(__name__)

RACE_S = 1.0
"""A `response.create` may collide with one that began by itself less than this ago: the client could not know."""

SHORTEST_COMMIT_MS = 100
OUT_OF_BAND_RESPONSES = 16


class ModelSession(SessionRecord):
    """A connection to the simulated server, and its record, which stays when the connection is gone.

    Times are `time.monotonic()`. `session` is the effective configuration in the modern shape, `headers` and `query`
    are what the client connected with (never logged: they hold its key).
    """

    def __init__(
        self,
        socket: ServerConnection,
        setup: Setup,
        *,
        model: str,
        dialect: Literal["ga", "beta"],
        query: Mapping[str, str],
    ) -> None:
        self.setup = setup
        self.model = model
        self.dialect = dialect
        self.query = query
        self.headers = socket.request.headers if socket.request else Headers()
        super().__init__()
        expires_at = int(time.time() + setup.session_seconds)
        self.session = default_session(model, self.new_id("sess"), expires_at)
        self.conversation_id = self.new_id("conv")
        self.conversation = Conversation(self.emit)
        self.mind = Replies(setup.script, hears=setup.ear is not None)
        self.mcp = McpServers(self)
        self.tokens_read = 0
        self._socket = socket
        self._wire = Wire(socket)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._hearing = Transcriber(setup, self.emit, self.spawn)
        self._active: Response | None = None
        self._beside: dict[str, Response] = {}
        self._item_id = self.new_id("item")
        self._speech_started = (0, 0.0)
        self._input_bytes = 0
        self._listener = InputBuffer(setup.make_vad)
        self._follow_configuration()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<ModelSession {self.session['id']} {self.dialect} {state}, {len(self.items)} items>"

    @property
    def items(self) -> list[Json]:
        """What the model knows: the conversation's items, in order."""
        return self.conversation.items

    @property
    def truncations(self) -> list[Truncation]:
        """Every truncation that was asked for."""
        return self.conversation.truncations

    # -- for tests --

    async def send_event(self, event: Json) -> None:
        """Send any event to the client exactly as it is."""
        self._wire.put(msgspec.json.encode(event))

    async def drop(self, code: int | None = None) -> None:
        """Close the connection with a code, or cut it without a word (None)."""
        await self._wire.drop(code)

    def kill(self) -> None:
        """Cut the connection at once, without a close frame, and with it what waits to be sent."""
        self._wire.abort()

    # -- the connection --

    async def serve(self) -> None:
        """Serve the connection until it is closed. Nothing of it is left running afterwards."""
        try:
            self._plan_faults()
            async for message in self._socket:
                self.receive(message)
        except ConnectionClosed:
            pass
        finally:
            self.closed = True
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.setup.changed()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as long as the session lasts."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._discard)
        return task

    def _discard(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            with suppress(asyncio.CancelledError):
                task.result()  # else the task keeps the traceback, and that the event loop's frames and old timers

    def _plan_faults(self) -> None:
        faults = self.setup.faults
        self.spawn(self._wire.write())
        self.spawn(self._after(self.setup.session_seconds, self._expire))
        if faults.drop_after_seconds is not None:
            self.spawn(self._after(faults.drop_after_seconds, lambda: self._cut(faults.drop_code)))
        if faults.stall_after_seconds is not None:
            self.spawn(self._after(faults.stall_after_seconds, self._wire.stall))
        for after_seconds, error in faults.error_events:
            self.spawn(self._after(after_seconds, partial(self.emit, "error", error=dict(error))))
        if (self.dialect == "beta" and faults.refuse_beta) or self.setup.service.refuses_beta(self.headers):
            message = "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API."
            self._fatal("beta_api_shape_disabled", message, close=4000)
        elif self.model in faults.refuse_models:
            self._fatal(
                "model_not_found", f"The model `{self.model}` does not exist or you do not have access.", close=1008
            )
        elif not faults.no_created:
            self.spawn(self._after(faults.slow_start_seconds, self._greet))

    async def _after(self, seconds: float, action: Callable[[], None]) -> None:
        if seconds:
            await asyncio.sleep(seconds)
        action()

    def _cut(self, code: int | None) -> None:
        self.spawn(self._wire.drop(code))

    def _greet(self) -> None:
        self.emit("session.created", session=self.session)

    def _expire(self) -> None:
        message = "Your session hit the maximum duration of 60 minutes."
        self._fatal("session_expired", message, close=1001)

    def _fatal(self, code: str, message: str, *, close: int) -> None:
        self._send_error(Refusal(message, code=code), None)
        self._wire.close(close, message)

    def emit(self, kind: str, **fields: Any) -> None:
        """Send an event, in the client's spelling, and tell whoever watches."""
        event: Json = {"type": kind, "event_id": self.new_id("event"), **fields}
        if self.setup.watch is not None and kind != "response.output_audio.delta":
            self.setup.watch(self, "out", event)
        spelled = event_to_beta(event) if self.dialect == "beta" else event
        if spelled is not None:
            # Encoded at once: items go on changing after they were announced.
            self._wire.put(msgspec.json.encode(spelled))
        self.setup.changed()

    def new_id(self, kind: str) -> str:
        """Return a new identifier like `item_3f…`."""
        return f"{kind}_{secrets.token_hex(10)}"

    # -- events of the client --

    def receive(self, message: str | bytes) -> None:
        """Obey one client event, or refuse it with an `error` event and note what rule it broke."""
        event: Any = None
        try:
            if isinstance(message, bytes):
                raise Refusal("Invalid message: expected a text frame, but got a binary frame.", code="invalid_event")
            try:
                event = msgspec.json.decode(message)
            except msgspec.DecodeError as error:
                raise Refusal(f"Invalid JSON: {error}.", code="invalid_json") from error
            check_event(event)
            self._obey(event)
        except Refusal as refusal:
            known = isinstance(event, dict)
            self._blame(refusal, str(event.get("type"))[:80] if known else "message")
            event_id = event.get("event_id") if known else None
            self._send_error(refusal, event_id if isinstance(event_id, str) else None)
        self.setup.changed()

    def _obey(self, event: Json) -> None:
        kind = event["type"]
        if kind == "input_audio_buffer.append":
            self._append(event["audio"])
            return
        self.events_in.append((time.monotonic(), kind))
        if self.setup.watch is not None:
            self.setup.watch(self, "in", event)
        match kind:
            case "session.update":
                self._update(event["session"])
            case "input_audio_buffer.commit":
                self._commit_by_hand()
            case "input_audio_buffer.clear":
                self._listener.clear()
                self.emit("input_audio_buffer.cleared")
            case "conversation.item.create":
                self._add_item(event["item"], event.get("previous_item_id"))
            case "conversation.item.retrieve":
                self.conversation.retrieve(event["item_id"])
            case "conversation.item.delete":
                self.conversation.delete(event["item_id"])
            case "conversation.item.truncate":
                self.conversation.truncate(event["item_id"], event["audio_end_ms"])
            case "response.create":
                self._create(event.get("response") or {}, "client")
            case "response.cancel":
                self._cancel(event.get("response_id"))
            case _:
                raise AssertionError(f"{kind} passed the check and has no place here")

    def _blame(self, refusal: Refusal, kind: str) -> None:
        if refusal.blame == "client":
            self.violations.append(f"{kind}: {refusal}")
        elif refusal.blame == "race":
            self.races.append(f"{kind}: {refusal}")

    def _send_error(self, refusal: Refusal, event_id: str | None) -> None:
        error = {"type": "invalid_request_error", "code": refusal.code, "message": str(refusal)}
        self.emit("error", error=error | {"param": refusal.param, "event_id": event_id})

    def _update(self, update: Json) -> None:
        refuse_fields(update, self.setup.faults.refuse_fields)
        if self.dialect == "beta":
            update = session_from_beta(update)
        else:
            check_session(update)
        voice = update.get("audio", {}).get("output", {}).get("voice")
        if isinstance(voice, str) and voice in self.setup.service.voices_lacking:
            known = tuple(name for name in VOICES if name not in self.setup.service.voices_lacking)
            raise unsupported_values(voice, known, "session.voice", blame="fault")
        session = updated_session(self.session, update, spoke=bool(self.audio_items))
        transcription = session["audio"]["input"]["transcription"]
        if transcription and transcription["model"] in self.setup.faults.refuse_models:
            models = tuple(model for model in TRANSCRIPTION_MODELS if model not in self.setup.faults.refuse_models)
            at = "session.audio.input.transcription.model"
            raise unsupported_values(transcription["model"], models, at, blame="fault")
        servers = self.mcp.resolve(update.get("tools", []))
        self.session = session
        self._follow_configuration()
        self.emit("session.updated", session=session)
        self.mcp.configure(servers)

    def _follow_configuration(self) -> None:
        audio_in = self.session["audio"]["input"]
        if getattr(self, "_input_format", None) != audio_in["format"]:
            self._input_format = audio_in["format"]
            self._intake = Intake(self._input_format)
        self._listener.configure(audio_in["turn_detection"])

    def _add_item(self, item: Json, after: str | None) -> None:
        if self.dialect == "beta":
            item = item_from_beta(item)
        check_item(item)
        self.conversation.check_new(item, after)
        item = {"id": self.new_id("item"), "object": "realtime.item", "status": "completed", **item}
        if item["type"] == "function_call":
            item.setdefault("call_id", self.new_id("call"))
        elif item["type"] == "function_call_output":
            self._returned(item["call_id"], item["output"])
        elif item["type"] == "mcp_approval_response":
            self.mcp.check_decision(item)
        self.mind.recall(item)
        self.brought.append(item)
        self.conversation.add(item, after=after, replayed=True)
        if item["type"] == "mcp_approval_response":
            self.mcp.decide(item)

    def _returned(self, call_id: str, output: str) -> None:
        self.mind.returned(call_id)
        for call in self.tool_calls:
            if call.call_id == call_id and call.returned_at is None:
                call.output, call.returned_at = output, time.monotonic()

    # -- the caller --

    def _append(self, audio: str) -> None:
        data = decode_audio(audio)
        self._input_bytes += len(data)
        self.append_log.append((time.monotonic(), self._input_bytes))
        for event in self._listener.feed(self._intake.feed(data)):
            self._heard(event)

    def _heard(self, event: Heard) -> None:
        detection = self.session["audio"]["input"]["turn_detection"]
        name = "input_audio_buffer"
        match event:
            case SpeechStarted():
                self._speech_started = (event.speech_start_ms, time.monotonic())
                self.emit(f"{name}.speech_started", audio_start_ms=event.audio_start_ms, item_id=self._item_id)
                if self._active and (detection["interrupt_response"] or self.setup.faults.cancel_without_asking):
                    self._active.cancel("turn_detected")
                return
            case SpeechStopped():
                self.emit(f"{name}.speech_stopped", audio_end_ms=event.audio_end_ms, item_id=self._item_id)
                self._commit(event.audio, self._speech_started[0], event.speech_end_ms)
            case IdleTimeout():
                span = {"audio_start_ms": event.audio_start_ms, "audio_end_ms": event.audio_end_ms}
                self.emit(f"{name}.timeout_triggered", item_id=self._item_id, **span)
                self.mind.idled(self._item_id)
                self._add_caller_item(self._listener.take())
        if detection["create_response"]:
            self.answer_by_itself("vad")

    def _commit_by_hand(self) -> None:
        buffered = self._listener.buffered_ms
        if buffered < SHORTEST_COMMIT_MS:
            message = "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
            message += f"but buffer only has {buffered:.2f}ms of audio."
            raise Refusal(message, code="input_audio_buffer_commit_empty")
        if not self._listener.speaking:
            self._speech_started = (self._listener.speech_span_ms[0], time.monotonic())
        start, end = self._speech_started[0], self._listener.speech_span_ms[1]
        self._commit(self._listener.take(), start, end)

    def _commit(self, audio: bytes, start_ms: int, end_ms: int) -> None:
        turn = CallerTurn(self._item_id, start_ms, end_ms, self._speech_started[1], time.monotonic(), audio=audio)
        turn.text = self.mind.turn_began(turn.item_id)
        self.caller_turns.append(turn)
        self.conversation.turns[turn.item_id] = turn
        item = self._add_caller_item(audio)
        self._hearing.hear(turn, item, self.session["audio"]["input"]["transcription"])

    def _add_caller_item(self, audio: bytes) -> Json:
        item_id, self._item_id = self._item_id, self.new_id("item")
        self.emit("input_audio_buffer.committed", item_id=item_id, previous_item_id=self.conversation.last_id)
        item: Json = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        self.conversation.add(item)
        return item

    async def understood(self, item_ids: Iterable[str]) -> dict[str, str]:
        """Wait until these turns have been understood and return their words, by item."""
        await self._hearing.finished(item_ids)
        return {turn.item_id: turn.text for turn in self.caller_turns}

    # -- responses --

    def next_fault(self) -> Literal["fail", "silent"] | None:
        """Return what goes wrong with the response that begins now."""
        number, faults = len(self.responses), self.setup.faults
        if number < faults.fail_responses:
            return "fail"
        return "silent" if number < faults.fail_responses + faults.silent_response else None

    @property
    def responding(self) -> bool:
        """Whether a response is active in the conversation."""
        return self._active is not None

    def answer_by_itself(self, by: Literal["vad", "server"]) -> None:
        """Begin a response that no client has asked for."""
        try:
            self._create({}, by)
        except Refusal as refusal:
            self._send_error(refusal, None)

    def _create(self, params: Json, by: Literal["vad", "client", "server"]) -> None:
        if self.dialect == "beta":
            params = response_from_beta(params)
        else:
            check_response(params)
        check_model_options(self.model, params, "response")
        check_voice(self.session, params, spoke=bool(self.audio_items), at="response")
        if "input" in params:
            resolve = self.conversation.resolve
            given = [resolve(item, f"response.input[{index}]") for index, item in enumerate(params["input"])]
            params = {**params, "input": given}
        beside = params.get("conversation") == "none"
        if not beside and self._active is not None:
            record = self._active.record
            racing = record.by != "client" and time.monotonic() - record.created_at < RACE_S
            message = f"Conversation already has an active response in progress: {record.id}. "
            message += "Wait until the response is finished before creating a new one."
            code = "conversation_already_has_active_response"
            raise Refusal(message, code=code, blame="race" if racing else "client")
        if beside and len(self._beside) >= OUT_OF_BAND_RESPONSES:
            raise Refusal("Too many responses in progress.", code="rate_limit_exceeded")
        response = Response(self, params, by)
        self.responses.append(response.record)
        if beside:
            self._beside[response.record.id] = response
        else:
            self._active = response

    def _cancel(self, response_id: str | None) -> None:
        response = self._active
        if response_id is not None and (response is None or response.record.id != response_id):
            response = self._beside.get(response_id)
        if response is None:
            message = "Cancellation failed: no active response found"
            raise Refusal(message, code="response_cancel_not_active", blame="race")
        response.cancel("client_cancelled")

    def spoke(self, record: AudioItem, *, stored: bool) -> None:
        """Note an audio item that begins; `stored` ones are part of the conversation."""
        self.audio_items.append(record)
        if stored:
            self.conversation.spoken[record.item_id] = record

    def response_ended(self, response: Response, *, remaining_ms: int) -> None:
        """Note the end of a response whose audio takes another `remaining_ms` to be played."""
        if self._active is response:
            self._active = None
            self._listener.expect_answer(remaining_ms)
        self._beside.pop(response.record.id, None)
        self.mcp.go_on()
