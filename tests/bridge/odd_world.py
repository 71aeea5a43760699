"""A whole call whose far ends write JSON, one message of which may have an odd field; the clock is virtual.

The model greets; the caller says something; the model calls a tool, is refused a response once, and answers. The caller
speaks again; the first answer to that fails, the second one is said. Then the caller hangs up.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from phoneagent.bridge import prompts
from phoneagent.bridge.requests import EndCall, RunTool
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Audio, Clear, SendMark
from phoneagent.protocol.mediastream import MediaStream
from tests.bridge.rig import Rig
from tests.protocol.mutations import SERVER_EVENTS, server_event, twilio_message

SPEECH = ((4.0, 5.0), (14.0, 15.0))
"""When the caller speaks, in seconds of the call."""

HANGS_UP_AT = 24.0
AGAIN_SECONDS = 0.3
"""How long the model takes for anything."""

BETA = {
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "response.output_text.delta": "response.text.delta",
    "conversation.item.added": "conversation.item.created",
}

Change = Callable[[str, int, dict[str, Any]], str | None]
"""What is sent in the place of the message of that type and count; None for the message itself."""


class OddWorld:
    """The call. `change` may make one message odd; `beta` is the other spelling of the model's."""

    def __init__(self, change: Change = lambda kind, count, message: None, *, beta: bool = False) -> None:
        self._change = change
        self._beta = beta
        self.counts: Counter[str] = Counter()
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._stream = MediaStream()
        self.rig = rig = Rig(start=False, connect=False)
        self._since = rig.now
        self._taken = {"model": 0, "caller": 0, "asked": 0}
        self._played_until = rig.now
        self._pending: list[str] = []  # marks that Twilio holds
        self.heard: list[float] = []
        """When audio of the agent began to play that had not followed other audio, in seconds of the call."""
        self.frames = 0
        # --- the model ---
        self._active: str | None = None
        self._numbers = itertools.count(1)
        self._turns = 0
        self._refused = self._failed = self._called = False
        self._returned = False

    # --- time ---

    @property
    def now(self) -> float:
        return self.rig.now - self._since

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._heap, (self.now + seconds, next(self._order), what))

    def run(self) -> None:
        """The call, to its end."""
        self.after(0, lambda: self.twilio("connected"))
        self.after(0, lambda: self.twilio("start"))
        self.after(0.05, self._connect)
        for number, (begins, ends) in enumerate(SPEECH, 1):
            self.after(
                begins, lambda number=number: self.model("input_audio_buffer.speech_started", item_id=f"u{number}")
            )
            self.after(ends, lambda number=number: self._turn(number))
        for tick in range(1, int(HANGS_UP_AT * 2)):
            self.after(tick / 2, lambda tick=tick: self.twilio("media", media={"timestamp": str(tick * 500)}))
        self.after(9.0, lambda: self.twilio("dtmf"))
        self.after(HANGS_UP_AT, lambda: self.twilio("stop"))
        while self._heap:
            due, _, what = heapq.heappop(self._heap)
            self.rig.wait(max(0.0, due - self.now))
            what()
            self._react()

    def _connect(self) -> None:
        bridge = self.rig.bridge
        bridge.conversation.responses.want(prompts.greeting("Hello!"))
        self.rig.connect()
        self.model("session.created")  # before a call, and harmless in it
        self.model("session.updated")

    # --- messages ---

    def model(self, kind: str, **fields: Any) -> None:
        """The model says something, at once."""
        message = server_event(kind) | fields
        if self._beta and kind in BETA:
            kind = message["type"] = BETA[kind]
        self.rig.model(realtime.decode(self._text(kind, message).encode()))

    def twilio(self, kind: str, **fields: dict[str, Any]) -> None:
        message = twilio_message(kind)
        for name, part in fields.items():
            message[name] |= part
        came = self._stream.decode(self._text(kind, message))
        if came is not None:
            self.rig.caller(came)

    def _text(self, kind: str, message: dict[str, Any]) -> str:
        self.counts[kind] += 1
        return self._change(kind, self.counts[kind] - 1, message) or json.dumps(message)

    def _react(self) -> None:
        """What the far ends do about what the bridge has sent meanwhile."""
        rig = self.rig
        for message in rig.to_caller[self._taken["caller"] :]:
            self._take_audio(message)
        self._taken["caller"] = len(rig.to_caller)
        for event in rig.to_model[self._taken["model"] :]:
            self._take_event(event)
        self._taken["model"] = len(rig.to_model)
        for request in rig.asked[self._taken["asked"] :]:
            if isinstance(request, RunTool):
                self.after(0.5, lambda call_id=request.call_id: rig.returns(call_id, added=False))
        self._taken["asked"] = len(rig.asked)

    # --- Twilio ---

    def _take_audio(self, message: Audio | SendMark | Clear) -> None:
        match message:
            case Audio(payload=payload):
                if self._played_until < self.rig.now:
                    self.heard.append(self.now)
                self._played_until = max(self._played_until, self.rig.now) + len(payload) * 3 // 4 / 8000
            case SendMark(name=name):
                self._pending.append(name)
                self.after(self._played_until - self.rig.now + 0.05, lambda: self._echo(name))
            case Clear():
                self._played_until = self.rig.now
                for name in self._pending:
                    self.after(0.05, lambda name=name: self._echo(name))

    def _echo(self, name: str) -> None:
        if name in self._pending:
            self._pending.remove(name)
            self.twilio("mark", mark={"name": name})

    # --- the model ---

    def _turn(self, number: int) -> None:
        item_id = f"u{number}"
        self._turns = number
        self.model("input_audio_buffer.speech_stopped", item_id=item_id)
        self.model("input_audio_buffer.committed", item_id=item_id)
        self._added({"id": item_id, "type": "message", "role": "user", "status": "completed"})
        kind = "conversation.item.input_audio_transcription."
        self.after(0.2, lambda: self.model(kind + ("completed" if number == 1 else "failed"), item_id=item_id))
        self.after(AGAIN_SECONDS, lambda: self._begin(None))

    def _added(self, item: dict[str, Any]) -> None:
        self.model("conversation.item.added", item=item)
        if not self._beta:
            self.model("conversation.item.done", item=item)

    def _take_event(self, event: realtime.ToModel) -> None:
        match event:
            case realtime.ItemCreate(item=item):
                self._returned = self._returned or item["type"] == "function_call_output"
                self.after(0.05, lambda: self._added({"id": f"ours{next(self._numbers)}", **item}))
            case realtime.ResponseCreate(event_id=event_id, response=options):
                self.after(AGAIN_SECONDS, lambda: self._create(event_id, (options or {})["metadata"]))
            case realtime.ResponseCancel():
                self.after(0.05, lambda: self._end("cancelled") if self._active is not None else None)
            case realtime.ItemTruncate() | realtime.SessionUpdate() | realtime.AudioAppend():
                pass
            case _:
                raise AssertionError(f"{event} in this call")

    def _create(self, event_id: str | None, metadata: dict[str, str]) -> None:
        failure = {"type": "invalid_request_error", "message": "no", "param": None, "event_id": event_id}
        if self._active is not None:
            self.model("error", error={**failure, "code": "conversation_already_has_active_response"})
        elif self._returned and not self._refused:
            self._refused = True
            self.model("error", error={**failure, "code": "server_busy"})
        else:
            self._begin(metadata)

    def _begin(self, metadata: dict[str, str] | None) -> None:
        if self._active is not None:
            return
        self._active = id = f"r{next(self._numbers)}"
        status = {"status": "in_progress", "status_details": None, "output": [], "usage": None}
        self.model("response.created", response={"id": id, **status, "metadata": metadata})
        if self._turns == 2 and not self._failed:
            self._failed = True
            self.after(AGAIN_SECONDS, lambda: self._end("failed"))
        elif self._turns == 1 and not self._called:
            self._called = True
            self.after(AGAIN_SECONDS, lambda: self._call(id))
        else:
            self.after(AGAIN_SECONDS, lambda: self._speak(id))

    def _call(self, id: str) -> None:
        item = SERVER_EVENTS["response.output_item.done"]["item"] | {"id": f"f{id}", "call_id": f"c{id}"}
        began = item | {"status": "in_progress", "arguments": ""}
        self.model("response.output_item.added", response_id=id, item=began)
        self._added_of_model(began)
        ids = {"response_id": id, "item_id": item["id"]}
        self.model("response.function_call_arguments.done", **ids, call_id=item["call_id"])
        self.model("response.output_item.done", response_id=id, item=item)
        self._end("completed", [item])

    def _added_of_model(self, item: dict[str, Any]) -> None:
        self.model("conversation.item.added", item=item)

    def _speak(self, id: str) -> None:
        item = {"id": f"i{id}", "type": "message", "role": "assistant", "status": "completed"}
        ids = {"response_id": id, "item_id": item["id"]}
        self.model("response.output_item.added", response_id=id, item=item | {"status": "in_progress"})
        self._added_of_model(item | {"status": "in_progress"})
        self.model("response.output_text.delta", **ids)
        self.model("response.output_audio_transcript.delta", **ids)
        for _ in range(6):
            self.model("response.output_audio.delta", **ids)
        self.model("response.output_audio.done", **ids)
        self.model("response.output_audio_transcript.done", **ids)
        self.model("response.output_item.done", response_id=id, item=item)
        self._end("completed", [item])

    def _end(self, status: str, output: list[dict[str, Any]] | None = None) -> None:
        id, self._active = self._active, None
        failed = {"type": "failed", "error": {"type": "server_error", "code": "upstream", "message": "no"}}
        details = failed if status == "failed" else None
        response = {"id": id, "status": status, "status_details": details, "output": output or [], "metadata": None}
        self.model("response.done", response=response)
        self.model("rate_limits.updated")

    # --- what must be true ---

    @property
    def waits(self) -> list[float]:
        """How long the caller waited for the agent: from the beginning, and after each turn; endless if in vain."""
        since = [0.0, *(ends for _, ends in SPEECH)]
        until = [*(begins for begins, _ in SPEECH), HANGS_UP_AT]
        return [
            min((at - begin for at in self.heard if begin <= at < end), default=float("inf"))
            for begin, end in zip(since, until, strict=True)
        ]

    @property
    def end(self) -> EndCall | None:
        return self.rig.ended
