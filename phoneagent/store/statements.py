"""The SQL statements that write each kind of row.

Each statement may run twice: it inserts a row, or updates it. A call may have several media streams, in several
processes. The latest stream decides for the call: its end is the call's end, and the end of an older stream is not. The
statements themselves decide this, because no process knows the others.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Delete, Insert, Update

from phoneagent.store.records import MAY_GO_ON
from phoneagent.store.rows import Kind, Row
from phoneagent.store.schema import (
    UtcTime,
    afterwards,
    answers,
    call_transfers,
    calls,
    claims,
    messages,
    streams,
    tools,
    turns,
    usage,
)

CLOCKS_DIFFER_SECONDS = 5.0
"""How far apart the clocks of two processes may be. A stream takes over the call when it is written, unless it began
longer than this before a stream that is already there: then it was only written late."""

FORGOTTEN = "forgotten "
"""The prefix of the claim on a forgotten call's CallSid. While the call is live, nothing more of it is recorded."""

RESUME_SECONDS = 60.0
"""How long a call whose line broke may continue, and RECORD_DAYS=0 keeps its record. Within seconds, Twilio asks for
the next stream, which needs what was said."""

_Insert: TypeAlias = Callable[[sa.Table], postgresql.Insert | sqlite.Insert]

_OF_CALL = sa.bindparam("of_call", type_=sa.Text())
_OF_STREAM = sa.bindparam("of_stream", type_=sa.Text())
_THIS_STREAM = (calls.c.sid == _OF_CALL) & (calls.c.stream_sid == _OF_STREAM)
_CALL_AND_STREAM = {"call_sid": _OF_CALL, "stream_sid": _OF_STREAM}
_END = ("ended_at", "ended_by", "reason")
_CALLER = ("caller", "called", "direction")


