"""Small models of both far ends on a virtual clock, for properties of the bridge.

`Line` is Twilio: a FIFO that plays 8 bytes a millisecond, echoes a mark when all before it was played, and echoes all
pending ones at a `clear`. `Server` is a Realtime server: one response at a time, everything in order, a voice activity
detection that commits turns and may answer them by itself. Between them and the bridge lie constant delays.

What has been written cannot be overtaken and delays are constant, so what `Line` will have played at any time is known
as soon as a message is written; "the truth" at `now` is what would have been played when a `clear` written now arrived.
"""

from __future__ import annotations

import base64
import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Audio, Clear, SendMark, ToCarrier


class Clock:
    """Virtual time, in seconds, and what happens when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Callable[[], object]]] = []

    def at(self, when: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), what))

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        self.at(self.now + seconds, what)

    def next_at(self) -> float:
        return self._heap[0][0] if self._heap else float("inf")

    def step(self) -> None:
        when, _, what = heapq.heappop(self._heap)
        self.now = max(self.now, when)
        what()

    def spawn(self, script: Iterator[float]) -> None:
        """Run a script that yields how many seconds to wait."""

        def go() -> None:
            for seconds in script:
                self.after(seconds, go)
                return

        go()


@dataclass
class _Segment:
    start: float
    end: float
    tag: int


@dataclass
class Line:
    """Twilio. Every byte of an item's audio has the value `tag`, so that what was played of each item is known."""

    clock: Clock
    out_seconds: float
    back_seconds: float
    echo: Callable[[str], None]
    names: set[str] = field(default_factory=set)
    _segments: list[_Segment] = field(default_factory=list)
    _free_at: float = 0.0  # when all that was written will have been played
    _pending: dict[str, float] = field(default_factory=dict)  # mark -> when it will be reached

    def write(self, message: ToCarrier) -> None:
        arrival = self.clock.now + self.out_seconds
        match message:
            case Audio(payload):
                data = base64.b64decode(payload, validate=True)
                assert len(set(data)) == 1, "a piece belongs to one item and is never empty"
                start = max(self._free_at, arrival)
                self._free_at = start + len(data) / 8000
                last = self._segments[-1] if self._segments else None
                if last is not None and (last.end, last.tag) == (start, data[0]):
                    last.end = self._free_at
                else:
                    self._segments.append(_Segment(start, self._free_at, data[0]))
            case SendMark(name):
                assert name not in self.names, "mark names are unique in a call"
                self.names.add(name)
                self._await(name, max(self._free_at, arrival))
            case Clear():
                for segment in self._segments:
                    segment.end = max(segment.start, min(segment.end, arrival))
                self._free_at = arrival
                for name, reached in list(self._pending.items()):
                    if reached > arrival:
                        self._await(name, arrival)

    def _await(self, name: str, reached: float) -> None:
        self._pending[name] = reached

        def back() -> None:
            if self._pending.get(name) == reached:
                del self._pending[name]
                self.echo(name)

        self.clock.at(reached + self.back_seconds, back)

    def new_generation(self) -> None:
        """From here on positions count anew."""
        self._segments.clear()

    def played_ms(self, tag: int | None = None) -> float:
        """Return how much of this generation (of one item) will have been played when a `clear` written now arrives."""
        arrival = self.clock.now + self.out_seconds
        return 1000 * sum(
            max(0.0, min(segment.end, arrival) - segment.start)
            for segment in self._segments
            if tag in (None, segment.tag)
        )


@dataclass(frozen=True)
class Part:
    """An output item: a function call, or speech in chunks of milliseconds that come `gap_ms` apart."""

    chunks_ms: tuple[int, ...] = ()
    gap_ms: int = 0
    late_done: bool = False  # its `done` comes after audio of the next item has begun
    call: bool = False


@dataclass(frozen=True)
class Plan:
    """What a response does. It ends with `status` by itself, unless it is cancelled before."""

    parts: tuple[Part, ...] = (Part((200, 200, 200), 30),)
    status: str = "completed"


@dataclass(eq=False)
class Running:
    id: str
    ours: bool
    answers: bool  # not told word for word what to say
    calls: list[realtime.Item] = field(default_factory=list)


