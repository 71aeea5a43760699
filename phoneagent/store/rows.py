"""Events turned into rows: which ones are recorded, and when they happened."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, NamedTuple, assert_never

from phoneagent.bridge.steps import Pending
from phoneagent.events import (
    AgentAnswered,
    AgentPaused,
    AgentResumed,
    BargeIn,
    CallControlled,
    CallEnded,
    CallerSpoke,
    CallHandedOver,
    CallNotAnswered,
    CallStarted,
    CallTransferred,
    Event,
    KeyPressed,
    MessageAdded,
    ModelEvent,
    OutcomeFilled,
    RateLimitsUpdated,
    RecordingChanged,
    SilenceFilled,
    ToolCalled,
    ToolReturned,
    Trouble,
    Turn,
    TurnEnded,
    UsageReported,
)

MAX_STREAMS = 2_000
"""How many media streams are remembered, half a kilobyte each, including ended ones: far more than are live at once."""

ROW_BYTES = 400
"""The size of a row in memory, without its texts."""


class Kind(Enum):
    """The kinds of rows."""

    STARTED = auto()
    RESUMED = auto()
    ENDED = auto()
    ENDED_UNSEEN = auto()
    STREAM = auto()
    TURN = auto()
    MESSAGE = auto()
    TOOL_STARTED = auto()
    TOOL_RETURNED = auto()
    ANSWERED = auto()
    USED = auto()
    STATE = auto()
    PENDING = auto()
    DEAD_AIR = auto()
    RECORDING = auto()
    TRANSFERRED = auto()


CALL_ITSELF = frozenset({Kind.STARTED, Kind.RESUMED, Kind.ENDED, Kind.ENDED_UNSEEN})
"""Rows about the call itself. Unlike detail, they are not dropped to save memory, and their order matters."""

REPLACED = frozenset({Kind.TURN, Kind.STATE, Kind.PENDING, Kind.RECORDING})
"""Rows of which only the newest version counts."""

ENDS = frozenset({Kind.ENDED, Kind.ENDED_UNSEEN})
BEGINNINGS = CALL_ITSELF - ENDS


class Row(NamedTuple):
    """One row to write. It belongs to the call `call_sid`."""

    kind: Kind
    call_sid: str
    values: dict[str, Any]

    @property
    def key(self) -> tuple[Kind, str, str, str] | None:
        """The key that a newer version of the row shares; None for a row that is not replaced."""
        if self.kind not in REPLACED:
            return None
        return self.kind, self.call_sid, self.values["of_stream"], self.values.get("item_id", "")

    @property
    def weight(self) -> int:
        """The approximate size in memory, in bytes."""
        return ROW_BYTES + sum(len(value) for value in self.values.values() if isinstance(value, str))


def now() -> datetime:
    """Return the current time in UTC, to the millisecond."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def clean(text: str) -> str:
    """Return `text` without characters that databases refuse: NUL and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class _Stream:
    sid: str
    began_at: datetime


class RowBuilder:
    """Turns events into rows. It remembers when each media stream began, because events measure time from there."""

    def __init__(self) -> None:
        self._began: OrderedDict[tuple[str, str], datetime] = OrderedDict()
        self._latest: OrderedDict[str, str] = OrderedDict()

    def rows(self, event: Event, stream_sid: str | None = None) -> list[Row]:
        """Return the rows of an event that happened just now. Most events have one row, some none.

        `stream_sid` is the event's stream. By default it is the call's latest stream in this process.
        """
        match event:
            case CallStarted():
                return self._started(event)
            case TurnEnded():
                stream = self._stream(event.call_sid, stream_sid, event.turn.end_ms)
                return [self._turn(event.call_sid, event.turn, stream)]
            case MessageAdded():
                return [self._message(event, self._stream(event.call_sid, stream_sid, event.at_ms))]
            case ToolCalled():
                at = self._moment(event.call_sid, stream_sid, event.at_ms)
                return [self.tool_started(event.call_sid, event.call_id, event.name, event.arguments, at)]
            case ToolReturned():
                return [self._tool_returned(event, self._moment(event.call_sid, stream_sid, event.at_ms))]
            case AgentAnswered():
                at = self._moment(event.call_sid, stream_sid, event.at_ms)
                return [_row(Kind.ANSWERED, event.call_sid, at=at, latency_ms=event.latency_ms)]
            case UsageReported():
                return [self._used(event, self._stream(event.call_sid, stream_sid, event.at_ms))]
            case CallEnded():
                return self._ended(event, stream_sid)
            case RecordingChanged():
                return [self._recording(event, self._stream(event.call_sid, stream_sid, event.at_ms))]
            case CallTransferred():
                told = {"to_name": event.to_name, "outcome": event.outcome, "warm": event.warm}
                return [_row(Kind.TRANSFERRED, event.call_sid, at=now(), **told)]
            case CallHandedOver():
                return [_row(Kind.DEAD_AIR, event.call_sid, longest_ms=event.dead_air_ms)]
            case (
                CallerSpoke()
                | BargeIn()
                | AgentPaused()
                | AgentResumed()
                | KeyPressed()
                | RateLimitsUpdated()
                | SilenceFilled()
                | CallControlled()
                | Trouble()
                | ModelEvent()
                | CallNotAnswered()
                | OutcomeFilled()  # `OutcomeRows` has written it
            ):
                return []
            case _:
                assert_never(event)

    def tool_started(self, call_sid: str, call_id: str, name: str, arguments: str, at: datetime) -> Row:
        """Return the row of a tool that starts at `at`."""
        return _row(Kind.TOOL_STARTED, call_sid, call_id=call_id, name=name, arguments=arguments, started_at=at)

    def state(self, call_sid: str, stream_sid: str, state: str) -> Row:
        """Return the row of the user's state of a call."""
        return _row(Kind.STATE, call_sid, of_stream=stream_sid, state=state)

    def unfinished(self, call_sid: str, stream_sid: str, turns: Iterable[Turn], pending: Pending | None) -> list[Row]:
        """Return the rows of the unfinished turns of a call, and (unless None) of what is open in it."""
        rows = [self._turn(call_sid, turn, self._stream(call_sid, stream_sid, turn.end_ms)) for turn in turns]
        if pending is not None:
            rows.append(_row(Kind.PENDING, call_sid, of_stream=stream_sid, pending=pending))
        return rows

    def _stream(self, call_sid: str, stream_sid: str | None, ms: int) -> _Stream:
        """Return a stream of a call. An unknown one is assumed to have begun `ms` milliseconds ago."""
        sid = stream_sid or self._latest.get(call_sid, "")
        return _Stream(sid, self._began.get((call_sid, sid)) or now() - timedelta(milliseconds=ms))

    def _moment(self, call_sid: str, stream_sid: str | None, ms: int) -> datetime:
        return self._stream(call_sid, stream_sid, ms).began_at + timedelta(milliseconds=ms)

    def _started(self, event: CallStarted) -> list[Row]:
        key = (event.call_sid, event.stream_sid)
        if key not in self._began:
            self._began[key] = now()
            self._latest[event.call_sid] = event.stream_sid
            for memory in (self._began, self._latest):
                if len(memory) > MAX_STREAMS:
                    memory.popitem(last=False)
        began_at = self._began[key]
        stream = {"of_stream": event.stream_sid, "started_at": began_at}
        parties = {"caller": event.caller, "called": event.called, "direction": event.direction}
        kind = Kind.RESUMED if event.resumed else Kind.STARTED
        return [_row(kind, event.call_sid, **stream, **parties), _row(Kind.STREAM, event.call_sid, **stream)]

    def _turn(self, call_sid: str, turn: Turn, stream: _Stream) -> Row:
        return _row(
            Kind.TURN,
            call_sid,
            of_stream=stream.sid,
            item_id=turn.item_id,
            role=turn.role,
            text=turn.text,
            heard_text=turn.heard_text,
            started_at=stream.began_at + timedelta(milliseconds=turn.start_ms),
            length_ms=turn.end_ms - turn.start_ms,
            said_ms=turn.said_ms,
            heard_ms=turn.heard_ms,
            interrupted=turn.interrupted,
            agent=turn.agent,
            pauses=[[each.start_ms - turn.start_ms, each.end_ms - turn.start_ms, each.cause] for each in turn.pauses],
        )

    def _message(self, event: MessageAdded, stream: _Stream) -> Row:
        return _row(
            Kind.MESSAGE,
            event.call_sid,
            of_stream=stream.sid,
            number=event.number,
            role=event.role,
            text=event.text,
            at=stream.began_at + timedelta(milliseconds=event.at_ms),
        )

    def _tool_returned(self, event: ToolReturned, at: datetime) -> Row:
        return _row(
            Kind.TOOL_RETURNED,
            event.call_sid,
            call_id=event.call_id,
            name=event.name,
            arguments="",
            output=event.output,
            started_at=at - timedelta(milliseconds=event.ms),
            ms=event.ms,
        )

    def _used(self, event: UsageReported, stream: _Stream) -> Row:
        return _row(
            Kind.USED,
            event.call_sid,
            of_stream=stream.sid,
            number=event.number,
            source=event.source,
            model=event.model,
            **asdict(event.usage),
            nano_usd=int(event.cost.usd.scaleb(9)),
            at_least=event.cost.at_least,
        )

    def _recording(self, event: RecordingChanged, stream: _Stream) -> Row:
        stands = {name: getattr(event, name) for name in ("status", "where", "complete", "duration_ms")}
        return _row(Kind.RECORDING, event.call_sid, of_stream=stream.sid, recording=stands)

    def _ended(self, event: CallEnded, stream_sid: str | None) -> list[Row]:
        """Return the end, and all turns again: a turn's text may have arrived after the turn ended."""
        stream = self._stream(event.call_sid, stream_sid, event.duration_ms)
        rows = [self._turn(event.call_sid, turn, stream) for turn in event.transcript]
        rows.append(_row(Kind.DEAD_AIR, event.call_sid, longest_ms=event.dead_air_ms))
        end = {
            "of_stream": stream.sid,
            "ended_at": stream.began_at + timedelta(milliseconds=event.duration_ms),
            "ended_by": event.ended_by,
            "reason": event.reason,
        }
        if (event.call_sid, stream.sid) in self._began:
            return [*rows, _row(Kind.ENDED, event.call_sid, **end)]
        return [*rows, _row(Kind.ENDED_UNSEEN, event.call_sid, started_at=stream.began_at, **end)]


def _row(kind: Kind, call_sid: str, **values: Any) -> Row:
    call_sid = clean(call_sid)
    cleaned = {name: clean(value) if isinstance(value, str) else value for name, value in values.items()}
    return Row(kind, call_sid, {"of_call": call_sid, **cleaned})
