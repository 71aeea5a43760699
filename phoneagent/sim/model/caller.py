"""The caller's side of a simulated session: input audio, the turns found in it, and their items."""

from __future__ import annotations

import time
from typing import assert_never

from phoneagent.sim.model.audio import Intake
from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.config import Json
from phoneagent.sim.model.events import decode_audio
from phoneagent.sim.model.input_buffer import BufferEvent, IdleTimeout, InputBuffer, SpeechStarted, SpeechStopped
from phoneagent.sim.model.records import CommittedTurn
from phoneagent.sim.model.responses import Responses
from phoneagent.sim.model.state import SessionState

MIN_COMMIT_MS = 100
"""A commit by the client needs this much audio."""


class CallerInput:
    """The input audio of one session.

    Speech interrupts the active response, and the end of a turn begins a new one, if turn detection is configured so.
    """

    def __init__(self, state: SessionState, responses: Responses) -> None:
        self._state = state
        self._responses = responses
        self._buffer = InputBuffer(state.setup.make_vad)
        self._input_bytes = 0
        # The item of the turn that comes next: speech_started names it before it exists.
        self._item_id = state.new_id("item")
        self._speech_started = (0, 0.0)
        self._format: Json = {}
        self.configure()

    def configure(self) -> None:
        """Use the session's audio format and turn detection from here on."""
        audio_in = self._state.session["audio"]["input"]
        if audio_in["format"] != self._format:
            # Only another format makes a new intake: the old one may hold half a sample.
            self._format = audio_in["format"]
            self._intake = Intake(self._format)
        self._buffer.configure(audio_in["turn_detection"])

    def append(self, audio: str) -> None:
        """Take an `input_audio_buffer.append`."""
        data = decode_audio(audio)
        self._input_bytes += len(data)
        self._state.append_log.append((time.monotonic(), self._input_bytes))
        for event in self._buffer.feed(self._intake.feed(data)):
            self._handle(event)

    def clear(self) -> None:
        """Take an `input_audio_buffer.clear`."""
        self._buffer.clear()
        self._state.emit("input_audio_buffer.cleared")

    def commit(self) -> None:
        """Take an `input_audio_buffer.commit`: the content of the buffer becomes a turn."""
        buffered_ms = self._buffer.buffered_ms
        if buffered_ms < MIN_COMMIT_MS:
            message = "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
            message += f"but buffer only has {buffered_ms:.2f}ms of audio."
            raise EventRefused(message, code="input_audio_buffer_commit_empty")
        if not self._buffer.speaking:
            self._speech_started = (self._buffer.speech_span_ms[0], time.monotonic())
        start_ms, end_ms = self._speech_started[0], self._buffer.speech_span_ms[1]
        self._add_turn(self._buffer.take(), start_ms, end_ms)

    def expect_answer(self, after_ms: int | None) -> None:
        """Start the idle timer `after_ms` of audio from now, when the model's last words will have been played.

        None stops it: the model begins an answer.
        """
        self._buffer.expect_answer(after_ms)

    def _handle(self, event: BufferEvent) -> None:
        state, name = self._state, "input_audio_buffer"
        detection = state.session["audio"]["input"]["turn_detection"]
        match event:
            case SpeechStarted():
                self._speech_started = (event.speech_start_ms, time.monotonic())
                state.emit(f"{name}.speech_started", audio_start_ms=event.audio_start_ms, item_id=self._item_id)
                faults, obeys = state.setup.faults, state.setup.stand_in.obeys_turns
                if detection["interrupt_response"] or faults.cancel_without_asking or not obeys:
                    self._responses.interrupt()
                return
            case SpeechStopped():
                state.emit(f"{name}.speech_stopped", audio_end_ms=event.audio_end_ms, item_id=self._item_id)
                self._add_turn(event.audio, self._speech_started[0], event.speech_end_ms)
            case IdleTimeout():
                span = {"audio_start_ms": event.audio_start_ms, "audio_end_ms": event.audio_end_ms}
                state.emit(f"{name}.timeout_triggered", item_id=self._item_id, **span)
                state.replies.idled(self._item_id)
                self._buffer.clear()
                self._add_item()
            case _:
                assert_never(event)
        if not state.only_transcribes and (detection["create_response"] or not state.setup.stand_in.obeys_turns):
            self._responses.start("vad")

    def _add_turn(self, audio: bytes, start_ms: int, end_ms: int) -> None:
        state = self._state
        turn = CommittedTurn(self._item_id, start_ms, end_ms, self._speech_started[1], audio=audio)
        turn.text = state.replies.turn_began(turn.item_id)
        state.caller_turns.append(turn)
        state.conversation.turns[turn.item_id] = turn
        item = self._add_item()
        wanted = state.setup.stand_in.transcription(state.session["audio"]["input"]["transcription"])
        state.transcriber.start(turn, item, wanted)

    def _add_item(self) -> Json:
        state = self._state
        item_id, self._item_id = self._item_id, state.new_id("item")
        state.emit("input_audio_buffer.committed", item_id=item_id, previous_item_id=state.conversation.last_id)
        item: Json = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        state.conversation.add(item)
        return item
