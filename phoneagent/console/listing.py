"""The list of calls: first the live ones of this process, then the recorded ones, each newest first, in pages."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

from phoneagent.agent.agent import Agent
from phoneagent.agent.call import Call
from phoneagent.bridge.policy import Floor
from phoneagent.console.encoding import without_numbers
from phoneagent.console.problems import BadRequest
from phoneagent.console.vitals import Vitals
from phoneagent.errors import StoreError
from phoneagent.store import CallDetails, CallFilter, CallRecord, Highlights, Store
from phoneagent.store.records import latency_at
from phoneagent.store.rows import clean

State: TypeAlias = Literal["live", "open", "ended"]
"""The state of a call: it runs in this process · its record has no end, so it runs in another process, or that process
has died · it is over."""

Look: TypeAlias = Callable[[str], "tuple[Floor, Agent] | None"]
"""A function that returns which side of a live call has the floor, and the agent that has the call."""


MAX_STATE_VALUES = 100
MAX_STATE_CHARS = 2000
"""How many values of `call.state` are shown, and how much of each."""


class Position(msgspec.Struct, frozen=True, array_like=True):
    """The last call of a page. The next page continues after it."""

    live: bool
    started_at: datetime
    call_sid: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the list, and the cursor for the next one; None if this is the last."""

    calls: list[dict[str, Any]]
    cursor: str | None


class Listing:
    """The calls of this process, and those that its `store` has recorded, in the form in which they are shown."""

    def __init__(
        self, calls: Mapping[str, Call], look: Look, vitals: Callable[[str], Vitals | None], store: Store | None
    ) -> None:
        self._calls = calls
        self._look = look
        self._vitals = vitals
        self._store = store

    async def page(
        self, limit: int, *, state: State | None, cursor: str | None, full: bool, only: CallFilter | None = None
    ) -> Page:
        """Return the next calls of the list after a cursor, only those in a state if one is given.

        `only` searches the records, so it leaves out calls that are live here.

        Raises:
            BadRequest: the cursor is not one of ours.
            StoreError: the database does not answer.
        """
        after = None if cursor is None else _read_cursor(cursor)
        found: list[tuple[Position, dict[str, Any]]] = []
        if only is None and state in (None, "live") and (after is None or after.live):
            found += self._live(after)[: limit + 1]
        if state != "live" and self._store is not None and len(found) <= limit:
            found += await self._past(
                self._store,
                limit + 1 - len(found),
                after=None if after is None or after.live else (after.started_at, after.call_sid),
                ended=None if state is None else state == "ended",
                without=self._calls,
                only=only,
            )
        shown = [each if full else without_numbers(each) for _, each in found[:limit]]
        return Page(shown, _write_cursor(found[limit - 1][0]) if len(found) > limit else None)

    async def call(self, call_sid: str, *, full: bool) -> dict[str, Any] | None:
        """Return a call as in the list, with its `record`; None if it is neither live here nor recorded.

        Raises:
            StoreError: the database does not answer.
        """
        try:
            record = None if self._store is None else await self._store.call(call_sid)
        except StoreError:
            if self._store is not None and not self._store.empty:
                raise
            record = None
        if (live := self._calls.get(call_sid)) is not None:
            summary = self._shown(live)
        elif record is not None:
            summary = _recorded(record, _highlights(record))
        else:
            return None
        details = {} if record is None else record.as_dict()
        if live is not None:
            summary["call_state"] = _plain(live.state)
        if not full:
            summary, details = without_numbers(summary), without_numbers(details)
        return {**summary, "record": details or None}

    async def _past(self, store: Store, limit: int, **options: Any) -> list[tuple[Position, dict[str, Any]]]:
        try:
            records = await store.calls(limit, **options)
        except StoreError:
            if store.empty:  # there was no call yet, so there is no file
                return []
            raise
        seen = await store.highlights([each.call_sid for each in records]) if records else {}
        return [
            (Position(False, each.started_at, each.call_sid), _recorded(each, seen[each.call_sid])) for each in records
        ]

    def _live(self, after: Position | None) -> list[tuple[Position, dict[str, Any]]]:
        newest_first = sorted(self._calls.values(), key=lambda call: call.sid)
        newest_first.sort(key=lambda call: call.started_at, reverse=True)
        found = []
        for call in newest_first:
            is_later = after is None or call.started_at < after.started_at
            if is_later or (after and call.started_at == after.started_at and call.sid > after.call_sid):
                found.append((Position(True, call.started_at, call.sid), self._shown(call)))
        return found

    def _shown(self, call: Call) -> dict[str, Any]:
        vitals, seen = self._vitals(call.sid), self._look(call.sid)
        record = CallRecord(
            call_sid=call.sid,
            stream_sid="" if vitals is None else vitals.stream_sid,
            caller=call.caller,
            called=call.called,
            direction=call.direction,
            started_at=call.started_at,
            ended_at=None,
            ended_by=None,
            reason=None,
            cost=None if vitals is None else vitals.cost,
        )
        return {
            **_recorded(record),
            "state": "live",
            "agent": None if seen is None else seen[1].name,
            "floor": None if seen is None else seen[0].value,
            "last_latency_ms": None if vitals is None else vitals.latency_ms,
            "muted": call.muted,
        }


def _recorded(record: CallRecord, seen: Highlights | None = None) -> dict[str, Any]:
    """Return a record for the list, with the latest agent and the latencies if they are known."""
    state: State = "open" if record.ended_at is None else "ended"
    latencies = () if seen is None else seen.latencies_ms
    return {
        **CallRecord.as_dict(record),
        "state": state,
        "agent": seen.agents[-1] if seen is not None and seen.agents else None,
        "floor": None,
        "muted": None,
        "last_latency_ms": latencies[-1] if latencies else None,
        "latency_ms": {"response_p50": latency_at(0.5, latencies), "response_p95": latency_at(0.95, latencies)},
    }


def _highlights(record: CallDetails) -> Highlights:
    """Return the list's details of a call from its full record."""
    agents = dict.fromkeys(turn.agent for turn in record.turns if turn.agent is not None)
    return Highlights(agents=tuple(agents), latencies_ms=tuple(each.latency_ms for each in record.answers))


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's state of a call for JSON. A value that JSON cannot express is shown as its type alone.

    The user's code, and its threads, may change the state at the same time.
    """
    shown: dict[str, Any] = {}
    for name, value in list(state.items())[:MAX_STATE_VALUES]:
        try:
            text = json.dumps(value, allow_nan=False, ensure_ascii=False)
            text.encode()  # a lone surrogate cannot be sent
            shown[clean(str(name))] = json.loads(text) if len(text) <= MAX_STATE_CHARS else f"{text[:MAX_STATE_CHARS]}…"
        except (TypeError, ValueError, RecursionError, RuntimeError):
            shown[clean(str(name))] = f"<{type(value).__name__}>"
    return shown


def _write_cursor(position: Position) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


def _read_cursor(text: str) -> Position:
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        position = msgspec.json.decode(data, type=Position)
    except (ValueError, msgspec.MsgspecError):
        position = None
    if position is None or position.started_at.tzinfo is None:
        raise BadRequest("the cursor is not from an answer of this API: begin again without it")
    return position