class Server:
    """A Realtime server. `tell` delivers an event to the bridge; `log` keeps what happened, in order."""

    def __init__(
        self,
        clock: Clock,
        *,
        out_seconds: float,
        back_seconds: float,
        think_seconds: float,
        plans: list[Plan],
        tell: Callable[[realtime.FromModel], None],
        answers: bool = True,
        interrupts: bool = False,
        complains: bool = False,
    ) -> None:
        self._clock, self._out_seconds, self._back_seconds, self._think_seconds = (
            clock,
            out_seconds,
            back_seconds,
            think_seconds,
        )
        self._plans = list(reversed(plans))
        self._tell = tell
        self._answers, self._interrupts, self._complains = answers, interrupts, complains
        self._free_at = 0.0
        self._numbers = itertools.count(1)
        self.silent = False
        self.speech = False
        self.active: Running | None = None
        self.log: list[tuple[str, Any]] = []
        self.tags: dict[str, int] = {}  # item -> the value of its audio bytes
        self.generated: dict[str, int] = {}  # item -> bytes
        self.calls: set[str] = set()
        self.refused: list[str] = []  # creates and truncations

    def emit(self, event: realtime.FromModel) -> None:
        if not self.silent:
            self._clock.after(self._back_seconds, lambda: self._tell(event))

    # --- client events, in order ---

    def write(self, message: realtime.ToModel) -> None:
        if isinstance(message, realtime.AudioAppend):
            assert base64.b64decode(message.audio, validate=True)
            return
        self._free_at = max(self._free_at, self._clock.now + self._out_seconds) + self._think_seconds
        self._clock.at(self._free_at, lambda: self._take(message))

    def _take(self, message: realtime.ToModel) -> None:
        if self.silent:
            return
        match message:
            case realtime.ItemCreate(item=item):
                if item["type"] == "function_call_output":
                    assert item["call_id"] in self.calls, "an output answers a call, once"
                    self.calls.remove(item["call_id"])
                    self.log.append(("output", item["call_id"]))
                call_id: Any = item.get("call_id")
                self.emit(realtime.ItemAdded(item=realtime.Item(type=str(item["type"]), call_id=call_id)))
            case realtime.ResponseCreate(event_id=event_id, response=options):
                assert options is not None
                if self.active is not None:
                    assert not self.active.ours, "a second response was asked for"
                    self.refused.append(event_id or "")
                    self._refuse("conversation_already_has_active_response", event_id)
                else:
                    self._begin(options["metadata"], answers=options.get("tool_choice") != "none")
            case realtime.ResponseCancel(response_id=id_):
                if self.active is None or id_ not in (None, self.active.id):
                    self._refuse("response_cancel_not_active", message.event_id)
                else:
                    self._end("cancelled")
            case realtime.ItemTruncate(item_id=item_id, audio_end_ms=end_ms):
                if end_ms > self.generated[item_id] / 8:
                    self.refused.append(item_id)
                    self._refuse("invalid_value", message.event_id)
            case _:
                raise AssertionError(f"{message} in the middle of a call")

    def _refuse(self, code: str, event_id: str | None) -> None:
        self.emit(realtime.Error(error=realtime.Failure(code=code, event_id=event_id, message=code)))

    # --- responses ---

    def _begin(self, metadata: dict[str, str] | None, *, answers: bool) -> None:
        self.active = Running(f"r{next(self._numbers)}", metadata is not None, answers)
        self.log.append(("created", self.active))
        self.emit(realtime.ResponseCreated(response=realtime.Response(id=self.active.id, metadata=metadata)))
        plan = self._plans.pop() if self._plans else Plan()
        self._clock.spawn(self._run(self.active, plan))

    def _run(self, running: Running, plan: Plan) -> Iterator[float]:
        late: list[str] = []
        yield self._think_seconds
        for part in plan.parts:
            item = f"i{next(self._numbers)}"
            if part.call and self.active is running:
                self._call(running, f"c_{item}")
                continue
            self.tags[item] = len(self.tags) % 255 + 1
            for chunk in part.chunks_ms:
                yield part.gap_ms / 1000
                if self.active is not running:
                    return
                self.generated[item] = self.generated.get(item, 0) + chunk * 8
                delta = base64.b64encode(bytes([self.tags[item]]) * (chunk * 8)).decode()
                self.emit(realtime.AudioDelta(response_id=running.id, item_id=item, delta=delta))
                while late:
                    self.emit(realtime.AudioDone(response_id=running.id, item_id=late.pop()))
            if part.late_done:
                late.append(item)
            else:
                self.emit(realtime.AudioDone(response_id=running.id, item_id=item))
        yield 0.0
        if self.active is running:
            self._end(plan.status)

    def _call(self, running: Running, call_id: str) -> None:
        call = realtime.Item(type="function_call", status="completed", call_id=call_id, name="f", arguments="{}")
        self.calls.add(call_id)
        running.calls.append(call)
        self.emit(realtime.OutputItemDone(item=call, response_id=running.id))

    def _end(self, status: str) -> None:
        running, self.active = self.active, None
        assert running is not None
        response = realtime.Response(id=running.id, status=status, output=running.calls)
        self.emit(realtime.ResponseDone(response=response))

    # --- voice activity ---

    def hear(self, seconds: float) -> None:
        """The caller speaks for so long, unless it is speaking already."""
        if not self.speech and not self.silent:
            self._clock.spawn(self._turn(seconds))

    def _turn(self, seconds: float) -> Iterator[float]:
        self.speech = True
        self.emit(realtime.SpeechStarted())
        if self._interrupts and self.active is not None:
            self._end("cancelled")
        yield seconds
        self.speech = False
        item = f"u{next(self._numbers)}"
        self.log.append(("committed", item))
        self.emit(realtime.SpeechStopped())
        self.emit(realtime.Committed(item_id=item))
        if self._answers and self.active is None:
            self._begin(None, answers=True)
        elif self._answers and self._complains:
            self._refuse("conversation_already_has_active_response", None)
