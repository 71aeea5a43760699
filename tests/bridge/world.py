"""A bridge between both far ends, watched: whatever happens, the invariants of a call hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.policy import Floor, Interruption, Policy, Silence
from phoneagent.bridge.requests import EndCall, RunTool
from phoneagent.bridge.responses import CANCELLED_SECONDS, CREATED_SECONDS, METADATA_KEY
from phoneagent.bridge.signs import DONE_SECONDS
from phoneagent.bridge.toolcalls import Filler
from phoneagent.events import CallEnded, ToolReturned
from phoneagent.protocol import carrier, realtime
from phoneagent.protocol.carrier import Audio, Clear, SendMark
from tests.bridge.far_ends import Clock, Line, Plan, Server
from tests.bridge.rig import STREAM, drain, ulaw

OVER_MS = 20.0
"""How far the estimate of what was heard may exceed the truth."""

SHORT_MS = 120.0
"""How far it may fall short of it, beside a round trip."""

MEDIA_MS = 500
"""The caller's audio comes in such frames: twenty times fewer than Twilio's."""


@dataclass(frozen=True)
class Setting:
    """Where a call takes place. Times in milliseconds."""

    caller_out_ms: int = 0
    caller_back_ms: int = 0
    model_out_ms: int = 0
    model_back_ms: int = 0
    think_ms: int = 0
    tool_ms: int = 100
    filler_ms: int | None = None
    plans: list[Plan] = field(default_factory=list)
    greeting: str | None = None
    greeting_interruptible: bool = False
    barge_in: bool = True
    min_speech_ms: int = 0
    server_answers: bool = True
    server_interrupts: bool = False
    server_complains: bool = False


@dataclass
class _Heard:
    """Bytes of an item in this generation: taken by the bridge, sent to the line, proven by marks."""

    taken: int = 0
    sent: int = 0
    proven: int = 0
    complete: bool = False


class World:
    """One call. Every input goes through `_after`, which takes the outputs and checks them."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.clock = Clock()
        self.bridge = Bridge(
            Policy(
                greeting=setting.greeting,
                interruption=Interruption(
                    enabled=setting.barge_in,
                    greeting=setting.greeting_interruptible,
                    min_speech_ms=setting.min_speech_ms,
                ),
                server_answers=setting.server_answers,
                silence=Silence(idle_seconds=0, closing_silence_seconds=0),
                apology=ulaw(300, 0xFE),
            )
        )
        self.round_trip_ms = setting.caller_out_ms + setting.caller_back_ms
        self.line = Line(self.clock, setting.caller_out_ms / 1000, setting.caller_back_ms / 1000, self._echo)
        self.server = Server(
            self.clock,
            out_seconds=setting.model_out_ms / 1000,
            back_seconds=setting.model_back_ms / 1000,
            think_seconds=setting.think_ms / 1000,
            plans=setting.plans,
            tell=self._event,
            answers=setting.server_answers,
            interrupts=setting.server_interrupts,
            complains=setting.server_complains,
        )
        self.writable_at = self.media_from = 0.0
        self.started = self.closing = self.lost = self.goodbye_asked = False
        self.ended_at: float | None = None
        self.told: list[Any] = []
        self.ran: set[str] = set()
        self.returned: set[str] = set()
        self.posted: list[str] = []
        self.fillers = 0
        self.items: dict[str, _Heard] = {}
        self.item_of: dict[str | None, set[str]] = {}  # response -> its items
        self.marks: dict[str, dict[str, int]] = {}
        self.generation = self.bridge.playback.generation
        self.queued = self.sent = self.dropped = 0
        self.creating: tuple[str, float] | None = None  # our create without an answer, and when it was sent
        self.active: str | None = None  # as the bridge was told
        self.cancelled_at: float | None = None
        self.said_at = 0.0
        """When the model sent something last."""
        self.speaking = False
        self.late_responses: set[str] = set()  # created in CLOSING, not ours

    # --- running ---

    def begin(self) -> None:
        self.started = True
        self._caller(carrier.Started(stream_sid=STREAM, account_sid="AC1", call_sid="CA1"))
        self.clock.spawn(self._media())

    def connect(self) -> None:
        self.bridge.model_connected(self.clock.now)
        self._after()

    def run(self, seconds: float) -> None:
        """Let time pass; timers fire when they are due."""
        until = self.clock.now + seconds
        while True:
            due = self.bridge.get_timer()
            due = float("inf") if due is None else max(due, self.clock.now)
            when = min(due, self.clock.next_at())
            if when > until:
                break
            self.clock.now = max(self.clock.now, when)
            self._check_heard()
            if due <= self.clock.next_at():
                self.bridge.handle_timer(self.clock.now)
                self._after()
                after = self.bridge.get_timer()
                assert after is None or after > due, "the timer spins"
            else:
                self.clock.step()
        self.clock.now = until
        self._check_heard()

    def _media(self) -> Iterator[float]:
        timestamp = 57
        while self.ended_at is None:
            if self.clock.now >= self.media_from:
                self._caller(carrier.AudioIn(ulaw(MEDIA_MS), timestamp))
            timestamp += MEDIA_MS
            yield MEDIA_MS / 1000

    def _echo(self, name: str) -> None:
        if name.startswith(f"{self.generation}."):
            for item, sent in self.marks.get(name, {}).items():
                self.items[item].proven = sent
            self._forget_heard()
        self._caller(carrier.Played(name))

    def _caller(self, message: carrier.FromCarrier) -> None:
        self.bridge.receive_from_caller(message, self.clock.now)
        self._after()

    # --- the model's events, and what follows from them ---

    def _event(self, event: realtime.FromModel) -> None:
        before = self.bridge.playback.unsent_ms
        if self.lost:
            return
        self._note(event)
        self.said_at = self.clock.now
        self.bridge.receive_from_model(event, self.clock.now)
        if isinstance(event, realtime.AudioDelta) and self.bridge.playback.unsent_ms > before:
            self._taken(event)
        self._after()

    def _note(self, event: realtime.FromModel) -> None:
        match event:
            case realtime.ResponseCreated(response=response):
                ours = (response.metadata or {}).get(METADATA_KEY)
                if self.creating is not None and self.creating[0] == ours:
                    self.creating = None
                if self.closing and not (ours and self.goodbye_asked):
                    self.late_responses.add(response.id or "")
                self.active, self.cancelled_at = response.id, None
            case realtime.ResponseDone(response=response):
                if response.id == self.active:
                    self.active = None
                for item in self.item_of.get(response.id, ()):
                    self._complete(item)
            case realtime.AudioDone(item_id=item_id):
                self._complete(item_id)
            case realtime.Error(error=failure):
                if self.creating is not None and failure.event_id == f"create_{self.creating[0]}":
                    self.creating = None
            case realtime.SpeechStarted():
                self.speaking = True
            case realtime.SpeechStopped():
                self.speaking = False
            case _:
                pass

    def _taken(self, event: realtime.AudioDelta) -> None:
        assert event.response_id not in self.late_responses, "in CLOSING nothing but the goodbye is heard"
        size = len(event.delta) // 4 * 3 - event.delta[-2:].count("=")
        self.queued += size
        self.items.setdefault(event.item_id, _Heard()).taken += size
        self.item_of.setdefault(event.response_id, set()).add(event.item_id)

    def _complete(self, item: str) -> None:
        if item in self.items:
            self.items[item].complete = True
            self._forget_heard()

    def _forget_heard(self) -> None:
        over = [item for item, heard in self.items.items() if heard.complete and heard.proven == heard.taken]
        for item in over:
            del self.items[item]
        for marks in self.marks.values():
            for item in over:
                marks.pop(item, None)

    # --- what the bridge has to send, to do and to tell ---

    def _after(self) -> None:
        truncated = self._cut() if self.bridge.playback.generation != self.generation else {}
        while events := self.bridge.take_for_model(self.clock.now, 16):
            for event in events:
                self._check_to_model(event, truncated)
                self.server.write(event)
        assert not truncated, f"received, not heard, and not truncated: {truncated}"
        self.write()
        for request in drain(self.bridge.requests):
            assert self.ended_at is None, "nothing is asked for after the end"
            match request:
                case RunTool(call_id=call_id):
                    assert call_id not in self.ran, "a tool runs once"
                    self.ran.add(call_id)
                    if self.setting.filler_ms is not None:
                        self.bridge.conversation.tools.fill(call_id, Filler("Hold on.", self.setting.filler_ms / 1000))
                    self.clock.after(self.setting.tool_ms / 1000, lambda call=call_id: self._returned(call))
                case EndCall():
                    self.ended_at = self.clock.now
        for told in drain(self.bridge.reporter.events):
            if self.told and isinstance(self.told[-1], CallEnded):
                assert isinstance(told, ToolReturned), "after CallEnded only a tool that outlived it is told"
                continue
            self.told.append(told)
        self._check_accounts()

    def write(self) -> None:
        while self.clock.now >= self.writable_at:
            messages = self.bridge.take_for_caller(self.clock.now, 1)
            if not messages:
                return
            (message,) = messages
            assert self.started, "nothing goes to Twilio before `start`"
            self._written(message)
            self.line.write(message)

    def _written(self, message: carrier.ToCarrier) -> None:
        match message:
            case Audio(payload):
                size = len(payload) // 4 * 3 - payload[-2:].count("=")
                self.sent += size
                for item, heard in self.items.items():
                    if heard.sent < heard.taken and ulaw(1, self.server.tags[item])[:4] == payload[:4]:
                        heard.sent += size
            case SendMark(name):
                self.marks[name] = {item: heard.sent for item, heard in self.items.items()}
            case Clear():
                pass

    def _cut(self) -> dict[str, tuple[int, float]]:
        """A generation ended. Return what has to be truncated: item -> bytes received, milliseconds truly heard."""
        self.generation = self.bridge.playback.generation
        self.dropped = self.queued - self.sent
        truth = {item: (heard.taken, self.line.played_ms(self.server.tags[item])) for item, heard in self.items.items()}
        self.items.clear()
        self.marks.clear()
        self.line.new_generation()
        return {} if self.bridge.ended else truth

    def _check_to_model(self, event: realtime.ToModel, truncated: dict[str, tuple[int, float]]) -> None:
        assert self.ended_at is None
        match event:
            case realtime.ItemTruncate(item_id=item_id, audio_end_ms=end_ms):
                received, truth_ms = truncated.pop(item_id)  # once, and of nothing else
                assert 0 <= end_ms <= received // 8
                assert end_ms <= truth_ms + OVER_MS
                assert end_ms >= truth_ms - self.round_trip_ms - SHORT_MS
            case realtime.ResponseCreate(response=options):
                assert options is not None
                self._check_create(options)
            case realtime.ResponseCancel():
                self.cancelled_at = self.clock.now
            case realtime.ItemCreate(item=item):
                if item["type"] == "function_call_output":
                    self.posted.append(item["call_id"])
                elif "goodbye" in item["content"][0]["text"]:
                    self.goodbye_asked = True
                elif "Hold on." in item["content"][0]["text"]:
                    self._check_filler()
            case _:
                pass

    def _check_create(self, options: dict[str, Any]) -> None:
        now = self.clock.now
        if self.creating is not None:
            assert now >= self.creating[1] + CREATED_SECONDS - 1e-6, "one create at a time"
        if self.active is not None and now < self.said_at + DONE_SECONDS - 1e-6:  # a silent one may count as done
            assert self.cancelled_at is not None, "no create while a response is active"
            assert now >= self.cancelled_at + CANCELLED_SECONDS - 1e-6, "no create before the cancelled one is done"
        assert not self.closing or self.goodbye_asked, "in CLOSING only the goodbye is asked for"
        assert not self.speaking or "tool_choice" in options, "no answer while the caller speaks"
        self.creating = (options["metadata"][METADATA_KEY], now)

    def _check_filler(self) -> None:
        self.fillers += 1
        assert self.fillers <= len(self.ran), "one filler for a tool call"
        assert self.ran - self.returned, "no filler after the tool"
        assert not self.speaking
        assert not self.closing
        assert self.bridge.playback.idle, "no filler while the agent speaks"

    def _check_accounts(self) -> None:
        waiting = self.bridge.playback.unsent_ms * 8
        if self.bridge.floor() is not Floor.CLOSING:  # there our own apology counts as well
            assert self.queued == self.sent + self.dropped + waiting

    def _check_heard(self) -> None:
        if self.ended_at is None:
            heard_ms = self.bridge.playback.heard(self.clock.now) / 8
            truth_ms = self.line.played_ms()
            assert heard_ms <= truth_ms + OVER_MS
            assert heard_ms >= truth_ms - self.round_trip_ms - SHORT_MS

    # --- the agent's code, and mishaps ---

    def _returned(self, call_id: str) -> None:
        self.bridge.conversation.tool_returned(call_id, "42", self.clock.now)
        self.bridge.move_on(self.clock.now)
        if self.ended_at is None:
            self.returned.add(call_id)
        self._after()

    def say(self) -> None:
        self.bridge.conversation.say("One moment.")
        self.bridge.move_on(self.clock.now)
        self._after()

    def interrupt(self) -> None:
        self.bridge.interrupt(self.clock.now)
        self.server.log.append(("interrupt", None))
        self._after()

    def hang_up(self) -> None:
        self.closing = True
        self.bridge.hang_up(self.clock.now)
        self._after()

    def lose_model(self) -> None:
        self.closing = self.lost = True
        self.bridge.model_lost(self.clock.now, "gone")
        self._after()

    def stall(self, seconds: float) -> None:
        """The caller's socket takes nothing for a while."""
        self.writable_at = self.clock.now + seconds
        self.clock.after(seconds, self.write)

    def junk(self) -> None:
        """Messages that must change nothing: stale and unknown marks."""
        if not self.started:
            return
        floor, heard = self.bridge.floor(), self.bridge.playback.heard(self.clock.now)
        for name in [*self.line.names, "9.9", "x"]:
            if not name.startswith(f"{self.generation}."):
                self._caller(carrier.Played(name))
        assert (self.bridge.floor(), self.bridge.playback.heard(self.clock.now)) == (floor, heard)
