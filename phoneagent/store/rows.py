"""From events to rows: which ones are kept, when they were, and the statements that write them.

Each statement may run twice and in any order: a row is inserted, or brought up to date.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert, Update

from phoneagent.events import AgentAnswered, CallEnded, CallStarted, Event, ToolCalled, ToolReturned, Turn, TurnEnded

from .schema import answers, calls, tools, turns

MAX_STREAMS = 10_000
"""Calls whose stream is remembered, ended ones included; far more than are live at once."""

ROW_BYTES = 400
"""What a row weighs in memory besides its texts."""


class Kind(Enum):
    """What a row tells; the order is the order of writing, for a call comes before what hangs on it."""

    STARTED = auto()
    ENDED_UNSEEN = auto()
    TURN = auto()
    TOOL_STARTED = auto()
    TOOL_RETURNED = auto()
    ANSWERED = auto()
    ENDED = auto()


CALL_ITSELF = frozenset({Kind.STARTED, Kind.ENDED_UNSEEN, Kind.ENDED})
"""Rows that are never dropped to save memory; the others are detail."""

ENDS = frozenset({Kind.ENDED_UNSEEN, Kind.ENDED})


class Row(NamedTuple):
    """One row to write. `call_sid` is what it hangs on."""

    kind: Kind
    call_sid: str
    values: dict[str, Any]

    @property
    def weight(self) -> int:
        """About how many bytes it takes in memory."""
        return ROW_BYTES + sum(len(value) for value in self.values.values() if isinstance(value, str))


def now() -> datetime:
    """Return the time, to the millisecond."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def clean(text: str) -> str:
    """Return `text` without what databases refuse: NUL and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class _Stream:
    sid: str
    began_at: datetime


class Scribe:
    """Turns events into rows. It remembers the stream of each call, from whose beginning events count their time."""

    def __init__(self) -> None:
        self._streams: OrderedDict[str, _Stream] = OrderedDict()

    def rows(self, event: Event) -> list[Row]:
        """Return the rows of an event that happened just now; most kinds have one, some none."""
        match event:
            case CallStarted():
                return [self._started(event)]
            case TurnEnded():
                stream = self._stream(event.call_sid, event.turn.end_ms)
                return [self._turn(event.call_sid, event.turn, stream)]
            case ToolCalled():
                at = self._stream(event.call_sid, event.at_ms).began_at + timedelta(milliseconds=event.at_ms)
                return [self.tool_started(event.call_sid, event.call_id, event.name, event.arguments, at)]
            case ToolReturned():
                return [self._tool_returned(event)]
            case AgentAnswered():
                at = self._stream(event.call_sid, event.at_ms).began_at + timedelta(milliseconds=event.at_ms)
                return [_row(Kind.ANSWERED, event.call_sid, at=at, latency_ms=event.latency_ms)]
            case CallEnded():
                return self._ended(event)
            case _:
                return []

    def tool_started(self, call_sid: str, call_id: str, name: str, arguments: str, at: datetime) -> Row:
        """Return the row of a tool that starts at `at`."""
        return _row(Kind.TOOL_STARTED, call_sid, call_id=call_id, name=name, arguments=arguments, started_at=at)

    def _stream(self, call_sid: str, ms: int) -> _Stream:
        """Return the stream of a call; for an unknown one, `ms` of it have passed by now."""
        return self._streams.get(call_sid) or _Stream("", now() - timedelta(milliseconds=ms))

    def _started(self, event: CallStarted) -> Row:
        stream = self._streams.get(event.call_sid)
        if stream is None or stream.sid != event.stream_sid:
            stream = self._streams[event.call_sid] = _Stream(event.stream_sid, now())
            if len(self._streams) > MAX_STREAMS:
                self._streams.popitem(last=False)
        return _row(
            Kind.STARTED,
            event.call_sid,
            stream_sid=event.stream_sid,
            caller=event.caller,
            called=event.called,
            direction=event.direction,
            started_at=stream.began_at,
        )

    def _turn(self, call_sid: str, turn: Turn, stream: _Stream) -> Row:
        return _row(
            Kind.TURN,
            call_sid,
            stream_sid=stream.sid,
            item_id=turn.item_id,
            role=turn.role,
            text=turn.text,
            heard_text=turn.heard_text,
            started_at=stream.began_at + timedelta(milliseconds=turn.start_ms),
            length_ms=turn.end_ms - turn.start_ms,
            said_ms=turn.said_ms,
            heard_ms=turn.heard_ms,
            interrupted=turn.interrupted,
        )

    def _tool_returned(self, event: ToolReturned) -> Row:
        began = self._stream(event.call_sid, event.at_ms).began_at
        return _row(
            Kind.TOOL_RETURNED,
            event.call_sid,
            call_id=event.call_id,
            name=event.name,
            arguments="",
            output=event.output,
            started_at=began + timedelta(milliseconds=event.at_ms - event.ms),
            ms=event.ms,
        )

    def _ended(self, event: CallEnded) -> list[Row]:
        """Return the end, and all turns once more: the text of one may have come after it had ended."""
        seen = event.call_sid in self._streams
        stream = self._stream(event.call_sid, event.duration_ms)
        rows = [self._turn(event.call_sid, turn, stream) for turn in event.transcript]
        end = {
            "ended_at": stream.began_at + timedelta(milliseconds=event.duration_ms),
            "ended_by": event.ended_by,
            "reason": event.reason,
        }
        if seen:
            return [*rows, _row(Kind.ENDED, event.call_sid, **end)]
        return [*rows, _row(Kind.ENDED_UNSEEN, event.call_sid, started_at=stream.began_at, **end)]


def _row(kind: Kind, call_sid: str, **values: Any) -> Row:
    call_sid = clean(call_sid)
    cleaned = {name: clean(value) if isinstance(value, str) else value for name, value in values.items()}
    return Row(kind, call_sid, {"of_call": call_sid, **cleaned})


def statements(dialect: str) -> dict[Kind, Insert | Update]:
    """Return the statement of each kind of row; its parameters are the row's values."""
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    of_call = sa.bindparam("of_call", type_=sa.Text())

    def upsert(table: sa.Table, fixed: dict[str, Any], names: tuple[str, ...], updated: tuple[str, ...]) -> Insert:
        values = fixed | {name: sa.bindparam(name) for name in names}
        statement = insert(table).values(values)
        keys = list(table.primary_key)
        if not updated:
            return statement.on_conflict_do_nothing(index_elements=keys)
        return statement.on_conflict_do_update(
            index_elements=keys, set_={name: statement.excluded[name] for name in updated}
        )

    end = ("ended_at", "ended_by", "reason")
    caller = ("stream_sid", "caller", "called", "direction")
    turn = ("role", "text", "heard_text", "length_ms", "said_ms", "heard_ms", "interrupted")
    tool = ("call_id", "name", "arguments", "started_at")
    of_tool = {"call_sid": of_call}
    # An end that was seen to start does not bring back a call that has been forgotten meanwhile: it only updates.
    return {
        # A second start is a resumed call: it goes on in another stream, and began when it began.
        Kind.STARTED: upsert(calls, {"sid": of_call}, (*caller, "started_at"), caller),
        Kind.ENDED_UNSEEN: upsert(
            calls, {"sid": of_call, "stream_sid": "", "direction": ""}, ("started_at", *end), end
        ),
        Kind.TURN: upsert(turns, {"call_sid": of_call}, ("stream_sid", "item_id", "started_at", *turn), turn),
        Kind.TOOL_STARTED: upsert(tools, of_tool, tool, ("name", "arguments")),
        Kind.TOOL_RETURNED: upsert(tools, of_tool, (*tool, "output", "ms"), ("output", "ms")),
        Kind.ANSWERED: upsert(answers, {"call_sid": of_call}, ("at", "latency_ms"), ()),
        Kind.ENDED: sa.update(calls).where(calls.c.sid == of_call).values({n: sa.bindparam(n) for n in end}),
    }
