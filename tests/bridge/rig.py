"""A bridge on a bench: what one writes down here happens to a call, and what it sent, asked and told can be read."""

from __future__ import annotations

import base64
from collections import deque
from typing import Any, TypeVar

from msgspec import UNSET

from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.history import Past
from phoneagent.bridge.policy import Floor, Interruption, Policy, Silence
from phoneagent.bridge.requests import EndCall, RunTool
from phoneagent.events import CallEnded, EndedBy, ToolReturned
from phoneagent.protocol import carrier, realtime
from phoneagent.protocol.audio import base64_bytes

T = TypeVar("T")
STREAM = "MZ" + "1" * 32


def ulaw(ms: float, byte: int = 0x55) -> str:
    """Base64 of so many milliseconds of µ-law."""
    return base64.b64encode(bytes([byte]) * round(ms * 8)).decode()


def drain(queue: deque[T]) -> list[T]:
    taken = list(queue)
    queue.clear()
    return taken


class Rig:
    """One call, `now` in seconds. Everything the bridge has to send is taken at once, unless `stalled`."""

    def __init__(self, *, start: bool = True, connect: bool = True, past: Past | None = None, **policy: Any) -> None:
        manners = Interruption(
            enabled=policy.pop("barge_in", True),
            greeting=policy.pop("greeting_interruptible", False),
            min_speech_ms=policy.pop("min_speech_ms", 0),
            words_ms=policy.pop("words_ms", 1_200),
        )
        policy.setdefault("silence", Silence(idle_seconds=0, closing_silence_seconds=0))
        self.bridge = Bridge(Policy(interruption=manners, **policy), call_sid="CA1", past=past)
        self.now = 100.0
        self.stalled = False
        self.to_caller: list[carrier.ToCarrier] = []
        self.to_model: list[realtime.ToModel] = []
        self.asked: list[RunTool | EndCall] = []
        self.told: list[Any] = []
        if start:
            self.start()
        if connect:
            self.connect()

    def flush(self) -> None:
        while not self.stalled and (messages := self.bridge.take_for_caller(self.now, 16)):
            self.to_caller.extend(messages)
        while events := self.bridge.take_for_model(self.now, 16):
            self.to_model.extend(events)
        self.asked.extend(drain(self.bridge.requests))
        self.told.extend(drain(self.bridge.reporter.events))

    def given_bytes(self) -> int:
        """How much audio of the caller the model was given, each time that it was."""
        return sum(base64_bytes(append.audio) for append in self.sent(realtime.AudioAppend))

    def wait(self, seconds: float) -> None:
        """Let time pass, as the shell does: the timer fires when it is due."""
        until = self.now + seconds
        for _ in range(100_000):
            due = self.bridge.get_timer()
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            self.bridge.handle_timer(self.now)
            self.flush()
        else:
            raise AssertionError("the timer spins")
        self.now = until

    # --- what was sent, asked and told ---

    def sent(self, kind: type[T]) -> list[T]:
        """What went to either side, by its type."""
        return [message for message in (*self.to_caller, *self.to_model) if isinstance(message, kind)]

    def events(self, kind: type[T]) -> list[T]:
        return [event for event in self.told if isinstance(event, kind)]

    @property
    def facts(self) -> list[Any]:
        """What was told, without the outputs of tools: a tool may outlive its call."""
        return [event for event in self.told if not isinstance(event, ToolReturned)]

    @property
    def creates(self) -> list[realtime.ResponseCreate]:
        return self.sent(realtime.ResponseCreate)

    @property
    def cancels(self) -> list[str | None]:
        return [cancel.response_id for cancel in self.sent(realtime.ResponseCancel)]

    @property
    def truncations(self) -> list[tuple[str, int]]:
        return [(message.item_id, message.audio_end_ms) for message in self.sent(realtime.ItemTruncate)]

    @property
    def prompts(self) -> list[str]:
        items = [message.item for message in self.sent(realtime.ItemCreate)]
        return [item["content"][0]["text"] for item in items if item["type"] == "message"]

    @property
    def troubles(self) -> list[str]:
        return [event.what for event in self.told if type(event).__name__ == "Trouble"]

    @property
    def ended(self) -> EndCall | None:
        ends = [request for request in self.asked if isinstance(request, EndCall)]
        assert len(ends) <= 1
        return ends[0] if ends else None

    @property
    def given_up(self) -> str:
        """Why the call ended for want of a model; "" if it goes on. What is left to be said takes its time."""
        if self.ended is None and self.bridge.floor() is Floor.CLOSING:
            self.wait(2)
        return self.ended.reason if self.ended is not None and self.ended.ended_by == "error" else ""

    def media_ms(self) -> float:
        return sum(len(base64.b64decode(audio.payload)) for audio in self.sent(carrier.Audio)) / 8

    # --- the caller's side ---

    def caller(self, message: carrier.FromCarrier) -> None:
        self.bridge.receive_from_caller(message, self.now)
        self.flush()

    def start(self) -> None:
        self.caller(carrier.Started(stream_sid=STREAM, account_sid="AC1", call_sid="CA1"))

    def media(self, ms: float = 20, timestamp: int = 0, *, byte: int = 0x55) -> None:
        self.caller(carrier.AudioIn(ulaw(ms, byte), timestamp))

    def key(self, digit: str) -> None:
        self.caller(carrier.Key(digit))

    def talk(self, seconds: float) -> None:
        """Let time pass on a line that delivers, and nobody speaks."""
        until = self.now + seconds
        while self.now < until:
            self.wait(min(0.5, until - self.now))
            self.media(byte=0xFF)

    def mark(self, name: str) -> None:
        self.caller(carrier.Played(name))

    def hear(self) -> None:
        """Everything that was sent was played: the newest mark comes back."""
        self.mark(self.sent(carrier.SendMark)[-1].name)

    # --- the model's side ---

    def connect(self) -> None:
        self.bridge.model_connected(self.now)
        self.flush()

    def model(self, *events: realtime.FromModel) -> None:
        for event in events:
            self.bridge.receive_from_model(event, self.now)
            self.flush()

    def speech(self) -> None:
        self.model(realtime.SpeechStarted())

    def turn(self, item: str = "user1") -> None:
        """The caller stops speaking, and the turn is committed."""
        self.model(realtime.SpeechStopped(), realtime.Committed(item_id=item))

    def created(self, id: str = "r1", *, ours: bool | None = None, metadata: Any = UNSET) -> None:
        """`ours` echoes the metadata of our newest create, as GA servers do; False is without, as the server's own."""
        if ours is not None:
            metadata = (self.creates[-1].response or {})["metadata"] if ours else None
        self.model(realtime.ResponseCreated(response=realtime.Response(id=id, status="in_progress", metadata=metadata)))

    def audio(self, ms: float = 100, item: str = "i1", response: str = "r1") -> None:
        self.model(realtime.AudioDelta(response_id=response, item_id=item, delta=ulaw(ms)))

    def audio_done(self, item: str = "i1", response: str = "r1") -> None:
        self.model(realtime.AudioDone(response_id=response, item_id=item))

    def done(self, id: str = "r1", status: str = "completed", code: str | None = None, **fields: Any) -> None:
        details = realtime.StatusDetails(error=realtime.Failure(code=code)) if code else None
        response = realtime.Response(id=id, status=status, status_details=details, **fields)
        self.model(realtime.ResponseDone(response=response))

    def says(self, ms: float = 1000, item: str = "i1", response: str = "r1", *, ours: bool | None = None) -> None:
        """A whole response that speaks one item."""
        self.created(response, ours=ours)
        self.audio(ms, item, response)
        self.audio_done(item, response)
        self.done(response)

    def calls(self, call_id: str = "c1", response: str = "r1", status: str | None = "completed") -> None:
        self.model(realtime.OutputItemDone(item=function_call(call_id, status), response_id=response))

    def returns(self, call_id: str = "c1", output: str = "42", *, added: bool = True) -> None:
        """A tool returns, and (`added`) the server takes its output."""
        self.bridge.conversation.tool_returned(call_id, output, self.now)
        self.bridge.move_on(self.now)
        self.flush()
        if added:
            self.added(call_id)

    def added(self, call_id: str = "c1") -> None:
        self.model(realtime.ItemAdded(item=realtime.Item(type="function_call_output", call_id=call_id)))

    def error(self, code: str | None = None, event_id: str | None = None, message: str | None = None) -> None:
        self.model(realtime.Error(error=realtime.Failure(code=code, event_id=event_id, message=message)))

    def say(self, text: str = "One moment.") -> bool:
        accepted = self.bridge.conversation.say(text)
        self.bridge.move_on(self.now)
        self.flush()
        return accepted

    def interrupt(self) -> None:
        self.bridge.interrupt(self.now)
        self.flush()

    def hang_up(self, *, goodbye: bool = True) -> None:
        self.bridge.hang_up(self.now, goodbye=goodbye)
        self.flush()

    def hand_over(self) -> None:
        self.bridge.hand_over(self.now, "the process ends")
        self.flush()

    def lose_model(self, reason: str = "gone") -> None:
        self.bridge.model_lost(self.now, reason)
        self.flush()

    # --- how it ends ---

    def stop(self) -> None:
        self.caller(carrier.Stopped())

    def heard(self, response: str, *, ours: bool = True) -> None:
        """A whole response that is heard to its end."""
        self.says(100, f"item_{response}", response, ours=ours)
        self.wait(0.2)
        self.hear()

    def assert_over(self, by: EndedBy) -> None:
        """The call ended once, told it last, and takes and sends nothing more."""
        assert self.ended is not None
        assert self.ended.ended_by == by
        assert self.bridge.ended
        assert isinstance(self.facts[-1], CallEnded)
        assert self.facts[-1].ended_by == by
        before = (len(self.to_caller), len(self.to_model), len(self.asked), len(self.facts))
        self.stop()
        self.key("1")
        self.media()
        self.mark("1.1")
        self.created("r99")
        self.audio(100, "i99", "r99")
        self.calls("c99", "r99")
        self.speech()
        self.turn("u99")
        self.model(realtime.InputTranscript(item_id="u99", transcript="?"))
        self.done("r99")
        self.returns("c1")
        self.error("session_expired")
        self.lose_model()
        self.connect()
        self.interrupt()
        assert self.say() is False
        self.hang_up()
        self.bridge.end(self.now)
        self.bridge.handle_timer(self.now + 1e6)
        self.flush()
        assert self.bridge.get_timer() is None
        assert (len(self.to_caller), len(self.to_model), len(self.asked), len(self.facts)) == before


def function_call(call_id: str = "c1", status: str | None = "completed", name: str = "look_up") -> realtime.Item:
    return realtime.Item(
        id=f"item_{call_id}", type="function_call", status=status, call_id=call_id, name=name, arguments='{"a": 1}'
    )
