"""One session of the simulated Realtime server: it obeys the client's events and records what happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed

from phoneagent.sim.model.caller import CallerInput
from phoneagent.sim.model.checks import EventRefused, unsupported_values
from phoneagent.sim.model.config import (
    TRANSCRIPTION_MODELS,
    VOICES,
    Json,
    check_session,
    given,
    refuse_fields,
    updated_session,
)
from phoneagent.sim.model.dialect import item_from_beta, session_from_beta
from phoneagent.sim.model.events import check_event, check_item
from phoneagent.sim.model.records import Truncation
from phoneagent.sim.model.responses import Responses
from phoneagent.sim.model.service import model_not_found
from phoneagent.sim.model.setup import Setup
from phoneagent.sim.model.state import SessionState
from phoneagent.sim.model.wire import EventSocket, Wire

Watch = Callable[["SimulatedSession", Literal["in", "out"], dict[str, Any]], None]


class SimulatedSession(SessionState):
    """A connection to the simulated server, and its record, which remains when the connection is gone.

    Times are in seconds of `time.monotonic()`. `session` is the effective configuration in the modern shape, `headers`
    and `query` are those of the handshake; they hold the client's key and are never logged.
    """

    def __init__(
        self,
        socket: EventSocket,
        setup: Setup,
        *,
        model: str,
        dialect: Literal["ga", "beta"],
        query: Mapping[str, str],
        transcribes: bool = False,
        given_session: Json | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.query = query
        self.headers = socket.request.headers if socket.request else Headers()
        self._socket = socket
        shown = None if watch is None else partial(watch, self)
        super().__init__(setup, Wire(socket), model=model, dialect=dialect, transcribes=transcribes, watch=shown)
        self._unfit: EventRefused | None = None
        try:
            # Settings from an ephemeral key were checked when it was issued, but perhaps for another model.
            self.session = updated_session(self.session, given_session or {}, spoke=False)
        except EventRefused as refused:
            self._unfit = refused
        self._responses = Responses(self, self._played_in)
        self._caller = CallerInput(self, self._responses)
        self._mcp = self._responses.mcp
        self._given_servers = self._mcp.resolve((given_session or {}).get("tools", []))

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<SimulatedSession {self.session['id']} {self.dialect} {state}, {len(self.items)} items>"

    @property
    def items(self) -> list[Json]:
        """The conversation's items, in order: all that the model knows."""
        return self.conversation.items

    @property
    def truncations(self) -> list[Truncation]:
        """Every truncation that the client asked for."""
        return self.conversation.truncations

    # -- for tests --

    async def send_event(self, event: Json) -> None:
        """Send any event to the client exactly as it is."""
        self._wire.put(msgspec.json.encode(event))

    async def drop(self, code: int | None = None) -> None:
        """Close the connection with a code, or cut it without a close frame (None)."""
        await self._wire.drop(self._code(code))

    def kill(self) -> None:
        """Cut the connection at once, without a close frame; events that wait to be sent are lost."""
        self._wire.abort()

    # -- the connection --

    async def serve(self) -> None:
        """Serve the connection until it is closed. Afterwards none of its tasks is running."""
        try:
            self._start()
            async for message in self._socket:
                self.receive(message)
        except ConnectionClosed:
            pass
        finally:
            self.closed = True
            await self.stop_tasks()
            self.setup.changed()

    def _start(self) -> None:
        """Greet the client or turn it away, and set the timers of the faults."""
        faults = self.setup.faults
        self.spawn(self._wire.write())
        self.spawn(self._after(self.setup.session_seconds, self._expire))
        if faults.drop_after_seconds is not None:
            self.spawn(self._after(faults.drop_after_seconds, lambda: self._drop_soon(faults.drop_code)))
        if faults.stall_after_seconds is not None:
            self.spawn(self._after(faults.stall_after_seconds, self._wire.stall))
        for after_seconds, error in faults.error_events:
            self.spawn(self._after(after_seconds, partial(self.emit, "error", error=dict(error))))
        if self.setup.service.refuses_beta(self.headers):
            message = "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API."
            self._end_with_error(EventRefused(message, code="beta_api_shape_disabled"), close=4000)
        elif (refused := self._turned_away()) is not None:
            self._end_with_error(refused, close=1008)
        elif not faults.no_created:
            self.spawn(self._after(faults.slow_start_seconds, self._greet))

    def _turned_away(self) -> EventRefused | None:
        """Return why this session ends instead of beginning; None to begin."""
        if self.dialect == "beta" and self.only_transcribes:
            return EventRefused(
                "This simulated server has no transcription sessions in the beta.", code="not_supported"
            )
        if self.model in self.setup.faults.refuse_models:
            return model_not_found(self.model)
        request = self._socket.request
        named = request and self.setup.service.model_refusal(urlsplit(request.path), self.model)
        return self._unfit or named

    async def _after(self, seconds: float, action: Callable[[], None]) -> None:
        if seconds:
            await asyncio.sleep(seconds)
        action()

    def _drop_soon(self, code: int | None) -> None:
        self.spawn(self._wire.drop(self._code(code)))

    def _code(self, code: int | None) -> int | None:
        """Return the close code that the client sees in place of this one."""
        return None if code is None else self.setup.stand_in.close_code or code

    def _greet(self) -> None:
        conversation = {"id": self.conversation_id, "object": "realtime.conversation"}
        about: dict[str, Json] = {
            "session.created": {"session": self.session},
            "conversation.created": {"conversation": conversation},
        }
        for kind in self.setup.stand_in.opening:
            self.emit(kind, **about[kind])
        self._mcp.configure(self._given_servers)

    def _expire(self) -> None:
        message = "Your session hit the maximum duration of 60 minutes."
        self._end_with_error(EventRefused(message, code="session_expired"), close=1001)

    def _end_with_error(self, refused: EventRefused, *, close: int) -> None:
        self.send_error(refused, None)
        self._wire.close(self._code(close) or close, str(refused))

    # -- events of the client --

    def receive(self, message: str | bytes) -> None:
        """Obey one client event, or refuse it with an `error` event and record the rule that it broke."""
        event: Any = None
        try:
            if isinstance(message, bytes):
                text = "Invalid message: expected a text frame, but got a binary frame."
                raise EventRefused(text, code="invalid_event")
            try:
                event = msgspec.json.decode(message)
            except (msgspec.DecodeError, RecursionError) as error:
                raise EventRefused(f"Invalid JSON: {error}.", code="invalid_json") from error
            check_event(event)
            self._obey(event)
        except EventRefused as refused:
            known = isinstance(event, dict)
            self._record_blame(refused, str(event.get("type"))[:80] if known else "message")
            event_id = event.get("event_id") if known else None
            self.send_error(refused, event_id if isinstance(event_id, str) else None)
        self.setup.changed()

    def hear(self, audio: str) -> None:
        """Take audio, in base64, that came by another way than an event."""
        self._caller.append(audio)

    def truncate_played(self, item_id: str, audio_end_ms: int) -> None:
        """Remove from an item the audio that a server playing it itself did not play."""
        with suppress(EventRefused):  # the client has deleted it
            self.conversation.truncate(item_id, audio_end_ms)

    def _obey(self, event: Json) -> None:
        kind = event["type"]
        if kind == "input_audio_buffer.append":
            self._caller.append(event["audio"])
            return
        self.events_in.append((time.monotonic(), kind))
        self.show("in", event)
        if not self.setup.stand_in.check(kind):
            return
        match kind:
            case "session.update":
                self._update(event["session"])
            case "input_audio_buffer.commit":
                self._caller.commit()
            case "input_audio_buffer.clear":
                self._caller.clear()
            case "conversation.item.create":
                self._add_item(event["item"], event.get("previous_item_id"))
            case "conversation.item.retrieve":
                self.conversation.retrieve(event["item_id"], self.session["audio"]["input"]["format"])
            case "conversation.item.delete":
                self.conversation.delete(event["item_id"])
            case "conversation.item.truncate":
                self.conversation.truncate(event["item_id"], event["audio_end_ms"])
            case "response.create":
                self._responses.create(event.get("response") or {}, "client")
            case "response.cancel":
                self._responses.cancel(event.get("response_id"))
            case _:
                raise AssertionError(f"{kind} passed check_event, but _obey does not handle it")

    def _record_blame(self, refused: EventRefused, kind: str) -> None:
        if refused.blame == "client":
            self.violations.append(f"{kind}: {refused}")
        elif refused.blame == "race":
            self.races.append(f"{kind}: {refused}")

    def _update(self, update: Json) -> None:
        asked = update
        update = self.setup.stand_in.prepare(update)
        refuse_fields(update, self.setup.faults.refuse_fields)
        if self.dialect == "beta":
            update = session_from_beta(update)
        else:
            check_session(update)
            update = given(update)
        voice = update.get("audio", {}).get("output", {}).get("voice")
        if isinstance(voice, str) and voice in self.setup.service.voices_lacking:
            known = tuple(name for name in VOICES if name not in self.setup.service.voices_lacking)
            raise unsupported_values(voice, known, "session.voice", blame="fault")
        update = self.setup.stand_in.take_update(update)
        session = self.session
        if self.setup.stand_in.model_by_update:
            session = {**session, "model": update.get("model", session["model"])}
        session = updated_session(session, update, spoke=bool(self.audio_items))
        transcription = session["audio"]["input"]["transcription"]
        if transcription and transcription["model"] in self.setup.faults.refuse_models:
            models = tuple(model for model in TRANSCRIPTION_MODELS if model not in self.setup.faults.refuse_models)
            at = "session.audio.input.transcription.model"
            raise unsupported_values(transcription["model"], models, at, blame="fault")
        servers = self._mcp.resolve(update.get("tools", []))
        # From here on nothing is refused: an update takes effect whole or not at all.
        self.session = session
        self._caller.configure()
        for complaint in self.setup.stand_in.complaints(session=asked):
            self.send_error(complaint, None)
        if self.setup.stand_in.acknowledges != "never":
            self.emit("session.updated", session=session if self.setup.stand_in.acknowledges == "whole" else asked)
        self._mcp.configure(servers)

    def _add_item(self, item: Json, after: str | None) -> None:
        if self.dialect == "beta":
            item = item_from_beta(item)
        check_item(item)
        if item.get("role") in self.setup.stand_in.drops_roles:
            return
        item = given(item)
        self.conversation.check_new(item, after)
        item = {"id": self.new_id("item"), "object": "realtime.item", "status": "completed", **item}
        if item["type"] == "function_call":
            item.setdefault("call_id", self.new_id("call"))
        elif item["type"] == "function_call_output":
            self._record_output(item["call_id"], item["output"])
        elif item["type"] == "mcp_approval_response":
            self._mcp.check_decision(item)
        self.replies.recall(item)
        self.brought.append(item)
        self.conversation.add(item, after=after, replayed=True)
        if item["type"] == "mcp_approval_response":
            self._mcp.decide(item)

    def _record_output(self, call_id: str, output: str) -> None:
        self.replies.returned(call_id)
        for call in self.tool_calls:
            if call.call_id == call_id and call.returned_at is None:
                call.output, call.returned_at = output, time.monotonic()

    def _played_in(self, remaining_ms: int | None) -> None:
        self._caller.expect_answer(remaining_ms)