def insert_into(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """Return an insert that can handle a conflict with an existing row."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def parameters(row: Row) -> dict[str, Any]:
    """Return the parameters of a row's statement."""
    if row.kind is not Kind.RESUMED:
        return row.values
    return {**row.values, "late": row.values["started_at"] + timedelta(seconds=CLOCKS_DIFFER_SECONDS)}


def statements(dialect: str) -> dict[Kind, Insert | Update]:
    """Return the statement for each kind of row."""
    insert: _Insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return {
        Kind.STARTED: _started(insert),
        Kind.RESUMED: _resumed(insert),
        Kind.ENDED: sa.update(calls).where(_THIS_STREAM).values({name: sa.bindparam(name) for name in _END}),
        Kind.ENDED_UNSEEN: _ended_unseen(insert),
        **_detail(insert),
        Kind.STATE: sa.update(calls).where(_THIS_STREAM).values(state=sa.bindparam("state")),
        Kind.PENDING: sa.update(calls).where(_THIS_STREAM).values(pending=sa.bindparam("pending")),
        Kind.DEAD_AIR: _dead_air(),
        Kind.RECORDING: sa.update(calls).where(_THIS_STREAM).values(recording=sa.bindparam("recording")),
    }


def forget_ended() -> Delete:
    """Return the statement that deletes a call that has just ended. It takes the parameters of the end.

    A call that may continue is not deleted, because its next stream needs what was said. If no stream follows, a sweep
    deletes it. The same holds for a call that still has work left.
    """
    # Not NOT IN, which SQLAlchemy refuses for the ends of several calls at once.
    return sa.delete(calls).where(_THIS_STREAM, *(calls.c.ended_by != by for by in MAY_GO_ON), ~_has_afterwards())


def _has_afterwards() -> sa.ColumnElement[bool]:
    return sa.exists().where(afterwards.c.call_sid == calls.c.sid).correlate(calls)


def _started(insert: _Insert) -> Insert:
    """Return the insert of a call's first stream. If a later stream was written before, it remains the call's latest.

    The exception is a later stream that ended before this one began: the call was elsewhere in between, and came back.
    """
    statement = _insert_call(insert, (*_CALLER, "started_at"))
    new = statement.excluded
    another = (calls.c.stream_sid != "") & (calls.c.stream_sid != new.stream_sid)
    back = another & (new.started_at > calls.c.ended_at)
    return statement.on_conflict_do_update(
        index_elements=["sid"],
        set_={
            "stream_sid": sa.case((sa.or_(calls.c.stream_sid == "", back), new.stream_sid), else_=calls.c.stream_sid),
            "started_at": sa.case((new.started_at < calls.c.started_at, new.started_at), else_=calls.c.started_at),
            **{name: new[name] for name in _CALLER},
            **_reopened_if(back),
        },
    )


def _resumed(insert: _Insert) -> Insert:
    """Return the insert of a later stream, which takes over the call once, and reopens it unless it has ended for good.

    A stream that began after such an end disproves it: Twilio opens no stream for a call that is over.
    """
    statement = _insert_call(insert, (*_CALLER, "started_at"))
    new = statement.excluded
    over = (streams.c.stream_sid == _OF_STREAM) | (streams.c.started_at > sa.bindparam("late", type_=UtcTime()))
    # no IN here: with one, SQLAlchemy runs the statement for a single row only
    goes_on = sa.or_(*(calls.c.ended_by == by for by in MAY_GO_ON), new.started_at > calls.c.ended_at)
    return statement.on_conflict_do_update(
        index_elements=["sid"],
        set_={
            "stream_sid": new.stream_sid,
            "caller": sa.func.coalesce(calls.c.caller, new.caller),
            "called": sa.func.coalesce(calls.c.called, new.called),
            **_reopened_if(goes_on),
        },
        where=~sa.exists().where(streams.c.call_sid == calls.c.sid, over).correlate(calls),
    )


def _reopened_if(condition: sa.ColumnElement[bool]) -> dict[str, sa.ColumnElement[Any]]:
    """Return the changes that reopen a call: it has no end, and its outcome is filled in again after the next one."""
    return {name: sa.case((condition, sa.null()), else_=calls.c[name]) for name in (*_END, "outcome", "outcome_error")}


def _ended_unseen(insert: _Insert) -> Insert:
    """Return the insert of the end of a stream whose start was never reported: it may be all we know about the call."""
    statement = _insert_call(insert, ("started_at", *_END), direction=sa.literal(""))
    return statement.on_conflict_do_update(
        index_elements=["sid"],
        set_={name: statement.excluded[name] for name in _END},
        where=(calls.c.stream_sid == "") | (calls.c.stream_sid == _OF_STREAM),
    )


def _dead_air() -> Update:
    """Return the update of the longest silence in a call. The longest one of all its streams remains."""
    longest = sa.bindparam("longest_ms", type_=sa.Integer())
    before = calls.c.dead_air_ms
    return (
        sa.update(calls)
        .where(calls.c.sid == _OF_CALL)
        .values(dead_air_ms=sa.case((before > longest, before), else_=longest))
    )


def _insert_call(
    insert: _Insert, names: tuple[str, ...], **more: sa.ColumnElement[str]
) -> postgresql.Insert | sqlite.Insert:
    """Return an insert of a call that has no effect if the call was forgotten."""
    values = {"sid": _OF_CALL, "stream_sid": _OF_STREAM, **more}
    values |= {name: sa.bindparam(name, type_=calls.c[name].type) for name in names}
    forgotten = sa.exists().where(claims.c.name == sa.literal(FORGOTTEN) + _OF_CALL)
    return insert(calls).from_select(list(values), sa.select(*values.values()).where(~forgotten))


def _detail(insert: _Insert) -> dict[Kind, Insert]:
    def upsert(table: sa.Table, keys: dict[str, Any], names: tuple[str, ...], updated: tuple[str, ...]) -> Insert:
        statement = insert(table).values(keys | {name: sa.bindparam(name) for name in names})
        if not updated:
            return statement.on_conflict_do_nothing()
        return statement.on_conflict_do_update(
            index_elements=list(table.primary_key), set_={name: statement.excluded[name] for name in updated}
        )

    of_call = {"call_sid": _OF_CALL}
    turn = (
        "role",
        "text",
        "heard_text",
        "started_at",
        "length_ms",
        "said_ms",
        "heard_ms",
        "interrupted",
        "agent",
        "pauses",
    )
    tool = ("call_id", "name", "arguments", "started_at")
    used = tuple(column.name for column in usage.c if column.name not in _CALL_AND_STREAM)
    return {
        Kind.STREAM: upsert(streams, _CALL_AND_STREAM, ("started_at",), ()),
        Kind.TURN: upsert(turns, _CALL_AND_STREAM, ("item_id", *turn), turn),
        Kind.MESSAGE: upsert(messages, _CALL_AND_STREAM, ("number", "role", "text", "at"), ()),
        Kind.TOOL_STARTED: upsert(tools, of_call, tool, ("name", "arguments")),
        Kind.TOOL_RETURNED: upsert(tools, of_call, (*tool, "output", "ms"), ("output", "ms")),
        Kind.ANSWERED: upsert(answers, of_call, ("at", "latency_ms"), ()),
        Kind.TRANSFERRED: upsert(call_transfers, of_call, ("at", "to_name", "outcome", "warm"), ()),
        Kind.USED: upsert(usage, _CALL_AND_STREAM, used, ()),
    }
